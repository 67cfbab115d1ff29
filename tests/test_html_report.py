"""The report as one HTML file: its numbers against the answers, what it promises to whoever opens it, and LaTeX."""

import json
import re
from html.parser import HTMLParser
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw

from stages import aggregate, html_report
from stages.evaluation import outputs, scoring
from stages.methods import method as methods
from stages.report.claims import read_ledger
from stages.report.footnotes import read_reported
from stages.report.html import page
from stages.report.html.latex import latex
from stages.report.html.sources import THUMBNAIL_BYTES, md5, read_sources
from stages.report.html.views import Number, Table
from stages.report.records import read_records
from stages.tasks import task as tasks
from tests.browser import AXE, Browser, browser, needs_axe, needs_browser

CLASSES = {"shapes": ["disc", "square", "bar"], "hues": ["red", "green", "blue", "grey"]}
METHODS = ["sft", "cls_rl", "no_thinking"]
PARAMS = """\
model: embedded
datasets: [shapes, hues]
methods: [sft, cls_rl, no_thinking]
settings: [few_shot, base_to_new]
seeds: [1]
transfer: [few_shot]
evaluate:
  prompts: published
  zero_shot_method: no_thinking
  generation: {max_new_tokens: 48}
"""
LONGEST = 48
SPECIAL = "<b>&\"disc'"
"""What a model may write, and a page must not take for its own."""


def completion(rng: np.random.Generator, method: str, answer: str, classes: list[str]) -> tuple[str, int]:
    """What a model might answer: often right, sometimes in too many words, inconsistent, cut off or full of tags."""
    given = answer if rng.random() < 0.6 else str(rng.choice(classes))
    kind = rng.random()
    if method == "cls_rl":
        if kind < 0.1:
            return "<think>I look and look and look", LONGEST
        thought = str(rng.choice(classes)) if kind < 0.3 else given
        return f"<think>There is a colour, so it is {thought}.</think> <answer>{given}</answer>", 20
    if kind < 0.1:
        return f"It is {given}.", 5
    if kind < 0.15:
        return SPECIAL, 6
    return given if method in ("no_thinking", "zero_shot") else f"<answer>{given}</answer>", 3


def write_cell(root: Path, stage: str, output: str, cell: dict, method: str, rows: pd.DataFrame, seed: int) -> None:
    rng = np.random.default_rng(seed)
    classes = CLASSES[cell["evaluated_on"]]
    completions = [completion(rng, method, row.answer, classes) for row in rows.itertuples()]
    how, task = methods.load("no_thinking" if method == "zero_shot" else method), tasks.load("classification")
    predictions = scoring.score(rows.to_dict("records"), completions, how.parse, task, how.thinks)
    table = root / "metrics" / "predictions" / f"{output}.parquet"
    outputs.write(predictions, task, table, root / "metrics" / "records" / f"{output}.json", {"stage": stage, **cell})


