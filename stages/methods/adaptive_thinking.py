"""Adaptive-Thinking: the model chooses whether to think (P1 v6 appendix E.3); reward = accuracy + either format.

Differs from the paper: the code is not published, the reward follows its text; the evaluation prompt is the training
prompt.
"""

from stages.methods.method import Method
from stages.tasks.rules import tagged

METHOD = Method(
    trainer="grpo",
    prompt=(
        "{question}. Please first identify whether this problem requires intermediate thinking or calculation. "
        "If the problem requires thinking or calculation, output the thinking and calculation process inside "
        "<think> </think> tags and the final answer inside <answer> </answer> tags. "
        "If no thinking or calculation is required, directly output the final answer inside <answer> </answer> tags. "
        "Your output should follow one of two cases: (1) '<answer> ... </answer>', "
        "(2) '<think> ... </think> <answer> ... </answer>'."
    ),
    parse=tagged,
    rewards=("accuracy", "adaptive_format"),
)
