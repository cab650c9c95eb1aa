"""Plot: accuracy against tokens, one line for each strategy, with 95 % intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reasoning.errors import ConfigError
from reasoning.evals.table import Row

# Colours that readers with colour blindness tell apart (Okabe and Ito), and shapes besides.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
SHAPES = "osD^vPX"
FORMATS = (".png", ".svg")


def plot(made: Sequence[Row], path: Path, *, title: str = "", cost: str = "tokens") -> None:
    """Write a PNG or SVG. The x axis is the mean cost of a question, on a log scale.

    Rows that an oracle took part in are hollow, dashed and named coverage. Raises ConfigError for
    another format, nothing to show, or where matplotlib is not installed.
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
        figure = Figure(figsize=(7.2, 4.5), layout="constrained")
        axes: Any = figure.add_subplot()
        lines: dict[tuple[str, bool], list[Row]] = {}
        for row in shown:
            lines.setdefault((row.strategy, row.oracle), []).append(row)
        strategies = list(dict.fromkeys(strategy for strategy, _ in lines))
        for (strategy, oracle), points in lines.items():
            _line(axes, strategy, oracle, points, strategies.index(strategy), cost)
        _axes(axes, shown, cost, title)
        metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
        figure.savefig(path, dpi=160, metadata=metadata)


def _line(axes: Any, strategy: str, oracle: bool, points: list[Row], place: int, cost: str) -> None:
    points = sorted(points, key=lambda row: row.cost(cost))
    values = [100 * row.value.value for row in points]
    below = [100 * (row.value.value - row.value.low) for row in points]
    above = [100 * (row.value.high - row.value.value) for row in points]
    colour = COLOURS[place % len(COLOURS)]
    axes.errorbar(
        [row.cost(cost) for row in points],
        values,
        yerr=[[max(0.0, x) for x in below], [max(0.0, x) for x in above]],
        color=colour,
        marker=SHAPES[place % len(SHAPES)],
        markersize=6,
        markerfacecolor="white" if oracle else colour,
        linestyle="--" if oracle else "-",
        linewidth=1.5,
        elinewidth=1,
        capsize=3,
        label=_plain(strategy) + (" (coverage: with an oracle)" if oracle else ""),
    )


def _axes(axes: Any, shown: Sequence[Row], cost: str, title: str) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    costs = [row.cost(cost) for row in shown]
    # Under two decades the powers of ten alone would leave an axis of one label or none.
    narrow = max(costs) / min(costs) < 100
    axes.set_xlim(min(costs) / 1.3, max(costs) * 1.3)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if narrow else (1.0,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.12g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    kinds = sorted({row.measure for row in shown})
    axes.set_ylabel(f"{' / '.join(kinds)} (%)")
    unit = "s" if cost == "seconds" else cost.replace("_", " ")
    name = "new tokens" if cost == "tokens" else unit
    axes.set_xlabel(f"{name} per question, mean (log scale)")
    axes.set_title(_plain(title or f"{shown[0].task}, {shown[0].split} split"))
    axes.grid(True, which="major", linewidth=0.5, alpha=0.4)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)


def _plain(text: str) -> str:
    """Text shown as it is: `$` would begin a formula, and a leading `_` hide the name."""
    text = " ".join(text.split()).replace("$", r"\$")
    return " " + text if text.startswith("_") else text
