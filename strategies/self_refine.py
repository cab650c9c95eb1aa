"""Self-refine: a draft, feedback on it, a better draft, until the feedback finds nothing.

Madaan et al. 2023 (arXiv 2303.17651), as Bag of Tricks (arXiv 2502.07191) uses it: at most three
rounds, all by the policy itself, no verifier. The last draft is the answer.
"""

from __future__ import annotations

from pydantic import Field

from reasoning.chain import Chain
from reasoning.context import Context
from reasoning.errors import PromptError
from reasoning.problem import Message
from reasoning.strategy import Outcome, Strategy

CRITIQUE = (
    "Check the solution above step by step and name each mistake you find. "
    'If there is none, write "No error".'
)
REFINE = "Solve the problem again with this feedback in mind, and give the answer in the same form."


class SelfRefine(Strategy):
    """Draft, feedback, refinement, until the feedback finds nothing more.

    rounds: of feedback, each followed by a refinement. stop: what the feedback says when there
    is nothing to refine (whether its case matters is unverified; here it does not). critique,
    refine: the user turns that ask for the two.

    Ends early where the model's context does not hold the next prompt. A refinement that has no
    answer does not take the place of a draft that has one.
    """

    rounds: int = Field(default=3, ge=0)
    stop: str = Field(default="No error", min_length=1)
    critique: str = Field(default=CRITIQUE, min_length=1)
    refine: str = Field(default=REFINE, min_length=1)

    async def solve(self, ctx: Context) -> Outcome:
        (draft,) = await ctx.write(ctx.prompt)
        outcome = ctx.offer(draft, refinements=0)
        for number in range(1, self.rounds + 1):
            try:
                feedback = await self._feedback(ctx, draft)
                if self.stop.casefold() in feedback.text.casefold():
                    break
                (draft,) = await ctx.write(ctx.prompted(self._refining(ctx, draft, feedback)))
            except PromptError:
                break
            if outcome.answer is None or ctx.answer(draft) is not None:
                outcome = ctx.offer(draft, refinements=number)
        return outcome

    async def _feedback(self, ctx: Context, draft: Chain) -> Chain:
        # Feedback is no chain of thought: no chain policy writes it.
        (feedback,) = await ctx.sample(ctx.prompted(self._criticising(ctx, draft)))
        return feedback

    def _criticising(self, ctx: Context, draft: Chain) -> list[Message]:
        return [*ctx.problem.messages, _said(draft), {"role": "user", "content": self.critique}]

    def _refining(self, ctx: Context, draft: Chain, feedback: Chain) -> list[Message]:
        asked = {"role": "user", "content": self.refine}
        return [*self._criticising(ctx, draft), _said(feedback), asked]


def _said(chain: Chain) -> Message:
    return {"role": "assistant", "content": chain.text}
