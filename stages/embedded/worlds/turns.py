"""Chains whose every step depends on the result before it; all else is as in `chains`.

Our own; no paper has it.
"""

from stages.embedded.arithmetic import TURNS
from stages.embedded.worlds.chains import Chains

WORLD = Chains(TURNS, "plus", "minus")
