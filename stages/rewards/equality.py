"""Equality: the reward of No-Thinking-RL (P1 section 2.2 and code)."""


def reward(completion: str, answer: str, tokens: int) -> float:
    """1 where the raw completion is the label, to the letter and the space, else 0.

    The label is stripped, as what the paper's code takes from the solution's tag; the completion is not.

    >>> reward("zero", " zero ", tokens=2)
    1.0
    >>> reward(" zero", "zero", tokens=2)
    0.0
    """
    return float(completion == answer.strip())
