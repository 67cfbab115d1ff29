"""The DAG: its stages by name, its code against the real imports, and what each parameter makes stale."""

import fnmatch
import importlib
from itertools import product
from pathlib import Path

import pytest
from dvc.dependency import ParamsDependency
from dvc.repo import Repo
from dvc.repo.index import Index
from ruamel.yaml import YAML

from stages import configure
from stages.methods import method as methods
from stages.recipes.params import check, task_of
from stages.recipes.recipe import STAGES as CODED
from stages.recipes.recipe import files as files_of
from stages.recipes.recipe import recipe as recipe_of
from stages.runtime.provenance import EXEMPT, closure
from tests.conftest import ROOT, Project, settle

AXES = (
    "datasets",
    "methods",
    "settings",
    "seeds",
    "transfer",
    "best",
    "prompts",
    "targets",
    "zero_shot_prompts",
    "weight_change",
    "by_step",
)
ABOUT_ALL = {"configure", "aggregate", "html_report"}
PARAMS = YAML(typ="safe").load(ROOT / "params.yaml")
STAGES = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]


def expected_names(params: dict) -> set[str]:
    """The stage names that DESIGN asks for."""

    def names(stage: str, *axes: list) -> set[str]:
        return {f"{stage}@{'-'.join(map(str, values))}" for values in product(*axes)}

    datasets, methods, settings, seeds, transfer, best, prompts, targets, bare, changes, steps = map(params.get, AXES)
    return {
        "configure",
        "base_model",
        "aggregate",
        "html_report",
        *names("download", datasets),
        *names("split", datasets, seeds),
        *names("partition", settings, datasets, seeds),
        *names("zero_shot", settings, datasets, seeds),
        *names("train", settings, methods, datasets, seeds),
        *names("evaluate", settings, methods, datasets, seeds),
        *names("cross_eval", transfer, methods, datasets, datasets, seeds),
        *names("prompt_eval", settings, methods, datasets, prompts, seeds),
        *names("prompt_zero_shot", settings, datasets, bare, seeds),
        *names("by_step", steps, methods, datasets, seeds),
        *names("weight_change", changes, methods, datasets, seeds),
        *names("target", targets),
        *names("target_zero_shot", targets),
        *names("target_prompt", methods, datasets, targets, prompts, seeds),
        *names("target_eval", methods, datasets, targets, seeds),
        *names("validate", methods, best, seeds),
        *names("best", best),
    }


def test_stage_names_and_count_of_the_default_grid():
    with Repo(str(ROOT)) as repo:
        names = [stage.name for stage in repo.index.stages]
    assert len(names) == len(set(names))
    assert set(names) == expected_names(PARAMS)
    assert len(names) == 4 + 3 + 3 + 6 + 6 + 24 + 24 + 36 + 4 + 1
    assert "evaluate@base_to_new-cls_rl-digits-1" in names


def test_the_lock_is_of_the_default_grid_and_of_nothing_that_was():
    locked = YAML(typ="safe").load(ROOT / "dvc.lock")["stages"]
    assert set(locked) == expected_names(PARAMS)


def test_no_cell_depends_on_a_folder_that_other_cells_write_into():
    """Only `best`, `aggregate` and `html_report` do, which are about several cells."""
    with Repo(str(ROOT)) as repo:
        written = {out.def_path: stage.name for stage in repo.index.stages for out in stage.outs}
        for stage in repo.index.stages:
            shared = [
                dep.def_path
                for dep in stage.deps
                if not isinstance(dep, ParamsDependency)
                and any(path.startswith(f"{dep.def_path}/") for path in written)
                and dep.def_path not in written
            ]
            if stage.name == "aggregate":
                assert shared == ["metrics/predictions", "metrics/records"]
            elif stage.name == "html_report":
                assert set(shared) == {"data/download", "data/partition", "metrics/predictions", "metrics/records"}
            elif stage.name == "best@digits":
                assert set(shared) == {"metrics/records/evaluate/few_shot-digits", "metrics/records/validate/digits"}
            else:
                assert not shared, stage.name


