"""SFT with more direct training: as SFT, for more epochs.

Ours; no paper has it. What differs is a hyperparameter: `steps` under `train.sft_longer`.
"""

from dataclasses import replace

from stages.methods import sft

METHOD = replace(sft.METHOD, differs=("steps", "epochs"))
