"""Countdown: splits, the exact solver against brute force, the checker, traces, the tokenizer."""

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasoning.evals.countdown import check, data, problems, solver, traces

SPLITS = ("train", "calibrate", "dev", "test")
NUMBERS = st.lists(st.integers(1, 99), min_size=2, max_size=4).map(tuple)


def test_splits_are_disjoint_and_depend_on_nothing_but_the_problem() -> None:
    made = {which: {p.id for p in problems.problems(which, 300, 4)} for which in SPLITS}
    for one, other in itertools.combinations(SPLITS, 2):
        assert not made[one] & made[other]
    problem = next(problems.problems("test", 1, 4))
    assert problems.split(problem.numbers[::-1], problem.target) == "test"
    # Another seed draws other problems of the same split.
    again = {p.id for p in problems.problems("test", 300, 4, seed=1)}
    assert again != made["test"] and not again & made["train"]


def test_training_traces_are_of_their_split() -> None:
    for which in ("train", "calibrate"):
        for prompt, trace in data.traces(which, 200, "0/0", data.MIXTURE):
            numbers, target = prompt.rstrip("\n").split(" = ")
            found = tuple(map(int, numbers.split()))
            assert problems.split(found, int(target)) == which
            answer = check.extract_answer(trace)
            assert answer is not None and check.check(answer, found, int(target))


def test_problems_are_the_same_for_a_seed_and_solvable() -> None:
    first = list(problems.problems("dev", 50, 5))
    assert first == list(problems.problems("dev", 50, 5))
    assert all(solver.reachable(p.numbers, p.target) for p in first)
    assert len({p.id for p in first}) == 50


def brute_force(numbers: tuple[int, ...]) -> set[int]:
    """Every value of every full expression tree, by another road: all splits in two halves."""
    if len(numbers) == 1:
        return set(numbers)
    found: set[int] = set()
    places = range(len(numbers))
    for size in range(1, len(numbers)):
        for left in itertools.combinations(places, size):
            right = [i for i in places if i not in left]
            for a in brute_force(tuple(numbers[i] for i in left)):
                for b in brute_force(tuple(numbers[i] for i in right)):
                    found |= {a + b, a * b} | ({a - b} if a >= b else set())
                    found |= {a // b} if b and a % b == 0 else set()
    return found


@settings(max_examples=60, deadline=None)
@given(NUMBERS)
def test_the_solver_finds_what_brute_force_finds(numbers: tuple[int, ...]) -> None:
    expected = {value for value in brute_force(numbers) if value <= solver.LIMIT}
    assert {value for value in solver.values(numbers) if value <= solver.LIMIT} == expected


@settings(max_examples=100, deadline=None)
@given(NUMBERS, st.integers(0, 200))
def test_a_solution_passes_the_check(numbers: tuple[int, ...], target: int) -> None:
    answer = solver.solve(numbers, target)
    assert (answer is not None) == solver.reachable(numbers, target)
    if answer is not None:
        assert check.check(answer, numbers, target)


# An expression as (text, its numbers, its value; None when a division does not come out even).
Term = tuple[str, tuple[int, ...], int | None]


def joined(parts: tuple[Term, str, Term]) -> Term:
    (left, used, a), op, (right, more, b) = parts
    value = None
    if a is not None and b is not None and op != "/":
        value = {"+": a + b, "-": a - b, "*": a * b}[op]
    elif a is not None and b and a % b == 0:
        value = a // b
    return f"({left}{op}{right})", used + more, value


TERMS = st.recursive(
    st.integers(1, 99).map(lambda n: (str(n), (n,), n)),
    lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(joined),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(TERMS)
def test_the_parser_agrees_with_exact_arithmetic(term: Term) -> None:
    text, numbers, value = term
    if value is None:
        assert not any(check.check(text, numbers, target) for target in range(-100, 200))
    else:
        assert check.check(text, numbers, value)
        assert not check.check(text, numbers, value + 1)
        assert not check.check(text, (*numbers, 1), value)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        " ",
        "()",
        "1+",
        "+1+2",
        "-1+3",
        "1 2",
        "(1+2",
        "1+2)",
        "1+2)(",
        "1**2",
        "1//2",
        "1/0",
        "1+(2/(3-3))",
        "__import__('os').system('id')",
        "1_0+2",
        "１+２",  # full-width digits
        "1e3",
        "0x10",
        "1.0+2",
        "9" * 5000,
        "(" * 5000,
        "(" * 90 + "1+2" + ")" * 90 + "*" * 200,
        "1+2\x00",
        "1=1",
        "9**9**9**9",
        "2+1; 3",
    ],
)
def test_hostile_answers_are_wrong_and_end(answer: str) -> None:
    for target in (0, 1, 2, 3):
        assert not check.check(answer, (1, 2), target)
    check.canonical(answer)
    check.extract_answer(("answer " + answer + "\n") * 20)


