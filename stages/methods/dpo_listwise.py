"""Listwise DPO: the right answer is the first of a list of answers, a baseline of P1 v6 Table 18.

In P1's table only the names of four baselines stand (DPO and listwise DPO, each with random and with model negatives).
What they are made of is our own choice, all of it: prompt and completion are No-Thinking's (a bare answer), the wrong
answers are other options of the question; see `stages.training.dpo`.
"""

from stages.methods.answers import bare, read_whole
from stages.methods.method import Method

_EVALUATION = "{question} Please directly output the answer name."

METHOD = Method(
    trainer="dpo",
    prompt="{question}\n Please directly output the answer.",
    evaluation_prompts=dict.fromkeys(("all", "base", "new"), _EVALUATION)
    | {"cv_bench": "{question}\nPlease directly output the answer."},
    target=bare,
    preference="list",
    parse=read_whole,
)
