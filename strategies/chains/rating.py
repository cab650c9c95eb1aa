r"""Ratings of a reasoning step, 0 (wrong) to 9, as SpecReason asks for them.

Each reads the chain up to and with the step. None is a rating that failed: the model gave no
log-probabilities, the prompt does not fit its context, the reward model broke.
"""

from __future__ import annotations

import math

from reasoning.chain import Chain
from reasoning.context import Context
from reasoning.engines.base import Engine, Sampling, Tokenizer
from reasoning.errors import ConfigError
from reasoning.problem import Problem
from reasoning.prompts import think_tags
from reasoning.strategies.chains.drafting import TARGET
from reasoning.strategies.chains.side_by_side import only

BEST = 9
INSTRUCTION = (
    "Look at the last step of the reasoning above and at nothing else. Is it correct, in its facts "
    "and in its logic? Style and usefulness do not count. Rate it with one digit from 0 (wrong) to "
    "9 (certainly correct). Give the digit alone inside \\boxed{}."
)
LEAD = "The last step rates \\boxed{"


async def by_likelihood(ctx: Context, chain: Chain, step: Chain) -> float | None:
    """9 times the geometric mean of the base model's probabilities of the step's tokens.

    [our rule; the paper has none] A step that the base would write itself with certainty has 9; at
    the default threshold of 7 its tokens have probability 0.78 in the geometric mean.
    """
    scores = await ctx.score(chain, step.ids[len(chain.ids) :], role=TARGET)
    mean = sum(score.logprob for score in scores) / len(scores) if scores else math.nan
    return None if math.isnan(mean) else BEST * math.exp(min(0.0, mean))


async def by_reward(ctx: Context, step: Chain, role: str) -> float | None:
    """9 times the reward, in [0, 1], that the verifier in `role` gives the last step."""
    (rated,) = await ctx.rate_some([step], role=role)
    return BEST * min(1.0, max(0.0, rated.scores[-1])) if rated and rated.scores else None


async def by_digit(ctx: Context, step: Chain, *, average: bool) -> float | None:
    """The digit that the base model answers, decoding one token at temperature 0.

    The prompt goes on from the chain's own tokens, so that all of it but the step and the question
    is in the prefix cache: the turn is closed, the question asked, and the answer opened right
    before its digit.
    """
    engine = ctx.bindings.engine(TARGET)
    key = ("rating", ctx.bindings.identity)
    question = ctx.session.rendered(key, lambda: _question(ctx.problem, engine))
    ids = (
        step.all_ids[:-1] if step.done else step.all_ids
    )  # EOS ends a turn; the template has its own
    prompt = Chain(ids + question)
    if len(prompt.prompt_ids) >= engine.context_length:
        return None
    greedy = Sampling(temperature=0.0, logprobs=10)
    said = only(await ctx.sample(prompt, role=TARGET, sampling=greedy, max_tokens=1))
    ctx.book(TARGET, probe=len(said.ids))
    if not said.ids:
        return None
    if not average:
        return _digit(engine.tokenizer, said.ids[0]) or 0.0
    top = said.logprobs[0].top if said.logprobs else {}
    if not top:
        return None
    shares: dict[float, float] = {}
    for token, logprob in top.items():
        digit = _digit(engine.tokenizer, token)
        if digit is not None and not math.isnan(logprob):
            shares[digit] = shares.get(digit, 0.0) + math.exp(logprob)
    mass = sum(shares.values())
    return sum(digit * share for digit, share in shares.items()) / mass if mass else 0.0


def refuse_if_speechless(engine: Engine) -> None:
    """Raise ConfigError for a model whose vocabulary cannot express the question."""
    asked = INSTRUCTION + LEAD
    if engine.tokenizer.decode(engine.tokenizer.encode(asked)).strip() != asked.strip():
        raise ConfigError(
            f"{engine.name} has no words for the question that `rating: digits` asks; use `rating: "
            f"likelihood`, or a process reward model with `rating: prm`"
        )


def _digit(tokenizer: Tokenizer, token: int) -> float | None:
    """The digit that a token says, if it says one digit and nothing else."""
    text = tokenizer.decode([token]).strip()
    return float(text) if len(text) == 1 and text in "0123456789" else None


def _question(problem: Problem, engine: Engine) -> tuple[int, ...]:
    """What stands between a step and the digit that rates it, in the model's own template.

    Found as what two conversations have in common at their end that differ in what the assistant
    said before; so no text is tokenised twice.
    """

    def rendered(said: str) -> list[int]:
        turns = ({"role": "assistant", "content": said}, {"role": "user", "content": INSTRUCTION})
        return engine.tokenizer.render([*problem.messages, *turns])

    one, other = rendered("1"), rendered("2")
    same = 0
    while same < min(len(one), len(other)) and one[-1 - same] == other[-1 - same]:
        same += 1
    shared = one[len(one) - same :]
    tags = think_tags(engine.tokenizer)
    opened = tags is None or engine.tokenizer.decode(shared).rstrip().endswith(tags[0])
    lead = LEAD if opened or tags is None else f"{tags[0]}\n{LEAD}"
    return (*shared, *engine.tokenizer.encode(lead))
