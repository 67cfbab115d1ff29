"""No-Thinking-RL: answer and nothing else (P1 section 2.2); reward = exact equality with the label, no format reward.

As in the paper's code, the prompt of evaluation asks for "the answer name" where training asks for "the answer"
(`evaluate.prompts: training` uses one prompt for both).
"""

from stages.methods.answers import read_whole
from stages.methods.method import Method

_EVALUATION = "{question} Please directly output the answer name."

METHOD = Method(
    trainer="grpo",
    prompt="{question}\n Please directly output the answer.",
    evaluation_prompts=dict.fromkeys(("all", "base", "new", "open"), _EVALUATION)
    | {"cv_bench": "{question}\nPlease directly output the answer."},
    parse=read_whole,
    rewards=("equality",),
)
