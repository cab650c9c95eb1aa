"""SpecReason: the acceptance facts 2.8 and the matrix in section 5, scripted and on real models.

2.8.8 (greedy text with token-level speculative decoding on and off) is vLLM's own promise and needs
it running with two models: no test here. What is tested is that its CPU build is refused at
temperature > 0, where it is known to sample wrongly. 2.8.11 (letters of multiple-choice answers)
cannot be a test: no task of this project is multiple choice.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasoning import Budget, Problem, Sampling, Solution, Solver
from reasoning.engines.base import (
    Capabilities,
    Completion,
    SampleReply,
    SampleRequest,
    ScoreReply,
    Sink,
    TokenLogprob,
)
from reasoning.engines.characters import CharacterTokenizer
from reasoning.engines.scripted import Line, ScriptedEngine
from reasoning.errors import CapabilityError, ConfigError, UnknownName
from reasoning.evals.tasks import Math500, MathRow
from reasoning.recipe import Recipe
from reasoning.strategies.chains.rating import LEAD
from reasoning.strategies.chains.spec_reason import SpecReason
from reasoning.verifiers.prm import ProcessReward

STEPS = 6
QUESTION = "question\n"


def writing(letter: str, steps: int = STEPS, answer: bool = False) -> str:
    lines = [f"{letter}{i}\n" for i in range(steps)]
    if answer:
        lines[-1] = "answer 7\n"
    return "".join(lines)


class Model(ScriptedEngine):
    """A scripted model that rates: score(text of the step, its number) is a probability."""

    def __init__(
        self,
        name: str,
        text: str,
        *,
        likes: Callable[[str, int], float] = lambda step, number: 1.0,
        digits: dict[str, float] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(name, script=lambda prompt, key: Line(text), **settings)
        self.likes = likes
        self.digits = digits or {}
        self.scored: list[tuple[str, str]] = []
        self.rated: list[SampleRequest] = []

    async def sample(self, request: SampleRequest, sink: Sink | None = None) -> SampleReply:
        prompt = self.tokenizer.decode(request.prompt_ids)
        if not prompt.endswith(LEAD):
            return await super().sample(request, sink)
        self.rated.append(request)
        top = {ord(c): math.log(p) for c, p in self.digits.items()}
        token = max(top, key=lambda t: top[t])
        said = Completion((token,), chr(token), "length", None, (TokenLogprob(top[token], top),))
        self.totals.new += 1
        from reasoning.engines.base import EngineUsage

        return SampleReply((said,), EngineUsage(prefill=len(request.prompt_ids), new=1))

    async def score(
        self, prefix_ids: Sequence[int], continuation_ids: Sequence[int], top: int = 0
    ) -> ScoreReply:
        prefix, step = (self.tokenizer.decode(ids) for ids in (prefix_ids, continuation_ids))
        self.scored.append((prefix, step))
        reply = await super().score(prefix_ids, continuation_ids, top)
        liked = self.likes(step, prefix.count("\n") - 1)
        value = math.nan if math.isnan(liked) else math.log(liked) if liked else -math.inf
        return ScoreReply(tuple(TokenLogprob(value) for _ in continuation_ids), reply.usage)


def problem(**settings: Any) -> Problem:
    def extract(text: str) -> str | None:
        return text.rsplit("answer ", 1)[1].split("\n")[0] if "answer " in text else None

    messages = ({"role": "user", "content": "question"},)
    return Problem("p", messages, extract=extract, step="\n", **settings)


def solve(
    draft: ScriptedEngine,
    base: ScriptedEngine,
    *,
    n: int = 1,
    max_tokens: int | None = None,
    budget: Budget | None = None,
    verifiers: Any = None,
    prm: Any = None,
    ask: Problem | None = None,
    run: Path | None = None,
    **policy: Any,
) -> Solution:
    solver = Solver(
        {"policy": base, "draft": draft, **({"prm": prm} if prm else {})},
        strategy={"name": "majority", "n": n},
        chain_policy={"name": "spec_reason", **policy},
        max_tokens=max_tokens,
        budget=budget,
        verifiers=verifiers,
        run=run,
    )
    return solver.solve(ask or problem())


def plain(engine: Any, n: int = 1, **settings: Any) -> Solution:
    strategy = {"name": "majority", "n": n}
    return Solver({"policy": engine}, strategy=strategy, **settings).solve(problem())


def decided(solution: Solution) -> list[tuple[float, bool]]:
    return [(e.data["score"], e.data["kept"]) for e in solution.trace.of("decision")]


def why(solution: Solution) -> list[str]:
    return [event.data["why"] for event in solution.trace.of("end")]


def test_2_8_1_a_threshold_above_nine_is_the_base_alone_and_the_draft_is_never_asked() -> None:
    draft, base = Model("draft", writing("d")), Model("base", writing("b"))
    solution = solve(draft, base, threshold=9.5)
    assert solution.text == plain(Model("base", writing("b"))).text == writing("b")
    assert draft.totals.requests == 0 and not base.scored


def test_2_8_1_steps_that_are_all_rejected_are_the_base_step_by_step() -> None:
    draft, base = Model("draft", writing("d")), Model("base", writing("b"), likes=lambda s, i: 0.0)
    solution = solve(draft, base, threshold=0.1)
    assert solution.text == writing("b")
    assert solution.usage.discarded == len(writing("d")) + 1  # and its EOS
    assert all(not kept for _, kept in decided(solution))


def test_2_8_2_a_threshold_of_zero_keeps_every_step_of_the_draft() -> None:
    draft, base = Model("draft", writing("d")), Model("base", writing("b"), likes=lambda s, i: 0.0)
    solution = solve(draft, base, threshold=0)
    assert solution.text == writing("d")
    assert base.totals.requests == 0 and len(base.scored) == STEPS + 1
    assert solution.roles["policy"].tokens == 0 and solution.usage.discarded == 0


def test_2_8_3_with_first_n_base_beyond_the_end_neither_draft_nor_rating_is_asked() -> None:
    draft, base = Model("draft", writing("d")), Model("base", writing("b"))
    solution = solve(draft, base, first_n_base=STEPS + 1)
    assert solution.text == writing("b")
    assert draft.totals.requests == 0 and not base.scored and not base.rated


def test_2_8_3_the_first_n_steps_are_the_base_s_also_when_written_step_by_step() -> None:
    draft, base = Model("draft", writing("d")), Model("base", writing("b"))
    solution = solve(draft, base, first_n_base=2)
    assert solution.text == "b0\nb1\n" + writing("d")[6:]
    assert base.scored[0][1] == "d2\n"


@settings(max_examples=12)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=6), st.floats(0, 9), st.floats(0, 9))
def test_2_8_4_acceptance_never_rises_with_the_threshold(
    likes: list[float], one: float, other: float
) -> None:
    """On the first scored step, with a deterministic scorer, over a fixed set of prefixes."""

    def kept(threshold: float) -> int:
        found = 0
        for like in likes:
            draft = Model("draft", "d0\n")
            base = Model("base", "b0\n", likes=lambda s, i, like=like: like)  # type: ignore[misc]
            found += decided(solve(draft, base, threshold=threshold))[0][1]
        return found

    assert kept(min(one, other)) >= kept(max(one, other))


@pytest.mark.parametrize("reading", ["greedy", "average"])
def test_2_8_5_a_digit_is_one_greedy_token_behind_the_chain_s_own_tokens(reading: str) -> None:
    draft, base = Model("draft", writing("d", 3)), Model("base", "", digits={"8": 0.9, "x": 0.1})
    solution = solve(draft, base, rating="digits", reading=reading)
    assert solution.text == writing("d", 3)
    for number, request in enumerate(base.rated):
        assert request.max_tokens == 1 and request.sampling.temperature == 0
        assert request.sampling.logprobs == 10
        prompt = base.tokenizer.decode(request.prompt_ids)
        assert prompt.startswith(QUESTION + writing("d", min(number + 1, 3)))
    assert solution.usage.probe == len(base.rated) == 4


@pytest.mark.parametrize(
    ("digits", "reading", "score"),
    [
        ({"7": 1.0}, "greedy", 7.0),
        ({"7": 1.0}, "average", 7.0),
        ({"x": 0.9, "9": 0.1}, "greedy", 0.0),
        ({"x": 0.9, "9": 0.1}, "average", 9.0),
        ({"x": 1.0}, "average", 0.0),
        ({"8": 0.6, "2": 0.2, "x": 0.2}, "average", (8 * 0.6 + 2 * 0.2) / 0.8),
        ({"8": 0.6, "2": 0.4}, "greedy", 8.0),
    ],
)
def test_2_8_6_digits_are_read_as_the_paper_reads_them(
    digits: dict[str, float], reading: str, score: float
) -> None:
    draft, base = Model("draft", "d0\n"), Model("base", "b0\n", digits=digits)
    solution = solve(draft, base, rating="digits", reading=reading, threshold=5)
    assert decided(solution)[0] == (pytest.approx(score, abs=1e-4), score >= 5)


def test_an_average_without_log_probabilities_is_unrated() -> None:
    class Bare(Model):
        async def sample(self, request: SampleRequest, sink: Sink | None = None) -> SampleReply:
            reply = await super().sample(request, sink)
            bare = tuple(replace(said, logprobs=()) for said in reply.completions)
            return replace(reply, completions=bare)

    base = Bare("base", writing("b"), digits={"8": 1.0})
    solution = solve(Model("draft", writing("d")), base, rating="digits", reading="average")
    assert solution.text == writing("b")
    assert len(list(solution.trace.of("unrated"))) == STEPS + 1


def test_2_8_6_a_token_that_is_no_digit_rejects_for_any_threshold_above_zero() -> None:
    draft, base = Model("draft", writing("d")), Model("base", writing("b"), digits={"x": 1.0})
    assert solve(draft, base, rating="digits", threshold=0.01).text == writing("b")


def test_2_8_7_after_a_rejection_both_models_see_the_chain_without_the_draft() -> None:
    """Asks carry the whole prefix, so a rejected step can only live on in it: it does not."""
    draft = Model("draft", writing("d"))
    base = Model("base", writing("b"), likes=lambda s, i: float(i % 2))
    solution = solve(draft, base)
    assert solution.text == "b0\nd1\nb2\nd3\nb4\nd5\n"
    for engine in (draft, base):
        for request in engine.totals.log:
            seen = engine.tokenizer.decode(request.prompt_ids).removeprefix(QUESTION)
            assert solution.text.startswith(seen)


@pytest.mark.parametrize("most", [1, 4, 9, 17, 18, 19])
def test_2_8_9_a_chain_never_passes_its_cap(most: int) -> None:
    draft = Model("draft", writing("d"))
    base = Model("base", writing("b"), likes=lambda s, i: float(i % 2))
    solution = solve(draft, base, max_tokens=most)
    assert len(solution.text) == min(most, 18)
    assert len(why(solution)) == 1


def test_2_8_9_a_repeated_step_ends_the_chain() -> None:
    draft, base = Model("draft", "d0\n" + "same\n" * 50), Model("base", "")
    solution = solve(draft, base)
    assert solution.text == "d0\nsame\nsame\n" and why(solution) == ["repeated"]


def test_2_8_9_a_step_that_completes_the_answer_ends_the_chain() -> None:
    draft, base = Model("draft", writing("d", 3, answer=True) + "more\n"), Model("base", "")
    solution = solve(draft, base)
    assert solution.answer == "7" and why(solution) == ["answer"]
    assert solution.text == writing("d", 3, answer=True)


def test_an_answer_cut_by_the_cap_of_a_step_is_no_answer_yet() -> None:
    draft, base = Model("draft", "answer 123\n"), Model("base", "")
    solution = solve(draft, base, step_tokens=8)
    assert solution.answer == "123"


def test_2_8_10_steps_joined_are_the_chain_and_empty_ones_do_not_loop() -> None:
    draft, base = Model("draft", "\n" * 400), Model("base", "\n" * 400)
    solution = solve(draft, base, max_tokens=300)
    assert solution.text == "\n\n\n" and why(solution) == ["repeated"]
    alternating = Model("draft", "a\n\n" * 200)
    solution = solve(alternating, base, max_tokens=100)
    assert len(solution.text) == 100 and why(solution) == ["length"]


def test_a_model_that_says_nothing_ends_the_chain() -> None:
    solution = solve(Model("draft", ""), Model("base", ""), threshold=9)
    assert solution.text == "" and len(why(solution)) == 1
    silent = Model("draft", "x")
    silent._script = lambda prompt, key: Line("", ends=False)
    base = Model("base", "b0\nb1\n")
    assert solve(silent, base, max_tokens=20).text == "b0\nb1\n"


GUESSED = (
    "First, I think.\n\nMaybe the answer is 12, but let me check.\n\nNo: 3*5 = 15.\n\n"
    "So it is \\boxed{15}.\n\nmore"
)


def math_problem() -> Problem:
    return Math500()._problem(MathRow(question="3*5?", answer="15", id="math500/1"))


def test_2_4_5_a_guess_in_prose_does_not_end_a_mathematical_chain() -> None:
    solution = solve(Model("draft", GUESSED), Model("base", ""), ask=math_problem())
    assert solution.text == GUESSED.removesuffix("more") and why(solution) == ["answer"]
    assert solution.answer == "15"


@pytest.mark.parametrize("line", ["Answer: 15", "**Final Answer:** 15", "#### 15"])
def test_2_4_5_an_answer_line_ends_it(line: str) -> None:
    text = f"The answer is not 12.\n\n{line}\n\n"
    solution = solve(Model("draft", text + "more"), Model("base", ""), ask=math_problem())
    assert solution.text == text and solution.answer == "15"


# 2.4, step 4.


def test_a_closing_tag_behind_a_guess_is_taken_out() -> None:
    texts = ["the answer is 1, but\n\n", "</think> I check\n\n", "\\boxed{15}\n\n"]
    draft = Model("draft", "".join(texts))
    solution = solve(draft, Model("base", ""), ask=replace(math_problem(), closing="</think>"))
    assert "</think>" not in solution.text and solution.answer == "15"


def test_a_closing_tag_without_an_answer_is_taken_out() -> None:
    texts = iter(["d0\n", "d0\nso </think>\n", "d0\nso \nanswer 7\n"])
    draft = Model("draft", "")
    draft._script = lambda prompt, key: Line(next(texts))
    solution = solve(draft, Model("base", ""), ask=problem(closing="</think>"))
    assert solution.text == "d0\nso \nanswer 7\n"
    asked = draft.tokenizer.decode(draft.totals.log[-1].prompt_ids)
    assert asked == QUESTION + "d0\nso \n" and solution.answer == "7"


class _Thinker(CharacterTokenizer):
    """Characters, and one token for a tag that ends thinking, as QwQ and R1-Distill have."""

    def encode(self, text: str) -> list[int]:
        before, tag, after = text.partition("</think>")
        ids = super().encode(before)
        return [*ids, 0xE000, *self.encode(after)] if tag else ids

    def decode(self, ids: Sequence[int]) -> str:
        return super().decode(ids).replace(chr(0xE000), "</think>")


@pytest.mark.parametrize("known", ["by the vocabulary", "by the setting", "not"])
def test_a_closing_tag_is_known_by_the_vocabulary_or_the_setting(known: str) -> None:
    draft, base = Model("draft", "d0\nso </think>\nd2\n"), Model("base", "")
    if known == "by the vocabulary":
        draft.tokenizer = base.tokenizer = _Thinker()
    closing = {"closing": "</think>"} if known == "by the setting" else {}
    solution = solve(draft, base, **closing)
    assert solution.text.startswith("d0\nso ") and solution.text.endswith("d2\n")
    assert ("</think>" in solution.text) == (known == "not")


def test_a_setting_that_is_not_used_leaves_hashes_as_they_were() -> None:
    assert "closing" not in SpecReason().model_dump(mode="json")
    assert SpecReason(closing="x").model_dump(mode="json")["closing"] == "x"


def test_a_closing_tag_with_an_answer_stays_and_so_does_one_of_an_unrated_base_step() -> None:
    ask = problem(closing="</think>")
    text = "d0\n</think> answer 7\n"
    assert solve(Model("draft", text), Model("base", ""), ask=ask).text == text
    base = Model("base", text := "b0\n</think>\nanswer 7\n")
    assert solve(Model("draft", ""), base, ask=ask, first_n_base=9).text == text


# Ratings.


@settings(max_examples=25)
@given(st.floats(0, 1))
def test_likelihood_maps_the_mean_log_probability_to_zero_to_nine(like: float) -> None:
    solution = solve(Model("draft", "d0\n"), Model("base", "b0\n", likes=lambda s, i: like))
    assert decided(solution)[0][0] == pytest.approx(9 * like, abs=1e-3)


def test_a_nan_is_a_rejection_and_is_counted() -> None:
    base = Model("base", writing("b"), likes=lambda s, i: math.nan)
    solution = solve(Model("draft", writing("d")), base)
    assert solution.text == writing("b")
    assert len(list(solution.trace.of("unrated"))) == STEPS + 1


def test_a_process_reward_model_rates_the_last_step() -> None:
    rewards = {"d": 0.9, "b": 0.1}
    prm = ScriptedEngine("prm", rewards=lambda text: rewards[text.splitlines()[-1][0]])
    verifiers = {"verifier": {"name": "prm", "model": "prm"}}
    draft, base = Model("draft", writing("d", 2)), Model("base", writing("b", 2))
    kept = solve(draft, base, rating="prm", threshold=8, prm=prm, verifiers=verifiers)
    assert kept.text == writing("d", 2) and decided(kept)[0][0] == pytest.approx(8.1)
    assert kept.usage.verifier_passes == 3 and not base.scored


def test_a_reward_model_that_breaks_rejects_and_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    prm = ScriptedEngine("prm", rewards=lambda text: math.nan)
    verifiers = {"verifier": {"name": "prm", "model": "prm"}}
    draft, base = Model("draft", writing("d", 2)), Model("base", writing("b", 2))
    solution = solve(draft, base, rating="prm", prm=prm, verifiers=verifiers)
    assert solution.text == writing("b", 2)
    assert len(list(solution.trace.of("unrated"))) == 3
    assert ProcessReward.needs == ("pool",)


# Section 5.


def test_5_3_committed_discarded_and_probe_tokens_are_what_the_engines_decoded() -> None:
    draft = Model("draft", writing("d"))
    base = Model("base", writing("b"), likes=lambda s, i: float(i % 2))
    solution = solve(draft, base)
    used = solution.usage
    assert used.tokens == draft.totals.new + base.totals.new
    # The chain's characters, and the EOS that one of the models said.
    assert used.tokens - used.discarded - used.probe == len(solution.text) + 1
    assert used.scored > 0 and solution.roles["draft"].discarded == used.discarded


@pytest.mark.parametrize("tokens", [1, 2, 3, 7, 20, 50, 1000])
@pytest.mark.parametrize("n", [1, 4])
def test_a_budget_is_never_passed(tokens: int, n: int) -> None:
    draft = Model("draft", writing("d", 5, answer=True))
    base = Model("base", writing("b"), likes=lambda s, i: float(i % 2))
    solution = solve(draft, base, n=n, max_tokens=18, budget=Budget(tokens=tokens))
    assert solution.usage.tokens <= tokens
    assert solution.usage.tokens == draft.totals.new + base.totals.new
    assert solution.status == ("ok" if tokens >= 40 * n else "budget")


def test_a_verifier_budget_is_never_passed() -> None:
    prm = ScriptedEngine("prm", rewards=lambda text: 1.0)
    verifiers = {"verifier": {"name": "prm", "model": "prm"}}
    for passes in (0, 1, 3):
        solution = solve(
            Model("draft", writing("d")),
            Model("base", writing("b")),
            n=3,
            rating="prm",
            prm=prm,
            verifiers=verifiers,
            budget=Budget(verifier_passes=passes),
        )
        assert solution.usage.verifier_passes <= passes and solution.status == "budget"


def test_5_6_a_chain_does_not_change_with_the_number_of_chains() -> None:
    """Which texts are drawn depends on each chain's own stream."""

    def chains(n: int) -> list[str]:
        draft = ScriptedEngine("draft", script=["d0\nd1\n", "e0\ne1\n", "f0\nf1\n"])
        base = Model("base", "", likes=lambda step, number: 1.0)
        solution = solve(draft, base, n=n, threshold=1)
        branches = {b: e for b, e in solution.trace.branches().items() if b}
        return [
            "".join(str(e.data["chains"][0].text) for e in events if e.kind == "sample")
            for _, events in sorted(branches.items())
        ]

    assert chains(4)[:2] == chains(2) and len(set(chains(4))) > 1


