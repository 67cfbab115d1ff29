"""The house: imports go one way, nobody imports an entrypoint, and importing a package does nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import networkx
import pytest

from tests.conftest import ROOT

MAY_IMPORT = {
    "runtime": set(),
    "tasks": {"runtime"},
    "methods": {"tasks", "runtime"},
    "rewards": {"tasks", "runtime"},
    "modelling": {"runtime"},
    "training": {"modelling", "methods", "rewards", "tasks", "runtime"},
    "evaluation": {"modelling", "methods", "tasks", "runtime"},
    "embedded": {"tasks", "modelling", "training", "runtime"},
    "sources": {"tasks", "embedded", "runtime"},
    "report": {"tasks", "modelling", "runtime"},
    "prediction": {"report", "sources", "modelling", "methods", "tasks", "runtime"},
    "recipes": {"sources", "embedded", "evaluation", "training", "modelling", "methods", "rewards", "tasks", "runtime"},
}
"""The rooms of `stages/`, and which others each may know: docs/architecture.md has the picture."""


def modules() -> dict[str, Path]:
    """All modules of `stages` and `tools` by their names."""
    files = [file for top in ("stages", "tools") for file in sorted((ROOT / top).rglob("*.py"))]
    names = (".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files)
    return {name.removesuffix(".__init__"): file for name, file in zip(names, files, strict=True)}


def graph() -> networkx.DiGraph:
    """An edge from each module to each that it imports, wherever that stands; those for type checkers are left out."""
    found = modules()
    edges = networkx.DiGraph()
    edges.add_nodes_from(found)
    for name, file in found.items():
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for_checkers = {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            for inner in ast.walk(node)
        }
        for node in ast.walk(tree):
            if id(node) in for_checkers:
                continue
            if isinstance(node, ast.ImportFrom) and node.module:
                wanted = [f"{node.module}.{alias.name}" for alias in node.names]
                edges.add_edges_from((name, each if each in found else node.module) for each in wanted)
            elif isinstance(node, ast.Import):
                edges.add_edges_from((name, alias.name) for alias in node.names)
    return edges.subgraph(found).copy()


def room(module: str) -> str:
    """The room of a module of `stages`; of an entrypoint, nothing."""
    parts = module.split(".")
    return parts[1] if (ROOT / "stages" / (parts[1] if parts[1:] else "")).is_dir() and parts[1:] else ""


def test_no_import_goes_in_a_circle():
    assert not list(networkx.simple_cycles(graph()))


@pytest.mark.parametrize("name", sorted(MAY_IMPORT))
def test_a_room_knows_only_the_rooms_below_it(name):
    rooms = {path.name for path in (ROOT / "stages").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms == set(MAY_IMPORT)
    wrong = [
        (one, other)
        for one, other in graph().edges
        if one.startswith(f"stages.{name}") and room(one) == name and room(other) not in {name, *MAY_IMPORT[name]}
    ]
    assert not [pair for pair in wrong if pair[1] != "stages"]


def test_nobody_imports_an_entrypoint():
    entrypoints = {f"stages.{file.stem}" for file in (ROOT / "stages").glob("[!_]*.py")}
    assert "stages.train" in entrypoints
    # The record of operators runs the stages in one process.
    importers = {(one, other) for one, other in graph().edges if other in entrypoints}
    assert {one for one, _ in importers} <= {"tools.operators"}


def test_importing_stages_does_nothing():
    code = (
        "import os, signal, sys, threading\n"
        "before = dict(os.environ), signal.getsignal(signal.SIGTERM), threading.active_count()\n"
        "import stages\n"
        "assert before == (dict(os.environ), signal.getsignal(signal.SIGTERM), threading.active_count())\n"
        "print([name for name in sys.modules if name.split('.')[0] == 'stages'])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "['stages']\n"
