"""The front door of every command: `python -m stages train few_shot no_thinking digits 1`.

A command is a module of this folder that has a function of its own name, which takes the command line's arguments.
"""

import functools
import re
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from urllib.parse import quote

from stages.runtime import process, warm

WITHOUT_LOCK = ("predict",)
"""Commands that are no stages: they write nothing, and may run while stages do."""


def commands() -> list[str]:
    """The names of all commands."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return [file.stem for file in files if re.search(rf"^def {file.stem}\(", file.read_text("utf-8"), re.MULTILINE)]


def main() -> None:
    """Run the command that the command line names, or let the warm server run it."""
    process.starters()  # at once: who loses its parent is given another one by the kernel
    name, arguments = (sys.argv[1] if sys.argv[1:] else ""), sys.argv[2:]
    warm.hand_over(name, arguments)
    # Only here, since these imports take most of a second.
    from stages.runtime.errors import UserError, reported

    with reported():
        if name not in commands():
            raise UserError(f"python -m stages: {name!r} is no command; valid: {', '.join(commands())}")
        if name in WITHOUT_LOCK:
            run(name, arguments, function(name))
            return
        process.stop_on_signals()
        process.stop_with_dvc()
        command = function(name)
        from stages.runtime import launch

        if name in ("train", "by_step", *launch.EVALUATING):
            launch.in_processes([name, *arguments])
            # Inside of what reports a mistake, or all processes would have reported it before they wait.
            command = launch.first_reports()(command)
        if name == "html_report":  # its MLflow run stands here, and not in a file that a lock has the md5 of
            from stages.runtime import tracking

            command = tracking.run(name)(command)
        run(name, arguments, alone(name, command))


def function(name: str) -> Callable[..., None]:
    """The function of a command; imports its module."""
    return getattr(import_module(f"stages.{name}"), name)


def alone(name: str, function: Callable[..., None]) -> Callable[..., None]:
    """The same function, run by one process at a time for the same arguments."""
    from stages.runtime.errors import reported
    from stages.runtime.scratch import locked

    @functools.wraps(function)
    def command(**arguments: object) -> None:
        key = "-".join([name, *map(str, arguments.values())])
        # Here too: click would take the signals for its own.
        with reported(), locked(Path("scratch/locks") / f"{quote(key, safe='')}.lock", key):
            function(**arguments)

    return command


def run(name: str, arguments: list[str], command: Callable[..., None]) -> None:
    """Call a function with its arguments from the command line, as typer reads them, and end the process."""
    import typer

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(command)
    app(arguments, prog_name=f"python -m stages {name}")


if __name__ == "__main__":
    main()
