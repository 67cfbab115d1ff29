"""Line charts and rows of intervals, as geometry that the templates turn into SVG and HTML: no pixels, no fonts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 440, 280
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 10, 40


@dataclass(frozen=True)
class Line:
    """A line of a chart: its name, its points (x, y), their intervals (low, high) or nothing, and how it looks."""

    name: str
    points: Sequence[tuple[float, float]]
    bounds: Sequence[tuple[float, float]] = ()
    look: int = 0
    quiet: bool = False


@dataclass(frozen=True)
class Drawn:
    """A line in the units of the SVG."""

    name: str
    look: int
    quiet: bool
    path: str
    dots: tuple[tuple[float, float, str], ...]
    bars: tuple[tuple[float, float, float], ...]


@dataclass(frozen=True)
class Chart:
    """A chart in the units of the SVG: `WIDTH` by `HEIGHT`."""

    id: str
    title: str
    about: str
    x_label: str
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    lines: tuple[Drawn, ...]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def chart(
    name: str,
    title: str,
    lines: Sequence[Line],
    x_label: str,
    *,
    about: str = "",
    y_range: tuple[float, float] | None = None,
    dots: bool = True,
    x_all: bool = False,
    spread: float = 0.0,
) -> Chart:
    """Lay out lines on one pair of axes.

    Args:
        name: the id of the chart.
        title: above it.
        lines: at least one has a point.
        x_label: below it.
        about: what it shows, in a sentence, for those who do not see it.
        y_range: of the axis; nothing: from 0, or below it, to what is needed.
        dots: whether points are marked.
        x_all: whether every x has a tick; otherwise round ones.
        spread: how far lines stand beside each other, in units of x, so that equal intervals can be told apart.
    """
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points] + [y for line in lines for pair in line.bounds for y in pair]
    x_low, x_high = min(xs), max(xs)
    if x_low == x_high:
        x_low, x_high = x_low - 1, x_high + 1
    margin = 0.04 * (x_high - x_low)
    x_low, x_high = x_low - margin, x_high + margin
    y_low, y_high = y_range or (min(0.0, *ys), max(ys))
    if y_low == y_high:
        y_high = y_low + 1
    y_ticks = ticks(y_low, y_high, 5)
    y_high = max(y_high, y_ticks[-1])

    def across(x: float) -> float:
        return round(LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT), 1)

    def up(y: float) -> float:
        return round(HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM), 1)

    shown = sorted(set(xs)) if x_all else [x for x in ticks(min(xs), max(xs), 5) if float(x).is_integer()]
    drawn = []
    for i, line in enumerate(lines):
        beside = spread * (i - (len(lines) - 1) / 2)
        places = [(across(x + beside), up(y)) for x, y in line.points]
        path = "M" + "L".join(f"{x:g} {y:g}" for x, y in places)
        texts = [
            f"{line.name}: {y:.1f} at {x:g}"
            + (f", 95% {line.bounds[j][0]:.1f} to {line.bounds[j][1]:.1f}" if line.bounds else "")
            for j, (x, y) in enumerate(line.points)
        ]
        marks = tuple((x, y, text) for (x, y), text in zip(places, texts, strict=True)) if dots else ()
        bars = tuple((x, up(low), up(high)) for (x, _), (low, high) in zip(places, line.bounds, strict=False))
        drawn.append(Drawn(line.name, line.look, line.quiet, path, marks, bars))
    return Chart(
        name,
        title,
        about or title,
        x_label,
        tuple((across(x), f"{x:g}") for x in shown),
        tuple((up(y), f"{y:g}") for y in y_ticks if y <= y_high),
        tuple(drawn),
    )


def ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers from `low` to at least `high`, about `count` of them.

    >>> ticks(0, 93, 5)
    [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]
    """
    rough = (high - low) / count or 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [round(i * step, 10) + 0.0 for i in range(first, last + 1)]


def smooth(values: Sequence[float], window: int) -> list[float]:
    """The running mean over `window` values, fewer at the ends.

    >>> smooth([0.0, 3.0, 6.0], 3)
    [1.5, 3.0, 4.5]
    """
    half = window // 2
    found = []
    for i in range(len(values)):
        part = values[max(0, i - half) : i + half + 1]
        found.append(sum(part) / len(part))
    return found