def write_grid(root: Path) -> None:
    """Write what a grid leaves before `aggregate`: data, records and predictions."""
    (root / "params.yaml").write_text(PARAMS)
    number = 0
    for dataset, classes in CLASSES.items():
        images, rows = [], []
        for i in range(8 * len(classes)):
            image = Image.new("RGB", (32, 32), ["red", "green", "blue", "grey"][i % len(classes)])
            ImageDraw.Draw(image).ellipse((i % 9, 4, 20, 20 + i % 8), fill="white")
            path = root / "image.png"
            image.save(path)
            images.append({"images": [{"bytes": path.read_bytes()}], "image_count": 1})
            answer = classes[i % len(classes)]
            question = f"What is in the photo?\nPlease choose one from list [ {', '.join(classes)}]."
            rows.append({"row": i, "image_count": 1, "answer": answer, "options": classes, "question": question})
        path.unlink()
        folder = root / "data" / "download" / dataset
        folder.mkdir(parents=True)
        pd.DataFrame(images).to_parquet(folder / "images.parquet")
        (folder / "dataset.json").write_text(json.dumps({"task": "classification", "classes": classes}))
        notes = root / "metrics" / "records" / "download" / f"{dataset}.json"
        notes.parent.mkdir(parents=True, exist_ok=True)
        notes.write_text(json.dumps({"notes": []}))
        for setting in ("few_shot", "base_to_new"):
            half = [
                ("all" if setting == "few_shot" else "base" if row["answer"] in classes[:2] else "new") for row in rows
            ]
            table = pd.DataFrame(rows).assign(part=half)
            path = root / "data" / "partition" / setting / "1" / "test" / f"{dataset}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            table.to_parquet(path)
    for setting, dataset in product(("few_shot", "base_to_new"), CLASSES):
        table = pd.read_parquet(root / "data" / "partition" / setting / "1" / "test" / f"{dataset}.parquet")
        for method in ("zero_shot", *METHODS):
            number += 1
            key, output = f"{setting}-{method}-{dataset}-1", f"evaluate/{setting}-{dataset}/{method}-1"
            stage = f"evaluate@{key}"
            if method == "zero_shot":
                output, stage = f"zero_shot/{setting}-{dataset}-1", f"zero_shot@{setting}-{dataset}-1"
            cell = {"setting": setting, "method": method, "trained_on": None if method == "zero_shot" else dataset}
            write_cell(root, stage, output, {**cell, "evaluated_on": dataset, "seed": 1}, method, table, number)
            if method == "zero_shot":
                continue
            folder = root / "metrics" / "records" / "train" / key
            folder.mkdir(parents=True)
            cost = {"stage": f"train@{key}", "setting": setting, "method": method, "dataset": dataset, "seed": 1}
            cost |= {"steps": 10, "samples_seen": 80, "prompt_tokens": 3000, "completion_tokens": 50 * number}
            (folder / "cost.json").write_text(json.dumps(cost))
            curve = pd.DataFrame({"step": range(1, 11), "loss": 1.0})
            if method != "sft":
                curve = curve.assign(reward=curve["step"] / 10, completion_length=20.0)
            curve.to_csv(folder / "curves.csv", index=False)
            if setting == "few_shot":
                (other,) = set(CLASSES) - {dataset}
                rows = pd.read_parquet(root / "data" / "partition" / setting / "1" / "test" / f"{other}.parquet")
                key = f"few_shot-{method}-{dataset}-{other}-1"
                cell |= {"evaluated_on": other, "seed": 1}
                write_cell(root, f"cross_eval@{key}", f"cross_eval/{key}", cell, method, rows, 100 + number)


class Read(HTMLParser):
    """The tables of a page by their id, as lists of rows of texts; all ids, addresses, and the links to `#`."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.ids: list[str] = []
        self.inner: set[str] = set()
        self.outer: list[str] = []
        self.pictures: list[str] = []
        self._table: list[list[str]] | None = None

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids += [found["id"]] if "id" in found else []
        for name in ("href", "src", "action", "data", "srcset", "poster"):
            if (address := found.get(name)) is not None:
                (self.inner.add(address[1:]) if address.startswith("#") else self.outer.append(address))
        if tag == "img":
            self.pictures.append(found["src"])
        if tag == "table":
            self._table = self.tables.setdefault(found.get("id", ""), [])
        elif tag == "tr" and self._table is not None:
            self._table.append([])
        elif tag in ("td", "th") and self._table:
            self._table[-1].append("")

    def handle_endtag(self, tag):
        if tag == "table":
            self._table = None

    def handle_data(self, text):
        if self._table and self._table[-1]:
            self._table[-1][-1] += text

    def numbers(self, table: str) -> dict[tuple[str, str], float]:
        """The numbers of a table by row and column, without their intervals."""
        head, *rows = self.tables[table]
        return {
            (row[0].strip(), column.strip()): float(text.split()[0])
            for row in rows
            for column, text in zip(head[1:], row[1:], strict=True)
            if text.strip()
        }


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grid that has run, with its report."""
    import os

    root, before = tmp_path_factory.mktemp("grid"), Path.cwd()
    write_grid(root)
    os.chdir(root)
    try:
        grid = read_reported(Path("metrics/records"))
        os.chdir(before)
        aggregate_files = aggregate.report(read_records(grid, root / "metrics/records"), grid, read_ledger())
        os.chdir(root)
        for name, content in aggregate_files.items():
            path = root / "metrics" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        html_report.html_report()
    finally:
        os.chdir(before)
    return root


