"""How a user's mistake is told: one line that names the key, the value and what is legal."""

import sys
from collections.abc import Callable

import typer

from stages.warm import hand_over


class UserError(Exception):
    """A mistake in parameters or data that the user can mend; its message is one line, shown without a traceback."""


def main(entrypoint: Callable[..., None]) -> None:
    """Run an entrypoint with the command line's arguments.

    A `UserError` ends in `error: <line>` on stderr and exit status 2, and so does an input that is not there.
    """
    if (status := hand_over()) is not None:
        sys.exit(status)
    command = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    command.command()(entrypoint)
    try:
        command()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except FileNotFoundError as error:
        print(f"error: {error.filename or error}: missing; `dvc repro` makes it", file=sys.stderr)
        sys.exit(2)
