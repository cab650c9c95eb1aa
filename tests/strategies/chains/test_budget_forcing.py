"""Budget forcing against the acceptance facts of s1 (arXiv 2501.19393)."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from writing import TAG, Line, forced, problem, write

from reasoning import Budget
from reasoning.engines.scripted import ScriptedEngine
from reasoning.errors import ConfigError
from reasoning.strategies.chains.phases import Closing

THOUGHTS = "first this.\n\nthen that.\n\nand so on"
TEXT = f"{THOUGHTS}{TAG}42"
TEXTS = [TEXT, f"short{TAG}7", "never closes", f"{THOUGHTS}\n{TAG}\n\nlong answer {TAG} again"]


CLOSING = f"\n{TAG}\n\nFinal Answer:"


def policy(**settings: Any) -> dict[str, Any]:
    return {"name": "budget_forcing", **settings}


@pytest.mark.parametrize("n", [1, 3, 8])
@pytest.mark.parametrize("settings", [{}, {"max_tokens": 20}, {"budget": Budget(tokens=90)}])
def test_budget_forcing_4_4_5_without_limits_is_plain(n: int, settings: dict[str, Any]) -> None:
    plain, base = write(ScriptedEngine(script=TEXTS), "plain", n, **settings)
    ours, solution = write(ScriptedEngine(script=TEXTS), policy(), n, **settings)
    assert ours == plain
    assert (solution.status, solution.usage.tokens) == (base.status, base.usage.tokens)


@given(
    most=st.integers(0, 60),
    text=st.sampled_from(TEXTS),
    room=st.none() | st.integers(len(CLOSING) + 1, 120),
)
def test_budget_forcing_4_4_5_thinking_never_passes_the_limit(
    most: int, text: str, room: int | None
) -> None:
    settings = {"max_tokens": room}
    (chain,), solution = write(ScriptedEngine(script=[text]), policy(max_thinking=most), **settings)
    (plain,), _ = write(ScriptedEngine(script=[text]), **settings)
    thinking, _, answer = chain.text.partition(TAG)
    assert len(thinking.removesuffix("\n")) <= most
    own = plain.text.partition(TAG)[0]
    if room is not None:
        assert len(chain.ids) <= room
        most = min(most, room - len(CLOSING) - 1)
    if len(own + TAG) <= most or (TAG not in plain.text and len(own) < most):
        assert chain.text == plain.text and forced(solution) == []
    else:
        # Prefix property (5.2), one end-of-think tag, and the answer that was asked for.
        assert own.startswith(thinking) or own.startswith(thinking.removesuffix("\n"))
        assert chain.text[len(thinking) :].startswith(TAG)
        assert forced(solution) == ["max"]
        assert answer.startswith("\n\nFinal Answer:")
    assert chain.text[: len(thinking) + len(TAG)].count(TAG) <= 1


@pytest.mark.parametrize("behind", range(1, len(TAG)))
def test_budget_forcing_4_4_5_a_tag_that_was_begun_is_completed(behind: int) -> None:
    most = len(THOUGHTS) + behind
    (chain,), _ = write(ScriptedEngine(script=[TEXT]), policy(max_thinking=most))
    assert chain.text.startswith(f"{THOUGHTS}{TAG}\n\nFinal Answer:")
    assert chain.text.count(TAG) == 1


@pytest.mark.parametrize("ignored", [0, 1, 2, 4, 6])
def test_budget_forcing_4_4_5_exactly_so_many_ends_are_ignored(ignored: int) -> None:
    always = ("x" * 5 + TAG) * 40
    (chain,), solution = write(
        ScriptedEngine(script=[Line(always)]), policy(n_ignore=ignored), max_tokens=400
    )
    assert chain.text.count("Wait") == ignored == forced(solution).count("wait")
    thinking = chain.text.partition(TAG)[0]
    assert thinking.count("Wait") == ignored and TAG not in thinking
    # What was taken out was decoded, and is charged as discarded.
    assert solution.usage.discarded == ignored * len(TAG)
    assert solution.usage.tokens == len(chain.ids) + ignored * (len(TAG) - len("Wait"))


def test_budget_forcing_4_4_1_an_end_of_the_chain_is_ignored_too() -> None:
    (chain,), solution = write(
        ScriptedEngine(script=[Line("no tag here and more")]), policy(n_ignore=1, wait="!")
    )
    # The script goes on at the chain's length: EOS was its last token, `!` stands in its place.
    assert chain.text == "no tag here and more!" and forced(solution) == ["wait"]


def test_waiting_never_passes_the_limit_either() -> None:
    always = ("x" * 5 + TAG) * 40
    for most in range(40):
        (chain,), _ = write(
            ScriptedEngine(script=[Line(always)]),
            policy(n_ignore=9, max_thinking=most),
            max_tokens=300,
        )
        assert len(chain.text.partition(TAG)[0].rstrip("\n")) <= most


def test_auto_leaves_room_for_the_answer() -> None:
    (chain,), _ = write(
        ScriptedEngine(script=["y" * 1000]), policy(max_thinking="auto"), max_tokens=300
    )
    thinking = chain.text.partition(TAG)[0].rstrip("\n")
    assert len(thinking) == 300 - len(CLOSING) - 100
    assert len(chain.ids) == 300 and chain.finish == "length"


def test_auto_halves_a_room_that_is_small() -> None:
    (chain,), _ = write(
        ScriptedEngine(script=["y" * 1000]), policy(max_thinking="auto"), max_tokens=100
    )
    thinking = chain.text.partition(TAG)[0].rstrip("\n")
    assert len(thinking) == (100 - len(CLOSING) + 1) // 2 and len(chain.ids) == 100


@pytest.mark.parametrize("most", [50, 60, 1000])
def test_a_limit_holds_also_where_the_room_is_tight(most: int) -> None:
    engine = ScriptedEngine(script=["y" * 1000])
    (chain,), solution = write(engine, policy(max_thinking=most), max_tokens=60)
    assert chain.text == "y" * (60 - len(CLOSING) - 1) + CLOSING + "y"
    assert forced(solution) == ["max"]


@pytest.mark.parametrize("most", [5, 60, "auto"])
def test_a_room_too_small_for_the_closing_is_refused_before_it_is_asked(most: Any) -> None:
    engine = ScriptedEngine(script=["y" * 1000])
    with pytest.raises(ConfigError, match="raise max_tokens"):
        write(engine, policy(max_thinking=most), max_tokens=len(CLOSING))
    assert engine.totals.requests == 0


def test_a_task_with_a_word_of_its_own() -> None:
    asked = problem(closing="answer ")
    (chain,), _ = write(
        ScriptedEngine(script=["1+2=3 : 3 4\nwait 1 2 4\n"]), policy(max_thinking=9), asked=asked
    )
    assert chain.text.startswith("1+2=3 : 3\nanswer ")
    # A word begun inside another word is not completed; one begun on its line is.
    word = Closing("answer ")
    assert word.behind("3+4\nwa") == "\nanswer " and word.behind("3+4\nans") == "wer "
    assert word.find("the answer is") == -1 and word.find("so\nanswer 3") == 3


def test_log_probabilities_stay_as_long_as_the_chain() -> None:
    from reasoning import Sampling

    (chain,), _ = write(
        ScriptedEngine(script=[Line(("x" * 5 + TAG) * 9)]),
        policy(n_ignore=2, max_thinking=30),
        sampling=Sampling(logprobs=0),
        max_tokens=120,
    )
    assert len(chain.logprobs) == len(chain.ids)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_thinking": -1}, "max_thinking"),
        ({"n_ignore": -1}, "n_ignore"),
        ({"wait": ""}, "wait"),
        ({"closing": ""}, "closing"),
        ({"inner": "budget_forcing"}, "another BudgetForcing"),
        ({"inner": "nothing"}, "unknown chain_policy"),
    ],
)
def test_bad_settings_are_refused_when_read(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        write(ScriptedEngine(), policy(**settings))


def test_a_chain_whose_thinking_has_no_known_end_is_refused_before_it_is_asked() -> None:
    engine = ScriptedEngine(script=TEXTS)
    with pytest.raises(ConfigError, match="set `closing`"):
        write(engine, policy(max_thinking=3), asked=problem(closing=None))
    assert engine.totals.requests == 0


@pytest.mark.parametrize("tokens", [1, 2, 30, 31, 50, 51, 55, 300])
@pytest.mark.parametrize("n", [1, 3])
def test_a_budget_is_never_passed_and_leaves_what_was_written(tokens: int, n: int) -> None:
    engine = ScriptedEngine(script=[Line(("x" * 5 + TAG) * 9)])
    chains, solution = write(
        engine,
        policy(n_ignore=3, max_thinking=30),
        n,
        budget=Budget(tokens=tokens),
        max_tokens=100,
    )
    assert engine.totals.new == solution.usage.tokens <= tokens
    assert chains and all(chain.ids for chain in chains)
    committed = solution.usage.tokens - solution.usage.discarded - solution.usage.probe
    forced_ids = sum(len(event.data["ids"]) for event in solution.trace.of("force"))
    assert committed == sum(len(chain.ids) for chain in chains) - forced_ids


def test_a_run_replays_as_it_went(tmp_path: Any) -> None:
    engine = ScriptedEngine(script=[Line(("x" * 5 + TAG) * 9), Line(TEXT)])
    settings = {"run": tmp_path, "max_tokens": 100}
    first, one = write(engine, policy(n_ignore=3, max_thinking=30), 4, **settings)
    asked = engine.totals.requests
    again, two = write(engine, policy(n_ignore=3, max_thinking=30), 4, **settings)
    assert engine.totals.requests == asked and again == first
    assert one.usage._replace(reused=0) == two.usage._replace(reused=0)


@pytest.mark.parametrize("settings", [{}, {"max_thinking": 5}, {"n_ignore": 1}])
def test_a_clock_that_ends_before_the_first_token_is_a_deadline(settings: dict[str, Any]) -> None:
    slow = [Line(TEXT, seconds=100.0)]
    _, plain = write(ScriptedEngine(script=slow), "plain", budget=Budget(seconds=0.5))
    _, ours = write(ScriptedEngine(script=slow), policy(**settings), budget=Budget(seconds=0.5))
    assert (ours.status, ours.usage.tokens) == (plain.status, plain.usage.tokens) == ("deadline", 0)
