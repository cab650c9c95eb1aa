"""ATTS: the acceptance facts 3.8 and the matrix in section 5, on scripted models and shipped ones.

The laws themselves (3.8.1, 2, 3, 6, 7, 8) are in test_conformal.py, and the virtual-time makespans
(3.8.11) in tests/evals/test_atts_report.py. 3.8.12 cannot be a test: the public bank and log that
it reads are not part of the project's data, whose transcripts hold no log-probabilities. The hard
cap B for each (question, turn) of 3.7 is no setting: with it a chain's decision would depend on the
other chains, which 3.8.4 forbids; how many takeovers a group has follows 3.8.6 and 7.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from reasoning import Budget, Problem, Sampling, Solution, Solver
from reasoning.chain import Chain
from reasoning.engines.base import Capabilities, EngineUsage, ScoreReply, TokenLogprob
from reasoning.engines.scripted import Line, ScriptedEngine, VirtualTimeLoop
from reasoning.errors import CapabilityError, ConfigError, DataError, ReasoningError, UnknownName
from reasoning.evals.tasks import Math500, MathRow
from reasoning.randomness import key, uniform
from reasoning.strategies.chains.banks import BankFile, Banks, deepest

CHUNK = 4
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def random_text(stream: int, length: int = 400) -> str:
    """Letters that depend on the stream and nothing else."""
    places = uniform(stream, range(length)) * len(LETTERS)
    return "".join(LETTERS[int(place)] for place in places)


def by_text(chunk: str) -> float:
    """A loss that looks random, of a chunk's text."""
    return float(uniform(key(chunk), 0))


class Draft(ScriptedEngine):
    def __init__(self, text: Callable[[int], str] = random_text, **settings: Any) -> None:
        self.seconds = settings.pop("seconds", lambda stream: 0.0)
        super().__init__(
            "draft",
            script=lambda prompt, stream: Line(text(stream), seconds=self.seconds(stream)),
            **settings,
        )


class Target(ScriptedEngine):
    """Writes capitals; scores every token of a chunk with minus its loss."""

    def __init__(
        self, loss: Callable[[str], float] = by_text, text: str = "T" * 400, **settings: Any
    ) -> None:
        super().__init__("target", script=lambda prompt, stream: Line(text), **settings)
        self.loss = loss
        self.scored: list[tuple[str, str]] = []

    async def score(
        self, prefix_ids: Sequence[int], continuation_ids: Sequence[int], top: int = 0
    ) -> ScoreReply:
        prefix, chunk = (self.tokenizer.decode(ids) for ids in (prefix_ids, continuation_ids))
        self.scored.append((prefix, chunk))
        size = len(prefix_ids) + len(continuation_ids)
        self.totals.prefill += size
        scores = tuple(TokenLogprob(-self.loss(chunk)) for _ in continuation_ids)
        return ScoreReply(scores, EngineUsage(prefill=size))


def problem(name: str = "p", **settings: Any) -> Problem:
    def extract(text: str) -> str | None:
        return text.split("!", 2)[1] if text.count("!") > 1 else None

    return Problem(name, ({"role": "user", "content": name},), extract=extract, **settings)


def solver(draft: Any, target: Any, n: int = 1, **settings: Any) -> Solver:
    general = {
        name: settings.pop(name)
        for name in ("budget", "max_tokens", "run", "round_size", "seed")
        if name in settings
    }
    policy = {"name": "atts", "draft_tokens": CHUNK, "target_tokens": CHUNK, "turns": 5, **settings}
    models = {"policy": target, "draft": draft}
    return Solver(models, strategy={"name": "majority", "n": n}, chain_policy=policy, **general)


