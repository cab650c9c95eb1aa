"""The demo: 50 held-out Countdown problems, solved by the shipped models within a budget.

python -m reasoning.demo [--count 50] [--out runs/demo]
"""

from __future__ import annotations

import argparse
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasoning.cli import console, end_with, say

if TYPE_CHECKING:
    from reasoning.recipe import Recipe

# What takes long to import is imported where it is used: Ctrl-C may come at once.


def recipe(count: int) -> Recipe:
    """Single, majority and reward-weighted best-of-N at N = 1, 4, 16, at most 6,000 tokens each."""
    from reasoning.recipe import BudgetSpec, Recipe, SamplingSpec
    from reasoning.solver import (
        SHIPPED_MAX_TOKENS,
        SHIPPED_MODELS,
        SHIPPED_SAMPLING,
        SHIPPED_VERIFIERS,
    )

    return Recipe(
        name="demo",
        task={"name": "countdown", "split": "test", "numbers": 4, "count": count},
        models=dict(SHIPPED_MODELS),
        verifiers=dict(SHIPPED_VERIFIERS),
        sampling=[
            SamplingSpec(temperature=SHIPPED_SAMPLING.temperature, max_tokens=SHIPPED_MAX_TOKENS)
        ],
        strategies=[
            "single",
            {"name": "majority", "n": [4, 16]},
            {"name": "weighted", "n": [4, 16]},
        ],
        budgets=[BudgetSpec(tokens=6000)],
    )


def main(given: list[str]) -> None:
    from reasoning.errors import Stopped
    from reasoning.evals import experiment, records, table
    from reasoning.evals.plot import plot

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    arguments = parser.parse_args(given)
    command = shlex.join(["python", "-m", "reasoning.demo", *given])
    began = time.monotonic()
    first: list[dict[str, Any]] = []

    def progress(record: dict[str, Any], left: int) -> None:
        if record["grade"] == "correct" and not first:
            first.append(record)
            say(
                f"first solved problem after {time.monotonic() - began:.1f} s: "
                f"{record['problem'].replace('=', ' -> ')} by {record['label']}: "
                f"{record['answer']} ({record['usage'].get('tokens', 0)} tokens)"
            )

    summary = experiment.run_sync(recipe(arguments.count), arguments.out, progress, command)
    console.print(str(summary), highlight=False)
    if summary.interrupted:
        raise Stopped("interrupted", f"`{command}` continues it")
    made = table.rows(records.current([arguments.out]))
    console.print(table.rich_table(made, title="Countdown, held-out problems"))
    picture = arguments.out / "accuracy.png"
    plot(made, picture, title="Countdown: accuracy over tokens")
    console.print(f"plot: {picture}; took {time.monotonic() - began:.0f} s", markup=False)


if __name__ == "__main__":
    end_with(main)
