"""Agreement: how many of the chains rated together give a chain's answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

from reasoning.chain import Chain
from reasoning.engines.base import Engine
from reasoning.problem import Problem
from reasoning.strategy import Rating, Verifier


class Agreement(Verifier):
    """How many of the chains given say the same as this one.

    The share of the chains given whose answers equal this one's, itself included; 0 for a chain
    without an answer.

    Answers are equal when the task's canonical forms are. No model takes part. The score depends
    on what is rated together, so best-of-N by agreement is majority voting.
    """

    alone: ClassVar[bool] = False

    async def rate(
        self, problem: Problem, chains: Sequence[Chain], engine: Engine | None
    ) -> list[Rating]:
        answers = [problem.extract(chain.text) for chain in chains]
        forms = [None if answer is None else problem.canonical(answer) for answer in answers]
        votes = Counter(form for form in forms if form is not None)
        shares = (0.0 if form is None else votes[form] / len(chains) for form in forms)
        return [Rating((share,)) for share in shares]
