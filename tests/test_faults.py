"""What can go wrong around a stage, done to real processes: nothing is left running, nothing half-written, and one
line says what it was. Each test's docstring has the line."""

import importlib
import json
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from stages.runtime.content import content_md5
from stages.runtime.errors import UserError, reported
from stages.runtime.files import read_json, reading, write_directory, write_json
from stages.runtime.scratch import locked
from tests.conftest import Project, write_random_model
from tests.test_pipeline import runs
from tests.test_warm import LOCK, SPLIT, Server, eventually, gone, serving, start, waits

pytestmark = pytest.mark.grid

EVALUATE = ("python", "-m", "stages", "evaluate", "few_shot", "sft", "digits", "1")
KEY = "few_shot-sft-digits-1"


@pytest.fixture(scope="module")
def prepared(module_project: Project) -> Project:
    """A clone after `dvc repro` of one partition."""
    module_project.change(datasets=["digits"], split__test_per_class=10)
    module_project.run("dvc", "repro", "-q", "partition@few_shot-digits-1")
    return module_project


@pytest.fixture(scope="module")
def folder(prepared: Project) -> Path:
    """A trained model's folder in the clone, its weights random."""
    return write_random_model(prepared.root / "models/train" / KEY)


@pytest.fixture(scope="module")
def server(prepared: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    yield from serving(prepared, tmp_path_factory.mktemp("server"))


def unfinished(project: Project) -> list[Path]:
    return [path for room in ("data", "models", "metrics") for path in (project.root / room).rglob("*.unfinished")]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_stage_ends_with_the_dvc_that_runs_it(prepared, number):
    """stopped by SIGTERM; `dvc repro` starts it again."""
    lock = (prepared.root / "dvc.lock").read_bytes()
    with locked(prepared.root / LOCK, "test"):
        process = start(prepared, "dvc", "repro", "--force", "--single-item", "split@digits-1")
        waits(process)
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        process.send_signal(number)
        process.wait()
        eventually(lambda: gone(*children))
    assert "stopped by SIGTERM; `dvc repro` starts it again\n" in process.stdout.read()
    assert not unfinished(prepared)
    prepared.run("dvc", "repro", "--force", "--single-item", "split@digits-1")
    assert (prepared.root / "dvc.lock").read_bytes() == lock


def test_a_stage_started_by_hand_looks_after_nobody(prepared):
    """A stage that `nohup` or a scheduler started goes on without who started it."""
    shutil.rmtree(prepared.root / "data/split/digits-1")
    with locked(prepared.root / LOCK, "test"):
        process = start(prepared, "sh", "-c", f"{' '.join(SPLIT)}; true")
        waits(process)
        (stage,) = psutil.Process(process.pid).children()
        process.kill()
        process.wait()
        assert not gone(stage)
    eventually(lambda: gone(stage))
    assert (prepared.root / "data/split/digits-1/test.parquet").exists()


def test_two_processes_of_the_same_cell_work_one_after_the_other(prepared):
    """split-digits-1: another process is at it; waiting for it to end."""
    before = content_md5(prepared.root / "data/split/digits-1")
    with locked(prepared.root / LOCK, "test"):
        processes = [start(prepared, *SPLIT) for _ in range(2)]
        for process in processes:
            assert waits(process) == "split-digits-1: another process is at it; waiting for it to end\n"
    assert [process.communicate()[0] for process in processes] == ["", ""]
    assert [process.returncode for process in processes] == [0, 0]
    assert content_md5(prepared.root / "data/split/digits-1") == before
    assert not unfinished(prepared)


@pytest.fixture
def mounted(prepared: Project) -> Iterator[callable]:
    """Mount a file system of its own over a folder of the clone; skip where this is not allowed."""
    places = []

    def mount(path: str, options: str) -> None:
        (prepared.root / path).mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(prepared.root / path)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("nothing can be mounted here")
        places.append(prepared.root / path)

    yield mount
    for place in places:
        subprocess.run(["umount", str(place)], check=True)


def test_full_disk(prepared, mounted):
    """error: data/split/digits-1: no space left on device; make room, then `dvc repro` resumes."""
    mounted("data/split", "size=8k")
    done = prepared.run(*SPLIT, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: data/split/digits-1: no space left on device; make room, then `dvc repro` resumes\n"
    assert not list((prepared.root / "data/split").iterdir())


def test_full_disk_under_weights(prepared, mounted):
    """error: models/train/x: no space left on device; make room, then `dvc repro` resumes."""
    import torch
    from safetensors.torch import save_file

    mounted("models/full", "size=64k")
    with (
        pytest.raises(OSError, match="No space left on device") as caught,
        write_directory(prepared.root / "models/full/x") as unfinished_folder,
    ):
        save_file({"weights": torch.zeros(10**5)}, unfinished_folder / "model.safetensors")
    assert caught.value.filename == str(prepared.root / "models/full/x")
    assert not list((prepared.root / "models/full").iterdir())


def test_limit_on_file_sizes(prepared):
    """error: data/split/digits-1: file too large; raise the limit on file sizes (`ulimit -f`)."""
    before = content_md5(prepared.root / "data/split/digits-1")
    done = subprocess.run(
        SPLIT,
        cwd=prepared.root,
        env=prepared.environment,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024)),
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "error: data/split/digits-1: file too large; raise the limit on file sizes (`ulimit -f`)\n"
    assert content_md5(prepared.root / "data/split/digits-1") == before
    assert not unfinished(prepared)


def test_read_only_file_system(prepared, mounted):
    """error: data/split/digits-1: read-only file system; check that it can be read and written, and its disk."""
    mounted("data/split", "ro")
    done = prepared.run(*SPLIT, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        "error: data/split/digits-1: read-only file system; check that it can be read and written, and its disk\n"
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_output_folder_without_permission(prepared):
    """error: data/split/digits-1: permission denied; check that it can be read and written, and its disk."""
    (prepared.root / "data/split").chmod(0o555)
    done = prepared.run(*SPLIT, check=False)
    (prepared.root / "data/split").chmod(0o755)
    assert done.returncode == 2
    assert done.stderr == (
        "error: data/split/digits-1: permission denied; check that it can be read and written, and its disk\n"
    )


def test_missing_input(prepared):
    """error: data/download/unknown/dataset.json: missing; `dvc repro download@unknown` makes it."""
    done = prepared.run("python", "-m", "stages", "split", "unknown", "1", check=False)
    assert (done.returncode, done.stderr) == (
        2,
        "error: data/download/unknown/dataset.json: missing; `dvc repro download@unknown` makes it\n",
    )


@pytest.mark.parametrize("text", ["", "{", '{"question": "\xff'])
def test_broken_json(tmp_path, text):
    """error: recipes/train/sft-digits.json: cannot be read as JSON (...); `dvc repro configure` makes it again."""
    file = tmp_path / "sft.json"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError) as caught:
        read_json(file)
    assert str(caught.value).startswith(f"{file}: cannot be read as JSON (")
    assert str(caught.value).endswith("); `dvc repro` makes it again")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["data/partition/few_shot/1/test/digits.parquet", "data/download/digits/images.parquet"]
)
@pytest.mark.parametrize("content", [slice(0), slice(100), slice(-1)])
def test_broken_parquet(prepared, in_directory, tmp_path, name, content):
    """error: data/download/digits/images.parquet: cannot be read as parquet (...); `dvc repro ...` makes it again."""
    from stages.tasks import samples

    for path in ("data/partition/few_shot/1/test", "data/download/digits"):
        shutil.copytree(prepared.root / path, tmp_path / path)
    in_directory(tmp_path)
    Path(name).write_bytes(Path(name).read_bytes()[: content.stop])
    with pytest.raises(UserError) as caught:
        samples.read("data/partition/few_shot/1/test/digits.parquet", "digits", 32)
    assert str(caught.value).startswith(f"{name}: cannot be read as parquet (")
    assert "makes it again" in str(caught.value)
    assert "\n" not in str(caught.value)


