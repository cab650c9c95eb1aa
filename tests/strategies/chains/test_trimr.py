"""TrimR against the acceptance facts of its paper (arXiv 2505.17155)."""

import asyncio
import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from writing import TAG, Judge, Line, YesNo, forced, problem, write

from reasoning import Budget, Solver
from reasoning.engines.base import Capabilities, ChooseReply, EngineUsage
from reasoning.engines.scripted import ScriptedEngine, VirtualTimeLoop
from reasoning.errors import CapabilityError, ConfigError, EngineUnavailable, UnknownName
from reasoning.strategies.chains.answers import NO
from reasoning.strategies.chains.trimr import TrimR

GENTLE = "**Final Answer**\n"


def thoughts(answers: str, size: int = 40) -> str:
    """A thought for each letter: one that states this answer, or none for `-`."""
    parts = []
    for index, letter in enumerate(answers):
        says = "no idea yet" if letter == "-" else f"so the answer is {letter}"
        parts.append(f"{'Wait, ' if index else ''}{'think ' * (size // 6)}. Well, {says}.\n\n")
    return "".join(parts)


def chain_of(answers: str) -> str:
    return thoughts(answers) + f"Hmm, done.{TAG}The answer."


def by_letter(prompt: str) -> float:
    """Reads the prompts as they are meant: an answer is there; both answers are the same."""
    last = prompt.rsplit("Question:", 1)[1]
    said = [part.split(".")[0] for part in last.split("answer is ")[1:]]
    if "Excerpt:" in last:
        return 0.9 if said else 0.1
    return 0.9 if len(said) == 2 and said[0] == said[1] else 0.1


def trimmed(
    text: str, judge: Any = None, *, tokens: bool = False, **policy: Any
) -> tuple[Any, Any, Judge]:
    judge = judge or Judge(by_letter)
    spec = {"name": "trimr", "n_send": 1, "r_thres": 2.0, "repetition": False, **policy}
    engine = ScriptedEngine(script=[Line(text, seconds=1.0)])
    (chain,), solution = write(engine, spec, models={"verifier": judge})
    return chain, solution, judge


@pytest.mark.parametrize(
    "says", [lambda _: 0.0, lambda _: 1.0, lambda _: 0.5, lambda _: math.nan, by_letter]
)
@pytest.mark.parametrize("n", [1, 4])
def test_trimr_1_8_1_with_all_rules_off_it_is_plain_for_any_verifier(says: Any, n: int) -> None:
    texts = [chain_of("AAAA"), chain_of("A-B"), "x" * 400, ""]
    off = {"name": "trimr", "m": None, "r_thres": 1.5, "repetition": False, "n_send": 3}
    plain, base = write(ScriptedEngine(script=texts), "plain", n)
    judge = Judge(says)
    ours, solution = write(ScriptedEngine(script=texts), off, n, models={"verifier": judge})
    assert ours == plain and judge.asked == []
    assert solution.usage.tokens == base.usage.tokens


def test_trimr_1_8_2_a_verifier_that_says_no_leaves_the_forced_stop_only() -> None:
    text = chain_of("A" * 12)
    never, solution, _ = trimmed(text, Judge(lambda _: 0.0), m=1)
    assert never.text == text and forced(solution) == []
    ends = [len(thoughts("A" * k)) for k in range(13)]
    for r_thres, n_thres in ((0.1, 6), (0.6, 2), (0.6, 8)):
        chain, solution, _ = trimmed(
            text, Judge(lambda _: 0.0), m=1, r_thres=r_thres, n_thres=n_thres, budget=len(text)
        )
        assert forced(solution) == ["under"]
        stop = len(chain.text.partition("\nI think I already")[0])
        due = max(r_thres * len(text), ends[n_thres])
        # A thought has ended when the word behind it is known to be whole.
        assert due <= stop <= due + len("Wait,") + 1


class Neither(Judge):
    """Gives no probability to Yes or No, of which more spellings of Yes are one token."""

    def __init__(self) -> None:
        super().__init__(lambda _: math.nan)
        self.tokenizer = _OneNo()

    async def choose(self, prefix_ids: Any, option_ids: Any) -> ChooseReply:
        self.asked.append("")
        shares = (1 / len(option_ids),) * len(option_ids)
        return ChooseReply(shares, 0.0, EngineUsage(prefill=len(prefix_ids)))


