"""SFT on thoughts: the target is a reference thought and the answer (our own; no paper has it).

What `sft` learns without a thought is learned here with one, so that the two tell apart what fine-tuning on an answer
and on the steps to it can move. Prompts are CLS-RL's, whose format the target has; they are written out again: a method
depends on its own file. Only datasets whose samples have a `thought` can be trained on.
"""

from stages.methods.answers import in_tags
from stages.methods.method import Method
from stages.tasks.rules import tagged

_TAGS = "the thinking process in <think> </think> and final answer in <answer> </answer> tags."

METHOD = Method(
    trainer="sft",
    prompt="{question}\n Please output " + _TAGS,
    evaluation_prompts={
        "all": "{question} First output " + _TAGS,
        "base": "{question} Please output " + _TAGS,
        "new": "{question} First output " + _TAGS,
        "open": "{question} Please output " + _TAGS,
        "cv_bench": "{question}\nOutput " + _TAGS,
    },
    target=in_tags,
    thoughts=True,
    parse=tagged,
)
