"""Think-After-Answer: answer first, then the reason (P1 v6 appendix E.2); reward = accuracy + its own format.

Differs from the paper: the pattern of its format reward is not published; ours demands the answer tag, then the reason
tag, and nothing else. Its evaluation prompt is not published either: ours is the training prompt.
"""

from stages.methods.method import Method
from stages.tasks.rules import tagged

METHOD = Method(
    trainer="grpo",
    prompt=(
        "{question} Please first output the answer in <answer> </answer> tags "
        "and then output a brief reasoning process in <reason> </reason> tags."
    ),
    parse=tagged,
    rewards=("accuracy", "answer_first_format"),
)
