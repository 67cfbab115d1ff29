"""CLS-RL from easy to hard: as CLS-RL, each epoch from the samples of fewest reasoning steps to those of most.

Ours; no paper has it. What differs is a hyperparameter: `curriculum: true` under `train.cls_rl_curriculum`.
"""

from dataclasses import replace

from stages.methods import cls_rl

METHOD = replace(cls_rl.METHOD, differs=("curriculum",))