def test_validation_does_not_depend_on_test_samples_or_records():
    deps = STAGES["validate"]["deps"]
    assert not [path for path in deps if "/test/" in path or path.startswith("metrics")]


@pytest.mark.parametrize("stage", CODED)
def test_stage_depends_on_the_code_that_it_imports(stage):
    """Files of methods and tasks are loaded by their names, and stand in `dvc.yaml` by their names."""
    deps = STAGES[stage]["deps"]
    assert f"recipes/code/{stage}.json" in deps
    code = files_of(check(PARAMS))[f"code/{stage}.json"]
    assert f"stages/{stage}.py" in code
    assert set(code) >= {path.as_posix() for path in closure(f"stages.{stage}")}
    assert not {path.as_posix() for path in EXEMPT} & set(code)
    assert not {f"stages/methods/{method}.py" for method in methods.names()} & set(code)
    # The base model has no method but that of the prompt.
    by_method = [path for path in deps if path.startswith("recipes/methods/")] or [
        path for path in deps if path.startswith("recipes/prompts/")
    ]
    assert len(by_method) == ("stages/methods/method.py" in code and stage != "html_report")
    assert ("stages/methods" in deps) == (stage == "html_report")  # the prompts of all methods of the grid
    by_task = [path for path in deps if path.startswith("recipes/tasks/")]
    assert len(by_task) == ("stages/tasks/task.py" in code and stage not in ("best", "aggregate", "html_report"))


def test_every_stage_waits_for_the_check_of_params():
    assert set(STAGES) == {"configure", "train", *CODED}
    assert "recipes/train/${item.method}-${item.dataset}.json" in STAGES["train"]["deps"]
    assert STAGES["configure"]["outs"] == ["recipes"]


@pytest.mark.parametrize("method", methods.names())
def test_recipe_names_the_code_that_training_loads_by_name(method):
    params = check(PARAMS)
    recipe = recipe_of(method, "digits", params)
    trainer = importlib.import_module(f"stages.training.{recipe['trainer']}")
    modules = ["train", f"training.{recipe['trainer']}", f"methods.{method}", f"tasks.{task_of('digits', params)}"]
    modules += [f"rewards.{reward}" for reward in recipe["rewards"]]
    assert Path(trainer.__file__).relative_to(ROOT).as_posix() in recipe["code"]
    assert set(recipe["code"]) == {path.as_posix() for path in closure(*(f"stages.{module}" for module in modules))}
    assert not {path.as_posix() for path in EXEMPT} & set(recipe["code"])


