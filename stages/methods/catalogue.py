"""The names that `params.yaml` may use. Adding a method or a reward is adding a file and its name here.

Only stage `configure` reads this file, so that a new name makes no trained model stale.
"""

METHODS = ("sft", "cls_rl", "no_thinking", "think_after_answer", "adaptive_thinking", "cls_rl_length")

REWARDS = ("accuracy", "format", "equality", "answer_first_format", "adaptive_format", "length")
