"""How a user's mistake is told: one line that names the key, the value and what is legal."""

import sys
from collections.abc import Callable


class UserError(Exception):
    """A mistake in parameters or data that the user can mend; its message is one line, shown without a traceback."""


def main(run: Callable[[], None]) -> None:
    """Run an entrypoint; end with `error: <line>` on stderr and exit status 2 where it raises `UserError`."""
    try:
        run()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
