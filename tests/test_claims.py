"""The ledger of claims: a verdict of each kind on made-up records, its file, and cells against published numbers."""

import json
from binascii import crc32
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from dvc.repo.metrics.show import _extract_metrics
from dvc.utils.diff import diff
from ruamel.yaml import YAML

from stages.methods import method as methods
from stages.report import claims, markdown, published
from stages.report.claims import read_ledger
from stages.report.footnotes import Reported
from stages.report.quantities import QUANTITIES
from stages.report.records import Part, Records
from stages.runtime.errors import UserError
from stages.sources import facts
from tests.conftest import ROOT
from tools import profile

GRID = Reported(
    model="embedded",
    datasets=["digits", "letters", "shapes"],
    methods=["sft", "cls_rl", "no_thinking"],
    settings=["few_shot", "base_to_new"],
    seeds=[1, 2, 3, 4],
    transfer=["few_shot"],
)
LEDGER = read_ledger(ROOT / "facts")


def drawn(share: float, images: int, *key: object) -> str:
    """Marks of images, each of a difficulty of its own that all methods share, so that answers are paired."""
    _, *of = key
    hard, own = (np.random.Generator(np.random.PCG64(crc32(repr(each).encode()))).random(images) for each in (of, key))
    return "".join("01"[int(x)] for x in 0.7 * hard + 0.3 * own < share * 0.7 + 0.15)


def part(
    marks: str, tokens: float = 4.0, thinking: int | None = None, groups: Mapping[str, dict] | None = None
) -> dict:
    count = marks.count("1")
    return {
        "samples": len(marks),
        "substring_correct": count,
        "exact_correct": count,
        "substring_accuracy": 100 * count / len(marks),
        "exact_accuracy": 100 * count / len(marks),
        "valid_rate": 100.0,
        "completion_tokens": int(tokens * len(marks)),
        "mean_completion_tokens": tokens,
        "right": {"substring": marks, "exact": marks},
        "thinking": thinking,
        "groups": groups or {},
    }


Given = Callable[..., dict]


def records(grid: Reported, given: Given, **more: pd.DataFrame) -> Records:
    """Records in which `given(method, trained, tested, part, seed)` is what a cell has; zero-shot's trained is None."""
    rows = []

    def add(kind: str, setting: str, method: str, trained: str | None, tested: str, seed: int) -> None:
        for name in {"few_shot": ["all"], "base_to_new": ["base", "new"]}[setting]:
            found = Part.model_validate(given(method, trained, tested, name, seed))
            cell = {"kind": kind, "stage": "", "setting": setting, "method": method, "trained_on": trained}
            cell |= {"evaluated_on": tested, "seed": seed, "part": name}
            rows.append(cell | {key: getattr(found, key) for key in Part.model_fields})

    for setting, dataset, seed in product(grid.settings, grid.datasets, grid.seeds):
        add("zero_shot", setting, "zero_shot", None, dataset, seed)
    for setting, method, dataset, seed in product(grid.settings, grid.methods, grid.datasets, grid.seeds):
        add("evaluate", setting, method, dataset, dataset, seed)
    if grid.transfer:
        for method, source, target, seed in product(grid.methods, grid.datasets, grid.datasets, grid.seeds):
            if source != target:
                add("cross_eval", "few_shot", method, source, target, seed)
    return Records(pd.DataFrame(rows), **{"costs": pd.DataFrame(), "curves": pd.DataFrame(), **more})


def shares(images: int = 200, **by_method: float) -> Given:
    """Every cell of a method has such a share of right answers, 0.5 where nothing is said."""

    def given(method, trained, tested, name, seed):
        return part(drawn(by_method.get(method, 0.5), images, f"{method}{trained}{seed}", tested, name))

    return given


def ledger(tmp_path: Path, change: Callable[[dict], None] | None = None, **of: dict) -> claims.Ledger:
    """A ledger of made-up claims, the project's other facts beside them."""
    folder = tmp_path / "facts"
    folder.mkdir(exist_ok=True)
    for name in ("names.yaml", "published.csv"):
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / "facts" / name)
    defaults = {"claim": "One.", "source": "ours", "first": "no_thinking", "second": "cls_rl", "quantity": "few_shot"}
    content = {
        "other_tasks": ["chains"],
        "claims": {key: defaults | {"expected": "more"} | more for key, more in of.items()},
    }
    if change:
        change(content)
    YAML().dump(content, folder / "claims.yaml")
    return read_ledger(folder)