def bank_file(folder: Path, turns: list[list[float | None]], **changes: Any) -> str:
    sampling = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0}
    whole = {
        "models": {"policy": "scripted/target", "draft": "scripted/draft"},
        "draft_tokens": CHUNK,
        "sampling": sampling,
        "rho": 0.25,
        "task": "t",
        "split": "calibrate",
        "turns": turns,
        **changes,
    }
    path = folder / "bank.json"
    path.write_text(json.dumps(whole))
    return str(path)


@pytest.fixture
def frozen(tmp_path: Path) -> dict[str, Any]:
    """Settings of a frozen bank of 199 evenly spread losses, for turns of one kind."""
    losses: list[float | None] = [(i + 1) / 200 for i in range(199)]
    return {
        "calibration": "frozen",
        "file": bank_file(tmp_path, [losses]),
        "bank": "marginal",
        "rho": 0.25,
    }


def decisions(solution: Solution) -> dict[str, list[dict[str, Any]]]:
    """By branch, in the order of turns."""
    found: dict[str, list[dict[str, Any]]] = {}
    for event in solution.trace.of("decision"):
        found.setdefault(event.branch, []).append(event.data)
    return found


def all_decisions(solution: Solution) -> list[dict[str, Any]]:
    return [event.data for event in solution.trace.of("decision")]


def chains(solution: Solution) -> dict[str, Chain]:
    """The last state of each branch's chain."""
    last: dict[str, Chain] = {}
    for event in solution.trace.of("sample"):
        for number, chain in enumerate(event.data["chains"]):
            last[f"{event.branch}.{number}"] = chain
    return last


# 3.8.4 and 5.4: asynchrony.


@pytest.mark.parametrize("bank", ["marginal", "per_turn", "per_question"])
def test_3_8_4_a_chain_s_decisions_know_no_other_chain(frozen: dict[str, Any], bank: str) -> None:
    """Written alone, among sixteen, or beside ones that are slow: the same decisions."""
    settings: dict[str, Any] = {**frozen, "bank": bank}
    if bank == "per_question":
        settings = {"bank": bank, "rho": 0.25}

    def traced(n: int, delay: float = 0.0) -> dict[str, list[dict[str, Any]]]:
        draft = Draft(seconds=lambda stream: delay * (stream % 7))
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            solution = runner.run(solver(draft, Target(), n, **settings).asolve(problem()))
        return decisions(solution)

    many = traced(16)
    assert len(many) == 16 and any(d["takeover"] for ds in many.values() for d in ds)
    for n in (1, 3):
        few = traced(n)
        assert len(few) == n and few == {name: many[name] for name in few}
    assert traced(16, delay=1.0) == many


def test_3_8_4_the_synchronous_baseline_fails_that() -> None:
    """The test above can fail: top-B decisions depend on which other chains there are."""

    def traced(n: int) -> dict[str, list[dict[str, Any]]]:
        models = {"policy": Target(), "draft": Draft()}
        policy = {"name": "atts_sync", "draft_tokens": CHUNK, "target_tokens": CHUNK, "turns": 5}
        strategy = {"name": "majority", "n": n}
        solution = Solver(models, strategy=strategy, chain_policy=policy).solve(problem())
        return {b: [d["takeover"] for d in ds] for b, ds in decisions(solution).items()}

    few, many = traced(4), traced(16)
    assert few != {name: many[name] for name in few}
    # B of m in every turn, with the share that rho says.
    assert [sum(ds[turn] for ds in many.values()) for turn in range(5)] == [4] * 5


def test_5_4_a_stalled_chain_delays_no_other(frozen: dict[str, Any]) -> None:
    def ends(stalled: bool) -> dict[str, float]:
        slow = key(0, "p", 0, "", ((0, 2),))
        draft = Draft(seconds=lambda stream: 1000.0 if stalled and stream == slow else 1.0)
        found: dict[str, float] = {}

        async def main() -> None:
            loop = asyncio.get_running_loop()
            policy = solver(draft, Target(), 4, **frozen)
            from reasoning.strategies.chains import atts

            whole = atts.Atts._chain

            async def timed(self: Any, ctx: Any, start: Any, banks: Any) -> Any:
                chain = await whole(self, ctx, start, banks)
                found[ctx.path] = loop.time()
                return chain

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(atts.Atts, "_chain", timed)
                await policy.asolve(problem())

        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            runner.run(main())
        return found

    calm, troubled = ends(False), ends(True)
    assert troubled.pop("write0-2") > 1000 > calm.pop("write0-2")
    assert troubled == calm


