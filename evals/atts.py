"""ATTS: bank files from calibration runs, and reports of the takeover rates that runs achieved.

    reasoning run recipes/countdown_atts_calibrate.yaml
    python -m reasoning.evals.atts bank runs/countdown-atts-calibrate --out runs/atts-bank.json
    reasoning run recipes/calibrated/countdown_atts.yaml
    python -m reasoning.evals.atts report runs/countdown-atts runs/countdown-atts-frozen

A calibration run is an ordinary run of ATTS with an online bank on a split that is not reported
on. A later turn's losses depend on what was handed over before; so of turns after the first only
those go into the file whose chain had all its earlier decisions from a bank and none from a coin.

A report has a row for each turn and one for all: the rate that was achieved, the nominal one with
its 95 % interval from the beta-binomial law, and whether the first lies within the second. By bank
is the rate without the coins of a bank that was too small, and the sizes of the banks that decided.
The law
takes chunks as exchangeable. Those of one problem are alike, so that its interval is too narrow
wherever a bank is not of the question itself; beside it stands an interval of the achieved rate
that resamples problems.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from reasoning.cli import end_with
from reasoning.errors import DataError
from reasoning.evals import markdown, records
from reasoning.evals.statistics import Estimate, paired_ratio
from reasoning.strategies.chains.banks import BankFile
from reasoning.strategies.chains.conformal import Group, interval

SAMPLING = ("temperature", "top_p", "top_k", "min_p")
POLICIES = ("atts", "atts_sync")


@dataclass(frozen=True, slots=True)
class Decision:
    """A decision about a chunk, and the problem it belongs to. p: None where a coin decided."""

    problem: str
    turn: int
    loss: float | None
    p: float | None
    bank: int
    takeover: bool


@dataclass(frozen=True, slots=True)
class Row:
    """Rates of one turn (None: of all). interval: of the nominal rate; over_problems: of the
    achieved one. coin: decisions by a coin. by_bank: takeovers that a bank decided, and sizes: of
    the smallest and of the largest such bank (None: no bank decided)."""

    label: str
    turn: int | None
    chunks: int
    takeovers: int
    coin: int
    nominal: float
    interval: tuple[float, float] | None
    over_problems: Estimate
    by_bank: int = 0
    sizes: tuple[int, int] | None = None

    @property
    def rate(self) -> float:
        return self.takeovers / self.chunks

    @property
    def bank_rate(self) -> float | None:
        """The rate of the decisions that no coin made; None where there is none."""
        return None if self.sizes is None else self.by_bank / (self.chunks - self.coin)

    @property
    def within(self) -> bool | None:
        """Whether the achieved rate lies in the nominal one's interval; None where none applies."""
        if self.interval is None:
            return None
        low, high = self.interval
        return low - 1e-12 <= self.rate <= high + 1e-12

    @property
    def name(self) -> str:
        return f"{self.label}, {'all turns' if self.turn is None else f'turn {self.turn}'}"


def chains(record: Mapping[str, Any]) -> Iterator[list[Decision]]:
    """The decisions of a record's chains. A chain's stand together, from turn 0 on."""
    chain: list[Decision] = []
    try:
        for told in record.get("decisions", ()):
            decision = Decision(
                problem=f"{record['problem']}/{record['replicate']}",
                turn=int(told["turn"]),
                loss=told["loss"],
                p=told["p"],
                bank=int(told["bank"]),
                takeover=bool(told["takeover"]),
            )
            if decision.turn == 0 and chain:
                yield chain
                chain = []
            chain.append(decision)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"a record of {record.get('run')!r} holds no ATTS decision: {error}"
        ) from None
    if chain:
        yield chain


def settled(chain: Sequence[Decision]) -> list[Decision]:
    """The first decision, and those before which no coin decided."""
    found: list[Decision] = []
    for decision in chain:
        found.append(decision)
        if decision.p is None:
            break
    return found


def bank(folder: Path, label: str | None = None) -> BankFile:
    """The bank file of a calibration run. label: of one of several ATTS configurations.

    Raises DataError when the run holds none of ATTS, or more than one.
    """
    found = _of_atts(records.current([folder]), ("atts",))
    by_label = {name: made for name, made in found.items() if label in (None, name)}
    if len(by_label) != 1:
        raise DataError(
            f"{folder} holds {len(by_label) or 'no'} configurations of ATTS"
            + (f" named {label!r}" if label else "")
            + f" (there are: {', '.join(found) or 'none'}); choose one with --label"
        )
    (made,) = by_label.values()
    turns: dict[int, list[float | None]] = {}
    for record in made:
        for chain in chains(record):
            for decision in settled(chain):
                turns.setdefault(decision.turn, []).append(decision.loss)
    first = made[0]
    policy, sampling = first["chain_policy"], first["sampling"]
    return BankFile(
        models=_models(folder),
        weights=_weights(folder),
        draft_tokens=policy["draft_tokens"],
        sampling={name: sampling[name] for name in SAMPLING},
        rho=policy["rho"],
        task=first["task"],
        split=first["split"] or "-",
        turns=[turns.get(turn, []) for turn in range(max(turns, default=0) + 1)],
    )