@pytest.fixture(scope="module")
def html(built: Path) -> str:
    return (built / "metrics/report/report.html").read_text()


@pytest.fixture(scope="module")
def read(html: str) -> Read:
    found = Read()
    found.feed(html)
    return found


def answers(root: Path, output: str) -> pd.DataFrame:
    return pd.read_parquet(root / "metrics" / "predictions" / f"{output}.parquet")


def accuracy(root: Path, method: str, dataset: str, rule: str, part: str = "all") -> float:
    """Percent right, counted from the answers and from nothing else."""
    setting = "few_shot" if part == "all" else "base_to_new"
    output = f"evaluate/{setting}-{dataset}/{method}-1"
    rows = answers(root, f"zero_shot/{setting}-{dataset}-1" if method == "zero_shot" else output)
    rows = rows[rows["part"] == part]
    if rule == "exact":  # by hand, and not by the column
        said = rows["completion"].str.extract(r"<answer>(.*?)</answer>")[0]
        said = said.where(said.notna() | (method in ("sft", "cls_rl")), rows["completion"])
        return 100 * (said.str.strip() == rows["answer"]).mean()
    return 100 * rows["substring_match"].mean()


def test_numbers_on_the_page_are_those_of_the_answers(built, read):
    for rule in ("exact", "substring"):
        shown = read.numbers(f"table-few_shot_{rule}")
        assert len(shown) == 4 * 3
        for (method, dataset), value in shown.items():
            names = CLASSES if dataset == "mean" else [dataset]
            assert value == pytest.approx(np.mean([accuracy(built, method, name, rule) for name in names]), abs=0.0051)
    base = read.numbers("table-base_to_new_mean_exact")
    for method, half in product(("zero_shot", *METHODS), ("base", "new")):
        expected = np.mean([accuracy(built, method, name, "exact", half) for name in CLASSES])
        assert base[method, half] == pytest.approx(expected, abs=0.0051)
    gains = read.numbers("table-transfer_cls_rl_exact")
    crossed = answers(built, "cross_eval/few_shot-cls_rl-shapes-hues-1")["exact_match"].mean() * 100
    assert gains["shapes", "hues"] == pytest.approx(crossed - accuracy(built, "zero_shot", "hues", "exact"), abs=0.051)
    difference = read.numbers("table-transfer_no_thinking_minus_cls_rl")
    other = answers(built, "cross_eval/few_shot-no_thinking-shapes-hues-1")["exact_match"].mean() * 100
    assert difference["shapes", "hues"] == pytest.approx(other - crossed, abs=0.051)


def test_classes_and_confusions_are_those_of_the_answers(built, read):
    rows = answers(built, "evaluate/few_shot-hues/cls_rl-1")
    shown = read.numbers("table-classes_hues")
    for name, own in rows.groupby("answer"):
        assert shown[name, "cls_rl"] == round(100 * own["exact_match"].mean())
    head, *lines = read.tables["confusion-hues-cls_rl"]
    counts = {
        (row[0].strip(), column.strip()): int(text.strip() or 0)
        for row in lines
        for column, text in zip(head[1:], row[1:], strict=True)
    }
    assert sum(counts.values()) == len(rows)
    assert sum(counts[name, name] for name in CLASSES["hues"]) == rows["exact_match"].sum()
    wrong = rows[(rows["answer"] == "red") & (rows["parsed"] == "blue")]
    assert counts["red", "blue"] == len(wrong)
    assert counts["red", "other"] == (rows[rows["answer"] == "red"]["parsed"].isna()).sum()
    table = pd.read_csv(built / "metrics/confusion.csv")
    of_cell = table[(table["dataset"] == "hues") & (table["method"] == "cls_rl")]
    assert dict(zip(zip(of_cell["answer"], of_cell["said"], strict=True), of_cell["count"], strict=True)) == counts
    assert len(table) == 4 * sum(len(classes) * (len(classes) + 1) for classes in CLASSES.values())


