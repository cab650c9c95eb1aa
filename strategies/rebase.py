"""REBASE and DORA: a round's continuations are shared out by reward.

REBASE (Wu et al. 2024, arXiv 2408.00724): candidate i with reward R_i gets B_i of the N
continuations of the next round, in proportion to w_i = exp(R_i / T_b).

DORA (Wang et al. 2025, arXiv 2506.15707): candidates that go the same way share one weight.
With cosines S between embeddings of the candidates, gamma_i = softmax(S_i / T_s)_i, and
w'_i is proportional to w_i gamma_i.

Both papers round N w_i; that need not sum to N, so here the largest remainders are rounded up.
That REBASE's N falls by one with every completed solution is unverified. The answer is that whose
solutions' rewards sum highest (reward-weighted majority).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from pydantic import Field

from reasoning.budget import Usage
from reasoning.context import Context
from reasoning.costs import pricing
from reasoning.engines.base import Engine, Sampling
from reasoning.errors import ConfigError, UnknownName
from reasoning.strategies.chains.drafting import difference, known, require
from reasoning.strategies.steps import Ask, Path, Select, Steps, Stepwise
from reasoning.strategy import Outcome

Floats = npt.NDArray[np.float64]


class Rebase(Stepwise):
    """Tree search whose width is shared out over the candidates by their rewards.

    n: continuations in a round (N). temperature: T_b. max_rounds: the last writes to the end.
    """

    n: int = Field(default=16, ge=1)
    temperature: float = Field(default=0.1, gt=0.0)
    max_rounds: int = Field(default=40, ge=1)
    select: Select = "weighted"

    async def solve(self, ctx: Context) -> Outcome:
        steps = self.steps(ctx)
        live = [steps.root]
        done: list[Path] = []
        async with steps.reserving():
            for number in range(self.max_rounds):
                found = await self._round(steps, number, live, self.n - len(done))
                if not found:
                    break
                done += [path for path in found if path.step.complete]
                if any(path.step.answer is not None for path in done):
                    steps.release()
                live = [p for p in found if not p.step.complete and not p.step.empty]
                live = live or ([] if done else list(found))  # all empty: they go on
                best = steps.choose(done or found, self.select)
                steps.offer(best)
                if not live or len(done) >= self.n:
                    break
        going_on = max(live, key=lambda path: path.score, default=None)
        return await steps.conclude(done, going_on, self.select)

    async def _round(
        self, steps: Steps, number: int, live: Sequence[Path], wanted: int
    ) -> list[Path]:
        """The candidates of a round, scored; [] when the budget does not fit one."""
        last = number == self.max_rounds - 1
        # The shares are not known yet: as if they were even.
        drawn = [live[place % len(live)].chain for place in range(wanted)]
        fitting, _ = steps.fit(
            drawn,
            1,
            each=steps.longest if last else None,
            before=self.weighing(steps.ctx, live),
        )
        if fitting < wanted:
            steps.ctx.note_cut("budget")
        if not fitting:
            return []
        shares = whole(await self.weights(steps.ctx, live), fitting)
        asks = [
            Ask(f"round-{number}.{index}", path.chain, share, "answer" if last else "step")
            for index, (path, share) in enumerate(zip(live, shares, strict=True))
            if share
        ]
        written = await steps.write(asks)
        found = [
            step
            for ask, chains in zip(asks, written, strict=True)
            for step in steps.read_all(ask.prefix, chains)
        ]
        scores = await steps.score([step.chain for step in found])
        return [Path(step, score) for step, score in zip(found, scores, strict=True)]

    async def weights(self, ctx: Context, live: Sequence[Path]) -> Floats:
        """The share of each path in the next round."""
        return rebase_weights([path.score for path in live], self.temperature)

    def weighing(self, ctx: Context, live: Sequence[Path]) -> Usage:
        """The most that `weights` can cost."""
        return Usage()


class Dora(Rebase):
    """REBASE whose shares go to directions: candidates that say the same share one weight.

    similarity_temperature: T_s. embedder: the role of the model whose mean hidden state over
    a path's last step stands for the path. It reads the policy's token ids, so that it must have
    its vocabulary, and only `local/` gives hidden states; the policy may be of any engine with
    token ids. The paper's is an embedding model that reads text (BGE-M3).
    """

    similarity_temperature: float = Field(default=0.01, gt=0.0)
    embedder: str = "policy"

    def check(self, engines: Mapping[str, Engine], sampling: Sampling, *, started: bool) -> None:
        if self.embedder not in engines:
            raise UnknownName(
                f"strategy dora needs a model in role {self.embedder!r}, its `embedder` (bound "
                f"are: {', '.join(engines)}); add it under `models`"
            )
        embedder, policy = engines[self.embedder], engines["policy"]
        require(embedder, "embed", "strategy dora", started)
        if not (known(embedder, started) and known(policy, started)):
            return
        unlike = difference(embedder.tokenizer, policy.tokenizer)
        if unlike is not None:
            raise ConfigError(
                f"embedder {embedder.name} and policy {policy.name} have different tokenizers "
                f"({unlike}); use models of one vocabulary"
            )

    async def weights(self, ctx: Context, live: Sequence[Path]) -> Floats:
        quality = await super().weights(ctx, live)
        if len(live) == 1:
            return quality
        embeddings = await ctx.embed(
            [(path.chain, path.step.tokens) for path in live], role=self.embedder
        )
        return dora_weights(quality, cosines(embeddings), self.similarity_temperature)

    def weighing(self, ctx: Context, live: Sequence[Path]) -> Usage:
        if len(live) == 1:
            return Usage()
        cost = ctx.bindings.cost(self.embedder)
        return Usage.sum(pricing.worst(cost, len(path.chain.all_ids), 0, 1) for path in live)


def rebase_weights(rewards: Sequence[float], temperature: float) -> Floats:
    """softmax(R / T_b); sums to 1."""
    return _softmax(np.asarray(rewards, dtype=np.float64) / temperature)


def cosines(embeddings: Sequence[Sequence[float]]) -> Floats:
    """Cosine similarities [n, n] of embeddings [n, d]; a zero vector is like itself only."""
    vectors = np.asarray(embeddings, dtype=np.float64)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.where(norms > 0, norms, 1.0)
    similar: Floats = unit @ unit.T
    np.fill_diagonal(similar, 1.0)
    return similar


def dora_weights(weights: Floats, similarity: Floats, temperature: float) -> Floats:
    """w' proportional to w gamma, gamma_i = softmax(S_i / T_s)_i; sums to 1."""
    shared: Floats = weights * np.diagonal(_softmax(similarity / temperature))
    total: Floats = shared / shared.sum()
    return total


def whole(weights: Floats, n: int) -> list[int]:
    """n shared out in proportion to `weights`: integers that sum to n (largest remainders)."""
    exact = weights / weights.sum() * n
    shares = np.floor(exact + 1e-9).astype(int)
    # Ties of the remainders go to the first.
    order = np.argsort(-(exact - shares), kind="stable")
    shares[order[: n - int(shares.sum())]] += 1
    return [int(share) for share in shares]


def _softmax(logits: Floats) -> Floats:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: Floats = powers / powers.sum(axis=-1, keepdims=True)
    return result
