"""Stage `html_report`: the claims, tables, curves and answers of the grid as one HTML file, and the tables for LaTeX.

Reads metrics (tables, plots, records and predictions) and the test images; writes metrics/report, and
metrics/confusion.csv for DVC's plots. The HTML file needs no network and no other file, so it can be sent.
"""

from pathlib import Path

from stages.methods import method as methods
from stages.report.footnotes import Reported, read_reported
from stages.report.html import classes, page
from stages.report.html.sources import main_part, read_sources
from stages.report.records import ZERO_SHOT
from stages.report.tables import rows_of
from stages.runtime import environment
from stages.runtime.files import write_directory, write_file
from stages.runtime.params import read_section

METRICS, DATA = Path("metrics"), Path("data")


def prompts(grid: Reported) -> dict[str, str]:
    """What each method says to the model in evaluation, by its name; the base model first."""
    zero_shot = read_section("evaluate.zero_shot_method", str)
    part = main_part(grid) if read_section("evaluate.prompts", str) == "published" else None
    found = {}
    for name, of in {ZERO_SHOT: zero_shot, **{name: name for name in grid.methods}}.items():
        turns = methods.load(of).conversation("{question}", part)
        words = [(turn["role"], block) for turn in turns for block in turn["content"]]
        found[name] = "\n".join(f"{role}: {block.get('text', '[image]')}" for role, block in words)
    return found


def html_report() -> None:
    """Write `metrics/report/`: `report.html`, and `latex/<table>.tex` of every table; and `metrics/confusion.csv`."""
    grid = read_reported(METRICS / "records")
    longest = read_section("evaluate.generation.max_new_tokens", int)
    sources = read_sources(grid, METRICS, DATA)
    files = page.report(sources, grid, prompts(grid), longest)
    confused = {name: classes.confusions(tested, rows_of(grid)) for name, tested in sources.tested.items()}
    with write_directory(METRICS / "report") as folder:
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    with write_file(METRICS / "confusion.csv") as unfinished:
        unfinished.write_bytes(classes.table(confused).to_csv(index=False, lineterminator="\n").encode())
    environment.record("html_report")
