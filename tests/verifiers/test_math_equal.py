"""Equality of mathematical answers: spelling, exact numbers, algebra, and what must not hang."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasoning.errors import ConfigError
from reasoning.isolation import IsolatedFailure, IsolatedPool, close_shared_pool
from reasoning.problem import Problem
from reasoning.verifiers.math_equal import (
    EqualTo,
    MathCheck,
    equal,
    equal_batch,
    equal_sync,
    groups,
    quick,
)
from reasoning.verifiers.math_text import MAX_ANSWER, canonical, is_word, normalise, number


@pytest.fixture(scope="module")
def pool() -> Iterator[IsolatedPool]:
    with IsolatedPool(workers=2, seconds=20.0) as pool:
        yield pool


@pytest.fixture(scope="module", autouse=True)
def shared_is_closed() -> Iterator[None]:
    yield
    close_shared_pool()


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        (r"18+2\pi", r"$18 + 2\pi$"),
        (r"\frac 59", r"\dfrac{5}{9}"),
        (r"\frac43", r"\tfrac{4}{3}."),
        (r"\frac9{19}", "9/19"),
        (r"\frac{11}{2}", "5.5"),
        (".35625", "0.35625"),
        ("58,500", r"58,\!500"),
        (r"11,\! 111,\! 111,\! 100", "11111111100"),
        (r"\$32,\!348", "32348"),
        (r"\$18.90", "18.9"),
        (r"75^\circ", "75"),
        ("30", r"30^{\circ}"),
        (r"5.4 \text{ cents}", "5.4"),
        (r"864 \mbox{ inches}^2", "864"),
        ("12", r"12^{\text{th}}"),
        (r"1\frac{4}{5}", r"\frac{9}{5}"),
        (r"-1\frac{4}{5}", "-1.8"),
        (r"137 \frac{1}{2}", "137.5"),
        (r"\text{(C)}", "C"),
        (r"\text{(C)}", "(C)"),
        (r"\text{east}", "East"),
        ("2516_8", r"2516_{8}"),
        ("4210_{5}", r"\(4210_5\)"),
        (r"11\sqrt2", r"11\sqrt{2}"),
        (r"8 \pi", r"8\pi"),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\frac{\pi}{2})"),
        (
            r"\begin{pmatrix} -1 & 0 \\ 0 & 1 \end{pmatrix}",
            r"\begin{pmatrix}-1&0\\0&1\end{pmatrix}",
        ),
        ("-5", "−5"),
        ("6", "6."),
    ],
)
def test_equal_by_spelling_or_value(reference: str, answer: str) -> None:
    assert quick(reference, answer) is True
    assert quick(answer, reference) is True


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        (".0000672", "0.000067"),
        (r"\frac{1}{3}", "0.333333"),
        ("204_5", "204_6"),
        (r"\text{east}", "seat"),
        ("Evelyn", "5"),
        ("10", r"\text{No real values}"),
        ("12", "invalid"),
        ("12", ""),
        ("1,200", "1,201"),
        ("3", "1" * (MAX_ANSWER + 1)),
    ],
)
def test_different_without_algebra(reference: str, answer: str) -> None:
    assert quick(reference, answer) is False


@pytest.mark.parametrize(
    ("reference", "answer", "same"),
    [
        ("x=5", "5", True),
        ("2k+2", "2(k+1)", True),
        ("-2,1", "1,-2", True),
        ("3, 5, 7", r"\{7,5,3\}", True),
        ("3, 5, 7", "7", False),
        (r"3 \pm 2 \sqrt{2}", r"3-2\sqrt2, 3+2\sqrt2", True),
        (r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt{3}}", True),
        (r"\begin{pmatrix} 1/5 \\ 8 \end{pmatrix}", r"\begin{pmatrix}0.2\\8\end{pmatrix}", True),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix}12\end{pmatrix}", False),
        ("p - q", "-q+p", True),
        ("p - q", "q - p", False),
        (r"(-\infty, 2) \cup (3, \infty)", r"(3,\infty)\cup(-\infty,2)", True),
        (r"(-\infty, 2] \cup (3, \infty)", r"(3,\infty)\cup(-\infty,2)", False),
        ("(2,4)", "(4,2)", False),
        ("10080", "7!", False),
        ("5040", "7!", True),
        (r"7\pi", r"4\pi", False),
        (r"6.72\times10^{-5}", r"6.7\times10^{-5}", False),
        ("5", r"\frac{", False),
        ("5", r"\dfrac{5", False),
        ("5", "__import__('os').getpid()", False),
    ],
)  # fmt: skip
async def test_algebra(pool: IsolatedPool, reference: str, answer: str, same: bool) -> None:
    assert await equal(reference, answer, pool=pool) is same


@pytest.mark.parametrize(
    "answer",
    [
        "9**9**9**9",
        "9^{9^{9^{9}}}",
        r"\frac{" * 10_000 + "1" + "}{2}" * 10_000,
        r"\frac{" * 90 + "1" + "}{2}" * 90,
        "(" * 450 + "1" + ")" * 450,
        "{" * 900,
        "x" * 10_000_000,
        "10000!!!!",
        r"\sqrt{" * 150,
        "\0\ud800",
        r"\int_0^1 e^{-x^{99}} dx",
        r"(x+1)^{99999}",
    ],
    ids=lambda answer: answer[:16],  # one is ten million characters long
)
async def test_no_answer_hangs_or_passes(answer: str) -> None:
    with IsolatedPool(workers=1, seconds=1.0) as pool:
        await pool.call("reasoning.verifiers.math_symbolic:equal", "1", "1", seconds=60.0)
        begun = time.monotonic()
        try:
            assert await equal("7", answer, pool=pool) is False
        except IsolatedFailure as failure:
            assert failure.reason in ("timeout", "memory", "died")
        assert time.monotonic() - begun < 10.0


async def test_batches_know_what_is_undecided() -> None:
    with IsolatedPool(workers=1, seconds=6.0) as pool:
        await pool.call("reasoning.verifiers.math_symbolic:equal", "1", "1", seconds=60.0)
        pairs = [("5", "5.0"), ("5", "9^{9^{9^{9}}}"), ("x+1", "1+x"), ("x", "y")]
        assert await equal_batch(pairs, pool=pool) == [True, None, True, False]


async def test_groups_report_the_first_of_each(pool: IsolatedPool) -> None:
    answers = ["7", r"\frac{1}{\sqrt{2}}", "7.0", r"\frac{\sqrt{2}}{2}", "x=7", "8", "8"]
    assert await groups(answers, pool=pool) == [0, 1, 0, 1, 0, 5, 5]
    assert await groups([], pool=pool) == []


@given(value=st.fractions(max_denominator=999))
def test_numbers_have_one_canonical_form(value: Fraction) -> None:
    top, bottom = value.numerator, value.denominator
    spellings = [rf"\frac{{{top}}}{{{bottom}}}", f"{top}/{bottom}", rf"\dfrac{{{top}}}{{{bottom}}}"]
    if bottom == 1 and abs(top) >= 1000:
        spellings.append(f"{top:,}")
    assert {canonical(text) for text in spellings} == {str(value)}


@given(value=st.decimals(-1000, 1000, places=4))
def test_decimals_are_exact(value: Any) -> None:
    assert number(normalise(f"{value:f}")) == Fraction(value)


@given(text=st.text(max_size=60))
def test_any_text_has_a_canonical_form(text: str) -> None:
    assert quick(text, text) is True
    normalise(canonical(text))
    is_word(text)


def test_votes_ignore_the_variable_and_the_order_of_a_list() -> None:
    assert canonical("x = 5") == canonical("5.0") == "5"
    assert canonical("7, 5,3") == canonical("3,5,7")
    assert canonical("(7,5)") != canonical("(5,7)")
    assert canonical("58,500") == "58500"
    assert canonical("a=b=c") == "a=b=c"
    assert canonical("1,2)") == "1,2)" and canonical("(1,2") == "(1,2"
    # Equality of an answer with its reference is stricter.
    assert quick("x=5", "y=5") is None


def test_no_division_by_zero() -> None:
    assert number(r"\frac{1}{0}") is None
    assert number("1/0") is None


def test_check_objects(pool: IsolatedPool) -> None:
    check = EqualTo("x+1")
    assert check("1+x") and not check("x")
    assert check.decided("1 + x") is True  # remembered
    assert check.decided("x+1") is True and check.decided("2+x") is None
    assert check.isolated("2 + x")[1] == ("x+1", "2+x")
    assert equal_sync("5", "5.0", pool=pool)


async def test_math_check_rates_chains() -> None:
    problem = Problem(
        id="p",
        messages=({"role": "user", "content": "?"},),
        reference="x+1",
        extract=lambda text: text or None,
    )
    chains: Any = [SimpleNamespace(text=text) for text in ("1+x", "x", "", "9^{9^{9")]
    ratings = await MathCheck().rate(problem, chains, None)
    assert [rating.scores for rating in ratings] == [(1.0,), (0.0,), (0.0,), (0.0,)]
    assert MathCheck.oracle
    with pytest.raises(ConfigError, match="no reference"):
        await MathCheck().rate(
            Problem(id="q", messages=({"role": "user", "content": "?"},)), chains, None
        )


async def test_many_pairs_at_once(pool: IsolatedPool) -> None:
    pairs = [(f"x+{i}", f"{i}+x") for i in range(150)]
    assert await asyncio.wait_for(equal_batch(pairs, pool=pool), 60) == [True] * 150


def test_what_workers_import_is_light() -> None:
    code = (
        "import sys, reasoning.isolated_worker, reasoning.verifiers.math_symbolic\n"
        "import reasoning.evals.countdown.check\n"
        "heavy = {'torch', 'transformers', 'vllm', 'datasets', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