# Which stages become stale when a key of params.yaml changes (the ones that follow from their outputs not counted).
STALE = {
    "reward": ["train@*-cls_rl-*", "train@*-no_thinking-*", "validate@cls_rl-*", "validate@no_thinking-*"],
    "rewards.accuracy.*": ["train@*-cls_rl-*", "validate@cls_rl-*"],
    # The recipe has the md5 of the strategy's configuration, and stage `validate` the recipe, for the model card.
    "launch.*": ["train@*", "validate@*"],
    "rewards.*": [],  # no method of this grid has the length reward
    "images.evaluation": ["zero_shot@*", "evaluate@*", "cross_eval@*", "validate@*"],
    "images.size": ["train@*", "zero_shot@*", "evaluate@*", "cross_eval@*", "validate@*"],
    "models.embedded.lora.*": [],  # no method of this grid has adapters
    "models.embedded.*": ["base_model"],
    "models.*": [],  # models that are not chosen
    "model": ["base_model", "aggregate", "html_report"],
    "download.digits.*": ["download@digits", "best@digits"],
    "download.shapes.*": ["download@shapes"],
    "download.*": [],
    "split.*": ["split@*"],
    "partition.few_shot.*": ["partition@few_shot-*"],
    "partition.base_to_new.*": ["partition@base_to_new-*"],
    "partition.open_set.*": [],  # not in the default grid
    "sft.*": ["train@*-sft-*", "validate@sft-*"],
    "dpo.*": [],  # no method of this grid is of preference
    "grpo.max_completion_length": ["train@*-cls_rl-*", "validate@cls_rl-*"],  # no_thinking has its own
    "grpo.*": ["train@*-cls_rl-*", "train@*-no_thinking-*", "validate@cls_rl-*", "validate@no_thinking-*"],
    "train.no_thinking.*": ["train@*-no_thinking-*", "validate@no_thinking-*"],
    "evaluate.zero_shot_method": ["zero_shot@*", "html_report"],
    "evaluate.prompts": ["zero_shot@*", "evaluate@*", "cross_eval@*", "validate@*", "html_report"],
    "evaluate.generation.max_new_tokens": ["zero_shot@*", "evaluate@*", "cross_eval@*", "validate@*", "html_report"],
    "evaluate.every": [],  # no model of this grid is evaluated on the way
    "evaluate.*": ["zero_shot@*", "evaluate@*", "cross_eval@*", "validate@*"],
}
# Keys with few valid values, and one of those.
OTHER = {
    "reward": "accuracy",
    "rule": "published",
    "classes": None,
    "base_half": "ceil",
    "learning_rate_schedule": "cosine",
    "adaptation": "lora",
    "precision": "bfloat16",
    "loss_type": "dapo",
    "scale_rewards": "none",
    "normalise": "each",
    "negatives": "model",
    "epoch": "published",
    "prompts": "training",
    "engine": "vllm",
    "zero_shot_method": "cls_rl",
    "target": ".*q_proj",
    "world": "turns",
    "model": None,  # the others are downloads
    "dtype": "float16",
    "attention": "eager",
    "revision": "0" * 40,
    "strategy": "ddp",
    "processes": None,  # one alone is valid in single
    "evaluation": "published",
    "max_prompt_length": 1024,
    "dropout": 0.1,
    "global_batch_size": 16,
    "per_device_batch_size": 4,
    "test_per_class": 3,
    "epochs": None,  # together with steps
    "source": None,  # one valid value
    "fraction": 0.5,
    "top_p": 0.5,
    "think_flaws": 0.5,
    "direct_flaws": 0.5,
}


def leaves(value: object, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if isinstance(value, dict) and value:
        return [leaf for key, child in value.items() for leaf in leaves(child, (*path, key))]
    return [path]


def other(path: tuple[str, ...], value: object) -> object:
    """Another valid value of a key, None where there is no other."""
    if path[-1] in OTHER:
        return OTHER[path[-1]]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str):
        return value + " really"
    return None


def set_path(params: dict, path: tuple[str, ...], value: object) -> None:
    for key in path[:-1]:
        params = params[key]
    params[path[-1]] = value


@pytest.fixture(scope="module")
def settled(module_project: Project) -> Project:
    """A clone of which DVC believes that every stage is up to date: real recipes, and placeholders elsewhere."""
    module_project.change(datasets=["digits", "shapes"], methods=["sft", "cls_rl", "no_thinking"])
    settle(module_project)
    return module_project


def by_pattern(names: set[str], patterns: list[str]) -> set[str]:
    return {name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)}


def declared(index: Index) -> dict[str, tuple[list[str], list[Path]]]:
    """By stage: the keys of params.yaml, and the files written by `configure`, that it declares."""
    found = {}
    for stage in index.stages:
        keys = [key for dep in stage.deps if isinstance(dep, ParamsDependency) for key in dep.params]
        files = [Path(dep.fs_path) for dep in stage.deps if not isinstance(dep, ParamsDependency)]
        found[stage.name] = keys, [file for file in files if "recipes" in file.parts]
    return found


def value_at(params: dict, key: str) -> object:
    for part in key.split("."):
        params = params[part]
    return params


