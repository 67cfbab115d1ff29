"""Which way of training works best on your own classes: from a folder of images to a verdict in words.

    make mine IMAGES=~/photos                  # or: python -m tools.mine ~/photos

Makes a grid of its own, `grids/mine`, which git ignores; prints what was found, what will run, and, when it has run,
who won on validation images, by how much, whether that is more than chance, where the winner fails, what it cost, and
how to use the model. The same command again runs only what has changed. Keys of `grids/mine/params.yaml` may be changed
between two of them; what the command line says wins.

Where the images are few, they are dealt to folds (`folds` and `fold` of section `download`): every image is once a
validation image and once a test image, of a model that was not trained on it.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
from ruamel.yaml import YAML

from stages.recipes.params import check
from stages.recipes.recipe import files
from stages.report.candidates import ranked, read_candidates
from stages.report.contrasts import SURE
from stages.report.inference import DIFFERENCE, Cell, estimate, holm, images_needed, mcnemar
from stages.report.statistics import wilson_interval
from stages.runtime.errors import UserError, reported
from stages.runtime.files import expand, read_json, read_parquet, write_file
from stages.runtime.provenance import ROOT
from stages.sources import counts
from stages.sources.folder import split_of
from tools import grid, profile
from tools.planning.costs import HERE
from tools.planning.planner import stages_of_dag

MODELS = {"embedded": "mine", "laptop": "laptop", "gpu": "gpu"}
"""The profile of each choice of a model."""

IGNORED = "# Own images: nothing of this grid goes into git. tools/mine.py wrote this.\n*\n"
"""The `.gitignore` of a grid of own images, by which such a grid is known too."""

IMAGES = "scratch/images.md5"
"""Where the fingerprint of the images is kept that were read last."""

OWN_CLASSES = "own_classes"
"""The world that takes class names, of stages/embedded/worlds."""

FEW = 500
"""Images of all classes, below which they are dealt to folds: a fifth of them would decide nothing."""

LEARNED = "It has learned something"
"""What a verdict says of a way of training that is better than guessing."""

FOLDS = 5
MOST = 1000
"""Validation images, and likewise twice as many test images, above which the share that is taken is lowered."""

REHEARSAL = (
    "This was a rehearsal. The embedded model has 0.65 million parameters, sees 32 x 32 pixels and was trained on "
    "drawings: what is above says which way of training moves *it* most on your classes, and not what a model that "
    "knows photographs does. Next: `make mine IMAGES={images} MODEL=laptop`, or MODEL=gpu."
)


@dataclass(frozen=True)
class Found:
    """What a source has: images by class and split."""

    counts: pd.DataFrame
    given: bool

    @property
    def per_class(self) -> pd.Series:
        """Images of each class, all splits together."""
        return self.counts.sum(axis=1)

    @property
    def images(self) -> int:
        """All of them."""
        return int(self.counts.to_numpy().sum())


def mine(
    images: Annotated[str, typer.Argument(help="a folder with a folder of images per class, or a table")],
    model: Annotated[str, typer.Option(help=f"one of {', '.join(MODELS)}")] = "embedded",
    name: Annotated[str, typer.Option(help="of the grid; none: mine, or mine_laptop, mine_gpu")] = "",
    question: Annotated[str, typer.Option(help="about each image; none: as in the profile")] = "",
    folds: Annotated[
        int | None, typer.Option(min=0, help=f"0: none; not given: up to {FOLDS} below {FEW} images")
    ] = None,
    shots: Annotated[
        int | None, typer.Option(min=1, help="training images of each class; not given: 4, or fewer")
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="stages at a time")] = None,
) -> None:
    """Find out which way of training works best on a folder of images."""
    if model not in MODELS:
        raise UserError(f"--model: {model!r} is invalid; valid: {', '.join(MODELS)}")
    if MODELS[model] not in profile.names():
        raise UserError(f"--model: {model!r} needs profiles/{MODELS[model]}.yaml, which is not there")
    name = name or ("mine" if model == "embedded" else f"mine_{model}")
    folder = checked_folder(ROOT, name)
    path = expand("images", images).resolve()
    began = time.monotonic()

    # First without folds: what the source has decides whether there are any.
    given = whole(path, section_of(folder))
    changes: dict[str, Any] = {"path": str(path), **source(path)} | ({"question": question} if question else {}) | given
    params = write(ROOT, folder, MODELS[model], changes, 0, shots)
    dataset = params["datasets"][0]
    print(f"{path}: the images are read.", flush=True)
    changed = fingerprint(path) != remembered(folder)
    download(folder, [dataset], changed)
    found = read_found(folder, dataset, "test_per_class" in given)
    record = read_json(folder / f"metrics/records/download/{dataset}.json")
    print("\n".join([*counts.lines(record["counts"]), *uneven(found)]), flush=True)
    count = fold_count(found) if folds is None else folds
    if count and found.given:
        raise UserError("--folds: invalid where the images are in folders train and test already; valid: 0")
    classes = read_json(folder / f"data/download/{dataset}/dataset.json")["classes"]
    params = write(ROOT, folder, MODELS[model], changes | shares(found), count, shots or fit(found, count), classes)
    print("\n" + "\n".join(plan(folder, params, found, count)), flush=True)
    if model != "embedded":
        run(folder, ["tools.plan", *(["--gpu", HERE] if model == "laptop" else [])])
    print(flush=True)
    if count:
        download(folder, params["datasets"], changed)
    with write_file(folder / IMAGES) as unfinished:
        unfinished.write_text(fingerprint(path), encoding="utf-8")
    run(folder, ["tools.repro", "--no-results", *(["--jobs", str(jobs)] if jobs else [])])
    minutes = (time.monotonic() - began) / 60
    said = verdict(Results.read(folder, params), f"grids/{name}", minutes)
    if model == "embedded":
        said.append(REHEARSAL.format(images=images))
    text = "\n\n".join(said) + "\n"
    with write_file(folder / "VERDICT.md") as unfinished:
        unfinished.write_text(f"# Verdict\n\n{text}", encoding="utf-8")
    print(f"\n{text}\nThis stands in grids/{name}/VERDICT.md, all tables in grids/{name}/metrics/tables.")


def checked_folder(root: Path, name: str) -> Path:
    """The folder of a grid of own images, which may be there or not.

    Raises:
        UserError: it is a grid of the project, this is run in a grid, or it can be no name.
    """
    if root.parent.name == grid.GRIDS:
        raise UserError("mine: this is a grid itself; next: run it at the top of the project")
    if not re.fullmatch(r"[a-z0-9_]+", name):
        raise UserError(f"--name: {name!r} is invalid; valid: small letters, digits and underscores")
    folder = root / grid.GRIDS / name
    ignore = folder / ".gitignore"
    if folder.exists() and not (ignore.is_file() and ignore.read_text(encoding="utf-8") == IGNORED):
        raise UserError(f"--name: grids/{name} is a grid of another kind; valid: a name that no folder of grids/ has")
    return folder


def write(
    root: Path,
    folder: Path,
    based_on: str,
    changes: Mapping[str, Any],
    folds: int,
    shots: int | None,
    classes: Sequence[str] = (),
) -> dict[str, Any]:
    """Make the grid, or mend it; return its parameters.

    Args:
        root: of the project.
        folder: of the grid.
        based_on: the profile of a grid that is new.
        changes: of the dataset's section.
        folds: 0 for none: then there is one dataset, else one for each fold, `<dataset>_<fold>`.
        shots: training images of each class; None: as it is.
        classes: their names, which become words of an embedded model that is trained for them; none: as it is.
    """
    yaml = YAML()
    there = folder / "params.yaml"
    params = yaml.load(there.read_text(encoding="utf-8") if there.is_file() else profile.text_of(based_on))
    section, base = dict(_first(params)), params["datasets"][0]
    if "folds" in section:
        base = base.removesuffix("_1")
    # Folds, and splits that the images had the last time, have left these empty.
    default = _first(profile.params_of(based_on))
    section |= {key: default[key] for key in ("validation_per_class", "test_per_class") if section.get(key) is None}
    section = {key: value for key, value in section.items() if key not in ("folds", "fold")} | dict(changes)
    if folds:
        section |= {"validation_per_class": None, "test_per_class": None, "folds": folds}
    names = [f"{base}_{fold}" for fold in range(1, folds + 1)] if folds else [base]
    params["datasets"], params["best"] = list(names), list(names)
    params["download"] = {each: section | ({"fold": fold} if folds else {}) for fold, each in enumerate(names, start=1)}
    if shots is not None:
        params["split"]["shots"] = shots
    model = params["models"][params["model"]]
    if classes and model.get("world") == OWN_CLASSES:
        model["world_params"] = {"question": section["question"], "classes": list(classes)}
    stream = StringIO()
    yaml.dump(params, stream)
    files(check(YAML(typ="safe").load(stream.getvalue())))  # before anything is written
    folder.mkdir(parents=True, exist_ok=True)
    with write_file(folder / ".gitignore") as unfinished:
        unfinished.write_text(IGNORED, encoding="utf-8")
    grid.make(root, folder.name, stream.getvalue())
    # DVC runs no pipeline that git ignores, so git is hidden from it in this folder.
    with write_file(folder / ".dvc/config.local") as unfinished:
        unfinished.write_text("[core]\n    no_scm = true\n", encoding="utf-8")
    if not there.is_file() or there.read_text(encoding="utf-8") != stream.getvalue():
        with write_file(there) as unfinished:
            unfinished.write_text(stream.getvalue(), encoding="utf-8")
    return YAML(typ="safe").load(stream.getvalue())


def _first(params: Mapping[str, Any]) -> Mapping[str, Any]:
    """The section of the first dataset."""
    return params["download"][params["datasets"][0]]


def run(folder: Path, command: Sequence[str], quiet: bool = False) -> None:
    """Run a module of the project in the grid's folder; end where it fails, with what it said.

    With `quiet`, only what stages say on stderr is shown.
    """
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE if quiet else None,
        stderr=subprocess.PIPE if quiet else None,
        text=True,
    )
    said = (done.stderr or "").splitlines()
    # Of a stage that failed, what it said is shown; what DVC and its runner say of that is no news.
    for line in said:
        if line.strip() and not re.match(
            r"Running stage |> |ERROR: |error: (\S+ failed: |.*; what it printed: |the same )|[\r\s]*\S*%?\|", line
        ):
            print(line, file=sys.stderr, flush=True)
    if done.returncode:
        if quiet and any(line.startswith("error: download.") for line in said):
            where = folder / "params.yaml"
            print(f"path is IMAGES=; other keys stand in {where}; then the same command again.", file=sys.stderr)
        raise SystemExit(done.returncode)


def fingerprint(path: Path) -> str:
    """What changes where images do: DVC does not look outside of its repository."""
    found = hashlib.md5(usedforsecurity=False)
    for each in [path, *sorted(path.rglob("*"))] if path.is_dir() else [path]:
        state = each.lstat()
        found.update(f"{each}\0{state.st_size}\0{state.st_mtime_ns}\0".encode("utf-8", "surrogateescape"))
    return found.hexdigest()


def remembered(folder: Path) -> str:
    """The fingerprint of the images that were read last; empty where none were."""
    return (folder / IMAGES).read_text(encoding="utf-8") if (folder / IMAGES).is_file() else ""


def download(folder: Path, datasets: Sequence[str], changed: bool) -> None:
    """Run stage `download` of datasets where it is stale, or in any case where the images have changed."""
    stages = [f"download@{each}" for each in datasets]
    if changed and (folder / "dvc.lock").is_file():
        run(folder, ["tools.repro", "configure"], quiet=True)
        run(folder, ["dvc", "repro", "--single-item", "--force", *stages], quiet=True)
    else:
        run(folder, ["tools.repro", *stages], quiet=True)


def source(path: Path) -> dict[str, Any]:
    """The keys that say what is there: a folder, or a table whose paths count from where it lies."""
    if path.is_dir():
        return {"source": "folder"}
    return {"source": "table", "images": str(path.parent), "split_column": "split" if has_splits(path) else None}


def has_splits(table: Path) -> bool:
    """Whether the first line of a table, its header or its first row, names a column `split`."""
    with table.open(encoding="utf-8", errors="replace") as lines:
        return re.search(r"\bsplit\b", next(lines, "")) is not None


def whole(path: Path, section: Mapping[str, Any]) -> dict[str, None]:
    """The keys of splits that a folder or a table has of its own, which are taken whole.

    Args:
        path: of the folder or the table.
        section: the dataset's, whose keys may say what is a split; empty where there is none yet.
    """
    if not path.is_dir():
        return {"test_per_class": None} if has_splits(path) else {}
    if section.get("layout") == "classes":
        return {}
    left_out = section.get("leave_out") or []
    splits = set(section.get("splits") or {}) or {
        split_of(each.name) for each in path.iterdir() if each.is_dir() and each.name not in left_out
    }
    if "train" not in splits:
        return {}
    return {f"{split}_per_class": None for split in ("validation", "test") if split in splits}


def section_of(folder: Path) -> Mapping[str, Any]:
    """The dataset's section of a grid; empty where there is no grid yet."""
    params = folder / "params.yaml"
    return _first(YAML(typ="safe").load(params.read_text(encoding="utf-8"))) if params.is_file() else {}