@pytest.mark.parametrize(
    ("answer", "numbers", "target", "right"),
    [
        ("(14*10)-(75+17)", (14, 17, 75, 10), 48, True),
        (" ( 7 - 3 ) * 25 - 50 / 50", (7, 3, 25, 50, 50), 99, True),
        ("25+50+7-3", (3, 7, 25, 50), 79, True),
        ("25+50+7", (3, 7, 25, 50), 82, False),  # a number is left over
        ("25+50+7-3+3-3", (3, 7, 25, 50), 79, False),  # a number twice
        ("7/2*2", (7, 2, 2), 7, False),  # a division that does not come out even
        ("1-2+3", (1, 2, 3), 2, True),  # exact integers may pass below zero on the way
    ],
)
def test_every_number_once_and_exact(
    answer: str, numbers: tuple[int, ...], target: int, right: bool
) -> None:
    assert check.check(answer, numbers, target) is right


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(3, 5))
def test_a_trace_reads_back_as_it_was_written(seed: int, count: int) -> None:
    rng = random.Random(seed)
    problem = problems.generate(rng, count)
    text = traces.write(problem, rng, insight=0.6, patience=3)
    *lines, last = text.splitlines()
    state: tuple[int, ...] = problem.numbers
    visited = [state]
    for written in lines:
        line = traces.parse_line(written)
        assert line is not None and traces.follows(state, line, visited), written
        state = line.state
        visited.append(state)
    assert state == (problem.target,)
    answer = check.extract_answer(last + "\n")
    assert answer is not None and check.check(answer, problem.numbers, problem.target)


def test_flaws_are_what_the_solver_calls_them() -> None:
    rng = random.Random(7)
    claimed = slipped = 0
    for _ in range(60):
        problem = problems.generate(rng, 4)
        text = traces.write(problem, rng, insight=0.0, patience=3, claims=1.0)
        # A first dead end is claimed, so nothing is ever gone back on.
        assert "wait" not in text
        answer = check.extract_answer(text)
        assert answer is not None
        last = traces.parse_line(text.splitlines()[-2])
        assert last is not None
        right = check.check(answer, problem.numbers, problem.target)
        assert right == (last.state == (problem.target,))
        claimed += not right
        text = traces.write(problem, rng, insight=0.5, patience=3, slips=0.5)
        state, visited, sound = problem.numbers, [problem.numbers], True
        for written in text.splitlines()[:-1]:
            line = traces.parse_line(written)
            assert line is not None, written
            sound &= traces.follows(state, line, visited)
            state = line.state
            visited.append(state)
        slipped += not sound
    assert claimed > 30 and slipped > 30


@pytest.mark.parametrize(
    ("text", "numbers", "target"),
    [
        ("Use 3, 7, 25, 50 to make 79", (3, 7, 25, 50), 79),
        ("using the numbers 3 7 25 and 50, reach 79", (3, 7, 25, 50), 79),
        ("3 7 25 50 = 79", (3, 7, 25, 50), 79),
        ("From [1, 2, 3] get 6", (1, 2, 3), 6),
    ],
)
def test_free_text_is_read(text: str, numbers: tuple[int, ...], target: int) -> None:
    assert problems.parse_question(text) == problems.CountdownProblem(numbers, target)


@pytest.mark.parametrize(
    "text", ["What is 2+2?", "", "Use 3 to make 3", "use " * 100_000, "use 1,2,3" + " 1" * 900]
)
def test_other_text_is_not_countdown(text: str) -> None:
    assert problems.parse_question(text) is None
