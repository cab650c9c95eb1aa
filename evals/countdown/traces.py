"""Traces: a search written out line by line, as the models learn to write it.

14 17 75 10 = 50                the prompt
75-10=65 : 14 17 65             an operation and the numbers that are left
65-17=48 : 14 48
48+14=62 : 62
wait 14 17 65                   reflection: the state gone back to
...
answer (14*10)-(75+17)
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from reasoning.evals.countdown.problems import CountdownProblem
from reasoning.evals.countdown.solver import Numbers, combine, moves, reachable

_OPERATION = re.compile(r"^(\d+)([-+*/])(\d+)=(\d+) : (\d+(?: \d+)*)$", re.ASCII)
_WAIT = re.compile(r"^wait (\d+(?: \d+)*)$", re.ASCII)


@dataclass(frozen=True, slots=True)
class Line:
    """A parsed trace line: an operation (a, op, b, result) or a return, and the state after it."""

    state: Numbers
    operation: tuple[int, str, int, int] | None = None


def prompt(numbers: Numbers, target: int) -> str:
    """What stands before the trace, without the newline that ends it."""
    return f"{' '.join(map(str, numbers))} = {target}"


def parse_line(line: str) -> Line | None:
    """A trace line, or None when it is none (an answer line, or malformed)."""
    found = _OPERATION.match(line)
    if found:
        state = tuple(map(int, found[5].split()))
        return Line(state, (int(found[1]), found[2], int(found[3]), int(found[4])))
    found = _WAIT.match(line)
    return Line(tuple(map(int, found[1].split()))) if found else None


def follows(before: Numbers, line: Line, visited: list[Numbers]) -> bool:
    """Whether a line is right: a true operation on the state, or a return to a visited one."""
    if line.operation is None:
        return line.state in visited
    a, op, b, result = line.operation
    return any(
        (x, o, y, r) == (a, op, b, result) and sorted(left) == sorted(line.state)
        for x, o, y, r, left in moves(before)
    )


def write(
    problem: CountdownProblem,
    rng: random.Random,
    *,
    insight: float,
    patience: int,
    slips: float = 0.0,
    claims: float = 0.0,
) -> str:
    """A search trace that ends with an answer: the right one, without slips and claims.

    insight: chance that a move is drawn among those that keep the target in reach; otherwise
    among all. Either way moves whose result is close to the target, or divides it, are likelier:
    a small model learns arithmetic on small numbers long before that on large products.
    patience: dead ends after which every move is insightful, which bounds the length.
    slips, claims: the flaws of a model's own traces, for verifiers to learn from. The chance that
    an operation's result is written wrong; the chance that a dead end is claimed as the answer.
    """
    lines: list[str] = []
    terms = [(n, str(n)) for n in problem.numbers]
    root = list(terms)
    path: list[list[tuple[int, str]]] = [root]
    tried: set[tuple[Numbers, Numbers]] = set()
    dead_ends = 0
    while True:
        terms = path[-1]
        state = tuple(value for value, _ in terms)
        if len(state) == 1:
            if state[0] == problem.target:
                lines.append(f"answer {terms[0][1]}")
                return "\n".join(lines) + "\n"
            if rng.random() < claims:
                lines.append(f"answer {terms[0][1]}")
                return "\n".join(lines) + "\n"
            dead_ends += 1
            back = _level_to_return(path, problem.target, rng, dead_ends > patience)
            del path[back + 1 :]
            lines.append("wait " + " ".join(str(value) for value, _ in path[-1]))
            continue
        sure = dead_ends > patience
        every = list(moves(state))
        options = [m for m in every if sure or (state, m[4]) not in tried] or every
        good = (
            [m for m in options if reachable(m[4], problem.target)]
            if sure or rng.random() < insight
            else []
        )
        a, op, b, result, left = _closest(good or options, problem, rng)
        tried.add((state, left))
        if not sure and rng.random() < slips:
            result = _slipped(result, rng)
        terms = combine(terms, a, op, b, result)
        path.append(terms)
        lines.append(f"{a}{op}{b}={result} : {' '.join(str(value) for value, _ in terms)}")


def _slipped(result: int, rng: random.Random) -> int:
    """Another result, wrong by a small amount or in one digit."""
    if rng.random() < 0.5:
        return result + rng.choice([d for d in (-10, -9, -2, -1, 1, 2, 9, 10) if result + d > 0])
    digits = list(str(result))
    place = rng.randrange(len(digits))
    digits[place] = rng.choice([d for d in "123456789" if d != digits[place]])
    return int("".join(digits))


def _level_to_return(
    path: list[list[tuple[int, str]]], target: int, rng: random.Random, sure: bool
) -> int:
    """The depth to go back to: one level, or further; the deepest promising one when sure."""
    if sure:
        for level in range(len(path) - 2, -1, -1):
            if reachable(tuple(value for value, _ in path[level]), target):
                return level
    level = len(path) - 2
    while level > 0 and rng.random() < 0.5:
        level -= 1
    return level


def _closest(
    options: list[tuple[int, str, int, int, Numbers]],
    problem: CountdownProblem,
    rng: random.Random,
) -> tuple[int, str, int, int, Numbers]:
    """A move by closeness: results near the target, or that divide it, are likelier."""

    def weight(result: int) -> float:
        near = 1.0 / (1.0 + (abs(result - problem.target) / 20) ** 2)
        divides = 0.5 if result > 1 and problem.target % result == 0 else 0.0
        return 0.01 + near + divides

    return rng.choices(options, [weight(option[3]) for option in options])[0]