def model_faults() -> dict[str, tuple]:
    """By name: what is done to a model's folder, and what is said of it."""

    def cut(folder: Path) -> None:
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1])

    def another(folder: Path) -> None:
        write_json(folder / "config.json", read_json(folder / "config.json") | {"model_type": "llama"})

    def larger(folder: Path) -> None:
        config = read_json(folder / "config.json")
        config["text_config"] |= {"num_hidden_layers": 5, "layer_types": None}
        write_json(folder / "config.json", config)

    return {
        "missing": (shutil.rmtree, "no model is there; `dvc repro` makes it"),
        "truncated": (cut, "cannot be read as a model (Error while deserializing header: incomplete metadata"),
        "not_safetensors": (
            lambda folder: (folder / "model.safetensors").write_bytes(b"no weights"),
            "cannot be read as a model (Error while deserializing header",
        ),
        "pickled": (
            lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
            "cannot be read as a model (Error no file named model.safetensors found",
        ),
        "another_model": (another, "its model_type is 'llama'; valid: idefics3, internvl, "),
        "larger_than_its_weights": (
            larger,
            "cannot be read as a model (12 weights are missing or unknown, the first model.language_model.layers.4.",
        ),
        "broken_config": (
            lambda folder: (folder / "config.json").write_text("{"),
            "config.json: cannot be read as JSON",
        ),
    }