def test_a_run_is_continued_without_asking_again(tmp_path: Path) -> None:
    def models() -> tuple[Model, Model]:
        base = Model("base", writing("b"), likes=lambda s, i: float(i % 2))
        return Model("draft", writing("d")), base

    first = solve(*models(), n=3, budget=Budget(tokens=120), max_tokens=18, run=tmp_path)
    draft, base = models()
    again = solve(draft, base, n=3, budget=Budget(tokens=120), max_tokens=18, run=tmp_path)
    assert draft.totals.requests == base.totals.requests == len(base.scored) == 0
    assert (again.text, again.status, again.usage) == (first.text, first.status, first.usage)


def test_search_writes_its_steps_by_spec_reason() -> None:
    """`until: step` gives one step, by whoever may write it."""
    from reasoning.strategy import Outcome, Strategy

    class OneStep(Strategy):
        unit = "step"

        async def solve(self, ctx: Any) -> Outcome:
            one, two = await ctx.write(ctx.prompt, 2, until="step")
            (rest,) = await ctx.write(one, until="step")
            return Outcome(None, "|".join((one.text, two.text, rest.text)))

    draft = Model("draft", writing("d"))
    base = Model("base", writing("b"), likes=lambda s, i: float(i == 0))
    solver = Solver(
        {"policy": base, "draft": draft}, strategy=OneStep(), chain_policy="spec_reason"
    )
    assert solver.solve(problem()).text == "d0\n|d0\n|d0\nb1\n"


