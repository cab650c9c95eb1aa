"""How long asynchronous ATTS and its synchronous baseline take, in virtual time and in real.

    python -m reasoning.evals.makespan measure --out runs/times.json
    python -m reasoning.evals.makespan play runs/times.json --chains 4 16 64
    python -m reasoning.evals.makespan real --chains 4 16 64 --bank runs/atts-bank.json

`measure` decodes chunks of the real draft and target and scores them, one at a time, and keeps the
seconds of each. `play` runs the two chain policies themselves over a virtual clock: each chunk,
verification and takeover lasts a time drawn from what was measured, the same one for the same chain
and turn in both. Slots bound how many chunks a model works on at once, as batches do; a chunk's
time does not depend on how many are in work beside it, which a real engine's does.

`real` runs both on the models themselves, by turns in alternating order, and takes the wall clock.

One problem alone has no earlier rounds to learn from: without `--bank`, ATTS's takeovers are coins
of probability rho. With a bank file they are decisions. In `play` the losses are then drawn from
it, of all turns alike; `real` samples as it was calibrated.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from reasoning.cli import end_with
from reasoning.engines.base import (
    Engine,
    EngineUsage,
    SampleReply,
    SampleRequest,
    Sampling,
    ScoreReply,
    Sink,
    Stream,
    TokenLogprob,
)
from reasoning.engines.scripted import Line, ScriptedEngine, VirtualTimeLoop
from reasoning.errors import ConfigError, DataError
from reasoning.evals import markdown
from reasoning.evals.atts import SAMPLING
from reasoning.evals.tasks import Countdown
from reasoning.problem import Problem, Solution
from reasoning.randomness import key, uniform
from reasoning.solver import Solver, engine
from reasoning.strategies.chains.banks import BankFile

Mode = Literal["atts", "atts_sync"]
UNBOUNDED = 1 << 20
CHUNK = 8  # tokens of a chunk in a played run; its time is what was measured, whatever its length


class Times(BaseModel):
    """Seconds of single chunks by the draft, of their verifications, and of the target's chunks."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    draft: list[float] = Field(min_length=1)
    verify: list[float] = Field(min_length=1)
    target: list[float] = Field(min_length=1)
    about: dict[str, Any] = {}

    @classmethod
    def load(cls, path: Path) -> Times:
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, ValidationError) as error:
            reason = " ".join(str(error).split())[:200]
            raise DataError(
                f"{path} holds no measured times ({reason}); "
                f"`python -m reasoning.evals.makespan measure` writes them"
            ) from None


class TimedEngine(ScriptedEngine):
    """A model that says letters, and takes measured times to say or score a chunk.

    Which time, and which loss a chunk has, is a function of the chain and the place in it. losses:
    what they are drawn from; none are uniform in [0, 1).
    """

    def __init__(
        self,
        name: str,
        say: list[float],
        score: list[float],
        slots: int,
        losses: Sequence[float] = (),
    ) -> None:
        super().__init__(name, script=lambda prompt, stream: Line(str(stream) * 100, ends=False))
        self._say, self._score, self._losses = say, score, losses
        self._free = asyncio.Semaphore(slots)

    async def sample(self, request: SampleRequest, sink: Sink | None = None) -> SampleReply:
        async with self._free:
            await asyncio.sleep(_drawn(self._say, request.streams[0].key, request.position))
            return await super().sample(request, sink)

    async def score(
        self, prefix_ids: Sequence[int], continuation_ids: Sequence[int], top: int = 0
    ) -> ScoreReply:
        chain, place = key(self.tokenizer.decode(continuation_ids)), len(prefix_ids)
        async with self._free:
            await asyncio.sleep(_drawn(self._score, chain, place))
        luck = float(uniform(key("loss", chain), place))
        loss = self._losses[int(luck * len(self._losses))] if self._losses else luck
        scores = tuple(TokenLogprob(-loss) for _ in continuation_ids)
        return ScoreReply(scores, EngineUsage(prefill=place + len(continuation_ids)))


def _drawn(times: list[float], stream: int, place: int) -> float:
    return times[int(float(uniform(stream, place)) * len(times))]


@dataclass(frozen=True, slots=True)
class Made:
    """seconds: until the last of a problem's chains was written. takeovers: by the target."""

    seconds: float
    takeovers: int

    @classmethod
    def of(cls, solution: Solution) -> Made:
        decisions = solution.trace.of("decision")
        return cls(solution.seconds, sum(event.data["takeover"] for event in decisions))


Pair = tuple[Made, Made]  # asynchronous and synchronous


