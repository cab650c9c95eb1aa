"""Tables: what the configurations of finished runs got right, and what it cost.

A row is a configuration on a task's split. Replicates of a question are averaged first; the
interval is a bootstrap over questions. Everything that is not correct counts as not right:
wrong, ungradable and failed answers alike. Skipped ones were never tried and are left out, and
counted in the line below the table. With an oracle a row says coverage, else accuracy.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pydantic import BaseModel, ValidationError
from rich.box import SIMPLE_HEAD
from rich.console import JustifyMethod
from rich.table import Table
from rich.text import Text

from reasoning.budget import Usage
from reasoning.errors import ConfigError, DataError
from reasoning.evals.statistics import Estimate, mean_interval, paired_difference, paired_ratio
from reasoning.evals.statistics import wilson as wilson_interval
from reasoning.naming import explain
from reasoning.terminal import printable as printable

GRADES = ("correct", "wrong", "ungradable", "failed", "skipped")
COSTS = ("tokens", "verifier_passes", "seconds")
_UNITS = (*Usage._fields, "committed")
UNLIMITED = "unlimited"  # a budget without caps, as text


class Record(BaseModel):
    """What a table reads of a result record; see `records.record` for all of it."""

    run: str
    configuration: str
    label: str
    strategy: str
    budget: str = UNLIMITED
    oracle: bool
    task: str
    split: str | None = None
    problem: str
    replicate: int = 0
    grade: str
    usage: dict[str, float] = {}
    roles: dict[str, dict[str, float]] = {}
    seconds: float = 0.0
    racing: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """One configuration on one split.

    scores: mean over replicates by question id; skipped questions are missing. costs: for each
    cost name the same. value: the mean score with its interval. counts: answers by grade.
    difference, ratios: against the baseline, on the questions both have. racing: another run of
    some answers may differ, because what came first decided.
    """

    run: str
    configuration: str
    label: str
    strategy: str
    budget: str
    task: str
    split: str
    oracle: bool
    scores: Mapping[str, float]
    costs: Mapping[str, Mapping[str, float]]
    value: Estimate
    counts: Counter[str]
    difference: Estimate | None = None
    ratios: Mapping[str, Estimate] = field(default_factory=dict)
    racing: bool = False

    @property
    def measure(self) -> str:
        return "coverage" if self.oracle else "accuracy"

    @property
    def expected(self) -> int:
        return sum(self.counts.values())

    def cost(self, name: str) -> float:
        """Mean cost of a question; NaN where nothing was tried."""
        values = self.costs[name]
        return float(np.mean(list(values.values()))) if values else float("nan")


def rows(
    records: Iterable[Mapping[str, Any]],
    *,
    baseline: str | None = None,
    costs: Sequence[str] = COSTS,
    replicates: int = 10_000,
    seed: int = 0,
) -> list[Row]:
    """Rows in order of first appearance of their labels, the budgets of one ascending.

    baseline: label, or start of the configuration hash, of the row that others are compared
    with; where it was run under several budgets, the one of the same budget.
    costs: "seconds", fields of Usage, "committed" tokens (neither discarded nor probe), and any
    but seconds of one role ("draft.tokens"). Expected is every (question, replicate) that any
    configuration of the same run and split has a record of.
    Raises DataError for a malformed record, ConfigError for a baseline that is not there.
    """
    for name in costs:
        unit = name.rpartition(".")[2]
        if unit not in _UNITS and name != "seconds":
            raise ConfigError(
                f"unknown cost {name!r}: costs are seconds, {', '.join(_UNITS)}, and any but "
                f"seconds of one role, such as draft.tokens"
            )
    groups: dict[tuple[str, str, str, str], dict[tuple[str, int], Record]] = {}
    expected: dict[tuple[str, str, str], set[tuple[str, int]]] = {}
    for place, raw in enumerate(records):
        record = _checked(place, raw)
        where = (record.run, record.task, record.split or "-")
        answer = (record.problem, record.replicate)
        # A record written twice, as by a run cut off between two writes, is one record.
        groups.setdefault((*where, record.configuration), {}).setdefault(answer, record)
        expected.setdefault(where, set()).add(answer)
    made = [
        _row(list(found.values()), len(expected[key[:3]]) - len(found), costs, replicates, seed)
        for key, found in groups.items()
    ]
    labels = list(dict.fromkeys((row.run, row.label) for row in made))
    made.sort(key=lambda row: (labels.index((row.run, row.label)), _natural(row.budget)))
    if baseline is None:
        return made
    return [_compared(row, _baseline(row, made, baseline), costs, replicates, seed) for row in made]


def _natural(text: str) -> list[tuple[float, str]]:
    """A sort key by which tokens=440 comes before tokens=1750."""
    parts = re.split(r"(\d+(?:\.\d+)?)", text)
    return [(float(part), "") if place % 2 else (0.0, part) for place, part in enumerate(parts)]


def totals(made: Sequence[Row]) -> str:
    """The line expected = correct + wrong + ungradable + failed + skipped, over all rows."""
    counts: Counter[str] = sum((row.counts for row in made), Counter())
    parts = " + ".join(f"{counts[grade]:,} {grade}" for grade in GRADES)
    return f"expected {sum(counts.values()):,} = {parts}"


def header(made: Sequence[Row], costs: Sequence[str] = COSTS) -> list[str]:
    """Column titles that `cells` fills. Costs are means of a question; differences are in
    percentage points. There is a budget column where a row has one."""
    titles = ["strategy", *(["budget"] if _budgeted(made) else []), "split", "n", "measure"]
    titles += ["% [95 %]", *(name.replace("_", " ") for name in costs)]
    if _differs(made):
        titles += ["difference [95 %]", f"{costs[0].replace('_', ' ')} ratio [95 %]"]
    return titles


def cells(row: Row, made: Sequence[Row], costs: Sequence[str] = COSTS) -> list[str]:
    """One of the rows as text, in the columns of `header`; labels as in the record, but
    printable."""
    budget = [] if not _budgeted(made) else ["-" if row.budget == UNLIMITED else row.budget]
    texts = [printable(text) for text in (row.label, *budget, f"{row.task} {row.split}")]
    measure = f"{row.measure}, racing" if row.racing else row.measure
    out = [*texts, f"{len(row.scores):,}", measure]
    out += [percent(row.value), *(_amount(row.cost(name)) for name in costs)]
    if row.difference is not None:
        out += [percent(row.difference, sign="+"), ratio(row.ratios[costs[0]])]
    elif _differs(made):
        out += ["baseline", "1"]
    return out


def rich_table(made: Sequence[Row], *, title: str = "", costs: Sequence[str] = COSTS) -> Table:
    """The table for a terminal: what all rows share stands in the title. Labels come from recipes
    and are shown, never read as markup."""
    titles = header(made, costs)
    lines = [cells(row, made, costs) for row in made]
    words = {"strategy", "budget", "split", "measure"}
    shared = {
        name: column[0]
        for name, column in zip(titles, zip(*lines, strict=True), strict=True)
        if name in {"budget", "split", "measure", "n"} and len(set(column)) == 1
    }
    heading = [printable(title)] if title else []
    heading += [text if name in words else f"{name} = {text}" for name, text in shared.items()]
    caption = f"costs are means of a question; {totals(made)}"
    if "seconds" in costs:
        caption += "; seconds as they passed: chains that rows share are drawn once"
    table = Table(
        title=Text(", ".join(heading)),
        caption=Text(caption),
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    kept = [place for place, name in enumerate(titles) if name not in shared]
    for name in (titles[place] for place in kept):
        # In a narrow terminal labels give way; numbers stay whole, their intervals below them.
        justify: JustifyMethod = "left" if name in words else "right"
        heads = name if name in words else "\n".join(name.replace(" %]", "\xa0%]").split(" "))
        wraps = name in {"strategy", "budget"}
        table.add_column(
            Text(heads),
            justify=justify,
            overflow="fold",
            no_wrap=not wraps,
            min_width=12 if name == "strategy" else None,
        )
    for line in lines:
        table.add_row(*(Text(line[place].replace(" [", "\n[")) for place in kept))
    return table


def percent(estimate: Estimate, sign: str = "") -> str:
    """`41.3 [38.0, 44.6]`, in percent (of differences: percentage points)."""
    low, high = 100 * estimate.low, 100 * estimate.high
    return f"{100 * estimate.value:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"


def ratio(estimate: Estimate) -> str:
    """`0.31 [0.22, 0.40]`, or `-` where the baseline has none of it."""
    if np.isnan(estimate.value):
        return "-"
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def _budgeted(made: Sequence[Row]) -> bool:
    return any(row.budget != UNLIMITED for row in made)


def _differs(made: Sequence[Row]) -> bool:
    return any(row.difference is not None for row in made)


def _checked(place: int, raw: Mapping[str, Any]) -> Record:
    try:
        record = Record(**raw)
    except ValidationError as error:
        raise DataError(f"result record {place + 1}: {explain(error)}") from None
    if record.grade not in GRADES:
        raise DataError(f"result record {place + 1}: unknown grade {record.grade!r}")
    return record


def _row(
    found: list[Record], missing: int, costs: Sequence[str], replicates: int, seed: int
) -> Row:
    first = found[0]
    counts = Counter({grade: 0 for grade in GRADES})
    counts.update(record.grade for record in found)
    counts["skipped"] += missing
    tried = [record for record in found if record.grade != "skipped"]
    scores = _means(tried, lambda record: float(record.grade == "correct"))
    return Row(
        run=first.run,
        configuration=first.configuration,
        label=first.label,
        strategy=first.strategy,
        budget=first.budget,
        task=first.task,
        split=first.split or "-",
        oracle=any(record.oracle for record in found),
        scores=scores,
        costs={name: _means(tried, lambda r, name=name: _cost(r, name)) for name in costs},
        value=_interval(list(scores.values()), replicates, seed),
        counts=counts,
        racing=any(record.racing for record in found),
    )


def _means(records: list[Record], value: Any) -> dict[str, float]:
    """Mean over replicates by question, in the order of question ids, which pairs the draws."""
    values: dict[str, list[float]] = {}
    for record in sorted(records, key=lambda record: record.problem):
        values.setdefault(record.problem, []).append(value(record))
    return {problem: float(np.mean(found)) for problem, found in values.items()}


def _cost(record: Record, name: str) -> float:
    if name == "seconds":
        return record.seconds
    role, _, unit = name.rpartition(".")
    usage = record.roles.get(role, {}) if role else record.usage
    if unit == "committed":
        return usage.get("tokens", 0.0) - usage.get("discarded", 0.0) - usage.get("probe", 0.0)
    return float(usage.get(unit, 0.0))


def _interval(scores: list[float], replicates: int, seed: int) -> Estimate:
    if not scores:
        return Estimate(float("nan"), float("nan"), float("nan"))
    if min(scores) == max(scores) and scores[0] in (0.0, 1.0):
        # All right or all wrong: a bootstrap would claim certainty.
        return wilson_interval(int(sum(scores)), len(scores))
    return mean_interval(scores, replicates=replicates, seed=seed)


def _baseline(row: Row, made: Sequence[Row], name: str) -> Row:
    there = [r for r in made if (r.task, r.split) == (row.task, row.split)]
    found = [r for r in there if r.label == name or r.configuration.startswith(name)]
    if not found:
        known = ", ".join(sorted({r.label for r in there}))
        raise ConfigError(f"no row {name!r} on {row.task} {row.split}; rows are {known}")
    if row in found:
        return row
    same = [r for r in found if r.budget == row.budget and r.run == row.run]
    same = same or [r for r in found if r.budget == row.budget]
    if len(same) == 1 or len(found) == 1:
        return (same or found)[0]
    raise ConfigError(
        f"{name!r} names {len(found)} rows on {row.task} {row.split}; give the start of a "
        f"configuration hash: {', '.join(r.configuration[:12] for r in found)}"
    )


def _compared(row: Row, base: Row, costs: Sequence[str], replicates: int, seed: int) -> Row:
    if row is base:
        return row
    shared = [problem for problem in row.scores if problem in base.scores]
    if not shared:
        raise ConfigError(f"{row.label!r} and {base.label!r} have no question in common")

    def pair(mine: Mapping[str, float], other: Mapping[str, float]) -> tuple[Any, Any]:
        return [mine[p] for p in shared], [other[p] for p in shared]

    difference = paired_difference(*pair(row.scores, base.scores), replicates=replicates, seed=seed)
    ratios = {
        name: paired_ratio(
            *pair(row.costs[name], base.costs[name]), replicates=replicates, seed=seed
        )
        for name in costs
    }
    values = {name: getattr(row, name) for name in Row.__slots__}
    return Row(**(values | {"difference": difference, "ratios": ratios}))


def _amount(value: float) -> str:
    if np.isnan(value):
        return "-"
    if abs(value) >= 1e7:
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
