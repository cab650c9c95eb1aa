"""The demo: 50 held-out Countdown problems, solved by the shipped models within a budget.

python -m reasoning.demo [--count 50] [--out runs/demo]
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from reasoning.errors import ReasoningError
from reasoning.evals import experiment, records, table
from reasoning.evals.plot import plot
from reasoning.recipe import BudgetSpec, Recipe, SamplingSpec
from reasoning.solver import (
    SHIPPED_MAX_TOKENS,
    SHIPPED_MODELS,
    SHIPPED_SAMPLING,
    SHIPPED_VERIFIERS,
)


def recipe(count: int) -> Recipe:
    """Single, majority and reward-weighted best-of-N at N = 1, 4, 16, at most 6,000 tokens each."""
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    arguments = parser.parse_args()
    console = Console()
    began = time.monotonic()
    first: list[dict[str, Any]] = []

    def progress(record: dict[str, Any], left: int) -> None:
        if record["grade"] == "correct" and not first:
            first.append(record)
            console.print(
                f"first solved problem after {time.monotonic() - began:.1f} s: "
                f"{record['problem'].replace('=', ' -> ')} by {record['label']}: "
                f"{record['answer']} ({record['usage'].get('tokens', 0)} tokens)",
                markup=False,
                highlight=False,
            )

    summary = experiment.run_sync(
        recipe(arguments.count), arguments.out, progress, "python -m reasoning.demo"
    )
    made = table.rows(records.read([arguments.out]))
    console.print(table.rich_table(made, title="Countdown, held-out problems"))
    console.print(str(summary), highlight=False)
    picture = arguments.out / "accuracy.png"
    plot(made, picture, title="Countdown: accuracy over tokens")
    console.print(f"plot: {picture}; took {time.monotonic() - began:.0f} s", markup=False)
    if summary.interrupted:
        sys.exit(130)


if __name__ == "__main__":
    try:
        main()
    except ReasoningError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
