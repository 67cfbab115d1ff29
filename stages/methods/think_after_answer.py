"""Think-After-Answer: answer first, then the reason (P1 v6 appendix E.2); reward = accuracy + its own format.

Differs from the paper: the pattern of its format reward is not published; ours demands the answer tag, then the reason
tag, and nothing else. Its evaluation prompt is not published either: ours is the training prompt.
"""

from stages.methods.answers import read_tag
from stages.methods.method import Method

METHOD = Method(
    trainer="grpo",
    prompt=(
        "{question} Please first output the answer in <answer> </answer> tags "
        "and then output a brief reasoning process in <reason> </reason> tags."
    ),
    parse=read_tag,
    rewards=("accuracy", "answer_first_format"),
)
