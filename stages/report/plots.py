"""Figures as PNG bytes: same numbers, same bytes (own canvas, matplotlib's defaults and its own font, no metadata)."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stages.report.records import RULES
from stages.report.tables import MEAN, headline
from stages.runtime.params import Grid

_STYLE = {"font.family": "DejaVu Sans", "font.size": 9, "axes.titlesize": 10, "text.usetex": False}
_COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]  # Okabe and Ito: distinct to all
_LINES = ["-", "--", "-.", ":"]
_MOST_LINES = 8
_DOTS_PER_INCH = 150


def transfer_heatmap(transfer: pd.DataFrame, grid: Grid) -> bytes:
    """Gains over zero-shot in points, trained on (rows) by tested on (columns) (P1 Figure 4).

    A row of panels for each method, a panel for each rule. One colour scale, symmetric around 0, serves all panels. The
    mean column is set off; the diagonal is bold.
    """
    if transfer.empty:
        return _message("No transfer of the setting few_shot in the grid")
    order, names = len(grid.datasets), grid.datasets
    rows = headline(transfer, grid)
    panels = {}
    for method in grid.methods:
        own = rows[(rows["method"] == method) & (rows["source"] != MEAN)]
        for rule, words in RULES.items():
            gains = own.pivot(index="source", columns="target", values=f"{rule}_gain")
            panels[f"{method}\n{words}"] = gains.loc[names, [*names, MEAN]]
    limit = max(1.0, *(float(np.abs(panel).to_numpy().max()) for panel in panels.values()))
    across, down = len(RULES), len(grid.methods)
    cell = 0.62 if order <= 6 else 0.52
    label = 0.075 * max(map(len, names))
    with _settings():
        width = across * (cell * (order + 1.3) + label + 0.35) + 1.0
        height = down * (cell * order + label + 0.9) + 0.2
        figure = Figure(figsize=(max(width, 3.2), max(height, 2.8)), layout="compressed")
        figure.get_layout_engine().set(h_pad=0.1)
        axes = figure.subplots(down, across, squeeze=False)
        for axis, (title, panel) in zip(axes.flat, panels.items(), strict=True):
            image = _panel(axis, title, panel, limit)
        for axis in axes[:, 0]:
            axis.set_ylabel("trained on")
        bar = figure.colorbar(image, ax=axes, fraction=0.03, pad=0.015, aspect=30, shrink=0.8)
        bar.set_label("gain over zero-shot (points)")
        bar.outline.set_visible(False)
        # Many cells in fewer dots: no file in git is over 1 MB.
        return _png(figure, _DOTS_PER_INCH if order <= 6 else 100)


def training_curves(curves: pd.DataFrame, grid: Grid) -> bytes:
    """Reward and response length against the step: means over the cells of a method (`stages.report.curves`).

    Pale: the means; strong: their running mean over a tenth of the curve.
    """
    if curves.empty:
        return _message("No curves: no method of the grid has a reward")
    methods = [method for method in grid.methods if (curves["method"] == method).any()]
    with _settings():
        figure = Figure(figsize=(8.4, 3.4), layout="constrained")
        axes = figure.subplots(1, 2)
        titles = {"reward": "Reward (each method's own sum)", "completion_length": "Response length (tokens)"}
        for axis, (name, title) in zip(axes, titles.items(), strict=True):
            for i, method in enumerate(methods):
                curve = curves[curves["method"] == method]
                window = max(1, round(len(curve) / 10))
                smooth = curve[name].rolling(window, center=True, min_periods=1).mean()
                colour = _COLOURS[grid.methods.index(method) % len(_COLOURS)]
                axis.plot(curve["step"], curve[name], color=colour, alpha=0.25, linewidth=0.8)
                line = _LINES[i // len(_COLOURS) % len(_LINES)]
                axis.plot(curve["step"], smooth, line, color=colour, linewidth=1.8, label=method)
            axis.set_title(title)
            axis.set_xlabel("optimiser step")
            axis.locator_params(axis="x", integer=True, min_n_ticks=1)
            axis.set_ylim(bottom=min(0, axis.get_ylim()[0]))
            axis.margins(x=0.01)
            axis.grid(color="#e6e6e6", linewidth=0.6)
            axis.set_axisbelow(True)
            axis.spines[["top", "right"]].set_visible(False)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 5), frameon=False)
        return _png(figure)


def depth_curve(table: pd.DataFrame, dataset: str) -> bytes:
    """Accuracy and tokens of a completion against the number of steps k, one line a method (`stages.report.depth`).

    More than `_MOST_LINES` cannot be told apart: of further methods it says where they stand.
    """
    known = list(dict.fromkeys(table["method"]))
    prompted = [method for method in known if "(" in method]
    own = [method for method in known if method not in prompted]
    methods = own[:_MOST_LINES] + prompted
    further = f"in the table alone: {', '.join(own[_MOST_LINES:])}" if own[_MOST_LINES:] else None
    with _settings():
        figure = Figure(figsize=(8.4, 3.9), layout="constrained")
        accuracy, tokens = figure.subplots(1, 2, width_ratios=(3, 2))
        for i, method in enumerate(methods):
            rows = table[table["method"] == method]
            look = {"color": _COLOURS[i % len(_COLOURS)], "linestyle": _LINES[i // len(_COLOURS) % len(_LINES)]}
            # Beside each other, so that intervals of equal accuracies can be told apart.
            places = rows["k"] + 0.04 * (i - (len(methods) - 1) / 2)
            bounds = (rows["exact"] - rows["exact_low"], rows["exact_high"] - rows["exact"])
            accuracy.errorbar(
                places,
                rows["exact"],
                bounds,
                **look,
                marker="o",
                markersize=3.5,
                linewidth=1.6,
                capsize=2,
                label=method,
            )
            tokens.plot(rows["k"], rows["tokens"], **look, marker="o", markersize=3.5, linewidth=1.6)
        accuracy.set_title(f"{dataset}: exact match (%), with 95% intervals")
        accuracy.set_ylim(0, 100)
        tokens.set_title("Tokens of a completion")
        tokens.set_ylim(bottom=0)
        for axis in (accuracy, tokens):
            axis.set_xlabel("reasoning steps k")
            axis.set_xticks(sorted(set(table["k"])))
            axis.grid(color="#e6e6e6", linewidth=0.6)
            axis.set_axisbelow(True)
            axis.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside lower center", ncols=min(len(methods), 4), frameon=False, title=further)
        return _png(figure)


def curves_by_dataset(curves: pd.DataFrame, grid: Grid) -> bytes:
    """Reward and response length against the step, a column of panels for each dataset (P1 Figures 1, 3, 6, 8).

    Args:
        curves: as `stages.report.curves.mean_curves` has them, with a column `dataset`.
        grid: whose order of methods and datasets is taken.
    """
    rows = {"reward": "reward", "completion_length": "response length (tokens)"}
    panels = {
        (name, dataset): {
            method: curves.loc[(curves["dataset"] == dataset) & (curves["method"] == method), ["step", name]]
            for method in grid.methods
        }
        for name in rows
        for dataset in grid.datasets
    }
    return _lines(panels, rows, grid, smooth=True)


def by_step(table: pd.DataFrame, grid: Grid) -> bytes:
    """Test accuracy by the exact rule, and the reward of training, against the step (P1 Figure 5)."""
    table = headline(table, grid)
    several = table[["setting", "part"]].drop_duplicates()
    words = table["dataset"] if len(several) == 1 else table["dataset"] + " " + table["setting"] + " " + table["part"]
    table = table.assign(panel=words)
    rows = {"exact": "test accuracy (%, exact match)"} | ({"reward": "reward"} if table["reward"].notna().any() else {})
    panels = {
        (name, panel): {
            method: table.loc[(table["panel"] == panel) & (table["method"] == method), ["step", name]].dropna()
            for method in grid.methods
        }
        for name in rows
        for panel in dict.fromkeys(table["panel"])
    }
    return _lines(panels, rows, grid)


def transfer_difference(transfer: pd.DataFrame, grid: Grid, one: str, other: str) -> bytes:
    """Points by which one method's models are better than another's, trained on by tested on (P1 Figure 7a)."""
    rows, names = headline(transfer, grid), grid.datasets
    rows = rows[rows["source"] != MEAN]
    panels = {}
    for rule, words in RULES.items():
        first, second = (
            rows[rows["method"] == method].pivot(index="source", columns="target", values=f"{rule}_gain")
            for method in (one, other)
        )
        panels[f"{one} minus {other}\n{words}"] = (first - second).loc[names, [*names, MEAN]]
    limit = max(1.0, *(float(np.abs(panel).to_numpy().max()) for panel in panels.values()))
    cell, label = 0.62 if len(names) <= 6 else 0.52, 0.075 * max(map(len, names))
    with _settings():
        width = len(panels) * (cell * (len(names) + 1.3) + label + 0.35) + 1.0
        figure = Figure(figsize=(max(width, 3.2), max(cell * len(names) + label + 1.1, 2.8)), layout="compressed")
        axes = figure.subplots(1, len(panels), squeeze=False)
        for axis, (title, panel) in zip(axes.flat, panels.items(), strict=True):
            image = _panel(axis, title, panel, limit)
        axes[0, 0].set_ylabel("trained on")
        bar = figure.colorbar(image, ax=axes, fraction=0.03, pad=0.015, aspect=30, shrink=0.8)
        bar.set_label("difference (points)")
        bar.outline.set_visible(False)
        return _png(figure, _DOTS_PER_INCH if len(names) <= 6 else 100)


def _lines(
    panels: dict[tuple[str, str], dict[str, pd.DataFrame]], rows: dict[str, str], grid: Grid, smooth: bool = False
) -> bytes:
    """Panels, down by the keys of `rows` and across by dataset, with a line for each method: step, and a number."""
    columns = list(dict.fromkeys(column for _, column in panels))
    with _settings():
        size = (max(2.3 * len(columns) + 0.6, 4.2), 2.2 * len(rows) + 0.5)
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(len(rows), len(columns), squeeze=False, sharex="col")
        drawn: dict[str, Any] = {}
        for i, j in np.ndindex(len(rows), len(columns)):
            axis, name = axes[i, j], list(rows)[i]
            for method, curve in panels[name, columns[j]].items():
                if curve.empty:
                    continue
                number = grid.methods.index(method)
                colour, line = _COLOURS[number % len(_COLOURS)], _LINES[number // len(_COLOURS) % len(_LINES)]
                values = curve[name]
                if smooth:
                    axis.plot(curve["step"], values, color=colour, alpha=0.25, linewidth=0.8)
                    values = values.rolling(max(1, round(len(curve) / 10)), center=True, min_periods=1).mean()
                (drawn[method],) = axis.plot(curve["step"], values, line, color=colour, linewidth=1.6, label=method)
            if i == 0:
                axis.set_title(columns[j])
            if j == 0:
                axis.set_ylabel(rows[name])
            if i == len(rows) - 1:
                axis.set_xlabel("optimiser step")
            axis.locator_params(axis="x", integer=True, min_n_ticks=1)
            axis.set_ylim(bottom=min(0, axis.get_ylim()[0]))
            axis.grid(color="#e6e6e6", linewidth=0.6)
            axis.set_axisbelow(True)
            axis.spines[["top", "right"]].set_visible(False)
        names = [method for method in grid.methods if method in drawn]
        handles = [drawn[method] for method in names]
        figure.legend(handles, names, loc="outside lower center", ncols=min(len(names), 5), frameon=False)
        return _png(figure, _DOTS_PER_INCH if len(columns) <= 6 else 100)


def _panel(axis: Axes, title: str, panel: pd.DataFrame, limit: float):
    """Draw one matrix with its mean column set off by a gap; return the image, for the colour bar."""
    count = len(panel)
    gap = 0.25
    edges = np.arange(count + 1) - 0.5
    with_gap = [*edges, count - 0.5 + gap, count + 0.5 + gap]
    values = panel.to_numpy(dtype=float)
    spaced = np.ma.masked_invalid(np.insert(values, count, np.nan, axis=1))
    image = axis.pcolormesh(
        with_gap, edges, spaced, cmap="RdBu", vmin=-limit, vmax=limit, edgecolor="white", linewidth=1
    )
    centres = [*range(count), count + gap]
    for row, column in np.ndindex(*values.shape):
        value = values[row, column]
        axis.text(
            centres[column],
            row,
            f"{round(value, 1) + 0.0:.1f}",
            ha="center",
            va="center",
            fontsize=8.5 if count <= 6 else 7.5,
            color="white" if abs(value) > 0.6 * limit else "#222222",
            fontweight="bold" if row == column else "normal",
        )
    axis.set_title(title, fontweight="bold")
    axis.set_xticks(centres, list(panel.columns), rotation=40, ha="right", rotation_mode="anchor")
    axis.set_yticks(range(count), list(panel.index))
    axis.set_xlabel("tested on")
    axis.tick_params(length=0)
    axis.invert_yaxis()
    axis.set_aspect("equal")
    axis.spines[:].set_visible(False)
    return image


def _message(text: str) -> bytes:
    """A figure that says why it shows nothing: the file must exist for DVC."""
    with _settings():
        figure = Figure(figsize=(6, 1))
        figure.text(0.5, 0.5, text, ha="center", va="center")
        return _png(figure)


@contextmanager
def _settings() -> Iterator[None]:
    """Matplotlib's own defaults, whatever the user's configuration says."""
    with style.context(["default", _STYLE]):
        yield


def _png(figure: Figure, dots_per_inch: int = _DOTS_PER_INCH) -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=dots_per_inch, metadata={"Software": None})
    return buffer.getvalue()
