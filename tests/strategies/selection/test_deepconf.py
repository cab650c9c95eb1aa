"""DeepConf: facts 6.5.1 to 6.5.12, and what its two strategies do at the edges.

Online against a server: test_deepconf_served.py.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasoning import Budget, Sampling, Solver
from reasoning.engines.base import Capabilities, TokenLogprob
from reasoning.engines.characters import CharacterTokenizer
from reasoning.engines.scripted import Line, ScriptedEngine
from reasoning.errors import CapabilityError, ConfigError, EngineReplyError
from reasoning.strategies.confidence import (
    Group,
    Measure,
    group_confidences,
    threshold,
    token_confidence,
    trace_confidence,
)
from tests.strategies.selection.scripts import numbered, problem, solve

CONFIDENCES = st.lists(st.floats(0.0, 40.0), min_size=1, max_size=60)
WINDOWS = st.integers(1, 70)


def sure(text: str, *confidences: float, **settings: Any) -> Line:
    """A line whose tokens have these confidences (k = 1), the last one for the rest."""
    return Line(text, tops=tuple((-value,) for value in confidences), **settings)


def offline(**settings: Any) -> dict[str, Any]:
    return {"name": "deep_conf", "n": 4, "top": 1, "window": 4, "measure": "mean"} | settings


def online(**settings: Any) -> dict[str, Any]:
    return {
        "name": "deep_conf_online",
        **{"n": 4, "warmup": 2, "top": 1, "window": 4, "at_once": 1, "consensus": None},
    } | settings


class TwoTokens(CharacterTokenizer):
    """Says of itself that its vocabulary has two tokens."""

    vocab_size = 2


# The measures.


@given(st.integers(1, 20), st.integers(1, 5000))
def test_deepconf_6_5_1_uniform_is_ln_v(top: int, vocabulary: int) -> None:
    said = min(top, vocabulary)
    value = TokenLogprob(0.0, dict.fromkeys(range(said), -math.log(vocabulary)))
    assert token_confidence(value, said) == pytest.approx(math.log(vocabulary))


@given(st.lists(st.floats(0.001, 1.0), min_size=1, max_size=40), st.integers(1, 20))
def test_deepconf_6_5_1_never_below_ln_k(masses: list[float], top: int) -> None:
    total = math.fsum(masses)
    told = {token: math.log(mass / total) for token, mass in enumerate(masses)}
    k = min(top, len(masses))
    assert token_confidence(TokenLogprob(0.0, told), k) >= math.log(k) - 1e-9


def test_a_sampled_token_outside_the_top_is_not_counted() -> None:
    assert token_confidence(TokenLogprob(-9.0, {1: -1.0, 2: -2.0, 3: -9.0}), 2) == 1.5


@given(st.floats(0.0, 40.0), st.integers(1, 60), WINDOWS)
def test_deepconf_6_5_2_of_constant_confidence_all_measures_coincide(
    value: float, size: int, window: int
) -> None:
    for measure in Measure:
        assert trace_confidence([value] * size, measure, window) == pytest.approx(value, abs=1e-9)


@given(CONFIDENCES, WINDOWS)
def test_deepconf_6_5_3_lowest_bottom_mean_in_order(values: list[float], window: int) -> None:
    lowest = trace_confidence(values, Measure.lowest, window)
    bottom = trace_confidence(values, Measure.bottom_10, window)
    groups = group_confidences(values, window)
    assert lowest <= bottom + 1e-9 and bottom <= math.fsum(groups) / len(groups) + 1e-9


@given(CONFIDENCES)
def test_deepconf_6_5_4_a_short_trace_is_one_group(values: list[float]) -> None:
    mean = trace_confidence(values, Measure.mean, len(values))
    for measure in (Measure.lowest, Measure.bottom_10, Measure.tail):
        assert trace_confidence(values, measure, len(values) + 3) == pytest.approx(mean, abs=1e-9)
        assert trace_confidence(values, measure, len(values)) == pytest.approx(mean, abs=1e-9)


def test_tails_and_a_trace_without_tokens() -> None:
    values = [float(v) for v in range(20)]
    assert trace_confidence(values, Measure.tail, 4) == 17.5
    assert trace_confidence(values, Measure.tail_10, 4) == 18.5
    # 17 groups: the tenth of them is one.
    assert trace_confidence(values, Measure.bottom_10, 4) == 1.5
    assert all(trace_confidence([], measure, 4) == 0.0 for measure in Measure)


def test_deepconf_6_5_6_thresholds_of_the_warm_up() -> None:
    values = [10 + 0.5 * step for step in range(16)]
    assert threshold(values, 10) == pytest.approx(16.75)
    assert threshold(values, 90) == pytest.approx(10.75)


@given(CONFIDENCES, st.floats(0.1, 100.0), st.floats(0.1, 100.0))
def test_deepconf_6_5_6_keeping_fewer_asks_for_more(
    values: list[float], one: float, other: float
) -> None:
    low, high = threshold(values, min(one, other)), threshold(values, max(one, other))
    assert low >= high - 1e-9
    assert min(values) <= high and low <= max(values)


@given(st.lists(st.floats(0.0, 40.0), min_size=1, max_size=300), st.integers(1, 40))
def test_deepconf_6_5_9_the_running_mean_is_the_direct_one(
    values: list[float], window: int
) -> None:
    group = Group(window)
    for end, value in enumerate(values, 1):
        mean = group.add(value)
        if end < window:
            assert mean is None
        else:
            assert mean == pytest.approx(np.mean(values[end - window : end]), abs=1e-6)


def test_deepconf_6_5_9_rounding_does_not_add_up() -> None:
    """Large values leave a window full of small ones, a thousand times over."""
    group, values = Group(7), [1e6, *([1e-3] * 9)] * 1_000
    for end, value in enumerate(values, 1):
        mean = group.add(value)
        assert mean is None or mean == pytest.approx(math.fsum(values[end - 7 : end]) / 7, abs=1e-6)


def test_what_is_no_number_is_an_error_of_the_engine() -> None:
    for value in (math.nan, -math.inf):
        with pytest.raises(EngineReplyError, match="no numbers"):
            token_confidence(TokenLogprob(0.0, {1: value}), 1)


# Offline.


def test_the_confident_vote_counts() -> None:
    lines = [sure("answer a", 1.0), sure("answer a", 1.1), sure("answer b", 9.0), "answer c"]
    lines[3] = sure("answer c", 0.5)
    assert solve(numbered(lines), offline()).answer == "b"
    # Two votes of 1 are less than one of 9; of all traces alike, majority.
    assert solve(numbered(lines), offline(keep=100)).answer == "b"
    alike = [sure(line.text, 3.0) for line in lines]
    assert solve(numbered(alike), offline(keep=100)).answer == "a"


@pytest.mark.parametrize("seed", range(5))
def test_deepconf_6_5_5_of_equal_weights_keeping_all_is_majority(seed: int) -> None:
    lines = [sure(f"answer {letter}", 2.5) for letter in "aabbbcd"]
    made = {
        name: solve(lines, strategy, seed=seed)
        for name, strategy in (
            ("deep_conf", offline(n=16, keep=100)),
            ("majority", {"name": "majority", "n": 16}),
        )
    }
    assert made["deep_conf"].text == made["majority"].text


def test_ties_at_the_threshold_are_kept_and_traces_without_an_answer_dropped() -> None:
    lines = [sure("no idea", 50.0), *(sure(f"answer {c}", 2.0) for c in "abb")]
    solution = solve(numbered(lines), offline(keep=1))
    assert (solution.answer, solution.meta["kept"]) == ("b", 3)
    assert solve(numbered([sure("no idea", 1.0)]), offline()).answer is None


def test_confidence_that_is_zero_for_all_leaves_a_majority_vote() -> None:
    assert solve(numbered([sure(f"answer {c}", 0.0) for c in "abbb"]), offline()).answer == "b"


# Online.


def steady(text: str, value: float) -> Line:
    return sure(text, value)


def test_deepconf_6_5_7_no_trace_stops_before_a_full_group() -> None:
    lines = [steady("answer a", 5.0), steady("answer a", 5.0), steady("answer bbbb", 1.0)]
    for window in (1, 4, 11):
        engine = ScriptedEngine(script=numbered(lines))
        solution = solve([], online(n=3, window=window, keep=100), engine=engine)
        assert solution.usage.tokens == engine.totals.new == 9 + 9 + window
        assert solution.usage.discarded == window and solution.meta["stopped"] == 1
    # 12 tokens with EOS: a group of 13 never fills, so the trace ends by itself; it does not vote.
    solution = solve(numbered(lines), online(n=3, window=13))
    assert (solution.usage.tokens, solution.meta["stopped"]) == (30, 0)
    assert solution.answer == "a"


def test_deepconf_6_5_8_a_stopped_trace_never_votes() -> None:
    doubtful = Line("answer b" + " " * 20, tops=(*(((-9.0,),) * 10), (-0.1,)))
    lines = [steady("answer a", 5.0), steady("answer a", 5.0), *([doubtful] * 6)]
    solution = solve(numbered(lines), online(n=8))
    assert solution.answer == "a" and solution.meta["stopped"] == 6
    # Without the stop their votes, of nine times the weight, would have won.
    assert solve(numbered(lines), offline(n=8, measure="mean", keep=100)).answer == "b"


@settings(max_examples=25)
@given(st.lists(st.floats(0.1, 20.0), min_size=2, max_size=8), st.floats(0.1, 100.0))
def test_deepconf_6_5_8_the_electorate_is_never_empty(values: list[float], keep: float) -> None:
    lines = [steady("answer a", value) for value in values]
    strategy = online(n=len(values), warmup=len(values), keep=keep)
    assert solve(numbered(lines), strategy).answer == "a"


def test_deepconf_6_5_10_consensus_looks_at_what_has_ended() -> None:
    lines = [steady(f"answer {c}", 5.0) for c in "aabaaaaaaa"]

    def traces(**settings: Any) -> int:
        solution = solve(numbered(lines), online(n=10, keep=100, **settings))
        return int(solution.meta["traces"])

    assert traces(consensus=1.0) == 2  # unanimous after the warm-up
    assert traces(consensus=1.0, warmup=3) == 10  # never again
    assert traces(consensus=0.8, warmup=3) == 5  # 4 of 5
    assert traces(consensus=0.8, warmup=3, at_once=4) == 7
    assert traces(consensus=None) == 10
    assert traces(consensus=0.95, warmup=10) == 10


def test_deepconf_6_5_11_the_same_beginning_is_stopped_at_the_same_token() -> None:
    """What comes after a stop is never looked at: chains that differ there end alike."""
    lines = [steady("answer a", 5.0)] * 2
    tails = ["xxxxxx", "yyyyyyyyyyyyyyyyyyyyyyyyy", ""]
    doubt = tuple((-v,) for v in (5.0, 5.0, 5.0, 5.0, 1.0))
    ends = set()
    for tail in tails:
        engine = ScriptedEngine(script=numbered([*lines, Line("prefix" + tail, tops=doubt)]))
        solution = solve([], online(n=3), engine=engine)
        ends.add(solution.usage.tokens)
    # 5, 5, 5, 5 make the threshold; with the first 1 the group falls below it.
    assert ends == {9 + 9 + 5}


def test_deepconf_6_5_12_an_engine_without_log_probabilities_is_refused_before_it_spends() -> None:
    blind = ScriptedEngine(script=["answer a"], capabilities=Capabilities(logprobs=False))
    for strategy in (offline(), online()):
        with pytest.raises(CapabilityError, match="logprobs"):
            solve([], strategy, engine=blind)
    deaf = ScriptedEngine(script=["answer a"], capabilities=Capabilities(stream=False))
    with pytest.raises(CapabilityError, match="stream"):
        solve([], online(), engine=deaf)
    assert blind.totals.requests == deaf.totals.requests == 0


def test_deepconf_6_5_12_log_probabilities_without_alternatives_do_not_pass_for_any() -> None:
    for strategy in (offline(), online()):
        with pytest.raises(CapabilityError, match="gave none"):
            solve(["answer a"], strategy)


@pytest.mark.parametrize("made", [offline, online])
def test_deepconf_6_5_12_fewer_alternatives_than_asked_for_do_not_pass_for_all(made: Any) -> None:
    line = Line("answer a", tops=((-1.0, -2.0, -3.0), (-1.0, -2.0)))
    with pytest.raises(CapabilityError, match=r"3 likeliest tokens' log-probabilities.* gave 2"):
        solve([line], made(top=3))
    assert solve([line], made(top=2)).answer == "a"
    tiny = ScriptedEngine(script=[line])
    tiny.tokenizer = TwoTokens()
    assert solve([], made(top=3), engine=tiny).answer == "a"


def test_an_engine_that_streams_no_log_probabilities_is_an_error() -> None:
    class Forgetful(ScriptedEngine):
        async def sample(self, request: Any, sink: Any = None) -> Any:
            told = sink and (lambda index, ids, text, _: sink(index, ids, text, ()))
            return await super().sample(request, told)

    engine = Forgetful(script=numbered([steady("answer a", 5.0)]))
    with pytest.raises(CapabilityError, match="0 came with them"):
        solve([], online(), engine=engine)


def test_more_alternatives_than_a_server_gives_are_refused() -> None:
    with pytest.raises(ConfigError, match="top"):
        solve(["x"], offline(top=21))


@pytest.mark.parametrize("made", [offline, online])
@pytest.mark.parametrize("wrong", [{"n": 0}, {"keep": 0}, {"keep": 101}, {"window": 0}])
def test_bad_settings_are_refused(made: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        solve(["x"], made(**wrong))


def test_a_warm_up_longer_than_the_whole_is_refused() -> None:
    with pytest.raises(ConfigError, match="warmup=5 is more than the n=4"):
        solve(["x"], online(warmup=5))


@pytest.mark.parametrize("tokens", [1, 9, 17, 18, 19, 23, 30, 200])
@pytest.mark.parametrize("at_once", [1, 3])
def test_the_budget_is_hard_and_leaves_the_best_so_far(tokens: int, at_once: int) -> None:
    lines = [steady("answer a", 5.0), steady("answer a", 5.0), steady("answer bb", 1.0)]
    engine = ScriptedEngine(script=numbered(lines))
    budget = Budget(tokens=tokens)
    strategy = online(n=5, at_once=at_once)
    solution = solve([], strategy, engine=engine, budget=budget, max_tokens=20)
    assert solution.usage.tokens == engine.totals.new <= tokens
    assert solution.answer == ("a" if tokens >= 9 else None)
    assert solution.status == ("ok" if tokens >= 9 + 9 + 3 * 4 else "budget")


def test_a_run_is_continued_with_the_same_asks(tmp_path: Path) -> None:
    lines = [steady("answer a", 5.0), steady("answer b", 4.0), steady("answer bbbb", 1.0)]
    engine = ScriptedEngine(script=numbered(lines))
    solver = Solver({"policy": engine}, strategy=online(n=6, at_once=2), run=tmp_path)
    first = solver.solve(problem())
    asked = engine.totals.requests
    again = solver.solve(problem())
    assert engine.totals.requests == asked
    assert (again.answer, again.meta, again.usage.tokens) == (
        first.answer,
        first.meta,
        first.usage.tokens,
    )


def test_the_traces_are_those_of_majority_voting() -> None:
    lines = [steady(f"answer {letter}", 3.0) for letter in "abc"]
    engine = ScriptedEngine(script=lines)
    for strategy in (offline(n=6), online(n=6), {"name": "majority", "n": 6}):
        solve([], strategy, engine=engine)
    keys = [s.key for request in engine.totals.log for s in request.streams]
    assert keys[:6] == keys[6:12] == keys[12:]


def test_a_chain_policy_that_changes_chains_is_refused() -> None:
    from reasoning.strategies.chains.plain import Plain

    class Steps(Plain):
        units = frozenset({"step", "chain"})

    with pytest.raises(CapabilityError, match="tokens, which chain policy steps"):
        Solver({"policy": ScriptedEngine()}, strategy=online(), chain_policy=Steps())  # type: ignore[arg-type]


def test_on_the_shipped_model_doubtful_traces_are_stopped() -> None:
    from reasoning.evals.tasks import Countdown

    problems = Countdown(split="dev", numbers=3).problems(1)
    chosen = {"n": 8, "warmup": 4, "window": 8, "top": 5, "keep": 50, "consensus": None}
    solver = Solver(
        {"policy": "local/countdown-policy"},
        strategy={"name": "deep_conf_online", **chosen},
        sampling=Sampling(temperature=1.0),
        max_tokens=120,
    )
    solutions = solver.solve_many(problems)
    assert [s.status for s in solutions] == ["ok"]
    assert sum(s.meta["stopped"] for s in solutions) > 0
    assert all(s.usage.discarded < s.usage.tokens for s in solutions)