def test_every_number_leads_to_what_made_it(built, html, read):
    assert len(read.ids) == len(set(read.ids))
    assert read.inner <= set(read.ids)
    linked = re.findall(r'<td[^>]*><a class="n" href="#([^"]+)"', html)
    numbers = re.findall(r"<td[^>]*>(?:<a|[-+\d])", html.split('id="cells"')[0].split('id="classes"')[0])
    assert len(linked) >= len(numbers) > 100
    entry = html.split('id="evaluate.few_shot-cls_rl-hues-1"')[1].split('<div class="entry"')[0]
    record = built / "metrics/records/evaluate/few_shot-hues/cls_rl-1.json"
    predictions = built / "metrics/predictions/evaluate/few_shot-hues/cls_rl-1.parquet"
    for path in (record, predictions, built / "data/partition/few_shot/1/test/hues.parquet"):
        assert md5(path.read_bytes()).hexdigest() in entry
    assert "<code>dvc repro evaluate@few_shot-cls_rl-hues-1</code>" in entry
    assert "seed <b>1</b>" in entry
    assert 'href="#answers-hues"' in entry


def test_the_file_is_alone_small_and_has_each_picture_once(html, read):
    assert all(address.startswith("data:") for address in read.outer)
    assert len(read.pictures) == 8 * 3 + 8 * 4  # all test images
    assert max(map(len, read.pictures)) < 4 / 3 * THUMBNAIL_BYTES + 40
    assert "default-src 'none'" in html
    assert "http://" not in html and "https://" not in html
    assert len(html.encode()) < 400_000


def test_what_a_model_wrote_is_text_and_thinking_is_set_apart(html):
    assert SPECIAL not in html
    assert "&lt;b&gt;&amp;" in html
    assert "<q>There is a colour, so it is red.</q> <b>red</b>" in html


def test_the_same_results_give_the_same_bytes_without_place_or_time(built, html, tmp_path, monkeypatch):
    monkeypatch.chdir(built)
    grid = read_reported(Path("metrics/records"))
    sources = read_sources(grid, Path("metrics"), Path("data"))
    again = page.report(sources, grid, html_report.prompts(grid), LONGEST)
    assert again["report.html"] == html
    assert str(built) not in html and str(Path.home()) not in html


def test_a_gallery_without_room_for_all_has_some_of_each_kind(built, monkeypatch):
    monkeypatch.chdir(built)
    grid = read_reported(Path("metrics/records"))
    tested = list(read_sources(grid, Path("metrics"), Path("data")).tested.values())
    order = ["zero_shot", *METHODS]
    (whole, _), (few, more) = (page.gallery.galleries(tested, order, LONGEST, room) for room in (10**7, 20_000))
    assert len(whole.cards) == whole.images == 24
    assert 5 <= len(few.cards) < 24 and len(more.cards) < 32
    flags = [answer.flags for card in few.cards for answer in card.answers]
    assert any(flag & page.gallery.TRUNCATED for flag in flags)
    assert any(flag & page.gallery.INCONSISTENT for flag in flags)
    assert any(len({answer.flags & page.gallery.STRICT for answer in card.answers}) > 1 for card in few.cards)


def test_a_table_for_latex():
    table = Table(
        "few_shot_exact",
        "Exact match",
        ("method",),
        ("digits", "mean"),
        ((("no_thinking",), (Number("63.20", "", "[57.1, 68.9]", sure=True), None)),),
    )
    lines = latex(table, "model embedded").splitlines()
    assert lines[3:9] == [
        r"\begin{tabular}{lrr}",
        r"\toprule",
        r"method & digits & mean \\",
        r"\midrule",
        r"no\_thinking & \textbf{63.20} {\scriptsize [57.1, 68.9]} & -- \\",
        r"\bottomrule",
    ]


@pytest.fixture(scope="module")
def tab() -> Browser:
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def file(built: Path) -> Path:
    return built / "metrics/report/report.html"


