"""Budget forcing (Muennighoff et al. 2025, s1, arXiv 2501.19393, section 3.1).

Max: at `max_thinking` tokens the end-of-think delimiter is put behind the thinking, and then
`Final Answer:`. Min: an end of thinking that the model samples (the delimiter, or EOS) is taken
out and `Wait` is put in its place, the first `n_ignore` times.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from reasoning.errors import ConfigError
from reasoning.strategies.chains.observed import Action, Draft, Limit, Observed, Observer
from reasoning.strategies.chains.phases import Closing

SPARE = 100  # tokens that an "auto" limit leaves for the answer, but no more than for thinking


class BudgetForcing(Observed):
    """A least and a most of thinking, by forced text (s1).

    max_thinking: tokens, `auto` (all the room but the closing and 100 tokens; half of it where that
    is less than 200), or None. A closing and one token of the answer always have room.
    n_ignore: ends of thinking that are ignored. wait: what stands in their place.
    final: put behind a forced delimiter; by default `Final Answer:` behind a tag, and nothing
    behind a word that opens the answer already.

    With max_thinking None and n_ignore 0 it is plain decoding.
    """

    max_thinking: Annotated[int, Field(ge=0)] | Literal["auto"] | None = None
    n_ignore: int = Field(default=0, ge=0)
    wait: str = Field(default="Wait", min_length=1)
    final: str | None = None

    def texts(self, closing: Closing) -> tuple[str, ...]:
        waits = (self.wait,) if self.n_ignore else ()
        return waits if self.max_thinking is None else (*waits, self.behind(closing))

    def behind(self, closing: Closing) -> str:
        """What is put behind a forced delimiter."""
        if self.final is not None:
            return self.final
        return "" if closing.word else "\n\nFinal Answer:"

    def observer(self, draft: Draft) -> Observer:
        return _Forcing(self)


class _Forcing(Observer):
    def __init__(self, policy: BudgetForcing) -> None:
        self._policy = policy
        self._ignored = 0

    def stops(self, draft: Draft) -> tuple[str, ...]:
        return (draft.closing.text,) if self._ignored < self._policy.n_ignore else ()

    def limit(self, draft: Draft) -> Limit | None:
        most, final = self._policy.max_thinking, self._policy.behind(draft.closing)
        if most is None:
            return None
        closing = len(draft.encode("\n" + draft.closing.text + final))
        room = draft.room - closing  # of the thinking and the answer
        if room < 1:
            raise ConfigError(
                f"a chain of {draft.room} tokens cannot hold what closes its thinking ({closing} "
                f"tokens) and an answer; raise max_tokens, or leave out `max_thinking`"
            )
        most = room - min(SPARE, room // 2) if most == "auto" else min(most, room - 1)
        return Limit("max", most, final)

    async def ended(self, draft: Draft) -> Action | None:
        closed = draft.ended or not draft.thinking  # not a stop of another policy's
        if not closed or self._ignored >= self._policy.n_ignore:
            return None
        keep, lost = draft.before(draft.closing.text)
        text = lost + self._policy.wait
        limit = self.limit(draft)
        most = draft.room - 1 if limit is None else limit.tokens
        if keep + len(draft.encode(text)) >= most:
            return None
        self._ignored += 1
        return Action("wait", text, keep)
