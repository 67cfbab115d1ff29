"""No-Thinking-RL from easy to hard: as No-Thinking-RL, each epoch from the samples of fewest steps to those of most.

Ours; no paper has it. What differs is a hyperparameter: `curriculum: true` under `train.no_thinking_curriculum`.
"""

from dataclasses import replace

from stages.methods import no_thinking

METHOD = replace(no_thinking.METHOD, differs=("curriculum",))