@needs_browser
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_it_opens_without_errors_requests_or_sideways_scrolling(tab, file, width, height, dark):
    tab.open(file, width, height, dark)
    assert tab.errors == []
    assert [url for url in tab.requests if not url.startswith(("file:", "data:"))] == []
    assert tab.run("document.documentElement.scrollWidth") <= width
    assert tab.run("[...document.images].filter((each) => each.complete && !each.naturalWidth).length") == 0
    assert tab.run("getComputedStyle(document.body).backgroundColor") == (
        "rgb(15, 19, 24)" if dark else "rgb(255, 255, 255)"
    )
    # The first screenful: question, verdicts and picture.
    for selector in ("h1", ".tally", ".picture"):
        assert 0 < tab.run(f"document.querySelector('{selector}').getBoundingClientRect().top") < height, selector


@needs_browser
def test_without_scripts_all_is_there_but_the_filters(tab, file):
    tab.open(file, scripts=False)
    tab.call("Emulation.setScriptExecutionDisabled", value=False)
    assert tab.run("document.querySelectorAll('table').length") > 10
    assert tab.run("document.querySelector('#filters').hidden")
    assert tab.run("document.querySelectorAll('.cards > li[hidden]').length") == 0


@needs_browser
def test_a_number_shows_what_made_it_by_mouse_and_by_keyboard(tab, file):
    tab.open(file)
    tab.run("document.querySelector('#table-few_shot_exact .n').focus()")
    tab.press("Enter")
    assert tab.run("document.querySelector('dialog').open")
    assert "zero_shot@few_shot-shapes-1" in tab.run("document.querySelector('dialog').textContent")
    tab.press("Escape")
    assert not tab.run("document.querySelector('dialog').open")
    assert tab.run("document.activeElement.matches('#table-few_shot_exact .n')")
    tab.run("document.querySelector('#table-few_shot_exact td:last-child .n').click()")
    assert "dvc repro --glob" in tab.run("document.querySelector('dialog').textContent")


def shown(tab: Browser) -> int:
    return tab.run("[...document.querySelectorAll('.cards > li')].filter((each) => !each.hidden).length")


def choose(tab: Browser, **values: str) -> None:
    for name, value in values.items():
        tab.run(
            f"(() => {{ const field = document.querySelector('#filters').elements.namedItem('{name}');"
            f" field.value = '{value}'; field.dispatchEvent(new Event('input', {{bubbles: true}})); }})()"
        )


@needs_browser
def test_the_filters_show_what_the_answers_say(built, tab, file):
    rows = {
        (method, dataset): answers(built, f"evaluate/few_shot-{dataset}/{method}-1").set_index("row").sort_index()
        for method in ("cls_rl", "no_thinking")
        for dataset in CLASSES
    }
    tab.open(file)
    assert shown(tab) == 56
    choose(tab, a="3", b="2", kind="better", dataset="hues")
    right, other = rows["no_thinking", "hues"]["exact_match"], rows["cls_rl", "hues"]["exact_match"]
    assert shown(tab) == (right & ~other).sum() > 0
    choose(tab, a="2", kind="wrong", dataset="")
    assert shown(tab) == sum((~rows["cls_rl", name]["exact_match"]).sum() for name in CLASSES)
    choose(tab, kind="inconsistent")
    assert shown(tab) == sum((rows["cls_rl", name]["agreement"] == "no").sum() for name in CLASSES) > 0
    choose(tab, kind="truncated")
    assert shown(tab) == sum((rows["cls_rl", name]["completion_tokens"] >= LONGEST).sum() for name in CLASSES) > 0
    choose(tab, kind="all", order="long")
    tokens = tab.run(
        "[...document.querySelectorAll('.cards')].map((list) => +list.children[0].dataset.n.split(' ')[2])"
    )
    assert tokens == [rows["cls_rl", name]["completion_tokens"].max() for name in CLASSES]
    choose(tab, text="look and look")
    assert 0 < shown(tab) < 56


@needs_browser
@needs_axe
@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_nothing_serious(tab, file, dark):
    tab.open(file, dark=dark)
    tab.run("document.querySelectorAll('details').forEach((each) => (each.open = true))")
    tab.run(AXE.read_text() + "; true")
    rules = "{runOnly: ['color-contrast']}" if dark else "{}"  # nothing else is different in the dark
    found = tab.run(
        f"axe.run({rules}).then((done) => done.violations.map((each) => [each.impact, each.id, each.nodes[0].html]))"
    )
    assert [each for each in found if each[0] in ("serious", "critical")] == []