# Bad input.


@pytest.mark.parametrize(
    ("policy", "error", "words"),
    [
        ({"threshold": -1}, ConfigError, "threshold"),
        ({"threshold": 10.5}, ConfigError, "threshold"),
        ({"threshold": math.nan}, ConfigError, "threshold"),
        ({"step_tokens": 0}, ConfigError, "step_tokens"),
        ({"first_n_base": -1}, ConfigError, "first_n_base"),
        ({"rating": "stars"}, ConfigError, "rating"),
        ({"rating": "prm"}, UnknownName, "verifier in role 'verifier'"),
    ],
)
def test_settings_out_of_range_are_refused(
    policy: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        solve(Model("draft", ""), Model("base", ""), **policy)


def recipe(folder: Path, **changes: Any) -> Path:
    import yaml

    whole: dict[str, Any] = {
        "name": "r",
        "task": {"name": "countdown", "count": 1},
        "models": {"policy": "local/countdown-policy", "draft": "local/countdown-policy"},
        "chain_policy": "spec_reason",
        "strategies": ["single"],
    }
    path = folder / "r.yaml"
    path.write_text(yaml.safe_dump({**whole, **changes}))
    return path


def test_a_missing_draft_is_an_error_when_the_recipe_is_read(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="spec_reason needs a model in role 'draft'"):
        Recipe.load(recipe(tmp_path, models={"policy": "local/countdown-policy"}))


def test_different_tokenizers_are_an_error_when_the_recipe_is_read(tmp_path: Path) -> None:
    models = {"policy": "local/countdown-policy", "draft": "scripted/other"}
    with pytest.raises(ConfigError, match="different tokenizers"):
        Recipe.load(recipe(tmp_path, models=models))
    text = {"name": "spec_reason", "exchange": "text"}
    Recipe.load(recipe(tmp_path, models=models, chain_policy=text))


def test_speculative_decoding_is_refused_where_it_samples_wrongly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reasoning.engines.vllm import engine

    speculative = {"model": "countdown-draft", "num_speculative_tokens": 5}
    policy = {"model": "vllm/countdown-policy", "speculative_config": speculative}
    models = {"policy": policy, "draft": "local/countdown-policy"}
    monkeypatch.setattr(engine, "_cpu_build", lambda: True)
    with pytest.raises(CapabilityError, match="wrong distribution"):
        Recipe.load(recipe(tmp_path, models=models))
    Recipe.load(recipe(tmp_path, models=models, sampling={"temperature": 0.0}))
    monkeypatch.setattr(engine, "_cpu_build", lambda: False)
    Recipe.load(recipe(tmp_path, models=models))


def test_a_model_without_words_is_not_asked_for_digits(tmp_path: Path) -> None:
    digits = {"name": "spec_reason", "rating": "digits"}
    with pytest.raises(ConfigError, match="no words for the question"):
        Recipe.load(recipe(tmp_path, chain_policy=digits))


def test_an_engine_without_log_probabilities_is_an_error_before_anything_is_spent() -> None:
    base = ScriptedEngine("base", capabilities=Capabilities(score=False))
    with pytest.raises(CapabilityError, match="score"):
        solve(Model("draft", ""), base)


# Where only text is exchanged.


def test_models_of_different_vocabularies_exchange_text() -> None:
    class Shifted:
        """Characters, numbered from 1000 on."""

        eos_id: int | None = 999
        vocab_size = 70000

        def encode(self, text: str) -> list[int]:
            return [ord(c) + 1000 for c in text]

        def decode(self, ids: Sequence[int]) -> str:
            return "".join(chr(t - 1000) for t in ids if t != 999)

        def render(self, messages: Sequence[dict[str, str]]) -> list[int]:
            return self.encode("<user>" + "".join(m["content"] for m in messages) + "</user>")

    class Foreign(Model):
        def __init__(self, name: str, text: str) -> None:
            super().__init__(name, text)
            self.plain, self.tokenizer = self.tokenizer, Shifted()  # type: ignore[assignment]

        async def sample(self, request: SampleRequest, sink: Sink | None = None) -> SampleReply:
            prompt = self.tokenizer.decode(request.prompt_ids)
            assert prompt.startswith("<user>question</user>")
            said = prompt.removeprefix("<user>question</user>")
            rest = writing("d")[len(said) :].split("\n")[0] + "\n"
            ids = (*self.tokenizer.encode(rest),) if rest != "\n" else (999,)
            from reasoning.engines.base import EngineUsage

            rest = self.tokenizer.decode(ids)
            reason = "\n" if rest else 999
            done = Completion(ids, rest, "stop", reason)
            return SampleReply((done,), EngineUsage(prefill=len(request.prompt_ids), new=len(ids)))

    base = Model("base", writing("b"), likes=lambda s, i: float(i != 1))
    solution = solve(Foreign("draft", ""), base, exchange="text")
    assert solution.text == "d0\nb1\nd2\nd3\nd4\nd5\n"
    assert solution.usage.discarded == 3 and solution.roles["draft"].tokens == 19


# On real models.


MODELS = {"policy": "local/countdown-policy", "draft": "local/countdown-policy"}


def countdown(count: int = 2) -> list[Problem]:
    from reasoning.evals.tasks import Countdown

    return Countdown(split="dev", numbers=3).problems(count)


def written(policy: Any, n: int = 4, **models: str) -> list[Any]:
    solver = Solver(
        {**MODELS, **models},
        strategy={"name": "majority", "n": n},
        chain_policy=policy,
        max_tokens=200,
        sampling=Sampling(),
    )
    return solver.solve_many(countdown())


def texts(solution: Solution) -> list[str]:
    """The chains, in order, as the last sample of each branch left them."""
    last: dict[str, str] = {}
    for event in solution.trace.of("sample"):
        for number, chain in enumerate(event.data["chains"]):
            last[f"{event.branch}.{number}"] = chain.text
    return [last[name] for name in sorted(last)]


def test_5_1_identity_on_the_real_engine() -> None:
    """Above nine it is `plain`; with every step by the base, one by one, the text is the same."""
    identity = written({"name": "spec_reason", "threshold": 10})
    base = written("plain")
    assert [texts(a) for a in identity] == [texts(b) for b in base]
    assert [a.usage.tokens for a in identity] == [b.usage.tokens for b in base]
    stepwise = written({"name": "spec_reason", "first_n_base": 1000})
    for solution, whole in zip(stepwise, base, strict=True):
        for chain, reference in zip(texts(solution), texts(whole), strict=True):
            # It ends at its answer; a chain that came to none is whole.
            assert reference.startswith(chain) and ("answer" in chain or chain == reference)


def test_5_5_the_base_rates_its_own_steps_as_a_fresh_prefill_would() -> None:
    """After rejected drafts the next ratings equal those of an engine that has seen nothing."""
    from reasoning.engines.local import LocalEngine

    (solution, _) = written({"name": "spec_reason", "threshold": 8.0}, n=1)
    verdicts = decided(solution)
    assert any(kept for _, kept in verdicts) and not all(kept for _, kept in verdicts)
    scored = [e.data["value"] for e in solution.trace.of("score")]
    chains = [e.data for e in solution.trace.of("sample") if e.data["role"] == "draft"]

    async def fresh() -> None:
        async with LocalEngine("countdown-policy", prefix_cache=0) as engine:
            for values, drafted in zip(scored, chains, strict=True):
                prefix, (step,) = drafted["prefix"], drafted["chains"]
                reply = await engine.score(prefix.all_ids, step.ids[len(prefix.ids) :])
                for (value, _), found in zip(values, reply.scores, strict=True):
                    assert value == pytest.approx(found.logprob, abs=1e-3)

    asyncio.run(fresh())
