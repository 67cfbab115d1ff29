"""A terminal of a few lines, for tests: what a program in a pseudo-terminal leaves on its screen."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable
from pathlib import Path

CODE = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\r|\n|\x1b|[^\x1b\r\n]")


class Screen:
    """Lines that a terminal shows, and above them those that it showed."""

    def __init__(self, width: int, height: int):
        self.width, self.height = width, height
        self.lines: list[str] = [""]
        self.row = self.column = 0
        self.wrapped = 0

    def feed(self, text: str) -> None:
        """Take what a program wrote; an escape code that is not known here is an error."""
        for match in CODE.finditer(text):
            one = match[0]
            if one == "\r":
                self.column = 0
            elif one == "\n":
                self.down()
            elif match[2]:
                self.control(match[2], match[1])
            elif len(one) == 1 and one != "\x1b":
                self.put(one)
            elif not one.startswith("\x1b]"):
                raise AssertionError(f"an escape code that is cut: {text[match.start() : match.start() + 9]!r}")

    def put(self, character: str) -> None:
        """Write where the cursor is; a line that is full goes on in the next."""
        if self.column == self.width:
            self.wrapped += 1
            self.column = 0
            self.down()
        line = self.lines[self.row].ljust(self.column)
        self.lines[self.row] = line[: self.column] + character + line[self.column + 1 :]
        self.column += 1

    def down(self) -> None:
        """The next line."""
        self.row += 1
        if self.row == len(self.lines):
            self.lines.append("")

    def control(self, code: str, number: str) -> None:
        """Do what an escape code says."""
        top = max(len(self.lines) - self.height, 0)
        count = int(number) if number.isdigit() else 1
        if code == "A":
            self.row = max(self.row - count, top)
        elif (code, number) == ("K", "2"):
            self.lines[self.row] = ""
        elif (code, number) == ("J", "2"):  # as most terminals do, it scrolls away
            self.lines += [""] * self.height
        elif code == "H":
            self.row, self.column = top, 0
        elif code not in "mhl":
            raise AssertionError(f"an escape code that is not known here: {number}{code}")

    def text(self) -> str:
        """All lines that the terminal shows now."""
        return "\n".join(line.rstrip() for line in self.lines[-self.height :]).rstrip()


def resize(descriptor: int, width: int, height: int) -> None:
    """Set the size of a pseudo-terminal."""
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))


def run(
    command: list[str],
    folder: Path,
    width: int,
    height: int,
    environment: dict[str, str],
    look: Callable[[Screen, int, subprocess.Popen], None] = lambda *_: None,
) -> tuple[int, Screen, str]:
    """Run a command in a pseudo-terminal; return its exit status, the screen at the end, and all that it wrote.

    `look` is called after each piece of output with the screen, the terminal's descriptor and the process.
    """
    ours, theirs = pty.openpty()
    resize(ours, width, height)
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(theirs)
    screen, written, deadline = Screen(width, height), b"", time.monotonic() + 900
    fed = 0
    while time.monotonic() < deadline:
        if select.select([ours], [], [], 0.1)[0]:
            try:
                written += os.read(ours, 65536)
            except OSError:  # all that had it open have ended
                break
            whole = written.decode(errors="ignore")
            # A code that is not there as a whole yet waits for the rest.
            end = whole.rfind("\x1b", fed) if re.search(r"\x1b(\[[0-9;?]*)?$", whole[fed:]) else len(whole)
            screen.feed(whole[fed:end])
            fed = end
            look(screen, ours, process)
    else:
        process.kill()
    os.close(ours)
    return process.wait(60), screen, written.decode(errors="replace")