# 3.8.5 and 5.1: the ends of rho.


@pytest.mark.parametrize("variant", ["continue", "resample"])
@pytest.mark.parametrize("name", ["atts", "atts_sync"])
def test_3_8_5_rho_0_is_plain_decoding_on_the_draft(name: str, variant: str) -> None:
    target = Target()
    policy: dict[str, Any] = {"name": name, "rho": 0, "draft_tokens": 100}
    if name == "atts":
        policy["variant"] = variant
    strategy = {"name": "majority", "n": 5}
    models = {"policy": target, "draft": Draft()}
    mine = Solver(models, strategy=strategy, chain_policy=policy, max_tokens=50).solve(problem())
    plain = Solver({"policy": Draft()}, strategy=strategy, max_tokens=50).solve(problem())
    assert [c.ids for c in chains(mine).values()] == [c.ids for c in chains(plain).values()]
    assert target.totals.requests == 0 and not target.scored
    assert mine.text == plain.text and mine.usage.tokens == plain.usage.tokens


def test_3_8_5_rho_1_continues_after_every_chunk() -> None:
    solution = solver(Draft(), Target(), rho=1, turns=3).solve(problem())
    stream = key(0, "p", 0, "", ())
    text = random_text(stream)
    assert solution.text == f"{text[:4]}TTTT{text[8:12]}TTTT{text[16:20]}TTTT"
    assert [d["takeover"] for d in all_decisions(solution)] == [True] * 3


def test_5_1_identity_on_the_real_engine() -> None:
    from reasoning.evals.tasks import Countdown

    problems = Countdown(split="dev", numbers=3).problems(1)
    model = "local/countdown-policy"

    def drawn(models: dict[str, str], policy: Any) -> list[Any]:
        strategy = {"name": "majority", "n": 3}
        solutions = Solver(
            models, strategy=strategy, chain_policy=policy, max_tokens=120
        ).solve_many(problems)
        return [[c.ids for c in chains(s).values()] for s in solutions]

    mine = drawn({"policy": model, "draft": model}, {"name": "atts", "rho": 0})
    assert mine == drawn({"policy": model}, "plain")
    # With one model in both roles a chain is the same in turns, up to where its answer is whole.
    turns = {"name": "atts", "rho": 1, "draft_tokens": 24, "target_tokens": 24, "turns": 9}
    in_turns = drawn({"policy": model, "draft": model}, turns)
    for mixed, whole in zip(in_turns, mine, strict=True):
        for ids, reference in zip(mixed, whole, strict=True):
            assert ids == reference[: len(ids)] and len(reference) - len(ids) < 24


# 3.8.9 and 3.8.10: what is asked.


def test_3_8_9_verification_is_one_prefill_of_exactly_the_chunk(frozen: dict[str, Any]) -> None:
    target = Target()
    solution = solver(Draft(), target, 3, **frozen).solve(problem())
    made = decisions(solution)
    assert len(target.scored) == sum(map(len, made.values()))
    drafts = [e.data for e in solution.trace.of("sample") if e.data["role"] == "draft"]
    asked = {(d["prefix"].text, d["chains"][0].text[len(d["prefix"].text) :]) for d in drafts}
    assert {(prefix.removeprefix("p\n"), chunk) for prefix, chunk in target.scored} == asked
    assert solution.roles["policy"].scored == target.totals.prefill - sum(
        len(request.prompt_ids) for request in target.totals.log
    )


