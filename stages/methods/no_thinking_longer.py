"""No-Thinking-RL with more direct training: as No-Thinking-RL, for more epochs.

Ours; no paper has it. What differs is a hyperparameter: `steps` under `train.no_thinking_longer`.
"""

from dataclasses import replace

from stages.methods import no_thinking

METHOD = replace(no_thinking.METHOD, differs=("steps", "epochs"))
