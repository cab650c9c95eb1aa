"""Checks of a reward model's checkpoint on the spot: is it read the way it was trained to be?

A wrong marker or layout gives no error but bad scores; these checks find what can be found without
labelled data. They run the verifier itself on a small sum that any vocabulary can express.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

from reasoning.chain import Chain
from reasoning.engines.base import Engine
from reasoning.errors import ConfigError, ReasoningError
from reasoning.naming import build
from reasoning.problem import Problem
from reasoning.registry import verifiers
from reasoning.strategy import Rating, Verifier
from reasoning.verifiers.outcome import OutcomeReward
from reasoning.verifiers.steps import question
from reasoning.verifiers.text_prm import ChosenReward, TextReward

FORMATS = (
    "prm",
    "qwen_prm",
    "math_shepherd",
    "rlhflow_prm",
    "skywork_prm",
    "value_head",
    "outcome",
)
STEPS = ("75-10=65 : 14 17 65", "65-17=48 : 14 48", "48+14=62 : 62")
PROBLEM = Problem("check", ({"role": "user", "content": "14 17 75 10 = 50"},), step="\n")
# Scores of the same tokens may differ by this: 16-bit weights, other batches, cached prefixes.
TOLERANCE = 0.02


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report. A note is for the reader to judge; it fails nothing."""

    name: str
    state: Literal["ok", "failed", "note"]
    found: str


def detect(engine: Engine) -> str:
    """The format of a started engine's model, from its config and tokenizer.

    Raises ConfigError when they do not say.
    """
    config = engine.model_config() or {}
    architecture = (config.get("architectures") or [""])[0]
    tokenizer = engine.tokenizer
    if engine.capabilities.pool:
        if architecture.endswith("SequenceClassification"):
            return "outcome"
        if len(tokenizer.encode("<extra_0>")) == 1 or "ProcessReward" in architecture:
            return "qwen_prm"
        if architecture.endswith("TokenClassification"):
            labels = config.get("id2label") or ()
            return "prm" if len(labels) == 1 or config.get("num_labels") == 1 else "value_head"
        if architecture:
            return "skywork_prm"  # a value head beside the vocabulary
    elif engine.capabilities.choose:
        bare = [*getattr(tokenizer, "opening", ()), *tokenizer.encode("1\n")]
        if tokenizer.render([{"role": "user", "content": "1"}]) != bare:
            return "rlhflow_prm"
        if len(tokenizer.encode("ки")) == 1:
            return "math_shepherd"
    raise ConfigError(
        f"the format of {engine.name} cannot be told from its config and tokenizer; give "
        f"--format, one of {', '.join(FORMATS)}"
    )


async def check(engine: Engine, name: str | None = None) -> list[Check]:
    """The report on a started engine. `name`: its format; None asks `detect`."""
    if name is not None and name not in FORMATS:
        raise ConfigError(f"unknown format {name!r}; known are {', '.join(FORMATS)}")
    known = name or detect(engine)
    how = "given" if name else "from config and tokenizer"
    made: Verifier = build(verifiers, known)
    checks = [Check("format", "ok", f"{known} ({how})")]
    missing = [need for need in made.needs if not getattr(engine.capabilities, need)]
    if missing:
        said = f"{engine.name} cannot {', '.join(missing)}"
        return [*checks, Check("capabilities", "failed", said)]
    subject = _Subject(engine, made, known)
    outcome = isinstance(made, OutcomeReward)
    for title, run in (
        ("markers", None if outcome else subject.markers),
        ("score of the whole" if outcome else "one score a step", subject.count),
        ("range", subject.range),
        ("trailing separator", subject.trailing),
        ("growing path", None if outcome else subject.growing),
        ("determinism", subject.determinism),
        ("scores differ", subject.differ),
        ("model mode", None if outcome else subject.whole),
        ("empty chain", subject.empty),
        ("mass on the answers", subject.mass if isinstance(made, ChosenReward) else None),
    ):
        if run is not None:
            checks.append(await _run(title, run))
    return checks


async def _run(title: str, run: Callable[[], Awaitable[tuple[bool | None, str]]]) -> Check:
    try:
        passed, found = await run()
    except ReasoningError as error:
        return Check(title, "failed", str(error))
    return Check(title, "note" if passed is None else "ok" if passed else "failed", found)


