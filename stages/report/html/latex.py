"""Tables for a paper: LaTeX with booktabs, each number with its interval; and as CSV."""

import csv
from io import StringIO

from stages.report.html.views import Number, Table

_SPECIAL = {
    "\\": r"\textbackslash{}",
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


def escape(text: str) -> str:
    r"""Text as LaTeX prints it.

    >>> escape("think_after_answer 5%")
    'think\\_after\\_answer 5\\%'
    """
    return "".join(_SPECIAL.get(mark, mark) for mark in text)


def latex(table: Table, grid: str) -> str:
    r"""A `table` with `\usepackage{booktabs}`: bold is a method that is better than every other by more than chance."""
    across = "l" * len(table.keys) + "r" * len(table.columns)
    head = " & ".join(escape(name) for name in (*table.keys, *table.columns))
    lines = [
        f"% {table.name}: {grid}",
        r"\begin{table}",
        r"\centering",
        rf"\begin{{tabular}}{{{across}}}",
        r"\toprule",
        rf"{head} \\",
        r"\midrule",
        *(rf"{' & '.join([*map(escape, names), *map(_number, numbers)])} \\" for names, numbers in table.rows),
        r"\bottomrule",
        r"\end{tabular}",
        rf"\caption{{{escape(table.title)}. In brackets the 95\% interval.}}",
        rf"\label{{tab:{table.name}}}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _number(number: Number | None) -> str:
    if number is None:
        return "--"
    value = number.text.replace(",", "{,}")
    value = f"${value}$" if value[0] in "+-" else value
    value = rf"\textbf{{{value}}}" if number.sure else value
    if not number.bounds.startswith("["):
        return value
    bounds = ", ".join(f"${each}$" if each[0] in "+-" else each for each in number.bounds.strip("[]").split(", "))
    return rf"{value} {{\scriptsize [{bounds}]}}"


def table_csv(table: Table) -> str:
    """A line for each number: what names it, its value, interval and stages."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*table.keys, "column", "value", "low", "high", "stages"])
    for names, numbers in table.rows:
        for column, number in zip(table.columns, numbers, strict=True):
            if number is not None:
                values = ["" if value != value else f"{value:.6g}" for value in (number.value, number.low, number.high)]
                writer.writerow([*names, column, *values, number.stages])
    return text.getvalue()