@dataclass(frozen=True, slots=True)
class Play:
    """chains, turns, rho: of the run. slots: chunks that a model works on at once. bank: a file of
    losses that ATTS's are compared with."""

    chains: int
    turns: int = 15
    rho: float = 0.25
    draft_slots: int = UNBOUNDED
    target_slots: int = UNBOUNDED
    bank: Path | None = None

    def solver(
        self,
        mode: Mode,
        models: dict[str, Engine],
        draft: int,
        target: int,
        seed: int,
        sampling: Sampling | None = None,
        **bank: Any,
    ) -> Solver:
        """One problem's chains by a policy, with chunks of so many tokens."""
        policy: dict[str, Any] = {"name": mode, "rho": self.rho, "turns": self.turns}
        policy |= {"draft_tokens": draft, "target_tokens": target}
        if mode == "atts" and bank:
            policy |= {"calibration": "frozen", **bank}
        strategy = {"name": "majority", "n": self.chains}
        return Solver(models, strategy=strategy, chain_policy=policy, sampling=sampling, seed=seed)

    def makespan(self, mode: Mode, times: Times, seed: int = 0) -> float:
        """Seconds until the last of the chains is written, in virtual time."""
        return self.played(mode, times, seed).seconds

    def played(self, mode: Mode, times: Times, seed: int = 0) -> Made:
        for name, value in (("chains", self.chains), ("turns", self.turns)):
            if value < 1:
                raise ConfigError(f"{name} must be at least 1, not {value}")

        async def main(**bank: Any) -> Made:
            target = TimedEngine("target", times.target, times.verify, self.target_slots, losses)
            draft = TimedEngine("draft", times.draft, times.verify, self.draft_slots)
            models: dict[str, Engine] = {"policy": target, "draft": draft}
            solver = self.solver(mode, models, CHUNK, CHUNK, seed, **bank)
            never = Problem("p", ({"role": "user", "content": "p"},), extract=lambda text: None)
            return Made.of(await solver.asolve(never))

        losses: list[float] = []
        with (
            asyncio.Runner(loop_factory=VirtualTimeLoop) as runner,
            tempfile.TemporaryDirectory() as folder,
        ):
            if self.bank is None:
                return runner.run(main())
            found = BankFile.load(self.bank)
            losses += [math.inf if x is None else x for turn in found.turns for x in turn]
            same = {
                "models": {},
                "weights": {},
                "draft_tokens": CHUNK,
                "sampling": _told(Sampling()),
            }
            file = Path(folder) / "bank.json"
            found.model_copy(update=same).save(file)
            return runner.run(main(file=str(file), bank="marginal"))


def _told(sampling: Sampling) -> dict[str, Any]:
    return {name: getattr(sampling, name) for name in SAMPLING}


