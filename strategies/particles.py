"""Particle filtering of reasoning steps (Puri et al. 2025, arXiv 2502.01618), and its relatives.

| strategy | source |
|---|---|
| particle_filtering | algorithm 1: N partial solutions, resampled by reward after each step |
| entropic_particle_filtering | arXiv 2510.05825: warmer weights while few particles carry them |
| particle_gibbs | appendix B: filters run again, with references kept from the one before |

A particle's weight is a map of the reward of its path so far; it replaces the one before. What is
complete is not extended, keeps its weight, and takes part in resampling. Particles that the budget
does not fit in a round wait as they are; the population stays at N. When nothing more fits, the
best particle is finished with the reserve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from reasoning.chain import Chain
from reasoning.context import Context
from reasoning.errors import BudgetExhausted
from reasoning.randomness import key, uniform
from reasoning.strategies.resampling import (
    Annealing,
    Resampling,
    Weight,
    annealed,
    effective_size,
    log_weight,
    resample,
    softmax,
)
from reasoning.strategies.steps import Ask, Path, Select, Steps, Stepwise
from reasoning.strategy import Outcome


class ParticleFiltering(Stepwise):
    """Steps of N paths, resampled after each by their rewards.

    n: particles. weight: see `Weight`.

    resample_last: also after the last step, as the authors' repository does; it may lose the best
    particle before it can be selected, so algorithm 1 does not. select: `best` takes the highest
    reward, `sample` draws by weight. max_steps: rounds, after which what is not complete stays so.
    The paper finds that a reward model that scores the whole path as one step (`aggregate: model`)
    scales best.
    """

    n: int = Field(default=8, ge=1)
    weight: Weight = Weight.logit
    resampling: Resampling = Resampling.multinomial
    resample_last: bool = False
    select: Select | Literal["sample"] = "best"
    max_steps: int = Field(default=50, ge=1)

    async def solve(self, ctx: Context) -> Outcome:
        particles = _Particles(self, ctx)
        async with particles.steps.reserving():
            population = await self.filtered(particles)
        return await particles.conclude(population)

    async def filtered(self, particles: _Particles) -> list[Particle]:
        """The last population."""
        return await particles.filter(0, [])

    def temperature(self, chances: Sequence[float], step: int) -> float:
        """What log-weights are divided by in resampling after `step` steps."""
        return 1.0


class EntropicParticleFiltering(ParticleFiltering):
    """Particle filtering that warms its weights while they are too uneven.

    Warms the weights where fewer than `ess_threshold` of the particles carry them, in the
    first `early_phase` of `max_steps`.

    The paper's look-ahead modulation is not part of this. It weights a particle by its successors
    one step on, as an auxiliary particle filter does; its formula could not be verified, and the
    authors' repository raises NotImplementedError there.
    """

    resampling: Resampling = Resampling.systematic
    annealing: Annealing = Annealing.ess
    ess_threshold: float = Field(default=0.5, ge=0.0, le=1.0)
    early_phase: float = Field(default=0.5, ge=0.0, le=1.0)

    def temperature(self, chances: Sequence[float], step: int) -> float:
        progress = step / self.max_steps
        few = effective_size(chances) / len(chances) < self.ess_threshold
        return (
            annealed(self.annealing, chances, progress)
            if few and progress < self.early_phase
            else 1.0
        )


class ParticleGibbs(ParticleFiltering):
    """Particle filters in a row, each given a path of the one before to keep.

    Filters of n particles, one after the other, `iterations` of them.

    From the second on `references` of the n are trajectories of the one before, drawn by their
    final weights. They are not replaced, but others may branch off from where they stood after as
    many steps, with the weight they had there. One iteration is particle filtering.
    """

    iterations: int = Field(default=4, ge=1)
    references: int = Field(default=1, ge=0)

    @model_validator(mode="after")
    def _some_are_free(self) -> Self:
        if self.references >= self.n:
            raise ValueError(
                f"references={self.references} leave none of n={self.n} particles free"
            )
        return self

    async def filtered(self, particles: _Particles) -> list[Particle]:
        population: list[Particle] = []
        for iteration in range(self.iterations):
            references = particles.drawn(population, self.references) if iteration else []
            ahead = await particles.filter(iteration, references)
            if len(ahead[-1].trajectory) == 1:
                break  # the budget refused the first step
            population = ahead
        return population or ahead


@dataclass(frozen=True, slots=True)
class Particle:
    """trajectory: the path after 0, 1, 2, ... steps; the last one is where the particle stands."""

    trajectory: tuple[Path, ...]

    @property
    def path(self) -> Path:
        return self.trajectory[-1]

    @property
    def complete(self) -> bool:
        return self.path.step.complete

    def at(self, step: int) -> Particle:
        """The particle as it was after so many steps; a shorter one as it is."""
        return Particle(self.trajectory[: step + 1])


class _Particles:
    """The particles of one problem."""

    def __init__(self, settings: ParticleFiltering, ctx: Context) -> None:
        self.settings = settings
        self.ctx = ctx
        self.steps: Steps = settings.steps(ctx)
        self.root = Particle((self.steps.root,))
        self._draws: dict[Any, int] = {}  # of each prefix, over all iterations
        self._luck = key(*ctx.stream_path, "particles")
        self._used = 0

    async def filter(self, iteration: int, references: Sequence[Particle]) -> list[Particle]:
        """One filter; its last population, the references first."""
        free = [self.root] * (self.settings.n - len(references))
        step = 0
        while step < self.settings.max_steps and not all(p.complete for p in free):
            grown = await self._extended(free, f"step-{iteration}-{step}")
            if grown is None:
                break
            free, step = grown, step + 1
            self._offer([*references, *free])
            if all(p.complete for p in free) and not self.settings.resample_last:
                break
            free = self._resampled([*(r.at(step) for r in references), *free], len(free), step)
        return [*references, *free]

    def drawn(self, population: Sequence[Particle], count: int) -> list[Particle]:
        """`count` particles drawn by their weights."""
        chances = softmax(self._log_weights(population))
        chosen = resample(chances, count, Resampling.multinomial, self._uniforms(count))
        return [population[index] for index in chosen]

    async def conclude(self, population: Sequence[Particle]) -> Outcome:
        """The particle selected; where none has an answer it is written to its end."""
        paths = [particle.path for particle in population]
        best = await self.steps.finish(self._selected(paths))
        return self.steps.offer(best, passes=self.steps.passes, **self.steps.counters())

    # One round.

    async def _extended(self, particles: Sequence[Particle], name: str) -> list[Particle] | None:
        """The particles, each that is not complete and fits the budget one step longer and scored.

        None when none is.
        """
        live = [place for place, particle in enumerate(particles) if not particle.complete]
        fitting, _ = self.steps.fit([particles[place].path.chain for place in live], 1)
        if fitting < len(live):
            self.ctx.note_cut("budget")
        written = await self._written(
            [particles[place].path.chain for place in live[:fitting]], name
        )
        grown = {
            place: self.steps.read(particles[place].path.chain, chain)
            for place, chain in zip(live, written, strict=False)
            if chain is not None
        }
        if not grown:
            return None
        try:
            scores = await self.steps.score([step.chain for step in grown.values()])
        except BudgetExhausted as refused:  # by a cap other than passes
            self.ctx.note_cut(refused.status)
            return None
        extended = list(particles)
        for (place, step), score in zip(grown.items(), scores, strict=True):
            before = particles[place].trajectory
            extended[place] = Particle((*before, Path(step, score)))
        return extended

    async def _written(self, chains: Sequence[Chain], name: str) -> list[Chain | None]:
        """A step more for each chain; copies of one are drawn in one ask. None: refused."""
        places: dict[Any, list[int]] = {}
        for place, chain in enumerate(chains):
            places.setdefault((chain.fork, len(chain.ids)), []).append(place)
        asks = []
        for number, (prefix, copies) in enumerate(places.items()):
            first = self._draws.get(prefix, 0)
            self._draws[prefix] = first + len(copies)
            asks.append(Ask(f"{name}-{number}", chains[copies[0]].drawn(first), len(copies)))
        written: list[Chain | None] = [None] * len(chains)
        if asks:
            for copies, found in zip(places.values(), await self.steps.write(asks), strict=True):
                for place, chain in zip(copies, found, strict=False):
                    written[place] = chain
        return written

    def _resampled(self, everyone: Sequence[Particle], count: int, step: int) -> list[Particle]:
        """`count` particles in place of those that were free."""
        log_weights = self._log_weights(everyone)
        temperature = self.settings.temperature(softmax(log_weights), step)
        chances = softmax(log_weights, temperature)
        chosen = resample(chances, count, self.settings.resampling, self._uniforms(count))
        self.ctx.trace.add(
            "resample",
            self.ctx.path,
            step=step,
            scores=[particle.path.score for particle in everyone],
            complete=[particle.complete for particle in everyone],
            temperature=temperature,
            chosen=chosen,
        )
        return [everyone[index] for index in chosen]

    def _log_weights(self, particles: Sequence[Particle]) -> list[float]:
        return [log_weight(particle.path.score, self.settings.weight) for particle in particles]

    def _uniforms(self, count: int) -> list[float]:
        self._used += count
        return [float(u) for u in uniform(self._luck, range(self._used - count, self._used))]

    # The end.

    def _selected(self, paths: Sequence[Path]) -> Path:
        if self.settings.select != "sample":
            return self.steps.choose(paths, self.settings.select)
        among = [path for path in paths if path.step.answer is not None] or list(paths)
        chances = softmax([log_weight(path.score, self.settings.weight) for path in among])
        (index,) = resample(chances, 1, Resampling.multinomial, self._uniforms(1))
        return among[index]

    def _offer(self, population: Sequence[Particle]) -> None:
        best = self.steps.choose([particle.path for particle in population], "best")
        self.steps.offer(best)
