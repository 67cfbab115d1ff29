"""`dvc plots show` and `dvc plots diff`: what is drawn, in a browser, and that nothing is fetched for it."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from ruamel.yaml import YAML

from tests.browser import Browser, browser, needs_browser
from tests.conftest import ROOT
from tools import plots_page

DATASETS, METHODS = ("shapes", "hues"), ("sft", "cls_rl")
NONE = "transfer_exact: no data; where its file is missing, dvc repro makes it"
PACKAGES = ROOT / plots_page.PACKAGES


def write_metrics(root: Path, gain: float) -> None:
    """What the plots of dvc.yaml are drawn from; every gain is that much more."""
    steps = [(method, step, name) for method in METHODS for step in range(1, 13) for name in DATASETS]
    curves = pd.DataFrame(steps, columns=["method", "step", "dataset"])
    curves["reward"] = curves["step"] / 10 + gain
    curves["completion_length"] = 20 - curves["step"]
    transfer = pd.DataFrame(
        [
            (method, source, target, seed, f"{gain + 10 * (source == target) + len(method):.2f}", f"{gain:.2f}")
            for method in METHODS
            for source in (*DATASETS, "mean")
            for target in (*DATASETS, "mean")
            for seed in ("1", "2", "mean")
        ],
        columns=["method", "source", "target", "seed", "exact_gain", "substring_gain"],
    )
    transfer.loc[transfer["seed"] != "mean", ["exact_gain", "substring_gain"]] = "99.00"  # those of one seed
    confusion = pd.DataFrame(
        [
            (name, method, answer, said, 7 if answer == said else 0)
            for name, classes in zip(DATASETS, (("square", "disc", "bar"), ("red", "blue")), strict=True)
            for method in METHODS
            for answer in classes
            for said in (*classes, "other")
        ],
        columns=["dataset", "method", "answer", "said", "count"],
    )
    tables = {"plots/curves_by_dataset": curves, "tables/transfer": transfer, "confusion": confusion}
    for name, table in tables.items():
        path = root / "metrics" / f"{name}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(path, index=False)


def run(root: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def dvc(root: Path, *command: str) -> str:
    return run(root, sys.executable, "-m", "dvc", *command)


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A project with our plots and settings of DVC, and two commits that differ in all numbers."""
    root = tmp_path_factory.mktemp("plots")
    run(root, "git", "init", "-q")
    dvc(root, "init", "-q")
    (root / ".dvc/config").write_bytes((ROOT / ".dvc/config").read_bytes())
    (root / ".dvc/plots").symlink_to(ROOT / ".dvc/plots")  # as in a grid's folder
    with (ROOT / "dvc.yaml").open() as file:
        plots = YAML(typ="safe").load(file)["plots"]
    with (root / "dvc.yaml").open("w") as file:
        YAML().dump({"plots": plots}, file)
    for gain in (1.5, -20.0):
        write_metrics(root, gain)
        run(root, "git", "add", ".")
        run(root, "git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "metrics")
    return root


@pytest.fixture(scope="module")
def tab() -> Iterator[Browser]:
    with browser() as opened:
        # Whatever is not a file cannot be had.
        opened.call(
            "Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0
        )
        yield opened


def drawn(tab: Browser, page: Path) -> dict[str, dict]:
    """Of each plot its texts, its numbers of marks by kind, its dashes and its links; the page has no error."""
    tab.open(page)
    for _ in range(100):
        if tab.run("[...document.querySelectorAll('body > div:not(.empty)')].every(plot => plot.querySelector('svg'))"):
            break
        time.sleep(0.1)
    found = tab.run(
        """Object.fromEntries([...document.querySelectorAll('body > div')].map(plot => {
          const all = (what, of) => [...plot.querySelectorAll(what)].map(of);
          return [plot.id, {
            texts: all('svg text', text => text.textContent),
            empty: plot.matches('.empty') ? plot.textContent.trim() : '',
            rects: all('svg .mark-rect path', path => path).length,
            lines: all('svg .mark-line.role-mark path', path => path.getAttribute('stroke-dasharray') || ''),
            links: all('.vega-actions a', link => link.textContent),
            width: plot.getBoundingClientRect().width,
          }];
        }))"""
    )
    assert tab.errors == []
    assert tab.requests == [page.resolve().as_uri()]
    return found


@needs_browser
def test_curves_transfer_and_confusions_are_drawn_without_a_network(project, tab):
    said = dvc(project, "plots", "show")
    assert "failed" not in said
    plots = drawn(tab, project / "dvc_plots/index.html")
    assert list(plots) == ["reward", "response_length", "transfer_exact", "transfer_substring", "confusion"]
    for name in ("reward", "response_length"):
        texts = plots[name]["texts"]
        assert [text for text in texts if text in DATASETS] == list(DATASETS), "a panel each, in the grid's order"
        assert [text for text in texts if text in METHODS] == list(METHODS), "the legend"
        assert len(plots[name]["lines"]) == 2 * len(DATASETS) * len(METHODS), "each step, and the mean over five"
    texts = plots["transfer_exact"]["texts"]
    assert [text for text in texts if text in METHODS] == list(METHODS)
    assert plots["transfer_exact"]["rects"] == len(METHODS) * 2 * 3, "trained on by tested on, and their mean"
    # -20 + 10 on the diagonal + the letters of the method's name; only the mean over seeds.
    assert [text for text in texts if text.startswith("\u2212")] == [
        *("\u22127.0", "\u221217.0", "\u221217.0", "\u221217.0", "\u22127.0", "\u221217.0"),
        *("\u22124.0", "\u221214.0", "\u221214.0", "\u221214.0", "\u22124.0", "\u221214.0"),
    ]
    texts = plots["confusion"]["texts"]
    assert texts.count("7") == (3 + 2) * len(METHODS) and "0" not in texts
    assert plots["confusion"]["rects"] == (3 * 4 + 2 * 3) * len(METHODS)
    said = ["square", "disc", "bar", "other"]
    assert [text for text in texts if text in said][:4] == said, "in the order of the table"
    for plot in plots.values():
        assert plot["links"] == ["Save as SVG", "Save as PNG"]


@needs_browser
def test_two_revisions_stand_beside_each_other(project, tab):
    said = dvc(project, "plots", "diff", "HEAD~1", "-o", "both")
    assert "failed" not in said
    plots = drawn(tab, project / "both/index.html")
    lines = plots["reward"]["lines"]
    assert len(lines) == 4 * len(DATASETS) * len(METHODS) and len(set(lines)) == 2, "one of them is dashed"
    texts = plots["transfer_exact"]["texts"]
    assert [text for text in texts if text in ("workspace", "HEAD~1")] == ["workspace", "HEAD~1"]
    assert texts.count("4.5") == 4 and texts.count("\u221217.0") == 4, "sft: of the commit before, and now"
    assert plots["transfer_exact"]["rects"] == 2 * len(METHODS) * 2 * 3
    panels = [f"{name}, {revision}" for revision in ("workspace", "HEAD~1") for name in DATASETS]
    assert [text for text in plots["confusion"]["texts"] if text in panels] == panels


@needs_browser
def test_what_has_no_data_is_said_to_have_none(project, tab):
    """A grid without transfer has a table with no rows."""
    table = project / "metrics/tables/transfer.csv"
    before = table.read_text()
    table.write_text(before.partition("\n")[0] + "\n")
    try:
        assert "failed" not in dvc(project, "plots", "show", "-o", "none")
    finally:
        table.write_text(before)
    plots = drawn(tab, project / "none/index.html")
    assert plots["transfer_exact"]["empty"] == NONE
    assert plots["reward"]["lines"]


def test_the_page_is_in_git_asks_nobody_and_is_under_a_megabyte():
    page = (ROOT / plots_page.PAGE).read_text(encoding="utf-8")
    assert "{plot_divs}" in page and "{scripts}" not in page, (
        "DVC would put its own scripts, with their addresses, there"
    )
    assert "<script src" not in page and "<link" not in page
    assert (ROOT / plots_page.PAGE).stat().st_size < 1_000_000


@pytest.mark.skipif(not (PACKAGES / "vega").exists(), reason="no Vega: npm ci --prefix tests/browser")
def test_the_page_is_what_its_pinned_packages_make():
    assert plots_page.page(PACKAGES) == (ROOT / plots_page.PAGE).read_text(encoding="utf-8")