@pytest.mark.parametrize("fault", model_faults())
def test_broken_model(folder, tmp_path, fault):
    """error: models/base_model: no model is there; `dvc repro base_model` makes it, and likewise for what is broken."""
    from stages.modelling.model import load_model

    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    harm, said = model_faults()[fault]
    harm(copy)
    with pytest.raises(UserError) as caught:
        load_model(copy)
    assert said in str(caught.value)
    assert str(caught.value).startswith(str(copy))
    assert "\n" not in str(caught.value)


def test_pickled_adapters_are_refused(folder, tmp_path):
    """error: models/train/x: adapter_model.safetensors is missing; `dvc repro train@x` makes it."""
    from stages.modelling.model import load_model

    write_json(tmp_path / "adapter_config.json", {"base_model_name_or_path": str(folder), "peft_type": "LORA"})
    (tmp_path / "adapter_model.bin").write_bytes(b"pickle")
    with pytest.raises(UserError, match=r"adapter_model\.safetensors is missing"):
        load_model(tmp_path)


def test_missing_processor(folder, tmp_path):
    """error: models/base_model: cannot be read as a processor (...); `dvc repro base_model` makes it again."""
    from stages.modelling.model import load_processor

    shutil.copy(folder / "config.json", tmp_path)
    with pytest.raises(UserError, match="cannot be read as a processor"):
        load_processor(tmp_path)


def test_missing_base_model_ends_in_one_line(prepared, server):
    """error: models/base_model: missing; `dvc repro base_model` makes it."""
    process = start(prepared, "python", "-m", "stages", "zero_shot", "few_shot", "digits", "1", **server.environment)
    assert process.communicate()[0] == "error: models/base_model: missing; `dvc repro base_model` makes it\n"
    assert process.returncode == 2


def outputs(project: Project) -> list[Path]:
    return [
        project.root / "metrics/predictions/evaluate/few_shot-digits/sft-1.parquet",
        project.root / "metrics/records/evaluate/few_shot-digits/sft-1.json",
    ]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_killed_evaluation_goes_on_with_the_first_unfinished_batch(prepared, folder, server, temperature):
    """warning: .../0.json: cannot be read as JSON (...); ...; this batch is generated again."""
    prepared.change(
        evaluate__generation__batch_size=5,
        evaluate__generation__temperature=temperature,
        evaluate__generation__max_new_tokens=12,
    )
    process = start(prepared, *EVALUATE, **server.environment)
    assert (process.communicate()[0], process.returncode) == ("", 0)
    whole = [content_md5(path) for path in outputs(prepared)]
    for path in outputs(prepared):
        path.unlink()

    process = start(prepared, *EVALUATE, **server.environment)
    finished = eventually(lambda: len(files := batches(prepared)) >= 3 and files)
    for stage in server.stages():
        stage.kill()
    process.communicate()
    assert process.returncode == 128 + signal.SIGKILL
    assert not any(path.exists() for path in outputs(prepared))
    files = batches(prepared)
    assert 3 <= len(finished) <= len(files) < 20
    (files[0].parent / "0.json").write_text('{"md5": "0", "outp')

    process = start(prepared, *EVALUATE, **server.environment)
    said = process.communicate()[0].splitlines()
    assert process.returncode == 0
    assert said[0].startswith("warning: ")
    assert said[0].endswith("; this batch is generated again")
    assert said[1].startswith(f"{len(files) - 1} batches were finished before")
    assert [content_md5(path) for path in outputs(prepared)] == whole
    assert not batches(prepared)


def batches(project: Project) -> list[Path]:
    return sorted((project.root / "scratch").glob("evaluate@*/*.json"))


def test_changed_batch_is_not_believed(tmp_path, capsys):
    """warning: .../5.json: its content has changed; this batch is generated again."""
    from stages.evaluation.outputs import FinishedBatches

    batches = FinishedBatches(tmp_path)
    batches[0] = [("one", 2)]
    batches[5] = [("two", 2)]
    file = tmp_path / "5.json"
    file.write_text(file.read_text().replace("two", "six"))
    assert FinishedBatches(tmp_path) == {0: [("one", 2)]}
    assert capsys.readouterr().err == f"warning: {file}: its content has changed; this batch is generated again\n"
    assert not file.exists()