class _OneNo(YesNo):
    def encode(self, text: str) -> list[int]:
        return [1, 2] if text in NO[1:] else super().encode(text)


@pytest.mark.parametrize("judge", [Judge(lambda _: math.nan), Neither()], ids=["nan", "neither"])
def test_trimr_1_3_a_verifier_that_says_neither_stops_nothing_and_is_counted(judge: Judge) -> None:
    text = chain_of("A" * 9)
    chain, solution, _ = trimmed(text, judge)
    assert chain.text == text and forced(solution) == []
    assert len(list(solution.trace.of("unclear"))) == len(judge.asked) > 0


@pytest.mark.parametrize("m", [1, 2, 3, 5])
def test_trimr_1_8_3_the_thought_after_m_agreements_is_the_last(m: int) -> None:
    chain, solution, _ = trimmed(chain_of("A" * 9), Judge(lambda _: 1.0), m=m)
    assert forced(solution) == ["over"]
    before = chain.text.partition(GENTLE)[0]
    assert before.startswith(thoughts("A" * (m + 1)))
    assert len(before) <= len(thoughts("A" * (m + 1))) + len("Wait,") + 4


@pytest.mark.parametrize(
    ("answers", "stops"),
    [("AABAA", False), ("AAA", True), ("A-A-A", True), ("AB", False), ("ABBB", True)],
)
@pytest.mark.parametrize("verifier", ["model", "rules"])
def test_trimr_1_8_4_which_sequences_stop(answers: str, stops: bool, verifier: str) -> None:
    text = chain_of(answers.translate(str.maketrans("AB", "12")))
    chain, solution, _ = trimmed(text, verifier=verifier)
    assert forced(solution) == (["over"] if stops else [])
    assert (GENTLE in chain.text) == stops and (stops or chain.text == text)


@pytest.mark.parametrize(
    ("answers", "majority", "stops"),
    [
        ("AABA", 4, True),
        ("ABABA", 4, False),
        ("ABABA", 5, True),
        ("ABCABC", 5, False),
        ("ABBAAB", 3, False),
        ("ABBA-A-A", 3, True),
        ("AABB-A", 5, True),
    ],
)
@pytest.mark.parametrize("verifier", ["model", "rules"])
def test_trimr_1_4_a_majority_of_the_last_answers_stops(
    answers: str, majority: int, stops: bool, verifier: str
) -> None:
    text = chain_of(answers.translate(str.maketrans("ABC", "123")))
    chain, solution, judge = trimmed(text, verifier=verifier, majority=majority)
    assert forced(solution) == (["over"] if stops else [])
    assert len(judge.asked) <= majority * len(answers)
    before = chain.text.partition(GENTLE)[0]
    assert not stops or before.startswith(text[: len(thoughts(answers))])


@pytest.mark.parametrize("seconds", [0.0, 30.0])
def test_a_majority_replays_as_it_went(tmp_path: Path, seconds: float) -> None:
    text, results = chain_of("ABABA--"), []
    spec = {"name": "trimr", "n_send": 90, "r_thres": 2.0, "repetition": False, "majority": 5}
    for _ in range(2):
        judge = Judge(by_letter, seconds=seconds)
        engine = ScriptedEngine(script=[Line(text, seconds=1.0)])
        chains, solution = write(engine, spec, models={"verifier": judge}, run=tmp_path)
        results.append((chains, solution.usage, forced(solution)))
    assert results[0] == results[1] and judge.asked == [] and results[0][2] == ["over"]


def test_a_majority_as_large_as_the_run_is_the_run() -> None:
    for answers in ("AABAA", "ABBB", "A-A-A", "ABABAB"):
        in_a_row = trimmed(chain_of(answers))[0]
        assert trimmed(chain_of(answers), majority=3)[0] == in_a_row


