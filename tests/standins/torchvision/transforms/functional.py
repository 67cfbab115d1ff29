"""The name that transformers imports."""


def pil_to_tensor(*_: object) -> None:
    """Fail: no test may come here."""
    raise NotImplementedError