async def measure(
    draft: Engine, target: Engine, *, chunks: int, draft_tokens: int, target_tokens: int
) -> Times:
    """Times of `chunks` turns on Countdown problems of the calibrate split, one at a time."""
    found: dict[str, list[float]] = {"draft": [], "verify": [], "target": []}

    async def timed(what: str, ask: Any) -> Any:
        began = time.perf_counter()
        reply = await ask
        found[what].append(time.perf_counter() - began)
        return reply

    problems = Countdown(split="calibrate").problems(max(2, chunks // 4 + 2))
    for number, problem in enumerate(problems):
        ids = tuple(draft.tokenizer.render(list(problem.messages)))
        prompt = len(ids)
        while len(found["target"]) < chunks + 1:
            request = SampleRequest(
                ids, draft_tokens, Sampling(), (Stream(key("makespan", number)),), len(ids) - prompt
            )
            said = (await timed("draft", draft.sample(request))).completions[0]
            if not said.ids:
                break
            await timed("verify", target.score(ids, said.ids))
            ids += said.ids
            request = SampleRequest(
                ids, target_tokens, Sampling(), request.streams, len(ids) - prompt
            )
            more = (await timed("target", target.sample(request))).completions[0]
            ids += more.ids
            if said.finish == "stop" or more.finish == "stop":
                break
    # The first of each warms the engine up.
    about = {"draft": draft.name, "target": target.name}
    about |= {"draft_tokens": str(draft_tokens), "target_tokens": str(target_tokens)}
    return Times(about=about, **{what: times[1:] or times for what, times in found.items()})


async def real(
    models: dict[str, Engine], played: Play, draft: int, target: int, repeats: int
) -> list[Pair]:
    """(async, sync) by the wall clock on Countdown problems, one after the other."""
    pairs, sampling, bank = [], None, {}
    if played.bank is not None:
        sampling = Sampling(**BankFile.load(played.bank).sampling)
        bank = {"file": str(played.bank)}
    for number, problem in enumerate(Countdown(split="calibrate").problems(repeats + 1)):
        made: dict[Mode, Made] = {}
        modes: list[Mode] = ["atts", "atts_sync"]
        for mode in modes if number % 2 else reversed(modes):
            solver = played.solver(mode, models, draft, target, number, sampling, **bank)
            made[mode] = Made.of(await solver.asolve(problem))
        pairs.append((made["atts"], made["atts_sync"]))
    return pairs[1:]  # the first pair warms up


async def _measured(given: argparse.Namespace) -> Times:
    async with engine(given.policy) as target, engine(given.draft) as draft:
        return await measure(
            draft,
            target,
            chunks=given.chunks,
            draft_tokens=given.draft_tokens,
            target_tokens=given.target_tokens,
        )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    take = commands.add_parser("measure", help="measure chunk times of real models")
    take.add_argument("--chunks", type=int, default=200)
    take.add_argument("--out", type=Path, required=True)
    play = commands.add_parser("play", help="makespans in virtual time")
    play.add_argument("times", type=Path)
    play.add_argument("--draft-slots", type=int, default=UNBOUNDED)
    play.add_argument("--target-slots", type=int, default=UNBOUNDED)
    race = commands.add_parser("real", help="makespans on real models")
    for command in (take, race):
        command.add_argument("--policy", default="local/countdown-policy")
        command.add_argument("--draft", default="local/countdown-draft")
        command.add_argument("--draft-tokens", type=int, default=32)
        command.add_argument("--target-tokens", type=int, default=32)
    for command in (play, race):
        command.add_argument("--chains", type=int, nargs="+", default=[4, 16, 64])
        command.add_argument("--turns", type=int, default=15)
        command.add_argument("--rho", type=float, default=0.25)
        command.add_argument("--repeats", type=int, default=10)
        command.add_argument(
            "--bank", type=Path, help="of `evals.atts bank`; without, coins decide"
        )
        command.add_argument(
            "--into", type=Path, help="a Markdown file with markers `makespan-play`, `...-real`"
        )
    given = parser.parse_args(arguments)
    console = Console()
    if given.command == "measure":
        times = asyncio.run(_measured(given))
        given.out.write_text(times.model_dump_json() + "\n", encoding="utf-8")
        console.print(f"{given.out}: {len(times.draft)} chunks", markup=False, highlight=False)
        return
    drawn = _table(given, _pairs(given))
    console.print(drawn)
    if given.into:
        markdown.place(given.into, f"makespan-{given.command}", drawn, "reasoning.evals.makespan")


def _pairs(given: argparse.Namespace) -> dict[int, list[Pair]]:
    """(async, sync) by the number of chains."""
    played = Play(1, given.turns, given.rho, bank=given.bank)
    if given.command == "real":
        models = {"policy": engine(given.policy), "draft": engine(given.draft)}
        sizes = (given.draft_tokens, given.target_tokens)
        return {
            chains: asyncio.run(real(models, replace(played, chains=chains), *sizes, given.repeats))
            for chains in given.chains
        }
    times, found = Times.load(given.times), {}
    played = replace(played, draft_slots=given.draft_slots, target_slots=given.target_slots)
    for chains in given.chains:
        one = replace(played, chains=chains)
        found[chains] = [
            (one.played("atts", times, seed), one.played("atts_sync", times, seed))
            for seed in range(given.repeats)
        ]
    return found


def _table(given: argparse.Namespace, found: dict[int, list[Pair]]) -> Table:
    told = [
        f"rho {given.rho:g}, {given.turns} turns, means of {given.repeats}",
        "takeovers async / sync",
    ]
    if given.command == "play":
        for model in ("draft", "target"):
            slots = getattr(given, f"{model}_slots")
            told.append(f"{model} slots {'unbounded' if slots == UNBOUNDED else slots}")
    told.append(f"frozen bank {given.bank}" if given.bank else "no bank: coins decide")
    kind = "virtual" if given.command == "play" else "wall-clock"
    table = Table(title=f"{kind} seconds", caption=Text("; ".join(told)))
    seconds = ("async s", "sync s", "sync / async", "lowest", "highest")
    for name in ("chains", *seconds, "takeovers"):
        table.add_column(name, justify="right")
    for chains, pairs in found.items():
        ratios = sorted(sync.seconds / async_.seconds for async_, sync in pairs)
        ours, theirs = zip(*pairs, strict=True)
        means = [sum(made.seconds for made in all_) / len(pairs) for all_ in (ours, theirs)]
        taken = [sum(made.takeovers for made in all_) / len(pairs) for all_ in (ours, theirs)]
        table.add_row(
            str(chains),
            *(f"{mean:.3f}" for mean in means),
            f"{means[1] / means[0]:.2f}",
            f"{ratios[0]:.2f}",
            f"{ratios[-1]:.2f}",
            " / ".join(f"{mean:.1f}" for mean in taken),
        )
    return table


if __name__ == "__main__":
    end_with(main)