@pytest.mark.parametrize("answers", ["A" * 9, "-" * 9, "ABABABABA", "AB-AA-B"])
def test_trimr_1_8_6_7_few_short_verifier_calls_and_no_decoding(answers: str) -> None:
    _, solution, judge = trimmed(chain_of(answers), m=8)
    assert len(judge.asked) <= 2 * len(answers)
    assert judge.totals.new == 0 and judge.totals.requests == 0
    assert solution.usage.verifier_passes == len(judge.asked)
    assert solution.usage.verifier_prefill == sum(map(len, judge.asked))


def test_trimr_1_8_6_verifier_prompts_have_at_most_400_tokens() -> None:
    tekken = pytest.importorskip("mistral_common.tokens.tokenizers.tekken", reason="no tokenizer")
    import mistral_common

    folder = Path(mistral_common.__file__).parent / "data"
    tokenizer = tekken.Tekkenizer.from_file(folder / "tekken_240911.json")

    class Counted(YesNo):
        def encode(self, text: str) -> list[int]:
            return list(tokenizer.encode(text, False, False))

        def decode(self, ids: Any) -> str:
            return str(tokenizer.decode(list(ids)))

    judge = Judge(lambda _: 1.0)
    judge.tokenizer = Counted()
    # Two characters a token, worse than any text, in sentences as long as an excerpt.
    thought = r"\( 3x_{12}^2 - \frac{17}{24} \) " * (TrimR().excerpt // 20) + "\n\n"
    _, solution, _ = trimmed("Wait, ".join([thought] * 4) + TAG, judge)
    assert forced(solution) == ["over"]
    assert {"A:" in prompt.rsplit("Question:")[-1] for prompt in judge.asked} == {True, False}
    for prompt in judge.asked:
        assert "17}{24}" in prompt
        assert len(judge.tokenizer.encode(prompt.replace("question p", ""))) <= 400


@pytest.mark.parametrize("rule", ["under", "repetition"])
def test_trimr_1_8_8_one_directive_and_its_tokens_come_next(rule: str) -> None:
    loop = "abcdefgh" * 80
    text = (loop if rule == "repetition" else chain_of("-" * 30)) + TAG + "x"
    spec: dict[str, Any] = {"repetition": True, "m": None, "n_send": 7}
    if rule == "under":
        spec = {"r_thres": 0.2, "n_thres": 3, "budget": 1000, "n_send": 7}
    chain, solution, _ = trimmed(text, **spec)
    (event,) = solution.trace.of("force")
    ids, offset = event.data["ids"], event.data["offset"]
    assert event.data["why"] == rule
    assert chain.ids[offset - len(ids) : offset] == ids
    assert "".join(map(chr, ids)).endswith(TAG)
    own = text[: offset - len(ids)]
    assert chain.text.startswith(own) and chain.text[:offset].count(TAG) == 1
    # The model goes on behind it: prefix property (5.2), then its own text.
    assert chain.text[offset:] == text[offset:]


def test_trimr_1_8_9_a_verifier_that_never_answers_changes_nothing(tmp_path: Path) -> None:
    text = chain_of("A" * 9)
    slow = Judge(lambda _: 1.0, seconds=1e9)
    for _ in range(2):  # and so does its replay
        engine = ScriptedEngine(script=[Line(text, seconds=1.0)])
        spec = {"name": "trimr", "n_send": 5, "r_thres": 2.0, "repetition": False}
        (chain,), solution = write(engine, spec, models={"verifier": slow}, run=tmp_path)
        (plain,), base = write(ScriptedEngine(script=[Line(text, seconds=1.0)]))
        assert chain == plain and solution.seconds in (base.seconds, 0.0)
        assert solution.usage.tokens == base.usage.tokens
        assert solution.usage.verifier_passes == 0
    assert len(slow.asked) == 1  # the replay asked nobody


def test_trimr_1_6_2_a_late_verdict_is_used_as_long_as_the_chain_thinks(tmp_path: Path) -> None:
    text = chain_of("A" * 9)
    stops = []
    for seconds in (0.0, 30.0, 100.0, 200.0, 400.0):
        run = tmp_path / f"{seconds}"
        spec = {"name": "trimr", "n_send": 5, "r_thres": 2.0, "repetition": False}
        results = []
        for _ in range(2):
            engine = ScriptedEngine(script=[Line(text, seconds=1.0)])
            judge = Judge(lambda _: 1.0, seconds=seconds)
            (chain,), solution = write(engine, spec, models={"verifier": judge}, run=run)
            results.append((chain, solution.usage, forced(solution)))
        assert results[0] == results[1] and judge.asked == []  # the replay asked nobody
        stops.append(len(chain.text.partition(GENTLE)[0]))
    assert stops == sorted(stops) and stops[0] < stops[-1] == len(text)


class Dead(Judge):
    async def choose(self, prefix_ids: Any, option_ids: Any) -> Any:
        self.asked.append("")
        raise EngineUnavailable("the verifier is gone")


def test_trimr_1_6_5_a_dead_verifier_means_plain_decoding() -> None:
    text = chain_of("A" * 9)
    chain, solution, judge = trimmed(text, Dead(lambda _: 1.0))
    assert chain.text == text and solution.status == "ok" and judge.asked
    assert list(solution.trace.of("verifier_lost"))


@settings(max_examples=8)
@given(st.text("AB-", min_size=3, max_size=7))
def test_trimr_1_8_11_a_larger_m_never_thinks_less(answers: str) -> None:
    text = chain_of(answers)
    stops = []
    for m in (1, 2, 3, 4):
        chain, _, _ = trimmed(text, m=m, n_send=5)
        before = chain.text.partition(GENTLE)[0]
        # Prefix property (5.2): what stands before the guidance is as it would have been.
        assert text.startswith(before) or text.startswith(before.rstrip("\n"))
        stops.append(len(before))
    assert stops == sorted(stops)


def test_agreement_keeps_the_under_thinking_rule_from_firing() -> None:
    text = chain_of("AAAA----")
    late = {"m": None, "r_thres": 0.5, "n_thres": 2, "budget": len(text)}
    assert forced(trimmed(text, **late)[1]) == []
    assert forced(trimmed(text, **late, agreement=False)[1]) == ["under"]


@pytest.mark.parametrize(
    ("asks", "says", "stops"),
    [
        ("What is 3 + 4?", "7", True),
        ("What is 3 + 4?", "n/2 + 7", False),
        ("What is $n + 7$ for $n=0$?", "n + 7", True),
        (r"For \(xy = 3\), what is $\omega x$?", "3ω/y", True),
        ("How long is it?", "7 cm", True),
        ("How long is it?", r"2\pi", True),
    ],
)
def test_a_value_in_a_variable_of_no_question_is_no_answer(
    asks: str, says: str, stops: bool
) -> None:
    text = "".join(f"{'Wait, ' * (i > 0)}I look again. So, it is {says}.\n\n" for i in range(4))
    asked = dataclasses.replace(problem(), messages=({"role": "user", "content": asks},))
    spec = {"name": "trimr", "verifier": "rules", "n_send": 1, "r_thres": 2.0, "repetition": False}
    _, solution = write(ScriptedEngine(script=[f"{text}Hmm, done.{TAG}"]), spec, asked=asked)
    assert forced(solution) == (["over"] if stops else [])


def test_short_thoughts_are_not_judged() -> None:
    _, _, judge = trimmed("a\n\nWait, b\n\nWait, c\n\nBut d" + TAG)
    assert judge.asked == []


def test_the_verifier_may_spend_its_own_budget_only() -> None:
    text = chain_of("A" * 9)
    for passes in range(6):
        engine = ScriptedEngine(script=[Line(text, seconds=1.0)])
        (chain,), solution = write(
            engine,
            {"name": "trimr", "n_send": 1, "r_thres": 2.0},
            models={"verifier": Judge(lambda _: 1.0)},
            budget=Budget(verifier_passes=passes),
        )
        assert solution.usage.verifier_passes <= passes
        assert (GENTLE in chain.text) == (passes >= 5)  # three answers, two pairs


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"m": 0}, "`m`"),
        ({"majority": 2}, "from 3 to 5"),
        ({"m": 1, "majority": 4}, "from 2 to 3"),
        ({"r_thres": 0.0}, "r_thres"),
        ({"r_thres": float("nan")}, "r_thres"),
        ({"n_thres": -1}, "n_thres"),
        ({"reflections": []}, "reflections"),
        ({"reflections": [""]}, "reflections"),
        ({"windows": [0]}, "windows"),
        ({"n_send": 0}, "n_send"),
        ({"verifier": "oracle"}, "verifier"),
        ({"inner": "trimr"}, "another TrimR"),
    ],
)
def test_bad_settings_are_refused_when_read(spec: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        write(ScriptedEngine(), {"name": "trimr", **spec}, models={"verifier": Judge(by_letter)})


def test_a_verifier_that_is_missing_or_cannot_choose_is_refused_before_anything_is_spent() -> None:
    engine = ScriptedEngine()
    with pytest.raises(UnknownName, match="role 'verifier'"):
        write(engine, "trimr")
    dumb = ScriptedEngine(capabilities=Capabilities(choose=False))
    with pytest.raises(CapabilityError, match="choose"):
        write(engine, "trimr", models={"verifier": dumb})
    # Characters: no token says Yes.
    with pytest.raises(ConfigError, match="no token for 'Yes'"):
        write(engine, "trimr", models={"verifier": ScriptedEngine()})
    assert engine.totals.requests == 0
    write(engine, {"name": "trimr", "verifier": "rules"})  # needs none


def test_budget_forcing_around_trimr_limits_what_trimming_leaves() -> None:
    text = thoughts("A" * 9) + "x" * 500 + TAG
    inner = {"name": "trimr", "n_send": 1, "r_thres": 2.0, "repetition": False}
    rules = []
    for most in (100, 220, 300):
        (chain,), solution = write(
            ScriptedEngine(script=[Line(text, seconds=1.0)]),
            {"name": "budget_forcing", "max_thinking": most, "inner": inner},
            models={"verifier": Judge(lambda _: 1.0)},
        )
        rules.append(forced(solution))
        assert len(chain.text.partition(TAG)[0].removesuffix("\n")) <= most
    # Gentle guidance ends no thinking by itself; the outer limit does, also where the guidance
    # would pass it.
    assert rules == [["max"], ["max"], ["over", "max"]]


def test_budget_forcing_around_trimr_ignores_what_the_model_ends_not_what_trimr_ends() -> None:
    text = f"a{TAG}" + thoughts("-" * 9) + "x" * 60
    inner = {"name": "trimr", "m": None, "r_thres": 0.3, "n_thres": 2, "repetition": False}
    (chain,), solution = write(
        ScriptedEngine(script=[Line(text)]),
        {"name": "budget_forcing", "n_ignore": 1, "inner": {**inner, "agreement": False}},
        max_tokens=500,
    )
    assert forced(solution) == ["wait", "under"]
    assert chain.text.startswith("aWait") and chain.text.count(TAG) == 1


def test_the_losers_of_a_race_are_cancelled_with_their_verifiers_and_replay(tmp_path: Path) -> None:
    quick = Line(f"quick.{TAG}5", seconds=1.0)
    lines = [Line(chain_of("A" * 6), seconds=1.0), quick, Line(chain_of("ABAB"), seconds=1.0)]
    results = []
    for _ in range(2):
        keys: dict[int, Line] = {}
        judge = Judge(by_letter, seconds=70.0)
        engine = ScriptedEngine(
            script=lambda prompt, key, keys=keys: keys.setdefault(key, lines[len(keys) % 3])
        )
        solver = Solver(
            {"policy": engine, "verifier": judge},
            strategy={"name": "first_verified", "n": 3},
            chain_policy={"name": "trimr", "n_send": 5, "r_thres": 2.0, "repetition": False},
            verifiers={"verifier": "check"},
            run=tmp_path,
        )
        asked = problem(check=lambda answer: answer == "5")
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            solution = runner.run(asyncio.wait_for(solver.asolve(asked), 1e6))
        results.append((solution.answer, solution.text, solution.status, solution.usage))
        assert engine.totals.open == 0
    assert results[0] == results[1] and results[0][0] == "5"
    assert engine.totals.requests == 0 and judge.asked == []  # the replay asked nobody
