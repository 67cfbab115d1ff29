"""The operators that the stages call, in a process of their own: torch is pinned there before it is imported."""

import subprocess
import sys

from tests.conftest import ROOT


def test_operators_have_the_same_bits_on_this_processor():
    """All tests of tests/pinned; what fails is named in the output, operators with types and shapes."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/pinned"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