def judged(of: claims.Ledger, found: Records, grid: Reported = GRID) -> dict[str, claims.Judged]:
    return {each.name: each for each in claims.judge(of, found, grid)}


def row(of: claims.Ledger, found: Records, grid: Reported = GRID) -> pd.Series:
    return claims.table(claims.judge(of, found, grid), of, grid).iloc[0]


# --- Verdicts ---


def test_a_verdict_of_each_kind(tmp_path):
    same = {"expected": "same", "first": "sft"}
    of = ledger(
        tmp_path,
        supported={},
        contradicted={"expected": "less"},
        undecided={"first": "sft"},
        same={**same, "margin": 8.0},
        not_the_same={"expected": "same", "margin": 5.0},
        perhaps_the_same={**same, "margin": 1.0},
        absent={"first": "think_after_answer", "quantity": "open_set"},
    )
    found = judged(of, records(GRID, shares(no_thinking=0.8, cls_rl=0.5, sft=0.5)))
    assert {name: each.verdict for name, each in found.items()} == {
        "supported": "supported",
        "contradicted": "contradicted",
        "undecided": "undecided",
        "same": "supported",
        "not_the_same": "contradicted",
        "perhaps_the_same": "undecided",
        "absent": "not in this grid",
    }
    assert found["supported"].worth.estimate.low > 20 and found["supported"].worth.p < 1e-4
    assert found["absent"].lacks == ("methods: think_after_answer", "settings: open_set")