def test_3_8_9_losses_on_the_real_engine_are_those_of_the_whole_sequence() -> None:
    from reasoning.engines.local import LocalEngine
    from reasoning.evals.tasks import Countdown

    model = "local/countdown-policy"
    (ask,) = Countdown(split="dev", numbers=3).problems(1)
    policy = {"name": "atts", "rho": 0.5, "draft_tokens": 12, "target_tokens": 12, "turns": 6}
    solution = Solver(
        {"policy": model, "draft": model},
        strategy={"name": "majority", "n": 2},
        chain_policy=policy,
        sampling=Sampling(),
    ).solve(ask)
    drafts = [e.data for e in solution.trace.of("sample") if e.data["role"] == "draft"]
    told = sorted(d["loss"] for d in all_decisions(solution))

    async def fresh() -> list[float]:
        losses = []
        async with LocalEngine("countdown-policy", prefix_cache=0) as engine:
            for drafted in drafts:
                prefix, (chain,) = drafted["prefix"], drafted["chains"]
                whole = (await engine.score(chain.prompt_ids, chain.ids)).scores
                chunk = [s.logprob for s in whole[len(prefix.ids) :]]
                losses.append(-sum(chunk) / len(chunk))
        return sorted(losses)

    assert told == pytest.approx(asyncio.run(fresh()), abs=1e-3)


def test_3_8_10_the_chunk_stays_and_the_target_writes_behind_it(frozen: dict[str, Any]) -> None:
    solution = solver(Draft(), Target(), 6, **frozen).solve(problem())
    for branch, made in decisions(solution).items():
        samples = [e.data for e in solution.trace.of("sample") if e.branch == branch]
        roles = [d["role"] for d in samples]
        want = [r for d in made for r in (["draft", "policy"] if d["takeover"] else ["draft"])]
        assert roles == want
        text = ""
        for sampled in samples:
            assert sampled["prefix"].text == text
            text = sampled["chains"][0].text
    # At most turns * chunk of each model's tokens in a chain.
    assert solution.roles["draft"].tokens <= 6 * 5 * CHUNK
    assert solution.roles["policy"].tokens <= 6 * 5 * CHUNK


# How chains end.


def test_a_whole_answer_ends_the_chain_and_half_of_one_does_not() -> None:
    draft = Draft(lambda stream: "ab!cd!efghijklmnop")
    solution = solver(draft, Target(), rho=0.5, turns=4).solve(problem())
    assert solution.answer == "cd" and len(all_decisions(solution)) == 2

    def says(text: str) -> str | None:
        return text.rsplit("= ", 1)[1] if "= " in text else None

    growing = Problem("p", ({"role": "user", "content": "p"},), extract=says)
    draft = Draft(lambda stream: "x = 12345")
    target = Target(lambda chunk: 0.0, text="")
    solution = solver(draft, target, rho=0.01, turns=9, bank="per_question").solve(growing)
    assert solution.answer == "12345"


def test_3_5_4_a_guess_in_prose_does_not_end_a_mathematical_chain() -> None:
    asked = Math500()._problem(MathRow(question="3*5?", answer="15", id="math500/1"))
    text = "the answer is 12, I guess\n\nNo: it is \\boxed{15}\n" + "more " * 9
    target = Target(lambda chunk: 0.0, text="")
    solution = solver(Draft(lambda stream: text), target, rho=0.01, turns=99).solve(asked)
    assert solution.answer == "15" and "\\boxed{15}" in solution.text and len(solution.text) < 60


def test_an_empty_chunk_ends_the_chain() -> None:
    class Silent(Draft):
        async def sample(self, request: Any, sink: Any = None) -> Any:
            reply = await super().sample(request, sink)
            empty = [type(c)((), "", "stop", None) for c in reply.completions]
            return type(reply)(tuple(empty), reply.usage)

    target = Target()
    solution = solver(Silent(), target, 2, rho=0.5).solve(problem())
    assert solution.text == "" and not target.scored and not all_decisions(solution)


