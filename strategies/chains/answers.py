"""Answers: whether a thought states one, and whether two are the same (TrimR, section 3.2).

By a model: a Yes/No question whose answer is read from one prefill, nothing is decoded. By rules:
the answer is extracted and compared as text, which costs nothing. The paper's prompts are not
public; these are this project's own, with two positive and two negative examples each.
"""

from __future__ import annotations

import abc
import re

from reasoning.chain import Chain
from reasoning.context import Context
from reasoning.engines.base import Tokenizer
from reasoning.errors import ConfigError
from reasoning.problem import Problem
from reasoning.stated import stated

_MATH = re.compile(r"\$(.+?)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_NAME = re.compile(r"\\?[^\W\d_]+")
_GREEK = {r"\alpha": "α", r"\beta": "β", r"\theta": "θ", r"\phi": "φ", r"\omega": "ω"}
_CONSTANTS = frozenset("eiπ")

YES = ("Yes", "yes", " Yes", " yes")
NO = ("No", "no", " No", " no")
EXCERPT = 128  # of the verifier's tokens: two of these, and some 130 of the prompt's own

_EXISTS = """\
Does the excerpt state a final result for the question? A plan or a partial value is not one. \
Reply with exactly Yes or No.

Question: What is 6*7+1?
Excerpt: So 42+1 gives 43. Let me verify.
Reply: Yes
Excerpt: First, 6*7 = 42.
Reply: No
Excerpt: I could expand the product instead.
Reply: No
Excerpt: Hence the answer should be 43.
Reply: Yes

Question: {question}
Excerpt: {one}
Reply:"""

_EQUAL = """\
Do the two excerpts state mathematically or logically the same result? Reply with exactly Yes or \
No.

A: So x = 1/2. B: Thus x is 0.5.
Reply: Yes
A: It takes 5 hours. B: It takes 5 minutes.
Reply: No
A: The set is {{1, 3}}. B: The roots are 3 and 1.
Reply: Yes
A: So it is 12. B: Then we get 13.
Reply: No

Question: {question}
A: {one} B: {other}
Reply:"""


class AnswerCheck(abc.ABC):
    """instant: it asks nobody, so its verdict is there at once."""

    instant = False

    @abc.abstractmethod
    async def exists(self, ctx: Context, excerpt: str) -> bool:
        """Whether the excerpt states a result for the problem's question."""

    @abc.abstractmethod
    async def equal(self, ctx: Context, one: str, other: str) -> bool:
        """Whether two excerpts that state a result state the same."""


class ByRules(AnswerCheck):
    """The task's own reading of an answer, else the conclusion that the excerpt states.

    A value in a variable that the question does not have (`n/2` where it asks for a number) is a
    step on the way, not an answer.
    """

    instant = True

    async def exists(self, ctx: Context, excerpt: str) -> bool:
        return _read(ctx, excerpt) is not None

    async def equal(self, ctx: Context, one: str, other: str) -> bool:
        answers = _read(ctx, one), _read(ctx, other)
        forms = [ctx.problem.canonical(answer) for answer in answers if answer is not None]
        return len(forms) == 2 and forms[0] == forms[1]


class ByModel(AnswerCheck):
    """A Yes when the model in `role` gives Yes more probability than No; a tie is a No.

    So is neither, and what cannot be compared (NaN), which the trace counts as `unclear`: a broken
    verifier never stops a chain.
    """

    def __init__(self, role: str) -> None:
        self._role = role

    async def exists(self, ctx: Context, excerpt: str) -> bool:
        return await self._ask(ctx, _EXISTS, excerpt)

    async def equal(self, ctx: Context, one: str, other: str) -> bool:
        return await self._ask(ctx, _EQUAL, one, other)

    async def _ask(self, ctx: Context, template: str, *excerpts: str) -> bool:
        tokenizer = ctx.bindings.engine(self._role).tokenizer
        text = question(ctx, template, *(shortened(tokenizer, excerpt) for excerpt in excerpts))
        yes, no = one_token(tokenizer, YES), one_token(tokenizer, NO)
        prompt = Chain(tuple(tokenizer.render([{"role": "user", "content": text}])))
        chances = await ctx.choose(prompt, (*yes, *no), role=self._role, verifying=True)
        if not sum(chances) > 0:
            ctx.trace.add("unclear", ctx.path, offset=len(prompt.prompt_ids))
        return sum(chances[: len(yes)]) > sum(chances[len(yes) :])


def question(ctx: Context, template: str, one: str, other: str = "") -> str:
    """A check's prompt. The part that is the same for every excerpt stands first, so that a
    prefix cache serves it."""
    return template.format(question=_asked(ctx.problem), one=one, other=other)


def _asked(problem: Problem) -> str:
    return next((m["content"] for m in reversed(problem.messages) if m["role"] == "user"), "")


def shortened(tokenizer: Tokenizer, excerpt: str) -> str:
    """The end of an excerpt, of so many tokens that a prompt has 400 at most and the question."""
    ids = tokenizer.encode(excerpt)
    return tokenizer.decode(ids[-EXCERPT:]) if len(ids) > EXCERPT else excerpt


def one_token(tokenizer: Tokenizer, words: tuple[str, ...]) -> tuple[int, ...]:
    """The ids of those spellings that are one token. Raises ConfigError where none is."""
    encoded = [tokenizer.encode(word) for word in words]
    ids = tuple(dict.fromkeys(ids[0] for ids in encoded if len(ids) == 1))
    if not ids:
        raise ConfigError(
            f"the verifier's vocabulary has no token for {words[0]!r}; use a model that can say "
            f"it, or `verifier: rules`"
        )
    return ids


def _read(ctx: Context, excerpt: str) -> str | None:
    """A bare question's `extract` takes any text for an answer, so it is not asked there."""
    problem = ctx.problem
    known = None if problem.task == "text" else problem.extract(excerpt)
    answer = known if known is not None else stated(excerpt)
    if answer is None or variables(answer) - variables(_asked(problem), of_question=True):
        return None
    return answer


def variables(text: str, *, of_question: bool = False) -> set[str]:
    """Names of one letter, besides e, i and pi. In a question's formulas `xy` is two of them;
    in an answer it may be a unit."""
    parts = [(text, 1)]
    if of_question:
        parts += [("".join(found), 2) for found in _MATH.findall(text)]
    names: set[str] = set()
    for part, longest in parts:
        for name in _NAME.findall(part):
            letter = _GREEK.get(name, name)
            names.update(letter if len(letter) <= longest else "")
    return names - _CONSTANTS
