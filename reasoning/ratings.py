"""The way of a rate ask: store, verifier, price.

Ratings lie in the reply store under what decides them: the verifier's settings, the model's
content, the problem and the chain. One that is found there is charged in full, as it was when it
was first asked for, and counted in `verifier_reused`; so is the rating of a chain that stands
earlier in the same ask, with or without a store. Oracles, verifiers without a model, and those
whose ratings depend on the other chains of the call are asked every time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from reasoning.branch import Branch
from reasoning.budget import Usage
from reasoning.chain import Chain, packed
from reasoning.configuration import described
from reasoning.costs import pricing
from reasoning.engines.base import Engine, EngineUsage
from reasoning.errors import EngineReplyError, RatingFailed
from reasoning.journal import digest, encoded
from reasoning.outcomes import Rating, Reading

if TYPE_CHECKING:
    from reasoning.strategy import Verifier


class Rate:
    """One ask for the ratings of some chains. `await rate.run()` once."""

    def __init__(
        self, branch: Branch, chains: Sequence[Chain], role: str, *, some: bool = False
    ) -> None:
        self.branch = branch
        self.chains = tuple(chains)
        self.role = role
        self.some = some
        self.verifier, self.engine = branch.bindings.verifier(role)
        self.cost = branch.bindings.cost(role)

    def worst(self) -> Usage:
        """The most that the ask can cost."""
        return Usage.sum(
            pricing.verifying(
                self.cost, self.verifier.most(self.branch.problem, chain, self.engine)
            )
            for chain in self.chains
        )

    async def run(self) -> tuple[list[list[float] | None], Usage]:
        """Scores of each chain, and what they cost.

        Raises RatingFailed, which says what was spent, when some chains could not be rated; with
        `some` only when none of several could, and those that could not have None.
        """
        kept = _kept(self.verifier, self.engine)
        names = self._names() if kept and self.branch.store else []
        found = self.branch.store.get(list(names)) if names else {}
        known = {i: _decoded(found[name]) for i, name in enumerate(names) if name in found}
        places: dict[Any, list[int]] = {}  # of each chain that is not known, its copies behind it
        for i, chain in enumerate(self.chains):
            if i not in known:
                places.setdefault(_digest(chain) if kept else i, []).append(i)
        fresh = [first for first, *_ in places.values()]
        failed: RatingFailed | None = None
        ratings: list[Rating | None] = []
        if fresh:
            try:
                ratings = list(await self._asked([self.chains[i] for i in fresh]))
            except RatingFailed as failure:
                failed, ratings = failure, failure.ratings
        drawn = {i: rating for i, rating in zip(fresh, ratings, strict=True) if rating is not None}
        if names:
            self.branch.store.put(
                {names[i]: encoded(_values(rating)) for i, rating in drawn.items()}
            )
        for first, *copies in places.values():
            if first in drawn:
                known |= dict.fromkeys(copies, drawn[first])
        spent = Usage.sum(
            [self._price(i, rating) for i, rating in drawn.items()]
            + [_reused(self._price(i, rating)) for i, rating in known.items()]
        )
        done = known | drawn
        if failed is not None and (not self.some or (not done and len(self.chains) > 1)):
            failed.spent = spent
            raise failed
        ratings = [done.get(i) for i in range(len(self.chains))]
        return [None if rating is None else list(rating.scores) for rating in ratings], spent

    async def _asked(self, chains: list[Chain]) -> list[Rating]:
        ratings = await self.verifier.rate(self.branch.problem, chains, self.engine)
        if len(ratings) != len(chains):
            raise EngineReplyError(
                f"verifier in role {self.role!r} rated {len(ratings)} of {len(chains)} chains"
            )
        return ratings

    def _price(self, index: int, rating: Rating) -> Usage:
        return pricing.verified(self.cost, rating.requests(self.chains[index]))

    def _names(self) -> list[str]:
        """Where the store keeps each rating."""
        assert self.engine is not None
        problem = self.branch.problem
        content = digest(
            described(self.verifier),
            self.branch.session.identity(self.engine),
            [problem.id, list(problem.messages), problem.step],
        )
        return [f"rating-{content}-{_digest(chain)}" for chain in self.chains]


def _kept(verifier: Verifier, engine: Engine | None) -> bool:
    """Whether a rating is a function of what it is kept under."""
    if engine is None or verifier.oracle or not verifier.alone:
        return False
    return engine.capabilities.seeds or "sample" not in verifier.needs


def _digest(chain: Chain) -> str:
    return digest(packed(chain.all_ids), len(chain.prompt_ids), chain.text)


def _reused(usage: Usage) -> Usage:
    return usage._replace(reused=usage.tokens, verifier_reused=usage.verifier_passes)


def _values(rating: Rating) -> dict[str, Any]:
    readings = [[r.size, asdict(r.work), r.wrote] for r in rating.readings]
    return {"scores": list(rating.scores), "work": asdict(rating.usage), "readings": readings}


def _decoded(record: dict[str, Any]) -> Rating:
    readings = (
        Reading(size, EngineUsage(**work), wrote) for size, work, wrote in record["readings"]
    )
    return Rating(tuple(record["scores"]), EngineUsage(**record["work"]), tuple(readings))
