"""DEER against the acceptance facts of its paper (arXiv 2504.15895)."""

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from writing import TAG, Asked, Line, forced, problem, write

from reasoning import Budget
from reasoning.engines.base import Capabilities
from reasoning.engines.scripted import ScriptedEngine
from reasoning.errors import CapabilityError, ConfigError
from reasoning.strategies.chains.deer import PRO, lowered, mean_probability

TEXT = f"one is 5.\n\nWait, two is 6.\n\nWait, three is 7.\n\nHmm, so 7.{TAG}7"
TEXTS = [TEXT, f"at once{TAG}1", "Wait", "Wait, Waiting" * 9]


def sure(prompt: str) -> Line:
    return Line("7} and more", logprob=-0.001)


def unsure(prompt: str) -> Line:
    return Line("7} and more", logprob=-1.0)


def deer(**settings: Any) -> dict[str, Any]:
    return {"name": "deer", **settings}


@pytest.mark.parametrize("threshold", [1.0, 1.5])
@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize("settings", [{}, {"budget": Budget(tokens=150)}, {"max_tokens": 30}])
def test_deer_4_5_5_a_threshold_of_one_is_plain(
    threshold: float, n: int, settings: dict[str, Any]
) -> None:
    plain, base = write(ScriptedEngine(script=TEXTS), "plain", n, **settings)
    engine = Asked(TEXTS, sure)
    ours, solution = write(engine, deer(threshold=threshold), n, **settings)
    assert ours == plain and engine.probes == []
    assert solution.usage.tokens == base.usage.tokens


def test_deer_4_5_5_a_negative_threshold_exits_at_the_first_transition() -> None:
    engine = Asked([TEXT], unsure)
    (chain,), solution = write(engine, deer(threshold=-0.1))
    assert forced(solution) == ["confident"] and len(engine.probes) == 1
    thinking = chain.text.partition(TAG)[0]
    assert thinking == "one is 5.\n\n" and chain.text.count(TAG) >= 1


def test_an_exit_never_passes_the_cap_of_a_chain() -> None:
    exits = {}
    for most in range(11, 30):
        (chain,), solution = write(Asked([TEXT], sure), deer(threshold=-1.0), max_tokens=most)
        exits[most] = forced(solution) == ["confident"]
        assert len(chain.ids) <= most
    # As soon as the exit and a token of the answer have room, it is taken.
    assert next(most for most in exits if exits[most]) == len(f"one is 5.\n\n{TAG}") + 1


@pytest.mark.parametrize("says", [sure, unsure])
def test_deer_4_5_5_a_trial_never_remains_and_the_thinking_is_a_prefix(says: Any) -> None:
    engine = Asked([TEXT], says)
    (chain,), solution = write(engine, deer())
    assert "Final Answer" not in chain.text and "boxed" not in chain.text
    assert engine.probes[0].endswith("one is 5.\n\n\n**Final Answer**\n\\boxed{")
    assert TEXT.startswith(chain.text.partition(TAG)[0])
    if says is unsure:
        assert chain.text == TEXT and len(engine.probes) == 2
    # Token ledger (5.3): what was decoded is what was charged, and trials are told apart.
    assert solution.usage.tokens == engine.totals.new
    assert solution.usage.probe == len(engine.probes) * len("7}")
    kept = len(chain.ids) - sum(len(e.data["ids"]) for e in solution.trace.of("force"))
    assert solution.usage.tokens == kept + solution.usage.discarded + solution.usage.probe


def test_deer_4_5_1_exits_where_the_confidence_passes_the_threshold() -> None:
    def later(prompt: str) -> Line:
        return sure(prompt) if "two" in prompt else unsure(prompt)

    (chain,), _ = write(Asked([TEXT], later), deer())
    assert chain.text.partition(TAG)[0] == "one is 5.\n\nWait, two is 6.\n\n"


@given(st.lists(st.floats(-9, 0), max_size=9))
def test_deer_4_5_5_confidence_is_a_share_and_geometric_is_not_above_arithmetic(
    values: list[float],
) -> None:
    low = mean_probability(values, geometric=True)
    high = mean_probability(values, geometric=False)
    assert 0.0 <= low <= high <= 1.0


def test_deer_4_5_2_the_first_token_is_left_out_and_no_token_is_no_confidence() -> None:
    half = [math.log(0.5), math.log(0.125)]
    assert mean_probability(half, geometric=True) == pytest.approx(0.25)
    assert mean_probability(half, geometric=False) == pytest.approx(0.3125)
    for single in ("}", ""):  # one token, or EOS alone: nothing is left
        engine = Asked([TEXT], lambda _, text=single: Line(text, logprob=0.0))
        (chain,), _ = write(engine, deer(threshold=0.0))
        assert chain.text == TEXT


