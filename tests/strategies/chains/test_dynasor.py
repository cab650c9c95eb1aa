"""Dynasor-CoT and Certaindex against the acceptance facts of their paper (arXiv 2412.20993)."""

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from writing import TAG, Asked, Line, forced, problem, write

from reasoning import Budget
from reasoning.engines.scripted import ScriptedEngine
from reasoning.errors import ConfigError
from reasoning.strategies.chains.dynasor import PROBE, boxed, certainty, entropy

TEXT = "thinking about it all the time " * 20 + f"{TAG}The answer is 5."
TEXTS = [TEXT, f"short{TAG}7", "x" * 300]


def dynasor(**settings: Any) -> dict[str, Any]:
    return {"name": "dynasor", **settings}


def main(text: str = TEXT, seconds: float = 1.0) -> list[Line]:
    return [Line(text, seconds=seconds)]


def five(prompt: str) -> Line:
    return Line("5} is it", seconds=1.0)


@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize("settings", [{}, {"budget": Budget(tokens=400)}, {"max_tokens": 30}])
def test_dynasor_4_6_5_without_k_it_is_plain(n: int, settings: dict[str, Any]) -> None:
    plain, base = write(ScriptedEngine(script=TEXTS), "plain", n, **settings)
    engine = Asked(TEXTS, five)
    ours, solution = write(engine, dynasor(k=None), n, **settings)
    assert ours == plain and engine.probes == []
    assert solution.usage.tokens == base.usage.tokens


@pytest.mark.parametrize("k", [1, 2, 3, 5])
@pytest.mark.parametrize("c", [20, 32, 64])
def test_dynasor_4_6_5_equal_answers_exit_at_the_kth_probe(k: int, c: int) -> None:
    engine = Asked(main(), five)
    (chain,), solution = write(engine, dynasor(k=k, c=c))
    # The k-th probe stood at k * c tokens; it is heard at the end of the chunk beside it.
    assert chain.text == TEXT[: (k + 1) * c] + f"\n{TAG}\n\n\\boxed{{5}}"
    assert chain.done and forced(solution) == ["certain"]
    assert solution.racing  # by which chunk a probe was heard is a matter of time
    around = len("question p\n") + len(PROBE)
    at = [len(prompt) - around for prompt in engine.probes]
    assert at == [c * (i + 1) for i in range(k)]


def test_dynasor_4_6_5_probes_never_enter_the_chain_and_are_charged(tmp_path: Path) -> None:
    answers = iter("5678" * 40)
    engine = Asked(main(), lambda _: Line(f"{next(answers)}}} or so", seconds=1.0))
    (chain,), solution = write(engine, dynasor(k=2), run=tmp_path)
    assert chain.text == TEXT and len(engine.probes) == len(TEXT.partition(TAG)[0]) // 64
    assert solution.usage.probe == len(engine.probes) * len("5} or so$")
    assert solution.usage.tokens == engine.totals.new == len(chain.ids) + solution.usage.probe
    asked = engine.totals.requests
    (again,), replayed = write(engine, dynasor(k=2), run=tmp_path)
    assert engine.totals.requests == asked and again == chain and replayed.usage == solution.usage


@pytest.mark.parametrize(
    ("said", "exits"),
    [
        ("5} now I know", True),  # "no" stands inside words only
        ("5} holding", True),
        ("5} no", False),
        ("5} Wait", False),
        ("5", False),
        ("}", False),
        ("", False),
    ],
)
def test_dynasor_4_6_2_which_probes_count(said: str, exits: bool) -> None:
    _, solution = write(Asked(main(), lambda _: Line(said)), dynasor(k=2))
    assert forced(solution) == (["certain"] if exits else [])


def test_dynasor_4_6_2_equal_is_what_the_task_takes_for_equal() -> None:
    answers = iter(["0.5}", "1/2}"] * 20)
    asked = problem(canonical=lambda answer: {"0.5": "1/2"}.get(answer, answer))
    engine = Asked(main(), lambda _: Line(next(answers)))
    assert forced(write(engine, dynasor(k=3), asked=asked)[1]) == ["certain"]


def test_dynasor_5_4_a_stalled_probe_delays_nothing(tmp_path: Path) -> None:
    stalled = Asked(main(), lambda _: Line("5}", seconds=1e6))
    (chain,), solution = write(stalled, dynasor(k=2), run=tmp_path)
    (plain,), base = write(ScriptedEngine(script=main()))
    assert chain == plain and solution.seconds == base.seconds
    assert stalled.totals.open == 0
    asked = stalled.totals.requests
    (again,), replayed = write(stalled, dynasor(k=2), run=tmp_path)
    assert stalled.totals.requests == asked and again == chain
    assert replayed.usage == solution.usage


@pytest.mark.parametrize("tokens", [1, 63, 64, 65, 90, 130, 200, 2000])
def test_a_budget_is_never_passed(tokens: int) -> None:
    engine = Asked(main(), five)
    (chain,), solution = write(engine, dynasor(k=3), budget=Budget(tokens=tokens), max_tokens=700)
    assert engine.totals.new == solution.usage.tokens <= tokens
    assert TEXT.startswith(chain.text.partition(f"\n{TAG}")[0])


@pytest.mark.parametrize(("effort", "k", "c"), [("mild", 8, 64), ("mid", 3, 64), ("crazy", 2, 32)])
def test_the_public_presets(effort: str, k: int, c: int) -> None:
    from reasoning.strategies.chains.dynasor import Dynasor

    policy = Dynasor(effort=effort)  # type: ignore[arg-type]
    assert (policy.k, policy.c) == (k, c)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"k": 0}, "`k`"),
        ({"c": 0}, "`c`"),
        ({"effort": "high", "k": 3}, "one or the other"),
        ({"effort": "wild"}, "effort"),
        ({"top_p": 0.0}, "top_p"),
        ({"temperature": float("nan")}, "temperature"),
        ({"hesitation": [""]}, "hesitation"),
        ({"inner": "dynasor"}, "another Dynasor"),
    ],
)
def test_bad_settings_are_refused_when_read(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        write(ScriptedEngine(), dynasor(**settings))


def test_the_text_of_a_box() -> None:
    assert boxed(r"\frac{1}{2}} and") == r"\frac{1}{2}"
    assert boxed("5") is None and boxed(" } 5") is None and boxed("{}") is None


@given(st.lists(st.sampled_from("abc"), max_size=12))
def test_certaindex_4_6_3_is_an_entropy_over_classes(answers: list[str]) -> None:
    value = entropy(answers)
    assert 0.0 <= value <= math.log2(max(1, len(set(answers)))) + 1e-12
    assert 0.0 <= certainty(answers) <= 1.0
    if len(answers) > 1:
        assert (certainty(answers) == 1.0) == (len(set(answers)) == 1)


def test_certaindex_4_6_3_by_hand() -> None:
    assert entropy("aabb") == 1.0 and certainty("aabb") == 0.5
    assert entropy("abcd") == 2.0 and certainty("abcd") == 0.0
    assert entropy("") == 0.0 and certainty("a") == 0.0
