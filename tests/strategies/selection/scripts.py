"""What the tests of selection strategies have in common: problems, and chains by their number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from reasoning import Problem, Solution, Solver
from reasoning.engines.scripted import Line, Script, ScriptedEngine
from reasoning.randomness import key, uniform
from reasoning.strategy import Strategy

PRM = {"name": "prm", "model": "prm"}
# Writes 3 times up to 256 tokens about a chain.
IN_WORDS = {"name": "self_evaluation", "model": "policy", "n": 3}
_STEPS = {"step_tokens": 20}
# Settings by which a strategy is done with a problem after a few asks; others need none.
SMALL: dict[str, dict[str, Any]] = {
    "auto": {"candidates": ["majority"]},
    "best_of_n": {"n": 5},
    "weighted": {"n": 5},
    "majority": {"n": 5},
    "first_verified": {"n": 4},
    "adaptive_consistency": {"n": 8},
    "early_stopping": {"n": 9, "window": 3},
    "deep_conf": {"n": 6, "top": 1, "window": 4},
    "deep_conf_online": {"n": 6, "top": 1, "window": 4, "warmup": 2, "at_once": 2},
    "particle_filtering": {"n": 4, **_STEPS},
    "entropic_particle_filtering": {"n": 4, **_STEPS},
    "particle_gibbs": {"n": 4, "iterations": 2, **_STEPS},
    "sequential_revision": {"parallel": 2, "sequential": 3},
    "self_refine": {"rounds": 2},
    "a_star": {"k": 3, **_STEPS},
    "beam": {"n": 4, "beam_width": 2, **_STEPS},
    "lookahead": {"n": 4, "beam_width": 2, **_STEPS},
    "dvts": {"n": 4, "beam_width": 2, **_STEPS},
    "step_best_of_n": {"n": 3, **_STEPS},
    "mcts": {"n": 2, "simulations": 3, **_STEPS},
    "rebase": {"n": 4, **_STEPS},
    "dora": {"n": 4, **_STEPS},
}


def problem(name: str = "p", **settings: Any) -> Problem:
    """Answers stand behind "answer "; steps are lines."""
    return Problem(
        name,
        ({"role": "user", "content": f"question {name}"},),
        extract=lambda text: text.rsplit("answer ", 1)[1].strip() if "answer " in text else None,
        canonical=lambda answer: answer.lower(),
        step="\n",
        **settings,
    )


def line(prompt: str, stream: int) -> Line:
    """A few steps and an answer, as confident as the stream's numbers make it."""
    draws = uniform(stream, range(8))
    steps = "".join(f"step {int(draw * 10)}\n" for draw in draws[: 2 + stream % 3])
    text = f"{steps}answer {'abc'[stream % 3]}\n"
    return Line(text, tops=tuple((-20 * draw,) for draw in draws))


def line_or_verdict(dots: int) -> Script:
    """`line` for a path; for a question about one a verdict, behind so many dots."""

    def script(prompt: str, stream: int) -> Line:
        if "Question:" not in prompt:
            return line(prompt, stream)
        return Line(f"{'.' * dots} {('Sure', 'Likely', 'Impossible')[stream % 3]}")

    return script


def reward(text: str) -> float:
    """A number in [0, 1) that is a function of the text."""
    return float(uniform(len(text), sum(map(ord, text))))


def numbered(lines: Sequence[str | Line], name: str = "p") -> Script:
    """A script whose n-th chain of problem `name` is lines[n]; the last one goes on for the rest.

    Only the problem's first draw from its bare prompt is told by number.
    """
    keys = {key(0, name, 0, "", ((0, n),) if n else ()): n for n in range(1000)}

    def script(prompt: str, stream: int) -> Line:
        line = lines[min(keys[stream], len(lines) - 1)]
        return line if isinstance(line, Line) else Line(line)

    return script


def solve(
    script: Script | Sequence[str | Line],
    strategy: Strategy | dict[str, Any],
    *,
    rewards: Callable[[str], float] | None = None,
    engine: ScriptedEngine | None = None,
    **settings: Any,
) -> Solution:
    """The problem solved by a script, or by an engine given instead. rewards: of a path's text,
    by the verifier."""
    engine = engine or ScriptedEngine(script=script, rewards=rewards)
    models = {"policy": engine}
    if rewards is not None:
        models["prm"] = engine
        settings = {"verifiers": {"verifier": {"name": "prm", "model": "prm"}}} | settings
    return Solver(models, strategy=strategy, **settings).solve(problem())
