"""`make publish`: write to MLflow what it does not have of the results under `metrics`.

MLflow may be locked, full or away while stages run; they go on without it. Afterwards, every record whose stage has no
FINISHED run with the same record (tag `md5.records`, as in `dvc.lock`) becomes a run here, made from the metrics files
alone, with the tag `published=later`. A second time adds nothing. Exit status: 1 where the store cannot be written.
"""

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

# First: it switches MLflow's telemetry off.
from stages.evaluation.scoring import flat
from stages.runtime.content import content_md5
from stages.runtime.errors import UserError
from stages.runtime.files import read_json
from stages.runtime.scratch import locked
from stages.runtime.tracking import REPORT, accuracy, artifacts_of, opening, records_of
from stages.runtime.tracking_store import Record, problem, store_faults

RECORDS = Path("metrics/records")
CELL = ("setting", "method", "dataset", "seed", "stage", "trained_on", "evaluated_on", "prompt")
"""What a record says of its cell; the rest is measured."""


def stages() -> list[str]:
    """The stages whose records lie under `metrics/records`, and the report's."""
    groups = (
        "train",
        "zero_shot",
        "cross_eval",
        "prompt_eval",
        "prompt_zero_shot",
        "target_zero_shot",
        "target_eval",
        "target_prompt",
    )
    found = [path for group in groups for path in RECORDS.glob(f"{group}/*")]
    names = [f"{path.parent.name}@{path.stem}" for path in found if not path.name.startswith(".")]
    for path in RECORDS.glob("validate/*/[!.]*.json"):
        method, seed = path.stem.split("-")
        names.append(f"validate@{method}-{path.parent.name}-{seed}")
    for path in RECORDS.glob("evaluate/*-*/[!.]*.json"):
        (setting, dataset), (method, seed) = path.parent.name.split("-"), path.stem.split("-")
        names.append(f"evaluate@{setting}-{method}-{dataset}-{seed}")
    names += [REPORT] if records_of(REPORT).is_dir() else []
    return sorted(name for name in names if not _is_diagonal(name))


def _is_diagonal(stage: str) -> bool:
    """Whether a cell only names what is evaluated, and makes no run: its second dataset or its prompt is its own."""
    group, _, key = stage.partition("@")
    first, second, third, fourth, *_ = *key.split("-"), "", "", "", ""
    return fourth == {"cross_eval": third, "prompt_eval": second, "target_prompt": first}.get(group)


def read(stage: str) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
    """Read a stage's record: what cell it is of, its metrics named as in a live run, and its curves by step.

    Raises:
        UserError: the record is none.
    """
    path = records_of(stage)
    if stage == REPORT:
        return {}, {}, []
    try:
        if stage.startswith("train@"):
            cost = read_json(path / "cost.json")
            if not isinstance(cost, dict):
                raise ValueError("has no numbers by name")
            cell, metrics = _split(cost)
            return cell, metrics, pd.read_csv(path / "curves.csv").to_dict("records")
        record = read_json(path)
        if not _is_record(record):
            raise ValueError("has no numbers by part")
        cell, _ = _split(record)
        return cell | {"dataset": cell["trained_on"] or cell["evaluated_on"]}, flat(record["parts"]), []
    except UserError:
        raise
    except (OSError, ValueError, KeyError) as error:  # a key of the cell, above all
        raise UserError(f"{path}: is no record ({type(error).__name__}); `dvc checkout {path}` gets it back") from None


def _is_record(record: Any) -> bool:
    """Whether what a file has is an evaluation's record, by its shape."""
    parts = record.get("parts") if isinstance(record, dict) else None
    return isinstance(parts, dict) and all(isinstance(numbers, dict) for numbers in parts.values())


def _split(record: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    cell = {name: record[name] for name in CELL if name in record}
    return cell, {name: value for name, value in record.items() if name not in cell}


def settings(stage: str, md5: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The parameters and the `md5.*` tags of a stage, as far as `dvc.lock` has them of this very record."""
    try:
        lock = YAML(typ="safe").load(Path("dvc.lock"))
        entry = lock["stages"][stage] if isinstance(lock, dict) else {}
    except (OSError, YAMLError, KeyError):
        return {}, {}
    md5s = {each["path"]: each.get("md5") for side in ("deps", "outs") for each in entry.get(side, ())}
    if md5s.get(records_of(stage).as_posix()) != md5:
        return {}, {}
    names = {"data/partition/": "data", "models/train/": "model", "models/base_model": "model"}
    if stage.startswith("train@"):
        names["models/base_model"] = "base_model"
    tags = {
        f"md5.{name}": value for path, value in md5s.items() for start, name in names.items() if path.startswith(start)
    }
    read = entry.get("params", {}).get("params.yaml", {})
    params = read.get("evaluate", {}) | {
        key.removeprefix("evaluate."): value for key, value in read.items() if key.startswith("evaluate.")
    }
    recipes = [Path(path) for path in md5s if path.startswith("recipes/train/")]
    recipe = recipes[0] if recipes and stage.startswith("train@") else None
    if recipe is not None and recipe.exists() and content_md5(recipe) == md5s[recipe.as_posix()]:
        resolved = read_json(recipe)
        params = resolved["settings"] | {"rewards": list(resolved["rewards"])}
    return params, tags


def _samples(stage: str, cell: Mapping[str, Any]) -> str | None:
    """The table of samples that a stage has read; the report reads none."""
    split = {"train": "train", "validate": "validation"}.get(stage.partition("@")[0], "test")
    return f"data/partition/{cell['setting']}/{cell['seed']}/{split}/{cell['dataset']}.parquet" if cell else None


def publish(stage: str, md5: str) -> None:
    """Write one run, or raise what MLflow raises."""
    cell, metrics, curves = read(stage)
    params, md5s = settings(stage, md5)
    now = int(time.time() * 1000)
    start = opening(stage, params, cell | md5s | {"md5.records": md5, "published": "later"}) | {"started": now}
    run = Record(start | {"data": _samples(stage, cell)})
    # Of now, which says nothing of the code that made the record.
    for name in ("git.commit", "git.dirty", "mlflow.source.git.commit"):
        run.tags.pop(name, None)
    run.take({"tags": start["tags"]} | artifacts_of(stage))
    for step, values in [(0, metrics | accuracy(metrics)), *((row["step"], row) for row in curves)]:
        numbers = {name: value for name, value in values.items() if name != "step" and not pd.isna(value)}
        run.take({"metrics": numbers, "step": int(step), "time": now})
    run.put("FINISHED")


def main() -> int:
    """Publish what the store lacks; return the exit status."""
    found = {stage: content_md5(records_of(stage)) for stage in stages()}
    store = Record({"stage": "publish", "params": {}, "tags": {}})
    try:
        store.running.mkdir(parents=True, exist_ok=True)
        with locked(store.running / "publishing", "publish"):
            store.connect()
            known = {(run.data.tags["dvc.stage"], run.data.tags.get("md5.records")) for run in store.find("FINISHED")}
            running = {run.data.tags["dvc.stage"] for run in store.find("RUNNING")}
            missing = {stage: md5 for stage, md5 in found.items() if (stage, md5) not in known and stage not in running}
            for stage, md5 in missing.items():
                publish(stage, md5)
                print(stage, flush=True)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except store_faults() as error:
        print(f"error: {problem(store.uri, error)}", file=sys.stderr)
        return 1
    print(f"{len(missing)} published, {len(found) - len(missing)} there already")
    return 0


if __name__ == "__main__":
    sys.exit(main())
