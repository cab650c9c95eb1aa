"""What cutting the thinking of recorded chains saves, and what it costs in accuracy.

    python -m reasoning.evals.trimming recipes/transcripts_trimming_tune.yaml --choose 1.7
    python -m reasoning.evals.trimming recipes/transcripts_trimming.yaml

Settings are chosen on the half `tune`, and reported on the other.

Runs a recipe of the `transcripts` task in memory. Every chain is compared with itself as it was
recorded. Chains whose recording came to no answer are told apart from the others: to cut them is
no merit. What is saved is net of what probes decoded. Intervals resample questions.

Characters are counted, and tokens of a named tokenizer that stands in for the model's own, which
the recording does not have: Mistral's Tekken, as the package mistral_common ships it; where that
is not installed there is no such column.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from reasoning.cli import end_with
from reasoning.errors import ConfigError
from reasoning.evals import markdown
from reasoning.evals.grading import Outcome, grade
from reasoning.evals.statistics import Estimate, Floats, bootstrap_means, percentile
from reasoning.evals.transcripts import Transcripts, samples
from reasoning.problem import Problem
from reasoning.recipe import Recipe
from reasoning.runner import Job, Runner
from reasoning.session import Session

NO_ANSWER = "invalid"  # what the recording says of a chain without an answer
TEKKEN = "tekken_240911.json"
PATIENCE = 60.0  # seconds for one grade: a busy machine must not make a right answer wrong
CAVEAT = (
    "a recorded chain can be cut, not changed: what is put behind a cut, and what a probe asks, is "
    "answered with the last answer that the recording states before it; savings are net of probes"
)
KINDS = ("all", "with answer", "without answer")


@dataclass(frozen=True, slots=True)
class Written:
    """One chain under one policy. characters, tokens: of its text and of its probes; tokens are 0
    without a tokenizer. acted: whether a rule ended its thinking. answered: whether the recording
    came to an answer."""

    problem: str
    label: str
    right: bool
    characters: float
    tokens: float
    acted: bool
    answered: bool


async def written(recipe: Recipe, task: Transcripts, count: Callable[[str], int]) -> list[Written]:
    """All chains of all configurations, graded; the first configuration is plain decoding."""
    problems = {problem.id: problem for problem in task.problems(recipe.count)}
    configurations = recipe.configurations()
    answered = await asyncio.to_thread(_answered, task.recording)
    lanes = [
        [Job(problem, configuration, seed) for configuration in configurations]
        for seed in recipe.seeds
        for problem in problems.values()
    ]
    count = functools.cache(count)  # a chain that no policy cuts is one text for all of them
    grades: dict[tuple[str, str | None], bool] = {}
    recorded: dict[tuple[str, int], str] = {}
    found = []
    session = Session()
    try:
        runner = Runner(session, in_flight=recipe.in_flight)
        async for job, solution in runner.solve_all(lanes):
            if solution.status != "ok":
                raise ConfigError(f"{job.problem.id}: {solution.status}: {solution.error}")
            key = (solution.problem, solution.answer)
            if key not in grades:
                grades[key] = await _right(problems[solution.problem], solution.answer)
            base = recorded.setdefault((job.problem.id, job.replicate), solution.text)
            size, tokens = len(solution.text), count(solution.text)
            probes = solution.usage.probe
            found.append(
                Written(
                    problem=solution.problem,
                    label=job.configuration.label,
                    right=grades[key],
                    characters=size + probes,
                    tokens=tokens + probes * tokens / max(1, size),
                    acted=any(True for _ in solution.trace.of("force")),
                    answered=answered[base],
                )
            )
        return found
    finally:
        await session.close()


@dataclass(frozen=True, slots=True)
class Row:
    """A policy on one kind of chains. accuracy, difference: shares of chains; characters, tokens:
    ratios to the chains as recorded."""

    label: str
    kind: str
    chains: int
    acted: float
    accuracy: Estimate
    difference: Estimate
    characters: Estimate
    tokens: Estimate


def rows(chains: Sequence[Written]) -> list[Row]:
    """Rows in the order of labels, of each kind; the first label is the baseline."""
    labels = list(dict.fromkeys(chain.label for chain in chains))
    made = []
    for kind in KINDS:
        ours = [c for c in chains if kind == "all" or c.answered == (kind == "with answer")]
        base = [chain for chain in ours if chain.label == labels[0]]
        problems = sorted({chain.problem for chain in base})
        for label in labels if base else []:
            mine = [chain for chain in ours if chain.label == label]
            made.append(_row(label, kind, mine, base, problems))
    return made


def _row(
    label: str, kind: str, mine: list[Written], base: list[Written], problems: list[str]
) -> Row:
    def totals(chains: list[Written], value: Callable[[Written], float]) -> Floats:
        sums = dict.fromkeys(problems, 0.0)
        for chain in chains:
            sums[chain.problem] += value(chain)
        return np.array(list(sums.values()))

    right, was = totals(mine, lambda c: c.right), totals(base, lambda c: c.right)
    n = totals(base, lambda c: 1.0)

    def ratio(top: Floats, bottom: Floats) -> Estimate:
        """Of sums: a question counts with as many chains as it has of this kind."""
        if not bottom.sum():
            return Estimate(np.nan, np.nan, np.nan)
        drawn = bootstrap_means(np.stack([top, bottom], axis=1))
        values = np.divide(
            drawn[:, 0], drawn[:, 1], out=np.full(len(drawn), np.nan), where=drawn[:, 1] > 0
        )
        return percentile(float(top.sum() / bottom.sum()), values)

    return Row(
        label=label,
        kind=kind,
        chains=len(mine),
        acted=sum(chain.acted for chain in mine) / len(mine),
        accuracy=ratio(right, n),
        difference=ratio(right - was, n),
        characters=ratio(
            totals(mine, lambda c: c.characters), totals(base, lambda c: c.characters)
        ),
        tokens=ratio(totals(mine, lambda c: c.tokens), totals(base, lambda c: c.tokens)),
    )


def chosen(made: Sequence[Row], points: float) -> Row:
    """Of all chains: the policy that saves the most characters among those that lose at most so
    many percentage points of accuracy. The baseline loses none, so that there is always one."""
    able = [row for row in made if row.kind == "all" and row.difference.value >= -points / 100]
    return min(able, key=lambda row: row.characters.value)


def table(made: Sequence[Row], title: str) -> Table:
    """For a terminal. Savings are 1 - ratio, in percent; differences are percentage points."""
    shown = Table(title=title, caption=CAVEAT)
    for name in (
        "policy",
        "chains",
        "n",
        "cut %",
        "accuracy % [95 %]",
        "difference [95 %]",
        "characters % [95 %]",
        "tokens % [95 %]",
    ):
        shown.add_column(name, justify="left" if name in ("policy", "chains") else "right")
    for row in made:
        shown.add_row(
            row.label,
            row.kind,
            f"{row.chains:,}",
            f"{100 * row.acted:.1f}",
            _percent(row.accuracy),
            _percent(row.difference, "+"),
            _percent(row.characters, "+", -1),
            _percent(row.tokens, "+", -1),
        )
    return shown


def _percent(estimate: Estimate, sign: str = "", less: float = 0) -> str:
    value, low, high = (
        100 * (part + less) for part in (estimate.value, estimate.low, estimate.high)
    )
    return "-" if np.isnan(value) else f"{value:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"


def _answered(recording: str) -> dict[str, bool]:
    """Whether a recorded text came to an answer."""
    return {
        "".join(turn["text"] for turn in sample["turns"]): sample["recorded_answer"] != NO_ANSWER
        for sample in samples(recording)
    }


async def _right(problem: Problem, answer: str | None) -> bool:
    given = await grade(problem, answer, seconds=PATIENCE)
    if given.outcome is Outcome.ungradable:
        print(f"{problem.id}: {answer!r} counts as wrong: {given.reason}", file=sys.stderr)
    return given.outcome is Outcome.correct


def tekken() -> Callable[[str], int] | None:
    """Counts tokens of a text by the stand-in tokenizer; None where it is not installed."""
    try:
        import mistral_common
        from mistral_common.tokens.tokenizers.tekken import Tekkenizer
    except ImportError:
        return None
    path = Path(mistral_common.__file__).parent / "data" / TEKKEN
    if not path.is_file():
        return None
    tokenizer = Tekkenizer.from_file(path)
    return lambda text: len(tokenizer.encode(text, bos=False, eos=False))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m reasoning.evals.trimming")
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--half", choices=("tune", "report"), help="in place of the recipe's")
    parser.add_argument(
        "--choose",
        type=float,
        metavar="POINTS",
        help="name the policy that saves the most characters and loses at most so much accuracy",
    )
    parser.add_argument("--into", type=Path, help="a Markdown file with markers `trimming`")
    given = parser.parse_args(arguments)
    recipe = Recipe.load(given.recipe)
    task = recipe.build_task()
    if not isinstance(task, Transcripts):
        raise ConfigError(f"{given.recipe} is no recipe of the task `transcripts`")
    if given.half:
        task = task.model_copy(update={"half": given.half})
    counted = tekken()
    chains = asyncio.run(written(recipe, task, counted or (lambda text: 0)))
    unit = f"tokens: {TEKKEN}" if counted else "tokens: no tokenizer is installed"
    made = rows(chains)
    drawn = table(made, f"transcripts, half {task.half}; {unit}")
    console = Console(width=160)
    console.print(drawn)
    if given.choose is not None:
        best = chosen(made, given.choose).label
        console.print(f"loses at most {given.choose:g} points and saves the most: {best}")
    if given.into:
        markdown.place(given.into, "trimming", drawn, "reasoning.evals.trimming")


if __name__ == "__main__":
    end_with(main)
