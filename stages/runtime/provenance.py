"""Which code a stage runs: the modules of this project that a module imports, directly or through others."""

import ast
import functools
from hashlib import md5
from pathlib import Path

ROOT = Path(__file__).parents[2]

# They change no byte of an output.
EXEMPT = {
    Path("stages/__init__.py"),
    *(
        Path(f"stages/runtime/{name}.py")
        for name in (
            "content",
            "environment",
            "errors",
            "process",
            "scratch",
            "tracking",
            "tracking_store",
            "warm",
            "warm_server",
        )
    ),
}


def closure(*modules: str) -> list[Path]:
    """The files, relative to the project's root, of `modules` and of all that they import under `stages`.

    Imports are found wherever they stand, also inside functions. Modules loaded by a computed name are not seen, and
    files that cannot change a byte of an output are left out: `EXEMPT` and what is reached through them alone, and
    those that hold no more than a docstring.

    >>> [path.name for path in closure("stages.runtime.params")]
    ['params.py']
    """
    seen: set[Path] = set()
    empty: set[Path] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        file = _file(module)
        if file is None or file in seen or file.relative_to(ROOT) in EXEMPT:
            continue
        seen.add(file)
        waiting += [module.rpartition(".")[0]] if "." in module else []
        imported, is_empty = _imports(file)
        waiting += imported
        if is_empty:
            empty.add(file)
    return sorted({file.relative_to(ROOT) for file in seen - empty})


@functools.cache  # every recipe needs the same files
def _imports(file: Path) -> tuple[list[str], bool]:
    """What a file imports, as names that may be modules, and whether it holds no more than a docstring."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module, *(f"{node.module}.{name.name}" for name in node.names)]
    return found, bool(ast.get_docstring(tree)) and len(tree.body) == 1


def code_md5(*modules: str) -> dict[str, str]:
    """The md5 of each file of the closure, by its path."""
    return {path.as_posix(): md5((ROOT / path).read_bytes()).hexdigest() for path in closure(*modules)}


@functools.cache
def _file(module: str) -> Path | None:
    """The file of a module of this project, None for any other name."""
    if module.split(".")[0] != "stages":
        return None
    path = ROOT.joinpath(*module.split("."))
    if path.is_dir():
        path = path / "__init__"
    file = path.with_suffix(".py")
    return file if file.exists() else None
