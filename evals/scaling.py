"""How well a method obeys its budget and profits from it (s1, arXiv 2501.19393, section 3.2).

    python -m reasoning.evals.scaling runs/countdown-budget-forcing

The command reads a run of budget forcing. The length of a chain is its thinking: the tokens before
what ends it, forced ones included, counted in the run's journal. Control is the share of chains
whose thinking keeps to `max_thinking`; rows without one have none. Scaling and performance are
over the run's rows, plain decoding included, which is budget forcing without a limit.
"""

from __future__ import annotations

import argparse
import itertools
import json
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from reasoning.cli import end_with
from reasoning.engines.base import Tokenizer
from reasoning.errors import ConfigError, DataError
from reasoning.evals import markdown, records
from reasoning.evals import table as tables
from reasoning.prompts import closing
from reasoning.recipe import Recipe
from reasoning.solver import engine


def control(lengths: Sequence[float], least: float, most: float) -> float:
    """The share of runs whose length lies in [least, most]."""
    if not lengths:
        raise ConfigError("control needs the length of at least one run")
    return sum(least <= length <= most for length in lengths) / len(lengths)


def scaling(runs: Sequence[tuple[float, float]]) -> float:
    """The mean slope of accuracy over length, of all pairs of runs (length, accuracy) that differ
    in length."""
    ordered = sorted(runs)
    slopes = [(f - e) / (b - a) for (a, e), (b, f) in itertools.combinations(ordered, 2) if b > a]
    if not slopes:
        raise ConfigError("scaling needs two runs of different lengths")
    return sum(slopes) / len(slopes)


def performance(runs: Sequence[tuple[float, float]]) -> float:
    """The best accuracy of any run (length, accuracy)."""
    if not runs:
        raise ConfigError("performance needs at least one run")
    return max(accuracy for _, accuracy in runs)


@dataclass(frozen=True, slots=True)
class Part:
    """A reply of which a chain consists. start: tokens of prompt and chain before it."""

    start: int
    ids: Sequence[int]
    end: str


def thinking(parts: Sequence[Part], tokenizer: Tokenizer, tag: str) -> int:
    """Tokens of a chain before the tag that ends its thinking; all where nothing does.

    A part that came to its cap and goes on has the tag forced behind it.
    """
    for part, _ in itertools.pairwise(parts):
        if part.end == "length":
            return part.start - parts[0].start + len(part.ids)
    last = parts[-1]  # tags in those before were ignored
    size = len(last.ids)
    through = bisect_left(range(size), True, key=lambda k: tag in tokenizer.decode(last.ids[:k]))
    if tag in tokenizer.decode(last.ids[:through]):
        size = max(0, through - len(tokenizer.encode(tag)))
    return last.start - parts[0].start + size


def lengths(folder: Path) -> dict[str, list[int]]:
    """Tokens of thinking of a run's chains, by configuration."""
    try:
        recipe = Recipe(**json.loads((folder / "recipe.json").read_text(encoding="utf-8")))
        lines = (folder / "journal.jsonl").read_bytes().splitlines()
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{folder} is no run of a recipe: {error}") from None
    policy = engine(recipe.models["policy"])
    (problem,) = recipe.build_task().problems(1)
    tag = closing(problem, policy)
    if tag is None:
        raise DataError(f"{folder}: neither its task nor its model says what ends thinking")
    chains: dict[tuple[Any, ...], list[tuple[int, Part]]] = {}
    for place, part in _parts(lines):
        problem_id, configuration, replicate, path, ordinal, kind, index = place
        # Of a sample each index is a chain; a chain that is observed is several streams.
        chain = index if kind == "sample" else 0
        key = (configuration, problem_id, replicate, path, chain)
        chains.setdefault(key, []).append((ordinal, part))
    found: dict[str, list[int]] = {}
    for (configuration, *_), made in chains.items():
        parts = [part for _, part in sorted(made, key=lambda entry: entry[0])]
        found.setdefault(configuration, []).append(thinking(parts, policy.tokenizer, tag))
    return found


def _parts(lines: Sequence[bytes]) -> Iterator[tuple[Sequence[Any], Part]]:
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:  # torn by an interruption
            continue
        asked = entry.get("a") or {}
        if "ids" in entry.get("r", {}) and "context" in asked:
            yield entry["k"], Part(asked["context"], entry["r"]["ids"], entry["r"]["end"])


def table(folder: Path) -> Table:
    """A row for each configuration, the three measures below. Raises DataError for other runs."""
    found = list(records.current([folder]))
    policies: dict[str, Mapping[str, Any]] = {
        record["configuration"]: record["chain_policy"] for record in found
    }
    if not any(policy["name"] == "budget_forcing" for policy in policies.values()):
        raise DataError(f"{folder} holds no budget forcing")
    told, runs, controls = lengths(folder), [], []
    drawn = Table()
    for name in ("strategy", "chains", "thinking", "longest", "limit", "control %", "accuracy %"):
        drawn.add_column(Text(name), justify="left" if name == "strategy" else "right")
    for row in tables.rows(found):
        most, sizes = policies[row.configuration].get("max_thinking"), told[row.configuration]
        kept = control(sizes, 0, most) if isinstance(most, int) else None
        controls += [] if kept is None else [kept]
        mean = sum(sizes) / len(sizes)
        runs.append((mean, row.value.value))
        drawn.add_row(
            Text(tables.printable(row.label)),
            str(len(sizes)),
            f"{mean:.0f}",
            str(max(sizes)),
            str(most or "-"),
            "-" if kept is None else f"{100 * kept:.1f}",
            tables.percent(row.value),
        )
    obeyed = f"control {100 * sum(controls) / len(controls):.1f} %; " if controls else ""
    drawn.caption = Text(
        f"{obeyed}scaling {1e5 * scaling(runs):+.2f} points in 1,000 tokens of thinking; "
        f"performance {100 * performance(runs):.1f} %"
    )
    return drawn


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--into", type=Path, help="a Markdown file with markers `scaling`")
    given = parser.parse_args(arguments)
    drawn = table(given.run)
    Console().print(drawn)
    if given.into:
        markdown.place(given.into, "scaling", drawn, "reasoning.evals.scaling")


if __name__ == "__main__":
    end_with(main)
