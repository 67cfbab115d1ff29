"""CLS-RL, later Thinking-RFT: think first, then answer (P1 section 2.1); reward = format + accuracy, each 0 or 1.

As in the paper's code, the prompt of the new and few-shot tests differs a little from the one of training
(`evaluate.prompts: training` uses one prompt for both).
"""

from stages.methods.method import Method
from stages.tasks.rules import tagged

_TAGS = "the thinking process in <think> </think> and final answer in <answer> </answer> tags."

METHOD = Method(
    trainer="grpo",
    prompt="{question}\n Please output " + _TAGS,
    evaluation_prompts={
        "all": "{question} First output " + _TAGS,
        "base": "{question} Please output " + _TAGS,
        "new": "{question} First output " + _TAGS,
        "open": "{question} Please output " + _TAGS,
        "cv_bench": "{question}\nOutput " + _TAGS,
    },
    parse=tagged,
    rewards=("accuracy", "format"),
)