def test_the_target_reopens_what_the_draft_had_ended() -> None:
    draft, target = Draft(lambda stream: "ab"), Target(text="xxTTTTTTTT")
    solution = solver(draft, target, rho=1, turns=1).solve(problem())
    assert solution.text == "abTTTT"
    (chain,) = [c for b, c in chains(solution).items() if b]
    assert "".join(map(chr, chain.ids)) == "abTTTT" and not chain.done
    assert solution.usage.discarded == 1  # the draft's EOS
    assert solution.usage.tokens == 3 + 4


# 3.8.8, missing log-probabilities.


@pytest.mark.parametrize("missing", [math.nan, "short"])
def test_chunks_without_log_probabilities_are_infinitely_bad_and_counted(
    frozen: dict[str, Any], missing: Any
) -> None:
    class Mute(Target):
        async def score(self, prefix_ids: Any, continuation_ids: Any, top: int = 0) -> ScoreReply:
            reply = await super().score(prefix_ids, continuation_ids, top)
            if missing == "short":
                return ScoreReply(reply.scores[1:], reply.usage)
            return ScoreReply(tuple(TokenLogprob(missing) for _ in reply.scores), reply.usage)

    solution = solver(Draft(), Mute(), 2, **frozen).solve(problem())
    made = all_decisions(solution)
    assert all(d["takeover"] and d["loss"] is None and d["p"] == 1.0 for d in made)
    assert len(list(solution.trace.of("unscored"))) == len(made) == 10


def test_resampling_drops_rejected_chunks_and_keeps_the_best(frozen: dict[str, Any]) -> None:
    settings = {**frozen, "variant": "resample", "attempts": 3, "turns": 1}
    for seed in range(6):
        draft, target = Draft(), Target()
        solution = solver(draft, target, seed=seed, **settings).solve(problem())
        tried = [chunk for _, chunk in target.scored]
        losses = [by_text(chunk) for chunk in tried]
        kept = next((i for i, loss in enumerate(losses) if loss <= 0.75), None)
        assert len(tried) == (3 if kept is None else kept + 1)
        best = min(range(len(tried)), key=lambda i: losses[i]) if kept is None else kept
        assert solution.text == tried[best] and target.totals.new == 0
        assert solution.usage.discarded == (len(tried) - 1) * CHUNK
        assert len(all_decisions(solution)) == 1


def test_resampling_all_rejected() -> None:
    target = Target()
    solution = solver(Draft(), target, rho=1, variant="resample", turns=1).solve(problem())
    losses = {by_text(chunk): chunk for _, chunk in target.scored}
    assert len(losses) == 3 and solution.text == losses[min(losses)]


# Banks.


def test_a_cold_bank_lets_a_coin_decide_with_probability_rho() -> None:
    names = [f"p{i}" for i in range(32)]
    engine = solver(Draft(), Target(), 4, rho=0.25)
    solutions = engine.solve_many(map(problem, names))  # one round
    made = [d for s in solutions for d in all_decisions(s)]
    assert all(d["p"] is None and d["bank"] == 0 for d in made)
    rate = sum(d["takeover"] for d in made) / len(made)
    assert rate == pytest.approx(0.25, abs=3 * math.sqrt(0.25 * 0.75 / len(made)))


@pytest.mark.parametrize("bank", ["marginal", "per_turn"])
def test_online_banks_learn_from_earlier_rounds(bank: str) -> None:
    names = [f"p{i:02}" for i in range(12)]
    engine = solver(Draft(), Target(), 8, rho=0.25, bank=bank, round_size=4)
    solutions = {s.problem: s for s in engine.solve_many(map(problem, names))}
    for place, name in enumerate(names):
        for made in decisions(solutions[name]).values():
            for turn, decision in enumerate(made):
                size = place // 4 * 4 * 8 * (5 if bank == "marginal" else 1)
                assert decision["turn"] == turn and decision["bank"] == size
                assert (decision["p"] is None) == (size < 16)


