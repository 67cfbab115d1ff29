"""CLS-RL with P2's normalized length reward added, so that the model "thinks" more (P2 section 3).

Differs from the paper: the constants of the length reward are not published. Ours stand under `rewards.length` in
`params.yaml`, marked as our choice. The prompts are CLS-RL's, written out again: a method depends on its own file.
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
    rewards=("accuracy", "format", "length"),
)
