"""Every search is continued after a kill, and cut by the clock with its best so far."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from reasoning import Budget, Solver
from reasoning.engines.scripted import VirtualTimeLoop
from tests.strategies.search.trees import PROBLEM, WIDTH, TreeEngine, ends_at_depth, noisy, search

SEARCHES: dict[str, dict[str, Any]] = {
    "a_star": {"expand_batch": 2, "speculate": 2, "separators": 2, "step_tokens": 2 * WIDTH},
    "beam": {"n": 4, "beam_width": 2},
    "lookahead": {"n": 4, "beam_width": 2, "lookahead": 2},
    "dvts": {"n": 4, "beam_width": 2, "separators": 2, "step_tokens": 2 * WIDTH},
    "step_best_of_n": {"n": 3},
    "mcts": {"n": 2, "reward": "rollout", "rollouts": 2, "simulations": 3},
    "rebase": {"n": 4},
}


def engine(seconds: float = 0.0) -> TreeEngine:
    return TreeEngine(
        ends_at_depth(4),
        noisy(5),
        most=5,
        depth=4,
        seconds=lambda path: seconds,
    )


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("kept", [0, 3, 8])
def test_a_search_is_continued_in_its_middle(tmp_path: Path, name: str, kept: int) -> None:
    """What a kill left in the journal is replayed, the rest is asked; the result is the same."""
    settings: dict[str, Any] = {"budget": Budget(tokens=150), "run": tmp_path, **SEARCHES[name]}
    whole = search(name, engine(), **settings)
    journal = tmp_path / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    replies = [line for line in lines if line.startswith(b'{"k"')]
    assert len(replies) > 8
    journal.write_bytes(b"".join(replies[:kept]))
    (tmp_path / "replies.sqlite").unlink()
    rest = engine()
    again = search(name, rest, **settings)
    assert (again.text, again.status, again.meta) == (whole.text, whole.status, whole.meta)
    assert again.usage.tokens == whole.usage.tokens
    assert rest.totals.new < whole.usage.tokens or not kept
    replayed = engine()
    assert search(name, replayed, **settings).usage == again.usage
    assert replayed.totals.requests == 0


@pytest.mark.parametrize("name", SEARCHES)
def test_the_clock_leaves_the_best_so_far(name: str) -> None:
    slow = engine(seconds=1.0)
    solver = Solver(
        {"policy": slow, "prm": slow},
        strategy={"name": name, "step_tokens": WIDTH, **SEARCHES[name]},
        verifiers={"verifier": {"name": "prm", "model": "prm"}},
        budget=Budget(seconds=7.5),
        max_tokens=100,
    )
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        found = runner.run(solver.asolve(PROBLEM))
    assert (found.status, found.seconds) == ("deadline", 7.5)
    assert found.usage.tokens == slow.totals.new
    assert found.text