def test_per_turn_banks_hold_the_rate_where_a_first_turn_bank_drifts(tmp_path: Path) -> None:
    """3.6: later turns are harder; a bank of first chunks rejects ever more of them."""

    class Harder(Target):
        """A chunk's loss grows with its place in the chain."""

        async def score(self, prefix_ids: Any, continuation_ids: Any, top: int = 0) -> ScoreReply:
            reply = await super().score(prefix_ids, continuation_ids, top)
            more = 0.02 * len(prefix_ids)
            scores = tuple(TokenLogprob(s.logprob - more) for s in reply.scores)
            return ScoreReply(scores, reply.usage)

    def rates(**settings: Any) -> list[float]:
        names = [f"p{i:02}" for i in range(16)]
        engine = solver(Draft(), Harder(), 6, rho=0.25, round_size=4, **settings)
        made = [d for s in engine.solve_many(map(problem, names)) for d in all_decisions(s)]
        known = [d for d in made if d["p"] is not None]
        return [
            sum(d["takeover"] for d in of) / len(of)
            for turn in range(5)
            if (of := [d for d in known if d["turn"] == turn])
        ]

    start: list[float | None] = [0.04 + (i + 1) / 200 for i in range(199)]
    frozen = rates(bank="marginal", calibration="frozen", file=bank_file(tmp_path, [start]))
    assert frozen == sorted(frozen) and frozen[-1] > frozen[0] + 0.1
    online = rates(bank="per_turn")
    assert all(abs(rate - 0.25) < 0.12 for rate in online)


def test_a_bank_of_the_question_is_charged_as_probes_and_changes_no_chain() -> None:
    draft, target = Draft(), Target()
    settings: dict[str, Any] = {"bank": "per_question", "samples": 16, "rho": 0.25, "turns": 2}
    solution = solver(draft, target, 4, **settings).solve(problem())
    assert solution.usage.probe == 16 * CHUNK
    assert all(d["bank"] == 16 for d in all_decisions(solution))
    assert solution.usage.tokens == draft.totals.new + target.totals.new
    other = solver(Draft(), Target(), 4, **{**settings, "samples": 40}).solve(problem())
    first = {b: e[0]["loss"] for b, e in decisions(solution).items()}
    assert first == {b: e[0]["loss"] for b, e in decisions(other).items()}


def test_banks_share_the_deepest_turn() -> None:
    losses = [(0, 1.0), (1, 2.0), (2, 3.0), (3, None)]
    assert [len(Banks(losses, per_turn=True, last=2).of(t)) for t in range(6)] == [1, 1, 2, 2, 2, 2]
    assert [len(Banks(losses, per_turn=False, last=2).of(t)) for t in (0, 5)] == [4, 4]
    assert [deepest([[1.0] * 9, [1.0] * 5, [1.0] * 9], least) for least in (5, 6, 10)] == [2, 0, 0]


# Section 5: budgets, ledgers, resume.


@pytest.mark.parametrize("tokens", [1, 2, 5, 9, 37, 200, 10_000])
@pytest.mark.parametrize("name", ["atts", "atts_sync", "per_question", "resample"])
def test_a_budget_is_never_passed(tokens: int, name: str) -> None:
    draft, target = Draft(), Target()
    policy: dict[str, Any] = {"name": "atts", "rho": 0.5, "turns": 5}
    policy |= {"draft_tokens": CHUNK, "target_tokens": CHUNK}
    policy |= {
        "atts": {},
        "atts_sync": {"name": "atts_sync"},
        "per_question": {"bank": "per_question"},
        "resample": {"variant": "resample"},
    }[name]
    solution = Solver(
        {"policy": target, "draft": draft},
        strategy={"name": "majority", "n": 3},
        chain_policy=policy,
        max_tokens=40,
        budget=Budget(tokens=tokens),
    ).solve(problem())
    assert solution.usage.tokens <= tokens
    assert solution.usage.tokens == draft.totals.new + target.totals.new
    if tokens in (37, 10_000):
        assert solution.status == ("ok" if tokens == 10_000 else "budget")
    assert solution.text