def read_found(folder: Path, dataset: str, given: bool) -> Found:
    """What stage `download` has written of a dataset, by class and split."""
    data = folder / "data/download" / dataset
    table = pd.read_parquet(data / "images.parquet", columns=["label", "split"])
    classes = read_json(data / "dataset.json")["classes"]
    sizes = table.groupby(["label", "split"]).size().unstack(fill_value=0)
    sizes.index = [classes[label] for label in sizes.index]
    return Found(sizes, given)


def uneven(found: Found) -> list[str]:
    """What is said where classes differ much in size."""
    sizes = found.per_class
    if sizes.max() <= 10 * sizes.min():
        return []
    return [
        f"uneven: class {sizes.idxmin()!r} has {sizes.min():,}, class {sizes.idxmax()!r} {sizes.max():,}. Shots are "
        "the same for all, so accuracy over all images is mostly that of the large classes."
    ]


def fold_count(found: Found) -> int:
    """How many folds there are where nobody says it; 0 for none.

    A class of n images has at most n folds; with 3 images, one each is for training, validation and test.
    """
    if found.given or found.images >= FEW:
        return 0
    return min(FOLDS, int(found.per_class.min()))


def fit(found: Found, folds: int, wanted: int = 4) -> int:
    """How many shots of each class there can be: `wanted`, or what the smallest class leaves for training."""
    if not folds:
        return int(min(wanted, found.counts["train"].min()))
    # Test and validation images are two parts next to each other, of which as many are larger by one as are left over.
    return min(wanted, *(int(n) - 2 * (int(n) // folds) - min(2, int(n) % folds) for n in found.per_class))


def shares(found: Found) -> dict[str, float]:
    """Lower shares of validation and test images where there are very many; nothing elsewhere."""
    if found.given or found.images * 0.2 <= MOST:
        return {}
    share = math.floor(1e4 * MOST / found.images) / 1e4
    return {"validation_per_class": share, "test_per_class": 2 * share}


def plan(folder: Path, params: Mapping[str, Any], found: Found, folds: int) -> list[str]:
    """What will run, in words."""
    shots, methods = params["split"]["shots"], params["methods"]
    trained = len(methods) * len(params["datasets"])
    lines = [
        f"Plan: {stages_of_dag(folder / 'dvc.yaml', dict(params))} stages, {trained} of them trainings: "
        f"{', '.join(methods)}{f', on {folds} folds each' if folds else ''}; {shots} training images of each class "
        f"(SHOTS=), {shots * len(found.per_class)} a training; model {params['model']}."
    ]
    if folds:
        lines.append(
            f"The images are few, so they are dealt to {folds} folds (FOLDS=0: one split): each is a validation image "
            "of one fold and a test image of another, of models that were not trained on it."
        )
    if shots < 4:
        least = found.per_class.idxmin()
        lines.append(
            f"Class {least!r} has {found.per_class.min()} images: {shots} of each class for training is all that is "
            "possible; more images, or leaving the class out, allow more."
        )
    return lines


@dataclass(frozen=True)
class Results:
    """What the grid measured.

    Attributes:
        validation: predictions on validation images, in the same order by method: fold (a dataset), answer, parsed,
            exact_match, valid, completion_tokens.
        test: likewise on test images, of each method, and of `zero_shot`: the base model as it is.
        costs: by method: steps, prompt_tokens, completion_tokens, sums over folds.
        classes: their names.
        saved: by dataset: which method's model stage `best` kept.
    """

    validation: Mapping[str, pd.DataFrame]
    test: Mapping[str, pd.DataFrame]
    costs: Mapping[str, Mapping[str, int]]
    classes: Sequence[str]
    saved: Mapping[str, str]

    @classmethod
    def read(cls, folder: Path, params: Mapping[str, Any]) -> Results:
        """Read them from the grid's folder."""
        datasets, methods, seed = params["datasets"], params["methods"], params["seeds"][0]
        predictions = folder / "metrics/predictions"

        def table(pattern: str) -> pd.DataFrame:
            parts = [
                read_parquet(predictions / pattern.format(each)).sort_values("row").assign(fold=each)
                for each in datasets
            ]
            return pd.concat(parts, ignore_index=True)

        costs = {
            method: dict(
                sum(
                    (
                        Counter(
                            {
                                key: value
                                for key, value in read_json(
                                    folder / f"metrics/records/train/few_shot-{method}-{each}-{seed}/cost.json"
                                ).items()
                                if key in ("steps", "prompt_tokens", "completion_tokens")
                            }
                        )
                        for each in datasets
                    ),
                    Counter(),
                )
            )
            for method in methods
        }
        records = folder / "metrics/records/validate"
        return cls(
            {method: table(f"validate/{{}}/{method}-{seed}.parquet") for method in methods},
            {method: table(f"evaluate/few_shot-{{}}/{method}-{seed}.parquet") for method in methods}
            | {"zero_shot": table(f"zero_shot/few_shot-{{}}-{seed}.parquet")},
            costs,
            read_json(folder / f"data/download/{datasets[0]}/dataset.json")["classes"],
            {each: ranked(read_candidates(records / each, methods, [seed]), methods)[0].method for each in datasets},
        )


@dataclass(frozen=True)
class Comparison:
    """The winner against another way on the same images: points ahead, their 95% interval, p as it is and corrected."""

    points: float
    low: float
    high: float
    p: float
    p_holm: float
    needed: int | None


def order(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    """The ways of training, the best first: exact matches, then fewer tokens, then as they stand."""
    return sorted(
        tables, key=lambda name: (-tables[name]["exact_match"].sum(), tables[name]["completion_tokens"].sum())
    )


def compare(tables: Mapping[str, pd.DataFrame], first: str) -> dict[str, Comparison]:
    """The first against each other, on the same images.

    McNemar's exact test, corrected by Holm for all pairs: the first was not chosen before it was seen to be first. The
    interval is `stages.report.inference`'s of paired images; over folds, of their mean.
    """
    pairs = list(combinations(tables, 2))
    p = {pair: mcnemar(*(tables[name]["exact_match"].to_numpy(dtype=bool) for name in pair)) for pair in pairs}
    corrected = dict(zip(pairs, holm(p.values()), strict=True))
    found = {}
    for other in tables:
        if other == first:
            continue
        pair = (first, other) if (first, other) in p else (other, first)
        parts = [
            {Cell(fold, fold): rows["exact_match"].to_numpy(dtype=bool)[None] for fold, rows in table.groupby("fold")}
            for table in (tables[first], tables[other])
        ]
        difference = estimate(DIFFERENCE, *parts)
        needed = images_needed(difference, SURE / len(pairs))
        needed = None if needed is None else needed * len(parts[0])
        found[other] = Comparison(
            difference.value, difference.low, difference.high, p[pair], float(corrected[pair]), needed
        )
    return found


def verdict(results: Results, grid_folder: str, minutes: float) -> list[str]:
    """The verdict, in paragraphs.

    Args:
        results: what was measured.
        grid_folder: of the grid, seen from the top of the project.
        minutes: that all took.
    """
    tables = results.validation
    names = order(tables)
    winner = names[0]
    guessing = _guessing(tables, names, results.classes)
    learned = guessing.startswith(LEARNED)
    said = [_won(tables, names, len(results.saved), learned), _table(tables, names, results.costs)]
    # That nothing has been learned comes before all that it takes its sense from.
    said.insert(2 if learned else 0, guessing)
    said.append(_tested(results.test, winner))
    said.append(_fails(tables[winner]))
    tokens = {name: results.costs[name].get("completion_tokens", 0) for name in names}
    said.append(
        f"It took {minutes:.0f} minutes here, all stages together"
        + (
            f"; the most tokens in training were written by {max(tokens, key=tokens.get)} ({max(tokens.values()):,})."
            if any(tokens.values())
            else "."
        )
    )
    said.append(_model(results, winner, grid_folder, learned))
    return said


def _won(tables: Mapping[str, pd.DataFrame], names: Sequence[str], folds: int, learned: bool) -> str:
    """Who won, by how much, and whether that is more than chance; or that none did."""
    winner, rows = names[0], tables[names[0]]
    right, images = int(rows["exact_match"].sum()), len(rows)
    tied = [name for name in names if tables[name]["exact_match"].sum() == right]
    have = f"{right} of {images} validation images right ({100 * right / images:.0f}%)"
    have += f", over {folds} folds." if folds > 1 else "."
    if len(tied) > 1:
        text = f"**None won**: {_and(tied)} are equal, each with {have} {_taken(tables, tied)}"
    elif learned:
        text = f"**{winner}** won: {have}"
    else:
        text = f"**{winner}** came first: {have}"
    if len(names) == 1 or not learned:
        return text
    found, others = compare(tables, winner), names[len(tied) :]
    sure = [name for name in others if found[name].p_holm < SURE and found[name].points > 0]
    pairs = len(names) * (len(names) - 1) // 2
    if others:
        second, ahead = others[0], found[others[0]]
        if len(tied) > 1:
            text += f" It is ahead of {second}, which comes next, " + (
                "by more than chance: by " if second in sure else "but that may be chance: by "
            )
        elif second in sure:
            text += f" That is more than chance: it is ahead of every other way, of {second} by "
        else:
            text += f" That it is ahead of {second} may be chance: by "
        text += f"{ahead.points:.1f} points [{ahead.low:.1f}, {ahead.high:.1f}], {_p(ahead.p_holm)}"
        text += (
            f" (McNemar's test on the same images, corrected by Holm for {pairs} comparisons)." if pairs > 1 else "."
        )
        if second not in sure:
            if sure:
                text += f" It is ahead by more than chance of {', '.join(sure)}."
            elif len(others) > 1:
                text += " So it is of every other way."
            if ahead.needed is not None:
                two = "the first two" if len(tied) == 1 else f"{winner} and {second}"
                text += (
                    f" About {_rounded(ahead.needed)} validation images would decide between {two}, if they differ as "
                    "much as they did here."
                )
    text += " Each way was trained once" + (" a fold" if folds > 1 else "") + ": another seed may give another order."
    if folds > 1:
        text += " The folds share training images, so the p-values are about these trainings."
    return text


def _taken(tables: Mapping[str, pd.DataFrame], tied: Sequence[str]) -> str:
    """Which of equals goes on, and why: as `order` has it."""
    tokens = {name: int(tables[name]["completion_tokens"].sum()) for name in tied}
    first, least = tied[0], min(tokens.values())
    shortest = [name for name in tied if tokens[name] == least]
    if len(shortest) == 1:
        others = f"{least:,} tokens, of {tied[1]} {tokens[tied[1]]:,}"
        return f"**{first}** is taken, since its answers are the shortest: {others}."
    same = "their answers are" if len(shortest) == len(tied) else f"the answers of {_and(shortest)} are the shortest,"
    return f"**{first}** is taken: {same} equally long, and it stands first in `methods`."


def _table(tables: Mapping[str, pd.DataFrame], names: Sequence[str], costs: Mapping[str, Mapping[str, int]]) -> str:
    """All ways of training, the best first."""
    found = [] if len(names) == 1 else compare(tables, names[0])
    rows = []
    for name in names:
        right, images = int(tables[name]["exact_match"].sum()), len(tables[name])
        low, high = wilson_interval(right, images)
        behind = "" if name == names[0] else f"{0 - found[name].points:.1f}, {_p(found[name].p_holm)}"
        rows.append(
            {
                "way of training": name,
                "right": f"{right} of {images}",
                "%": f"{100 * right / images:.1f} [{low:.1f}, {high:.1f}]",
                "against the first": behind,
                "no valid answer": f"{int((~tables[name]['valid']).sum())}",
                "steps": f"{costs[name].get('steps', 0):,}",
                "tokens read": f"{costs[name].get('prompt_tokens', 0):,}",
                "tokens written": f"{costs[name].get('completion_tokens', 0):,}",
            }
        )
    return pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)


def _guessing(tables: Mapping[str, pd.DataFrame], names: Sequence[str], classes: Sequence[str]) -> str:
    """Whether the first has learned anything: against always naming the most frequent class."""
    from scipy.stats import binomtest

    rows = tables[names[0]]
    largest = rows["answer"].value_counts()
    share = max(float(largest.iloc[0]) / len(rows), 1 / len(classes))
    right = int(rows["exact_match"].sum())
    p = binomtest(right, len(rows), share, alternative="greater").pvalue
    guess = f"{100 * share:.0f}%, what naming the most frequent class alone would give"
    if p < SURE:
        return f"{LEARNED}: {100 * right / len(rows):.0f}% is more than {guess} ({_p(p)})."
    nobody = f"{names[0]} has not" if len(names) == 1 else f"None of the {len(names)} ways of training has"
    best = "it has" if len(names) == 1 else "the best has"
    return (
        f"**{nobody} been seen to learn anything**: {best} {right} of {len(rows)} validation images right, and "
        f"{100 * right / len(rows):.0f}% is not more by more than chance than {guess} ({_p(p)}). Do not use the model; "
        "the order below says nothing. Next: more training images of each class (SHOTS=), or a model that knows more "
        "(MODEL=laptop, MODEL=gpu)."
    )


def _tested(tests: Mapping[str, pd.DataFrame], winner: str) -> str:
    """The winner on test images, and the model before training."""
    rows, before = tests[winner], tests["zero_shot"]
    right, images = int(rows["exact_match"].sum()), len(rows)
    low, high = wilson_interval(right, images)
    text = (
        f"On {images} test images, which chose nothing, {winner} is right on {100 * right / images:.1f}% "
        f"[{low:.1f}, {high:.1f}], and the model before training on {100 * before['exact_match'].mean():.1f}%"
    )
    p = mcnemar(rows["exact_match"].to_numpy(dtype=bool), before["exact_match"].to_numpy(dtype=bool))
    better = right > before["exact_match"].sum()
    verdict_of = ("training helped" if better else "training did harm") if p < SURE else "which may be chance"
    return f"{text}: {verdict_of} ({_p(p)})."


def _fails(rows: pd.DataFrame) -> str:
    """On which classes less than half is right, and what is said instead; or the worst class."""
    found = []
    for name, each in rows.groupby("answer"):
        wrong = each.loc[~each["exact_match"].astype(bool)]
        said = Counter(wrong["parsed"].where(wrong["valid"].astype(bool), None).fillna("no valid answer"))
        found.append((int(each["exact_match"].sum()), len(each), str(name), said))
    found.sort(key=lambda item: (item[0] / item[1], -item[1], item[2]))
    failing = [item for item in found if 2 * item[0] < item[1]]
    text = "It fails on: " if failing else "There is no class on which it is wrong more often than right; the worst is "
    shown = failing[:10] or found[:1]
    parts = []
    for right, images, name, said in shown:
        most = ", ".join(f"{answer} {count}" for answer, count in said.most_common(2))
        parts.append(f"{name} ({right} of {images} right{f'; it said {most}' if most else ''})")
    more = f", and {len(failing) - len(shown)} more" if len(failing) > len(shown) else ""
    few = " So few images of a class say little of it." if max(item[1] for item in shown) < 10 else ""
    return f"{text}{', '.join(parts)}{more}.{few}"


def _model(results: Results, winner: str, grid_folder: str, learned: bool) -> str:
    """Where the model is, and how it is used, where it is of use."""
    rows = results.validation[winner]
    right = rows.groupby("fold")["exact_match"].mean()
    kept = [each for each, method in results.saved.items() if method == winner]
    if kept:
        dataset = max(kept, key=lambda each: right[each])
        model = f"{grid_folder}/models/best/{dataset}"
        text = f"The model is in {model}"
        if len(results.saved) > 1:
            text += f" (the fold on which {winner} did best; the other folds' images never trained it)"
    else:
        dataset, method = next(iter(results.saved.items()))
        model = f"{grid_folder}/models/best/{dataset}"
        text = f"In no fold was {winner} the first, so no fold has kept its model; {model} is one of {method}."
        if learned:
            text += (
                f" For one of {winner} set `methods: [{winner}]` in {grid_folder}/params.yaml, then `make repro GRID="
                f"{Path(grid_folder).name}`"
            )
    if not learned:
        return f"{text.removesuffix('.')}; it is there to be looked at, and not to be used."
    return (
        f"{text}; its README.md says how it was made, and how to load it in plain transformers.\n\n"
        f"    python -m stages predict --model {model} --csv FOLDER > answers.csv\n"
        f"    python -m stages predict --model {model} --page"
    )


def _and(names: Sequence[str]) -> str:
    """Names in a row.

    >>> _and(["a"]), _and(["a", "b"]), _and(["a", "b", "c"])
    ('a', 'a and b', 'a, b and c')
    """
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _p(value: float) -> str:
    """A p-value as it is read.

    >>> _p(0.0321), _p(0.00001), _p(1.0)
    ('p = 0.032', 'p < 0.001', 'p = 1')
    """
    return "p < 0.001" if value < 0.001 else f"p = {value:.2g}"


def _rounded(number: int) -> str:
    """Two digits of it, which is all that such a number has.

    >>> _rounded(1234), _rounded(56)
    ('1,200', '56')
    """
    digits = 10 ** max(0, len(str(number)) - 2)
    return f"{round(number / digits) * digits:,}"


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(mine)
    with reported():
        app()
