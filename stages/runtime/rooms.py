"""What stands in a room: files that are found by what they define, so that nobody keeps a list of them."""

from pathlib import Path


def names(file: str, definition: str) -> list[str]:
    """The modules beside `file`, by name, in which a line begins with `definition`; none is imported."""
    beside = sorted(Path(file).parent.glob("*.py"))
    return [path.stem for path in beside if f"\n{definition}" in path.read_text(encoding="utf-8")]
