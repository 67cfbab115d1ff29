"""A clone of the project in a temporary folder, as a user has it, and the means to change its params.yaml."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

ROOT = Path(__file__).parent.parent

# A shell lets what it runs in the background ignore Ctrl-C, and so would every process that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


class Project:
    """A clone of the project."""

    def __init__(self, root: Path):
        self.root = root
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "MLFLOW_"))},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in the clone, its output captured."""
        done = subprocess.run(command, cwd=self.root, env=self.environment, capture_output=True, text=True)
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def change(self, **changes: object) -> None:
        """Set keys of params.yaml, dots written as double underscores."""
        yaml = YAML()
        params = yaml.load(self.root / "params.yaml")
        for key, value in changes.items():
            *parents, last = key.split("__")
            section = params
            for parent in parents:
                section = section.setdefault(parent, {})
            section[last] = value
        yaml.dump(params, self.root / "params.yaml")

    def commit(self, message: str = "change") -> None:
        """Commit everything."""
        self.run("git", "add", "-A")
        self.run("git", "-c", "user.name=test", "-c", "user.email=test@example.org", "commit", "-qm", message)


def clone(target: Path) -> Project:
    """Copy what git tracks or would track, changes included and grids left out, into a repository of its own."""
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for file in files:
        if (ROOT / file).is_file() and file != "dvc.lock" and not file.startswith("grids/"):
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, target / file)
    project = Project(target)
    project.run("git", "init", "-q")
    project.run("git", "config", "user.name", "test")
    project.run("git", "config", "user.email", "test@example.org")
    project.commit("clone")
    return project


def settle(project: Project) -> None:
    """Let DVC believe that every stage is up to date: real recipes, and placeholders for all other outputs."""
    project.run("dvc", "repro", "-q", "configure")
    with Repo(str(project.root)) as repo:
        outputs = [out for stage in repo.index.stages for out in stage.outs if stage.name != "configure"]
        for out in outputs:
            path = Path(out.fs_path)
            if path.suffix:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(out.def_path)
            else:
                path.mkdir(parents=True, exist_ok=True)
                (path / "placeholder").write_text(out.def_path)
    project.run("dvc", "commit", "--force")


def write_random_model(path: Path) -> Path:
    """Write an embedded model of random weights, with its processor; return `path`."""
    from stages.embedded.model import build_model, build_processor, build_tokenizer
    from stages.embedded.worlds import pictures
    from stages.runtime.params import Section

    processor = build_processor(build_tokenizer(pictures.WORLD.vocabulary(Section()), pictures.PHRASES))
    build_model(processor.tokenizer, seed=0).save_pretrained(path)
    processor.save_pretrained(path)
    return path


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A fresh clone."""
    return clone(tmp_path)


@pytest.fixture(scope="module")
def module_project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A fresh clone that the tests of a module share."""
    return clone(tmp_path_factory.mktemp("project"))


@pytest.fixture
def in_directory(tmp_path: Path) -> Iterator[Callable[[Path], None]]:
    """Change the working directory for one test."""
    before = Path.cwd()
    yield os.chdir
    os.chdir(before)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--golden` writes the golden files anew."""
    parser.addoption("--golden", action="store_true", help="write the golden files anew")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> bool:
    """Whether golden files are written anew."""
    return request.config.getoption("--golden")