def test_log_probabilities_that_are_no_numbers_never_stop_a_chain() -> None:
    (chain,), _ = write(Asked([TEXT], lambda _: Line("77}", logprob=math.nan)), deer(threshold=0.0))
    assert chain.text == TEXT


def test_deer_4_5_2_a_trial_that_must_close_the_thinking() -> None:
    def closes(prompt: str) -> Line:
        return Line(f"7}}{TAG}", logprob=-0.001)

    assert forced(write(Asked([TEXT], closes), deer(trial_closes=True))[1]) == ["confident"]
    assert forced(write(Asked([TEXT], sure), deer(trial_closes=True))[1]) == []


SHARES = st.lists(st.floats(0, 1), min_size=1, max_size=6)


@given(SHARES, st.floats(0, 3), st.sampled_from(["mean", "median"]))
def test_deer_4_5_3_pro_lowers_the_mean_by_the_deviation(
    values: list[float], alpha: float, deviation: Any
) -> None:
    confidence = lowered(values, alpha, deviation)
    assert 0.0 <= confidence <= max(values) + 1e-12
    assert (
        confidence
        <= lowered(values, 0.0) + 1e-12
        == pytest.approx(math.fsum(values) / len(values), abs=1e-9)
    )
    assert lowered(values[:1], alpha, deviation) == pytest.approx(values[0])


def test_deer_4_5_3_pro_by_hand() -> None:
    values = [0.9, 0.9, 0.9, 0.5]  # mean 0.8; deviations from it 0.1, 0.1, 0.1, 0.3
    assert lowered(values, 1.0) == pytest.approx(0.8 - 0.15)
    assert lowered(values, 2.0) == pytest.approx(0.8 - 0.30)
    assert lowered(values, 1.0, "median") == pytest.approx(0.8)
    assert lowered([1.0, 0.0, 0.0, 0.0], 1.0) == 0.0


def one_unsure(prompt: str) -> Line:
    return unsure(prompt) if prompt.endswith(PRO[1]) else sure(prompt)


def test_deer_4_5_3_pro_tries_by_four_inducers_and_doubts_where_they_differ() -> None:
    engine = Asked([TEXT], sure)
    (chain,), solution = write(engine, deer(inducers="pro"))
    assert chain.text.partition(TAG)[0] == "one is 5.\n\n"
    before = {probe.removeprefix("question p\n") for probe in engine.probes}
    assert before == {f"one is 5.\n\n{inducer}" for inducer in PRO}
    assert solution.usage.probe == len(PRO) * len("7}")
    assert solution.usage.tokens == engine.totals.new
    doubted = Asked([TEXT], one_unsure)
    (chain,), solution = write(doubted, deer(inducers="pro"))
    assert chain.text == TEXT and len(doubted.probes) == 2 * len(PRO)
    # The mean of 0.999, 0.999, 0.999 and 0.368 is 0.84, and its MAD 0.24.
    for alpha, exits in ((0.0, True), (1.0, False)):
        spec = deer(inducers="pro", threshold=0.7, alpha=alpha)
        assert bool(forced(write(Asked([TEXT], one_unsure), spec)[1])) == exits


def test_deer_4_5_3_pro_judges_so_often_and_no_more() -> None:
    engine = Asked(["Wait, no. " * 15 + TAG], unsure)
    write(engine, deer(inducers="pro", trials=3))
    assert len(engine.probes) == 3 * len(PRO)


def test_deer_pro_needs_inducers_of_its_own_where_answers_have_a_line() -> None:
    asked = problem(closing="answer ", step="\n")
    engine = Asked(["1\nwait 2\nanswer 1\n"], sure, mark="answer ")
    with pytest.raises(ConfigError, match="inducers"):
        write(engine, deer(inducers="pro", words=["wait"]), asked=asked)
    assert engine.totals.requests == 0
    two = ["answer ", "so\nanswer "]
    write(engine, deer(inducers=two, words=["wait"]), asked=asked)
    # The third is the chain itself, which goes on behind its closing.
    assert [probe.split("1\n", 1)[1] for probe in engine.probes] == [*two, "answer "]


@pytest.mark.parametrize("tokens", [12, 20, 26, 40, 80])
def test_deer_pro_keeps_to_a_budget_and_replays(tokens: int, tmp_path: Path) -> None:
    engine, results = Asked([TEXT], one_unsure), []
    for _ in range(2):
        spec = deer(inducers="pro")
        chains, solution = write(engine, spec, run=tmp_path, budget=Budget(tokens=tokens))
        results.append((chains, solution.usage, solution.status))
    assert engine.totals.new == solution.usage.tokens <= tokens
    assert results[0] == results[1] and TEXT.startswith(chains[0].text)