@pytest.mark.parametrize("name", ["atts", "atts_sync"])
def test_a_deadline_leaves_what_was_written(name: str) -> None:
    policy = {"name": name, "rho": 0.5, "draft_tokens": CHUNK, "target_tokens": CHUNK, "turns": 5}
    engine = Solver(
        {"policy": Target(), "draft": Draft(seconds=lambda stream: 1.0)},
        strategy={"name": "majority", "n": 3},
        chain_policy=policy,
        budget=Budget(seconds=6.5),
    )
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        solution = runner.run(engine.asolve(problem()))
    assert solution.status == "deadline" and len(solution.text) >= CHUNK
    assert solution.seconds == 6.5


def test_5_3_tokens_add_up(frozen: dict[str, Any]) -> None:
    draft, target = Draft(lambda s: random_text(s, 11)), Target()
    solution = solver(draft, target, 8, **frozen, max_tokens=30).solve(problem())
    used = solution.usage
    assert used.tokens == draft.totals.new + target.totals.new
    ends: dict[str, int] = {}
    for event in solution.trace.of("sample"):
        ends[event.branch] = len(event.data["chains"][0].ids)
    assert used.tokens - used.discarded - used.probe == sum(ends.values())


@pytest.mark.parametrize("bank", ["per_turn", "per_question"])
def test_a_run_is_continued_without_asking_again(tmp_path: Path, bank: str) -> None:
    settings: dict[str, Any] = {"bank": bank, "rho": 0.3, "round_size": 2, "run": tmp_path}
    settings["budget"] = Budget(tokens=150)
    first = solver(Draft(), Target(), 3, **settings).solve_many(map(problem, "abcdef"))
    draft, target = Draft(), Target()
    again = solver(draft, target, 3, **settings).solve_many(map(problem, "abcdef"))
    assert draft.totals.requests == target.totals.requests == len(target.scored) == 0
    for one, two in zip(first, again, strict=True):
        assert (one.text, one.usage, one.status) == (two.text, two.usage, two.status)
        assert decisions(one) == decisions(two)


class Shifted:
    """Characters, numbered from 1000 on."""

    eos_id: int | None = 3
    vocab_size = 70_000

    def encode(self, text: str) -> list[int]:
        return [ord(c) + 1000 for c in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(t - 1000) for t in ids if t >= 1000)

    def render(self, messages: Sequence[dict[str, str]]) -> list[int]:
        return self.encode("".join(f"{m['content']}\n" for m in messages))


@pytest.mark.parametrize("settings", [{"rho": 0}, {"rho": 0.4}, {"bank": "per_question"}])
@pytest.mark.parametrize("length", [400, 11])
def test_models_of_different_vocabularies_exchange_text(
    settings: dict[str, Any], length: int
) -> None:
    """Where every text is cut alike by both, the chains are those of exchanged ids."""

    def draft() -> Draft:
        return Draft(lambda stream: random_text(stream, length))

    foreign = draft()
    foreign.tokenizer = Shifted()  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="different tokenizers"):
        solver(foreign, Target(), 4, **settings)
    text = solver(foreign, Target(), 4, exchange="text", **settings).solve(problem())
    ids = solver(draft(), Target(), 4, **settings).solve(problem())
    assert text.text == ids.text and text.usage.tokens == ids.usage.tokens
    if settings.get("bank") is None:  # the bank's chunks are drawn in another way
        assert [d["takeover"] for d in all_decisions(text)] == [
            d["takeover"] for d in all_decisions(ids)
        ]


