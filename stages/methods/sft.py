"""SFT: supervised fine-tuning on the label (P1 section 3.1 and code).

Trained with the system turn and the image behind the text, and evaluated in CLS-RL's words, as the paper's code does
(`evaluate.prompts: training` uses the training prompt for both). Which of CLS-RL's two templates the printed numbers
were made with is not known: ours go by part, as CLS-RL's do. They are written out again: a method depends on its own
file.

Differs from the paper: the loss is over the answer's tokens, as its text says; its code also counted the prompt's,
which is the variant `sft.loss_on_prompt: true`, what the published SFT numbers were made with.
"""

from stages.methods.answers import in_tags
from stages.methods.method import Method
from stages.tasks.rules import tagged

_TAGS = "the thinking process in <think> </think> and final answer in <answer> </answer> tags."

METHOD = Method(
    trainer="sft",
    system="Output " + _TAGS,
    prompt="{question}",
    image_first=False,
    evaluation_prompts={
        "all": "{question} First output " + _TAGS,
        "base": "{question} Please output " + _TAGS,
        "new": "{question} First output " + _TAGS,
        "open": "{question} Please output " + _TAGS,
        "cv_bench": "{question}\nOutput " + _TAGS,
    },
    target=in_tags,
    parse=tagged,
)
