"""Plot: accuracy against tokens with 95 % intervals. A line joins the rows of a strategy that
differ in one number or in the budget.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

from reasoning.errors import ConfigError
from reasoning.evals.table import Row

# Colours that readers with colour blindness tell apart (Okabe and Ito), and shapes besides.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
SHAPES = "osD^vPX"
FORMATS = (".png", ".svg")
# A setting with a number, as in `majority(n=4)`.
_NUMBER = re.compile(r"(?<==)\d+(?:\.\d+)?(?=[,)\s]|$)")


@dataclass(frozen=True, slots=True)
class _Line:
    name: str
    rows: list[Row]


def plot(made: Sequence[Row], path: Path, *, title: str = "", cost: str = "tokens") -> None:
    """Write a PNG or SVG. The x axis is the mean cost of a question, on a log scale.

    Rows that an oracle took part in are hollow, dashed and named coverage. Points are set apart by
    up to 5 % so that intervals at equal cost do not hide each other. Raises ConfigError for another
    format, nothing to show, a file that cannot be written, or where matplotlib is not installed.
    """
    if path.suffix not in FORMATS:
        raise ConfigError(f"a plot is written as {' or '.join(FORMATS)}, not {path.name!r}")
    shown = [row for row in made if row.scores and row.cost(cost) > 0]
    if not shown:
        raise ConfigError(f"no row has answers and {cost} above 0; there is nothing to plot")
    splits = {(row.task, row.split) for row in shown}
    if len(splits) > 1:
        found = ", ".join(sorted(f"{task} {split}" for task, split in splits))
        raise ConfigError(f"one plot shows one split, not {found}")
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError("plots need matplotlib; run `pip install reasoning[report]`") from None
    # No pyplot: no global state, no display. A fixed salt makes equal plots equal files.
    with rc_context({"svg.hashsalt": "reasoning", "svg.fonttype": "none"}):
        lines = _lines(shown)
        figure = Figure(figsize=(7.2, 4.2 + 0.2 * len(lines)), layout="constrained")
        axes: Any = figure.add_subplot()
        for place, line in enumerate(lines):
            _draw(axes, line, place, len(lines), cost)
        _axes(axes, shown, cost, title)
        figure.legend(loc="outside lower left", frameon=False)
        metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
        try:
            figure.savefig(path, dpi=160, metadata=metadata)
        except OSError as error:
            raise ConfigError(f"the plot cannot be written to {path}: {error.strerror}") from None


def _lines(shown: Sequence[Row]) -> list[_Line]:
    """Rows that differ in one number or in the budget are a line; what differs more is several."""
    families: dict[tuple[str, str, bool], list[Row]] = {}
    for row in shown:
        family = row.run, _NUMBER.sub("#", row.label), row.oracle
        families.setdefault(family, []).append(row)
    lines = []
    for rows in families.values():
        labels = list(dict.fromkeys(row.label for row in rows))
        varied = [set(values) for values in zip(*map(_NUMBER.findall, labels), strict=True)]
        places = [place for place, values in enumerate(varied) if len(values) > 1]
        if len(places) == 1 and len({row.budget for row in rows}) == 1:
            values = sorted((_NUMBER.findall(label)[places[0]] for label in labels), key=float)
            lines.append(_Line(_replaced(labels[0], places[0], ", ".join(values)), rows))
        else:
            lines += [_Line(label, [r for r in rows if r.label == label]) for label in labels]
    return lines


def _replaced(label: str, place: int, text: str) -> str:
    """The label with its number at `place` replaced."""
    found = list(_NUMBER.finditer(label))[place]
    return label[: found.start()] + text + label[found.end() :]


def _draw(axes: Any, line: _Line, place: int, lines: int, cost: str) -> None:
    points = sorted(line.rows, key=lambda row: row.cost(cost))
    values = [100 * row.value.value for row in points]
    below = [100 * (row.value.value - row.value.low) for row in points]
    above = [100 * (row.value.high - row.value.value) for row in points]
    aside = 1.05 ** (2 * (place + 0.5) / lines - 1)
    colour = COLOURS[place % len(COLOURS)]
    oracle = points[0].oracle
    axes.errorbar(
        [aside * row.cost(cost) for row in points],
        values,
        yerr=[[max(0.0, x) for x in below], [max(0.0, x) for x in above]],
        color=colour,
        marker=SHAPES[(place + place // len(COLOURS)) % len(SHAPES)],
        markersize=6,
        markerfacecolor="white" if oracle else colour,
        linestyle="--" if oracle else "-",
        linewidth=1.5,
        elinewidth=1,
        capsize=3,
        label=fill(_plain(line.name) + (" (coverage: with an oracle)" if oracle else ""), 90),
    )


def _axes(axes: Any, shown: Sequence[Row], cost: str, title: str) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    costs = [row.cost(cost) for row in shown]
    # Under two decades the powers of ten alone would leave an axis of one label or none.
    span = max(costs) / min(costs)
    between = range(1, 10) if span < 3 else (1, 2, 5) if span < 100 else (1,)
    axes.set_xlim(min(costs) / 1.3, max(costs) * 1.3)
    axes.xaxis.set_major_locator(LogLocator(subs=between))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.12g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(bottom=0)
    kinds = sorted({row.measure for row in shown})
    axes.set_ylabel(f"{' / '.join(kinds)} (%), 95 % intervals")
    name = "new tokens" if cost == "tokens" else cost.replace("_", " ")
    axes.set_xlabel(f"{name} per question, mean (log scale)")
    asked = sorted({len(row.scores) for row in shown})
    count = f"{asked[0]:,}" if len(asked) == 1 else f"{asked[0]:,} to {asked[-1]:,}"
    named = title or f"{shown[0].task}, {shown[0].split} split"
    axes.set_title(_plain(f"{named}, {count} questions"))
    axes.grid(True, which="major", linewidth=0.5, alpha=0.4)
    axes.spines[["top", "right"]].set_visible(False)


def _plain(text: str) -> str:
    """Text shown as it is: `$` would begin a formula, and a leading `_` hide the name."""
    text = " ".join(text.split()).replace("$", r"\$")
    return " " + text if text.startswith("_") else text