def test_an_engine_that_breaks_fails_its_problem_only() -> None:
    from reasoning.errors import EngineError

    def text(stream: int) -> str:
        return random_text(stream)

    draft = Draft(text)
    draft._script = lambda prompt, stream: Line(
        text(stream), fault=EngineError("broke") if prompt.startswith("bad") else None
    )
    for name in ("atts", "atts_sync"):
        models = {"policy": Target(), "draft": draft}
        engine = Solver(models, strategy={"name": "majority", "n": 3}, chain_policy=name)
        solutions = engine.solve_many([problem("bad"), problem("good")])
        assert [s.status for s in solutions] == ["failed", "ok"]


# Bad input.


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rho": -0.1}, "rho"),
        ({"rho": 1.1}, "rho"),
        ({"rho": math.nan}, "rho"),
        ({"turns": 0}, "turns"),
        ({"draft_tokens": 0}, "draft_tokens"),
        ({"samples": 0}, "samples"),
        ({"attempts": 0}, "attempts"),
        ({"bank": "big"}, "bank"),
        ({"calibration": "frozen"}, "needs a `file`"),
        ({"rho": 1e-320}, "rho.*at least 1e-06"),
        ({"bank": "per_question", "calibration": "online"}, "per_question"),
        ({"bank": "per_question", "file": "bank.json"}, "bank"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ReasoningError, match=words):
        solver(Draft(), Target(), **settings)


def test_bank_files_that_are_wrong_are_refused(tmp_path: Path) -> None:
    def frozen(path: Any, **settings: Any) -> Solver:
        return solver(Draft(), Target(), calibration="frozen", file=str(path), **settings)

    with pytest.raises(DataError, match=r"evals\.atts bank"):
        frozen(tmp_path / "none.json")
    for text in ("", "[]", "{}", '{"turns": 3}', "[" * 100_000):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(DataError, match="not a bank file"):
            frozen(tmp_path / "bad.json")
    with pytest.raises(DataError, match="no losses"):
        frozen(bank_file(tmp_path, [[]]))
    losses: list[float | None] = [0.1] * 20
    with pytest.raises(ConfigError, match="20 losses"):
        frozen(bank_file(tmp_path, [losses]), rho=0.1)
    for change in (
        {"draft_tokens": 9},
        {"sampling": {"temperature": 0.7, "top_p": 1.0, "top_k": 0, "min_p": 0.0}},
        {"models": {"policy": "scripted/other"}},
    ):
        with pytest.raises(ConfigError, match="calibrated with"):
            frozen(bank_file(tmp_path, [losses], **change))
    frozen(bank_file(tmp_path, [losses]))


def test_another_bank_file_is_another_configuration(tmp_path: Path) -> None:
    from reasoning.strategies.chains.atts import Atts

    one = Atts(calibration="frozen", file=bank_file(tmp_path, [[0.1] * 20]))
    two = Atts(calibration="frozen", file=bank_file(tmp_path, [[0.2] * 20]))
    assert one.model_dump() != two.model_dump()
    assert BankFile.load(str(one.file)) == BankFile.load(str(two.file))


def test_a_missing_draft_and_engines_that_cannot_are_refused() -> None:
    with pytest.raises(UnknownName, match="atts needs a model in role 'draft'"):
        Solver({"policy": Target()}, chain_policy="atts")
    blind = Target(capabilities=Capabilities(score=False))
    with pytest.raises(CapabilityError, match="score"):
        solver(Draft(), blind)
    with pytest.raises(ConfigError, match="different tokenizers"):
        solver("local/countdown-policy", Target())
    with pytest.raises(CapabilityError, match="cannot write"):
        models = {"policy": Target(), "draft": Draft()}
        Solver(
            models, strategy="step_best_of_n", chain_policy="atts", verifiers={"verifier": "check"}
        )
