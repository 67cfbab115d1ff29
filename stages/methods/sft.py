"""SFT: supervised fine-tuning on the label (P1 section 3.1 and code).

Differs from the paper: the loss is over the answer's tokens, as its text says; its code also counted the prompt's,
which is the variant `sft.loss_on_prompt: true`, what the published SFT numbers were made with. The evaluation prompt
of SFT is not published: ours is the training prompt.
"""

from stages.methods.answers import in_tags, read_tag
from stages.methods.method import Method

METHOD = Method(
    trainer="sft",
    system="Output the thinking process in <think> </think> and final answer in <answer> </answer> tags.",
    prompt="{question}",
    image_first=False,
    target=in_tags,
    parse=read_tag,
)