def test_an_undecided_claim_says_how_much_would_decide_it(tmp_path):
    """With so many images of the same kind it is decided; of seeds nothing is known from one."""

    def given(method, trained, tested, name, seed, times=1):
        return part(drawn(0.51 if method == "no_thinking" else 0.5, 40, f"{method}{seed}", tested) * times)

    of, grid = ledger(tmp_path, one={}), GRID.model_copy(update={"seeds": [1]})
    found = judged(of, records(grid, given), grid)["one"]
    assert found.verdict == "undecided" and found.images > 40 and found.seeds is None
    assert judged(of, records(GRID, given))["one"].seeds > 4
    more = judged(of, records(grid, lambda *cell: given(*cell, times=-(-found.images // 40))), grid)["one"]
    assert more.worth.estimate.value == pytest.approx(found.worth.estimate.value)
    assert more.verdict == "supported" and more.seeds is more.images is None


def test_the_correction_is_for_the_claims_that_the_grid_can_judge(tmp_path):
    found = records(GRID, shares(80, no_thinking=0.56))
    alone = judged(ledger(tmp_path, one={}), found)["one"].worth.p
    both = judged(ledger(tmp_path, one={}, two={"first": "sft"}, absent={"first": "dpo"}), found)
    assert both["two"].worth.p > both["one"].worth.p == pytest.approx(2 * alone)


def test_one_seed_is_said_and_decides_nothing_about_others(tmp_path):
    grid = GRID.model_copy(update={"seeds": [1]})
    of = ledger(tmp_path, one={"first": "sft"}, two={})
    table = claims.table(claims.judge(of, records(grid, shares(no_thinking=0.8)), grid), of, grid)
    assert table["seeds_needed"].isna().all() and (table["seeds"] == 1).all()
    page = markdown.claims(table, grid)
    assert "One seed: each method was trained once" in page and "| **supported**, one training | " in page


def test_two_rules_stand_beside_each_other(tmp_path):
    def given(method, trained, tested, name, seed):
        found = part(drawn(0.5, 200, f"{method}{seed}", tested))
        if method == "no_thinking":
            found |= {"right": {"exact": found["right"]["exact"], "substring": "1" * 200}, "substring_correct": 200}
        return found

    found = judged(ledger(tmp_path, one={}), records(GRID, given))["one"]
    assert found.verdict == "undecided" and found.other_rule.verdict == "supported"
    assert claims.numbers([found])["one"]["substring"] == "supported"


def test_datasets_like_these_are_another_question(tmp_path):
    """On three datasets the methods differ by +40, 0 and 0: these decide, and others like them may not."""

    def given(method, trained, tested, name, seed):
        share = 0.9 if (method, tested) == ("no_thinking", "digits") else 0.5
        return part(drawn(share, 300, f"{method}{seed}", tested))

    found = judged(ledger(tmp_path, one={}), records(GRID, given))["one"]
    assert found.verdict == "supported" and found.like_these.verdict == "undecided"
    one = GRID.model_copy(update={"datasets": ["digits"]})
    assert judged(ledger(tmp_path, one={}), records(one, given), one)["one"].like_these is None


# --- Quantities ---


def test_transfer_is_of_the_other_datasets_and_a_gain_over_the_base_model(tmp_path):
    def given(method, trained, tested, name, seed):
        right = {("cls_rl", True): 90, ("zero_shot", False): 40}.get((method, trained == tested), 70)
        return part("1" * right + "0" * (100 - right))

    of = ledger(tmp_path, one={"first": "cls_rl", "second": "zero_shot", "quantity": "transfer"})
    found = row(of, records(GRID, given))
    assert (round(found["effect"], 9), found["verdict"]) == (30.0, "supported")
    assert found["stage"] == "cross_eval@few_shot-cls_rl-*-*-* zero_shot@few_shot-*-*"


def test_h_is_of_the_means_of_both_halves(tmp_path):
    def given(method, trained, tested, name, seed):
        right = {("no_thinking", "base"): 80, ("no_thinking", "new"): 40}.get((method, name), 50)
        return part("1" * right + "0" * (100 - right))

    found = row(ledger(tmp_path, one={"quantity": "H"}), records(GRID, given))
    assert found["effect"] == pytest.approx(2 * 80 * 40 / 120 - 50)


def test_groups_are_those_of_the_claim_or_of_a_side(tmp_path):
    grid = GRID.model_copy(update={"datasets": ["chains"], "settings": ["few_shot"], "transfer": []})

    def given(method, trained, tested, name, seed):
        right = {"1": 80, "2": 60 if method == "cls_rl" else 10, "3": 40 if method == "cls_rl" else 10}
        thinking = {"1": seed, "2": 90, "3": 100 if method == "cls_rl" else 50 * (seed % 2)}
        groups = {k: part("1" * n + "0" * (100 - n), thinking=thinking[k]) for k, n in right.items()}
        return part("01", groups=groups)

    deep = {"first": "cls_rl", "second": "no_thinking", "datasets": ["chains"], "groups": ["2", "3"]}
    think = {"first": {"method": "cls_rl", "groups": ["2", "3"]}, "second": {"method": "cls_rl", "groups": ["1"]}}
    of = ledger(
        tmp_path,
        deep=deep,
        think={**think, "quantity": "think", "datasets": ["chains"]},
        deeper={**deep, "groups": ["2", "9"]},
        unsure={"quantity": "think", "datasets": ["chains"], "groups": ["3"]},
    )
    found = judged(of, records(grid, given), grid)
    assert found["deep"].worth.estimate.value == 40 and found["deep"].verdict == "supported"
    assert found["think"].worth.estimate.value == 95 - 2.5 and found["think"].verdict == "supported"
    wide = found["unsure"].worth.estimate
    assert (wide.value, wide.low) == (-75.0, -100.0) and wide.high < 0  # a share is never more than all
    assert found["deeper"].lacks == ("groups: 9 of chains",)


def test_tokens_and_rewards_have_no_images_and_no_rule(tmp_path):
    stages = [(f"train@few_shot-{m}-{d}-{s}", m, s) for m, d, s in product(GRID.methods, GRID.datasets, GRID.seeds)]
    costs = pd.DataFrame(
        [
            {"stage": name, "completion_tokens": 1000 * (40 if method == "cls_rl" else 8) + seed}
            for name, method, seed in stages
        ]
    )
    curves = pd.DataFrame(
        [
            {"stage": name, "step": step, "answer": (step if method == "no_thinking" else 1) / 10 + seed / 1000}
            for name, method, seed in stages
            for step in (1, 2, 3, 4, 5)
        ]
    )

    def given(method, trained, tested, name, seed):
        return part("01", tokens=20.5 if method == "cls_rl" else 2.0 + 0.5 * seed)

    less = {"expected": "less"}
    of = ledger(
        tmp_path,
        written={**less, "quantity": "training_tokens"},
        tokens={**less, "quantity": "tokens"},
        reward={"quantity": "reward"},
    )
    found = judged(of, records(GRID, given, costs=costs, curves=curves))
    assert {name: each.worth.estimate.value for name, each in found.items()} == pytest.approx(
        {"written": -32.0, "tokens": 3.25 - 20.5, "reward": 10.0}  # the first three of five steps
    )
    assert {each.verdict for each in found.values()} == {"supported"}
    assert all(each.other_rule is None and each.images is None for each in found.values())


def test_with_one_seed_values_are_judged_over_datasets_like_these(tmp_path):
    grid = GRID.model_copy(update={"seeds": [1]})

    def given(method, trained, tested, name, seed):
        return part("01", tokens=20.5 + len(tested) / 10 if method == "cls_rl" else 2.0)

    of = ledger(tmp_path, one={"quantity": "tokens", "expected": "less"})
    found = judged(of, records(grid, given), grid)["one"]
    assert found.verdict == "supported" and found.worth.estimate == found.like_these.estimate
    assert " tokens† |" in markdown.claims(claims.table([found], of, grid), grid)
    alone = grid.model_copy(update={"datasets": ["digits"]})
    assert judged(of, records(alone, given), alone)["one"].verdict == "undecided"


# --- What is written ---


def test_metrics_are_what_dvc_shows_and_a_changed_verdict_is_seen(tmp_path):
    of = ledger(tmp_path, one={}, absent={"first": "dpo"})
    old, new = (claims.numbers(claims.judge(of, records(GRID, shares(no_thinking=x)), GRID)) for x in (0.5, 0.8))
    assert json.loads(json.dumps(new, allow_nan=False)) == new == _extract_metrics(new, "metrics/claims.json")
    assert new["absent"] == {"verdict": "not in this grid"}
    assert set(new["one"]) == {"verdict", "effect", "low", "high", "p", "seeds", "substring", "like_these"}
    shown = diff({"": {"data": old}}, {"": {"data": new}})[""]
    assert shown["one.verdict"] == {"old": "undecided", "new": "supported"} and "absent.verdict" not in shown


def test_the_page_has_every_claim_once_and_its_stages(tmp_path):
    of = ledger(tmp_path, one={"claim": "A is more than B."}, absent={"first": "dpo", "claim": "C is more than B."})
    page = markdown.claims(claims.table(claims.judge(of, records(GRID, shares(no_thinking=0.8)), GRID), of, GRID), GRID)
    assert "\n1 supported, 1 not in this grid.\n" in page
    assert page.count("| A is more than B. ") == page.count("| C is more than B. ") == 1
    assert "`evaluate@few_shot-no_thinking-*-*`, `evaluate@few_shot-cls_rl-*-*`" in page
    assert "methods: dpo |" in page and "nan" not in page


# --- The file ---


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda c: c["claims"]["one"].pop("quantity"),
            "one.quantity: missing; every claim has first, second, quantity, ",
        ),
        (lambda c: c["claims"]["one"].update(margn=1), "one.margn: unknown key; valid: first, second, quantity, "),
        (
            lambda c: c["claims"]["one"].update(quantity="speed"),
            "one.quantity: 'speed' is invalid; valid: 'few_shot', ",
        ),
        (
            lambda c: c["claims"]["one"].update(expected="better"),
            "one.expected: 'better' is invalid; valid: 'more', 'less' or",
        ),
        (
            lambda c: c["claims"]["one"].update(expected="same"),
            "valid: a margin with expected: same, and with nothing else",
        ),
        (lambda c: c["claims"]["one"].update(margin=2.0), "valid: a margin with expected: same, and with nothing else"),
        (
            lambda c: c["claims"]["one"].update(first={"methd": "sft"}),
            "valid: a method, or a mapping of method, prompts, groups with a method",
        ),
        (
            lambda c: c["claims"]["one"].update(quantity="target"),
            "valid: targets with quantity: target, and with no other",
        ),
        (
            lambda c: c["claims"]["one"].update(quantity="reward", second="zero_shot"),
            "where quantity: reward is of training",
        ),
        (
            lambda c: c["claims"]["one"].update(published={"tabel": "1"}),
            "one.published.tabel: unknown key; valid: paper, ",
        ),
        (
            lambda c: c["claims"]["one"].update(published={"table": "v6 Table 99"}),
            "0 rows of no_thinking; valid: what chooses",
        ),
        (lambda c: c["claims"].update(one=3), "one: 3 is invalid; valid: "),
        (
            lambda c: c.pop("other_tasks"),
            "claims.yaml: other_tasks: missing or unknown key; valid: claims, other_tasks",
        ),
    ],
)
def test_a_mistake_in_a_claim_is_one_line_with_its_key(tmp_path, change, said):
    with pytest.raises(UserError) as error:
        ledger(tmp_path, change, one={})
    assert said in str(error.value) and "claims.yaml" in str(error.value) and "\n" not in str(error.value)


def datasets_of(name: str) -> set[str]:
    return {*profile.params_of(name)["download"]}


def test_every_claim_is_about_what_there_is_and_says_who_claims_it():
    known = set().union(*(datasets_of(name) for name in profile.names()))
    for name, claim in LEDGER.claims.items():
        assert {side.method for side in claim.sides} <= {"zero_shot", *methods.names()}, name
        assert {*claim.datasets, *claim.targets} - {"all"} <= known, name
        assert claim.source.startswith(("P1 v6 ", "P2, ", "ours")), name
        # P2's numbers were not found; P1's figures of training have none.
        missing = "without numbers" in claim.source or "ours" in claim.source or "Qwen2.5" in claim.source
        assert missing != (name in LEDGER.of_claims), name
        if name in LEDGER.of_claims:
            *_, difference = LEDGER.of_claims[name]
            assert (difference > 0) == (claim.expected == "more"), name
    assert {*LEDGER.other_tasks} <= known


def test_the_claims_of_both_papers_are_there():
    """As issue 13 lists them."""
    contrasts = {(c.first.method, c.second.method, c.quantity) for c in LEDGER.claims.values()}
    assert {("no_thinking", "cls_rl", quantity) for quantity in QUANTITIES} - {
        ("no_thinking", "cls_rl", "think")
    } <= contrasts
    assert {
        ("cls_rl", "sft", "new"),
        ("cls_rl", "zero_shot", "transfer"),
        ("think_after_answer", "cls_rl", "few_shot"),
        ("no_thinking", "think_after_answer", "few_shot"),
        ("cls_rl_length", "cls_rl", "few_shot"),
        ("sft_thoughts", "cls_rl", "few_shot"),
        ("adaptive_thinking", "adaptive_thinking", "think"),
    } <= contrasts
    for dataset in ("chains", "turns"):
        assert sum(claim.datasets == [dataset] for claim in LEDGER.claims.values()) >= 6


# --- Published numbers ---


def test_published_numbers_recompute_from_each_other():
    """Each has a source; averages are those of their parts, H that of base and new."""
    numbers, names = LEDGER.published.numbers, LEDGER.published.names
    assert len(numbers) == 1064 and not numbers[["source", "verified", "table"]].eq("").any(axis=None)
    known = {value: key for key, value in names.datasets.items()}
    checked = 0
    for number in numbers[numbers["eval_dataset"].isin(list(names.averages))].itertuples():
        own = numbers[(numbers["table"] == number.table) & (numbers["method"] == number.method)]
        own = own[(own["model"] == number.model) & (own["metric"] == number.metric)]
        if "heat map" in number.table:
            own = own[own["train_dataset"] == number.train_dataset]
        parts = own[own["eval_dataset"].isin([known[name] for name in names.averages[number.eval_dataset]])]
        if number.metric != "harmonic mean":
            assert len(parts) == len(names.averages[number.eval_dataset]), number
            assert parts["value"].mean() == pytest.approx(number.value, abs=0.011), number
            checked += 1
    assert checked > 40
    halves = numbers[numbers["setting"] == "base-to-new, 4-shot"].pivot(
        index=["method", "eval_dataset"], columns="metric", values="value"
    )
    base, new = halves["base accuracy"], halves["new accuracy"]
    assert (2 * base * new / (base + new) - halves["harmonic mean"]).abs().max() < 0.011


def test_names_are_those_of_the_profiles():
    names, numbers = LEDGER.published.names, LEDGER.published.numbers
    paper, reasoning = profile.params_of("paper"), profile.params_of("reasoning_paper")
    assert set(names.models.values()) <= set(paper["models"])
    assert set(names.averages["Average (11)"]) == set(paper["datasets"])
    own = {*paper["datasets"], *reasoning["datasets"], *reasoning["targets"]}
    assert set(names.datasets.values()) == own
    assert set(names.methods) <= set(numbers["method"]) and set(names.datasets) <= {
        *numbers["eval_dataset"], *numbers["train_dataset"],
    }  # fmt: skip
    for setting, cells in names.cells.items():
        rows = numbers[numbers["setting"] == setting]
        for metric, place in cells.items():
            tested = {names.datasets.get(name) for name in rows.loc[rows["metric"] == metric, "eval_dataset"]}
            assert tested, (setting, metric)
            assert not place.group or all(place.group in facts.REASONING[name].groups for name in tested)


PAPER = GRID.model_copy(update={"model": "qwen2_vl_2b", "datasets": ["dtd", "eurosat"], "seeds": [1, 2]})


def exactly(percent: Mapping[str, float], images: int = 1692) -> Given:
    """A method's cells have such an accuracy."""

    def given(method, trained, tested, name, seed):
        count = round(images * percent.get(method, 50.0) / 100)
        return part(drawn_exactly(count, images, seed))

    return given


def drawn_exactly(count: int, images: int, seed: int) -> str:
    order = np.random.Generator(np.random.PCG64(seed)).permutation(images)
    return "".join("01"[int(rank < count)] for rank in order)


def test_a_cell_is_set_against_its_published_number():
    found = published.compare(LEDGER.published, records(PAPER, exactly({"no_thinking": 73.52, "cls_rl": 60.0})), PAPER)
    own = found[(found["quantity"] == "few_shot") & (found["evaluated_on"] == "dtd")].set_index("method")
    assert own.loc["no_thinking", ["published", "inside"]].tolist() == [73.52, "yes"]
    assert own.loc["no_thinking", "difference"] == pytest.approx(0, abs=0.03)
    assert own.loc["cls_rl", ["published", "inside"]].tolist() == [69.92, "no"]
    assert own.loc["cls_rl", "difference"] == pytest.approx(60 - 69.92, abs=0.03)
    assert own.loc["no_thinking", "table"] == "v1 Table 2 / v6 Table 5; v6 Table 12"
    assert own.loc["no_thinking", "stage"] == "evaluate@few_shot-no_thinking-dtd-*"
    assert own.loc["zero_shot", "trained_on"] == "-"
    page = markdown.published(found, "", PAPER)
    assert "| few_shot " in page and "| 73.52 " in page and "nan" not in page


def test_halves_their_mean_and_single_transfers_are_set_against_theirs():
    found = published.compare(LEDGER.published, records(PAPER, exactly({"no_thinking": 75.0, "cls_rl": 60.0})), PAPER)
    # DTD and EuroSAT of three methods and the base model: base, new, H.
    assert found["quantity"].value_counts()[["base", "new", "H"]].tolist() == [8, 8, 8]
    gains = found[(found["trained_on"] == "dtd") & (found["evaluated_on"] == "eurosat")].set_index("method")
    assert gains.loc["no_thinking minus cls_rl", "published"] == -0.69
    assert gains.loc["no_thinking minus cls_rl", "ours"] == pytest.approx(15, abs=0.1)
    assert gains.loc["no_thinking minus cls_rl", "stage"] == (
        "cross_eval@few_shot-no_thinking-dtd-eurosat-* cross_eval@few_shot-cls_rl-dtd-eurosat-*"
    )
    assert not found["evaluated_on"].str.startswith("mean").any()  # of eleven, of which two are here


def test_nothing_else_is_set_against_a_published_number():
    found = records(PAPER, exactly({}))
    for change, why in [
        ({"model": "embedded"}, "model embedded is none of qwen2_vl_2b, qwen2_vl_7b"),
        (
            {"notes": {name: ["DTD: 47 of 94 test images are kept"] for name in PAPER.datasets}},
            "others than the paper's",
        ),
    ]:
        grid = PAPER.model_copy(update=change)
        table = published.compare(LEDGER.published, found, grid)
        reason = published.why_none(LEDGER.published, grid)
        assert table.empty and why in reason
        assert f"No cell of this grid has a published number: {reason}." in markdown.published(table, reason, grid)
    other = PAPER.model_copy(update={"datasets": ["digits", "letters"]})
    assert published.compare(LEDGER.published, records(other, exactly({})), other).empty
    assert "digits, letters are none of the datasets" in published.why_none(LEDGER.published, other)


def test_a_mean_is_set_against_a_grid_of_all_its_datasets():
    grid = PAPER.model_copy(
        update={"datasets": LEDGER.published.names.averages["Average (11)"], "settings": ["few_shot"], "transfer": []}
    )
    found = published.compare(LEDGER.published, records(grid, exactly({"no_thinking": 84.39}, 300)), grid)
    mean = found[found["evaluated_on"] == "mean of 11"].set_index("method")
    assert mean.loc["no_thinking", ["published", "inside", "trained_on"]].tolist() == [84.39, "yes", "each"]
    assert set(found.loc[found["evaluated_on"] == "mean of 4", "published"]) == {71.55, 78.91}


def test_notes_on_data_are_told_from_others():
    notes = facts.compare("dtd", 47, 1880, 900, "What?", coop=False) + facts.compare_groups("cv_bench", {"Count": 1})
    assert all(published.of_other_data([note]) for note in notes)