def test_each_parameter_makes_exactly_its_stages_stale(settled, in_directory):
    """From what stages declare for every key; and as DVC itself finds it, which takes longer, for one of each kind."""
    in_directory(settled.root)
    original = (settled.root / "params.yaml").read_text()
    yaml = YAML(typ="safe")
    params = yaml.load(original)
    yaml.default_flow_style = False
    names = expected_names(params)
    with Repo(str(settled.root)) as repo:
        stages = declared(repo.index)
    written = {file: file.read_bytes() for _, files in stages.values() for file in files}
    wrong = {}
    seen: list[str] = []
    checked = 0
    for path in leaves(params):
        if path[0] in AXES or (new := other(path, value_at(params, ".".join(path)))) is None:
            continue
        changed = yaml.load(original)
        set_path(changed, path, new)
        with (settled.root / "params.yaml").open("w") as file:
            yaml.dump(changed, file)
        configure.configure()
        rewritten = {file for file, content in written.items() if file.read_bytes() != content}
        stale = {
            name
            for name, (keys, files) in stages.items()
            if rewritten.intersection(files) or any(value_at(params, key) != value_at(changed, key) for key in keys)
        }
        key = ".".join(path)
        pattern = next(pattern for pattern in STALE if fnmatch.fnmatchcase(key, pattern))
        if pattern not in seen:
            seen.append(pattern)
            with Repo(str(settled.root)) as repo:
                assert {name for name in repo.status() if name != "configure"} == stale, key
        expected = by_pattern(names, STALE[pattern])
        checked += 1
        if stale != expected:
            wrong[key] = (sorted(stale - expected), sorted(expected - stale))
    (settled.root / "params.yaml").write_text(original)
    configure.configure()
    assert not wrong
    assert checked > 100
    without_another_value = {"model", "partition.few_shot.*", "partition.open_set.*", "download.*"}
    assert set(seen) >= set(STALE) - without_another_value


def test_an_accelerate_profile_makes_what_is_launched_with_it_stale(settled, in_directory):
    """And through its recipe, not by itself: the other strategies' files change nothing."""
    in_directory(settled.root)
    original = (settled.root / "params.yaml").read_text()

    def recipes() -> dict[str, bytes]:
        with Repo(str(settled.root)) as repo:
            assert "profiles/accelerate" in [dep.def_path for dep in repo.stage.get_target("configure").deps]
        settled.run("python", "-m", "stages", "configure")
        return {file.name: file.read_bytes() for file in (settled.root / "recipes/train").iterdir()}

    def touched(name: str) -> set[str]:
        before = recipes()
        with (settled.root / f"profiles/accelerate/{name}.yaml").open("a") as file:
            file.write("# changed\n")
        after = recipes()
        return {recipe for recipe in before if before[recipe] != after[recipe]}

    datasets = ("digits", "shapes")
    trainings = {f"{method}-{dataset}.json" for method in ("sft", "cls_rl", "no_thinking") for dataset in datasets}
    assert touched("ddp") == set()  # one process alone
    settled.change(launch__strategy="ddp")
    assert touched("ddp") == trainings
    assert touched("zero2") == set()
    (settled.root / "params.yaml").write_text(original)
    settled.run("git", "checkout", "-q", "profiles")
    configure.configure()


def test_nothing_is_stale_in_the_settled_clone(settled, in_directory):
    in_directory(settled.root)
    with Repo(str(settled.root)) as repo:
        assert repo.status() == {}


@pytest.mark.parametrize(
    ("axis", "value", "new"),
    [
        ("methods", ["sft", "cls_rl", "no_thinking", "adaptive_thinking"], ["*adaptive_thinking*", "best@*"]),
        ("datasets", ["digits", "shapes", "letters"], ["*letters*"]),
        ("seeds", [1, 2], ["*-2", "best@*"]),
        ("prompts", ["no_thinking", "empty_thinking"], ["prompt_eval@*"]),
        ("zero_shot_prompts", ["no_thinking", "cls_rl"], ["prompt_zero_shot@*"]),
        ("weight_change", ["few_shot"], ["weight_change@*"]),
        ("by_step", ["few_shot"], ["by_step@*"]),
        ("best", ["digits", "shapes"], ["validate@*-shapes-*", "best@shapes"]),
    ],
)
def test_a_longer_axis_adds_cells_and_touches_no_other(settled, axis, value, new, in_directory):
    in_directory(settled.root)
    original = (settled.root / "params.yaml").read_text()
    settled.change(**{axis: value})
    configure.configure()
    with Repo(str(settled.root)) as repo:
        stale = {name for name in repo.status() if name not in ABOUT_ALL}
        names = {stage.name for stage in repo.index.stages} - ABOUT_ALL
    (settled.root / "params.yaml").write_text(original)
    configure.configure()
    assert stale == by_pattern(names, new)