def test_terminated_evaluation_is_killed_in_mlflow_and_keeps_its_batches(prepared, folder, server):
    """stopped by SIGTERM; `dvc repro` starts it again."""
    prepared.change(evaluate__generation__batch_size=1, evaluate__generation__max_new_tokens=48)
    environment = server.environment | {"DISABLE_MLFLOW_INTEGRATION": "false"}
    process = start(prepared, *EVALUATE, **{**environment, "WARM_SOCKET": ""})
    eventually(lambda: len(batches(prepared)) >= 2)
    process.terminate()
    assert process.communicate()[0] == "stopped by SIGTERM; `dvc repro` starts it again\n"
    assert process.returncode == 143
    assert not unfinished(prepared)
    assert len(batches(prepared)) >= 2
    (run,) = runs(prepared)
    assert run.info.status == "KILLED"
    assert run.data.tags["dvc.stage"] == f"evaluate@{KEY}"
    assert "stage" not in run.data.tags


def test_changed_byte_in_an_output_is_seen_and_mended(prepared):
    """`dvc status` names the output: modified: data/split/digits-1."""
    file = prepared.root / "data/split/digits-1/test.parquet"
    whole = file.read_bytes()
    file.unlink()
    file.write_bytes(whole[:-100] + bytes([whole[-100] ^ 1]) + whole[-99:])
    status = json.loads(prepared.run("dvc", "status", "--json", "split@digits-1").stdout)
    assert {"changed outs": {"data/split/digits-1": "modified"}} in status["split@digits-1"]
    prepared.run("dvc", "repro", "split@digits-1")
    assert file.read_bytes() == whole


class Met:
    """What code may meet while it reads."""

    @staticmethod
    def type_error() -> None:
        len(3)

    @staticmethod
    def attribute_error() -> None:
        Path().nothing()

    @staticmethod
    def key_error() -> None:
        {}["method"]

    @staticmethod
    def no_package() -> None:
        importlib.import_module("a_package_that_is_not_there")

    @staticmethod
    def no_memory() -> None:
        raise MemoryError

    @staticmethod
    def no_memory_on_the_gpu() -> None:
        import torch

        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    @staticmethod
    def fault_of_the_gpu() -> None:
        import torch

        raise torch.AcceleratorError("CUDA error: an invalid memory access was encountered")


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Met.type_error, TypeError),
        (Met.attribute_error, AttributeError),
        (Met.key_error, KeyError),
        (Met.no_package, ModuleNotFoundError),
        (Met.no_memory, MemoryError),
        (Met.no_memory_on_the_gpu, RuntimeError),
        (Met.fault_of_the_gpu, RuntimeError),
    ],
)
def test_what_is_no_fault_of_content_is_told_as_what_it_is(tmp_path, fault, kind):
    """Whatever a file was being read for; with the traceback that says where."""
    with pytest.raises(kind) as caught, reported(), reading(tmp_path / "model", "a model"):
        fault()
    assert not isinstance(caught.value, UserError)
    assert fault.__name__ in {entry.name for entry in caught.traceback}


def test_a_broken_file_of_a_library_is_content(tmp_path):
    """Exceptions of libraries that have no class of their own for it, or one that only they know."""
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    file = tmp_path / "broken"
    file.write_bytes(b"no such thing")
    for read in (lambda: Tokenizer.from_file(str(file)), lambda: load_file(file)):
        with pytest.raises(UserError, match="cannot be read as a model"), reading(file, "a model"):
            read()


def test_a_missing_program_is_told_by_its_name(capsys):
    """error: no_such_program: this program cannot be run (no such file or directory); install it, ..."""
    with pytest.raises(SystemExit) as ended, reported():
        subprocess.run(["no_such_program", "--version"], check=True)
    assert ended.value.code == 2
    said = "this program cannot be run (no such file or directory); install it, and put its folder on PATH"
    assert capsys.readouterr().err == f"error: no_such_program: {said}\n"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("models/base_model/config.json", "missing; `dvc repro base_model` makes it"),
        ("recipes/train/sft-digits.json", "missing; `dvc repro configure` makes it"),
        ("requirements.lock", "missing; no stage makes it; put it there"),
    ],
)
def test_a_missing_file_is_made_by_a_stage_or_by_none(tmp_path, monkeypatch, capsys, path, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit), reported():
        Path(path).read_text()
    assert capsys.readouterr().err == f"error: {path}: {said}\n"