def report(found: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Rows by configuration and turn, the row over all turns last."""
    rows = []
    for label, made in _of_atts(found, POLICIES).items():
        policy = made[0]["chain_policy"]
        rho, kind = float(policy["rho"]), policy.get("bank")  # the baseline has no bank
        if kind == "per_turn" and policy.get("calibration") == "frozen":
            kind = "frozen"
        decisions = [d for record in made for chain in chains(record) for d in chain]
        by_turn: dict[int | None, list[Decision]] = {}
        for decision in decisions:
            by_turn.setdefault(decision.turn, []).append(decision)
        ordered = dict(sorted(by_turn.items(), key=lambda entry: entry[0] or 0))
        for turn, some in {**ordered, None: decisions}.items():
            rows.append(_row(label, turn, some, rho, kind))
    return rows


def _row(
    label: str, turn: int | None, decisions: Sequence[Decision], rho: float, kind: str | None
) -> Row:
    known = kind is not None
    takeovers: Counter[str] = Counter()
    chunks: Counter[str] = Counter()
    for decision in decisions:
        takeovers[decision.problem] += decision.takeover
        chunks[decision.problem] += 1
    problems = sorted(chunks)
    over = paired_ratio([takeovers[p] for p in problems], [chunks[p] for p in problems])
    by_bank = Counter((_bank(d, kind), None if d.p is None else d.bank) for d in decisions)
    groups = [Group(m, n) for (_, n), m in by_bank.items()]
    expected = sum(group.expected(rho) for group in groups) / len(decisions)
    ranked = [d for d in decisions if d.p is not None]
    sizes = [d.bank for d in ranked]
    return Row(
        label=label,
        turn=turn,
        chunks=len(decisions),
        takeovers=sum(takeovers.values()),
        coin=sum(d.p is None for d in decisions) if known else 0,
        nominal=expected if known else rho,
        interval=interval(rho, groups) if known else None,
        over_problems=over,
        by_bank=sum(d.takeover for d in ranked),
        sizes=(min(sizes), max(sizes)) if sizes else None,
    )


def _bank(decision: Decision, kind: str | None) -> Any:
    """What tells banks of one size apart. Coins share nothing.

    Turns of a frozen bank that share losses have one bank: its size tells it from the others.
    """
    if decision.p is None:
        return None
    return {"per_question": decision.problem, "per_turn": decision.turn}.get(kind or "")


def _of_atts(
    found: Iterable[Mapping[str, Any]], names: Sequence[str]
) -> dict[str, list[Mapping[str, Any]]]:
    """Records with decisions of these chain policies, by the configuration's label."""
    made: dict[str, list[Mapping[str, Any]]] = {}
    for record in found:
        if record.get("chain_policy", {}).get("name") in names and record.get("decisions"):
            made.setdefault(record["label"], []).append(record)
    return made


def _models(folder: Path) -> dict[str, str]:
    recipe = _json(folder / "recipe.json")
    models = {role: recipe["models"][role] for role in ("policy", "draft")}
    return {role: m if isinstance(m, str) else m["model"] for role, m in models.items()}


def _weights(folder: Path) -> dict[str, str]:
    models = _json(folder / "run.json")["sittings"][-1]["models"]
    return {r: models[r]["weights"] for r in ("policy", "draft") if "weights" in models.get(r, {})}


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None


def rich_table(rows: Sequence[Row], *, compact: bool = False) -> Table:
    """The rows for a terminal; below them, which lie outside their interval.

    compact: a configuration's name stands at its first row alone.
    """
    outside = "; ".join(row.name for row in rows if row.within is False)
    caption = f"outside their interval: {outside}" if outside else "all rows are within"
    table = Table(caption=Text(caption))
    titles = ("configuration", "turn", "chunks", "coin", "achieved", "nominal", "within?")
    for name in (*titles, "by bank", "bank"):
        table.add_column(name, justify="left" if name == "configuration" else "right")
    for before, row in zip((None, *rows), rows, strict=False):
        low, high = row.interval or (math.nan, math.nan)
        over = row.over_problems
        told = compact and before is not None and before.label == row.label
        table.add_row(
            "" if told else row.label,
            "all" if row.turn is None else str(row.turn),
            str(row.chunks),
            str(row.coin),
            f"{row.rate:.4f} [{over.low:.4f}, {over.high:.4f}]",
            f"{row.nominal:.4f}" + (f" [{low:.4f}, {high:.4f}]" if row.interval else ""),
            {True: "yes", False: "NO", None: "-"}[row.within],
            "-" if row.bank_rate is None else f"{row.bank_rate:.4f}",
            "-" if row.sizes is None else "-".join(map(str, dict.fromkeys(row.sizes))),
        )
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    write = commands.add_parser("bank", help="write a bank file from a calibration run")
    write.add_argument("run", type=Path)
    write.add_argument("--out", type=Path, required=True)
    write.add_argument("--label", help="of the configuration, where the run holds several")
    show = commands.add_parser("report", help="achieved and nominal takeover rates")
    show.add_argument("runs", type=Path, nargs="+")
    show.add_argument("--into", type=Path, help="a Markdown file with markers `atts`")
    given = parser.parse_args(arguments)
    console = Console()
    if given.command == "bank":
        made = bank(given.run, given.label)
        made.save(given.out)
        sizes = ", ".join(str(len(turn)) for turn in made.turns)
        console.print(f"{given.out}: losses by turn: {sizes}", markup=False, highlight=False)
        return
    rows = report(records.current(given.runs))
    if not rows:
        raise DataError("no record holds decisions of ATTS; was `chain_policy: atts` run here?")
    console.print(rich_table(rows))
    if given.into:
        markdown.place(given.into, "atts", rich_table(rows, compact=True), "reasoning.evals.atts")


if __name__ == "__main__":
    end_with(main)