def test_deer_4_5_3_a_share_of_the_room_for_thinking_is_budget_forcing_around_it() -> None:
    """The share of 0.6 to 0.9 is no setting of DEER's: it is composed."""
    share = int(0.6 * 100)
    spec = {"name": "budget_forcing", "max_thinking": share, "inner": deer(threshold=0.95)}
    text = "one. Wait, two. Wait, three, and on and on and on and on and on"
    (chain,), solution = write(Asked([text], unsure), spec, max_tokens=100)
    assert solution.usage.probe > 0 and forced(solution) == ["max"]
    assert len(chain.text.partition(TAG)[0].rstrip("\n")) <= share
    (_,), exits = write(Asked([text], sure), spec, max_tokens=100)
    assert forced(exits) == ["confident"]


@pytest.mark.parametrize("most", [1, 3, 10])
def test_deer_4_5_3_so_many_judgements_and_no_more(most: int) -> None:
    text = "Wait, no. " * 15 + TAG
    engine = Asked([text], unsure)
    (chain,), _ = write(engine, deer(trials=most))
    assert len(engine.probes) == most and chain.text == text


def test_other_words_are_transitions_too() -> None:
    engine = Asked([TEXT], unsure)
    write(engine, deer(words=["Wait", "Hmm"]))
    assert len(engine.probes) == 3


def test_the_entropy_variant_asks_where_the_next_token_is_open() -> None:
    certain, open_ = (-1e-9, -30.0), (math.log(0.5), math.log(0.5))
    first = TEXT.index("Wait")
    tops = (certain,) * first + (open_,) + (certain,) * 400
    engine = Asked([Line(TEXT, tops=tops)], sure)
    (chain,), solution = write(engine, deer(entropy=0.6))
    assert forced(solution) == ["confident"] and len(engine.probes) == 1
    assert chain.text.partition(TAG)[0] == "one is 5.\n\n"
    never = Asked([Line(TEXT, tops=tops)], sure)
    (chain,), _ = write(never, deer(entropy=0.7))
    assert chain.text == TEXT and never.probes == []


def test_a_task_with_an_answer_line_of_its_own() -> None:
    trace = "1+2=3 : 3 4\nwait 1 2 4\n1*2=2 : 2 4\nanswer 1\n"
    asked = problem(closing="answer ", step="\n")
    engine = Asked([trace], lambda _: Line("9+9\n", logprob=-0.01), mark="answer ")
    (chain,), _ = write(engine, deer(words=["wait"]), asked=asked)
    assert chain.text.startswith("1+2=3 : 3 4\nanswer ") and "wait" not in chain.text


@pytest.mark.parametrize("tokens", [1, 12, 13, 20, 40, 60, 100])
def test_a_budget_is_never_passed(tokens: int) -> None:
    engine = Asked([TEXT], unsure)
    (chain,), solution = write(engine, deer(), budget=Budget(tokens=tokens))
    assert engine.totals.new == solution.usage.tokens <= tokens
    assert TEXT.startswith(chain.text)


def test_a_run_replays_as_it_went(tmp_path: Path) -> None:
    engine = Asked(TEXTS, lambda p: sure(p) if "two" in p else unsure(p))
    first, one = write(engine, deer(), 4, run=tmp_path)
    asked = engine.totals.requests
    again, two = write(engine, deer(), 4, run=tmp_path)
    assert engine.totals.requests == asked and again == first and one.usage == two.usage


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"threshold": float("nan")}, "threshold"),
        ({"threshold": 3.0}, "threshold"),
        ({"words": []}, "words"),
        ({"trials": 0}, "trials"),
        ({"entropy": -1.0}, "entropy"),
        ({"confidence": "avg3"}, "confidence"),
        ({"inducers": []}, "inducers"),
        ({"inducers": [""]}, "inducers"),
        ({"inducers": "best"}, "inducers"),
        ({"alpha": -1.0}, "alpha"),
        ({"deviation": "standard"}, "deviation"),
    ],
)
def test_bad_settings_are_refused_when_read(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        write(ScriptedEngine(), deer(**settings))


def test_an_engine_without_log_probabilities_is_refused_before_anything_is_spent() -> None:
    engine = ScriptedEngine(capabilities=Capabilities(logprobs=False))
    with pytest.raises(CapabilityError, match="logprobs"):
        write(engine, deer())
    with pytest.raises(CapabilityError, match="logprobs"):
        write(engine, {"name": "budget_forcing", "max_thinking": 3, "inner": "deer"})
    assert engine.totals.requests == 0