class _Subject:
    """One model under test. A check returns whether it passed (None: a note), and what it saw."""

    def __init__(self, engine: Engine, verifier: Verifier, name: str) -> None:
        self.engine, self.verifier, self.name = engine, verifier, name

    def chain(self, text: str) -> Chain:
        """A text as a policy with this tokenizer would have written it."""
        tokenizer = self.engine.tokenizer
        prompt = tokenizer.render(list(PROBLEM.messages))
        return Chain(tuple(prompt), tuple(tokenizer.encode(text)), text, "stop", True)

    async def rate(self, text: str, **settings: Any) -> Rating:
        verifier = self.verifier
        if settings:
            verifier = build(verifiers, {"name": self.name, **settings})
        (rating,) = await verifier.rate(PROBLEM, [self.chain(text)], self.engine)
        return rating

    async def markers(self) -> tuple[bool, str]:
        if not isinstance(self.verifier, TextReward):
            return True, "none: read where the policy's steps end"
        tokenizer = self.engine.tokenizer
        layout = self.verifier.layout(question(PROBLEM), STEPS, tokenizer)
        read = {layout.ids[end] for end in layout.ends}
        found = f"{len(layout.ids)} tokens, read at ids {', '.join(map(str, sorted(read)))}"
        if isinstance(self.verifier, ChosenReward):
            good, bad = self.verifier.candidates(tokenizer)
            return good != bad, f"{found}; good is {good}, bad is {bad}"
        return True, found

    async def count(self) -> tuple[bool, str]:
        rating = await self.rate("\n".join(STEPS))
        expected = 1 if isinstance(self.verifier, OutcomeReward) else len(STEPS)
        return len(rating.scores) == expected, f"{len(rating.scores)} of {expected}"

    async def range(self) -> tuple[bool, str]:
        # The verifiers raise for a score that is not; what is left is to show them.
        rating = await self.rate("\n".join(STEPS))
        return True, " ".join(f"{score:.4f}" for score in rating.scores)

    async def trailing(self) -> tuple[bool, str]:
        plain = (await self.rate("\n".join(STEPS))).scores
        ended = (await self.rate("\n".join(STEPS) + "\n\n")).scores
        if len(plain) != len(ended):
            return False, f"{len(ended)} scores with an empty last step, {len(plain)} without"
        if self.name == "prm":
            # There the separator is a token of the policy's, and is where the step is read.
            return True, f"{len(ended)} scores with and without"
        return _alike(plain, ended)

    async def growing(self) -> tuple[bool, str]:
        before = (await self.rate("\n".join(STEPS[:2]) + "\n")).scores
        rating = await self.rate("\n".join(STEPS) + "\n")
        same, found = _alike(before, rating.scores[:2])
        work = rating.usage
        return same, f"{found}; {work.cached} of {work.prefill + work.cached} tokens cached"

    async def determinism(self) -> tuple[bool, str]:
        first = (await self.rate("\n".join(STEPS))).scores
        return _alike(first, (await self.rate("\n".join(STEPS))).scores)

    async def differ(self) -> tuple[bool, str]:
        one = (await self.rate("\n".join(STEPS))).scores
        other = (await self.rate(STEPS[1])).scores
        spread = max(*one, *other) - min(*one, *other)
        return spread > 0, f"spread {spread:.4f} over steps and texts"

    async def whole(self) -> tuple[bool, str]:
        scores = (await self.rate("\n".join(STEPS), read="model")).scores
        return len(scores) == 1, " ".join(f"{score:.4f}" for score in scores)

    async def empty(self) -> tuple[bool, str]:
        rating = await self.rate("")
        return rating.scores == (0.0,) and not rating.usage.prefill, "0, without a request"

    async def mass(self) -> tuple[None, str]:
        assert isinstance(self.verifier, ChosenReward)
        tokenizer = self.engine.tokenizer
        layout = self.verifier.layout(question(PROBLEM), STEPS, tokenizer)
        reply = await self.engine.choose(layout.ids, self.verifier.candidates(tokenizer))
        said = "as a trained model has" if reply.mass > 0.5 else "a trained model has nearly all"
        return None, f"{reply.mass:.4f} ({said})"


def _alike(one: tuple[float, ...], other: tuple[float, ...]) -> tuple[bool, str]:
    gap = max((abs(a - b) for a, b in zip(one, other, strict=True)), default=0.0)
    return gap <= TOLERANCE, f"differ by {gap:.1e} at most"
