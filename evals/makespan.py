"""How long asynchronous ATTS and its synchronous baseline take, in virtual time and in real.

    python -m reasoning.evals.makespan measure --out runs/times.json
    python -m reasoning.evals.makespan play runs/times.json --chains 4 16 64
    python -m reasoning.evals.makespan real --chains 4 16 64

`measure` decodes chunks of the real draft and target and scores them, one at a time, and keeps the
seconds of each. `play` runs the two chain policies themselves over a virtual clock: each chunk,
verification and takeover lasts a time drawn from what was measured, the same one for the same chain
and turn in both. Slots bound how many chunks a model works on at once, as batches do; a chunk's
time does not depend on how many are in work beside it, which a real engine's does.

`real` runs both on the models themselves, by turns in alternating order, and takes the wall clock.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rich.console import Console
from rich.table import Table

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
from reasoning.evals.tasks import Countdown
from reasoning.problem import Problem
from reasoning.randomness import key, uniform
from reasoning.solver import Solver, engine

Mode = Literal["atts", "atts_sync"]
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

    Which time, and which loss a chunk has, is a function of the chain and the place in it.
    """

    def __init__(self, name: str, say: list[float], score: list[float], slots: int) -> None:
        super().__init__(name, script=lambda prompt, stream: Line(str(stream) * 100, ends=False))
        self._say, self._score = say, score
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
        loss = float(uniform(key("loss", chain), place))
        scores = tuple(TokenLogprob(-loss) for _ in continuation_ids)
        return ScoreReply(scores, EngineUsage(prefill=place + len(continuation_ids)))


def _drawn(times: list[float], stream: int, place: int) -> float:
    return times[int(float(uniform(stream, place)) * len(times))]


@dataclass(frozen=True, slots=True)
class Play:
    """chains, turns, rho: of the run. slots: chunks that a model works on at once."""

    chains: int
    turns: int = 15
    rho: float = 0.25
    draft_slots: int = 1 << 20
    target_slots: int = 1 << 20

    def solver(
        self, mode: Mode, models: dict[str, Engine], draft: int, target: int, seed: int
    ) -> Solver:
        """One problem's chains by a policy, with chunks of so many tokens."""
        return Solver(
            models,
            strategy={"name": "majority", "n": self.chains},
            chain_policy={
                "name": mode,
                "rho": self.rho,
                "turns": self.turns,
                "draft_tokens": draft,
                "target_tokens": target,
            },
            seed=seed,
        )

    def makespan(self, mode: Mode, times: Times, seed: int = 0) -> float:
        """Seconds until the last of the chains is written, in virtual time."""
        for name, value in (("chains", self.chains), ("turns", self.turns)):
            if value < 1:
                raise ConfigError(f"{name} must be at least 1, not {value}")

        async def main() -> float:
            target = TimedEngine("target", times.target, times.verify, self.target_slots)
            draft = TimedEngine("draft", times.draft, times.verify, self.draft_slots)
            solver = self.solver(mode, {"policy": target, "draft": draft}, CHUNK, CHUNK, seed)
            never = Problem("p", ({"role": "user", "content": "p"},), extract=lambda text: None)
            return (await solver.asolve(never)).seconds

        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            return runner.run(main())


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
) -> list[tuple[float, float]]:
    """(async, sync) wall-clock seconds on Countdown problems, one after the other."""
    pairs = []
    for number, problem in enumerate(Countdown(split="calibrate").problems(repeats + 1)):
        seconds: dict[Mode, float] = {}
        modes: list[Mode] = ["atts", "atts_sync"]
        for mode in modes if number % 2 else reversed(modes):
            solver = played.solver(mode, models, draft, target, number)
            seconds[mode] = (await solver.asolve(problem)).seconds
        pairs.append((seconds["atts"], seconds["atts_sync"]))
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
    play.add_argument("--draft-slots", type=int, default=1 << 20)
    play.add_argument("--target-slots", type=int, default=1 << 20)
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


def _pairs(given: argparse.Namespace) -> dict[int, list[tuple[float, float]]]:
    """(async, sync) seconds by the number of chains."""
    if given.command == "real":
        models = {"policy": engine(given.policy), "draft": engine(given.draft)}
        return {
            chains: asyncio.run(
                real(
                    models,
                    Play(chains, given.turns, given.rho),
                    given.draft_tokens,
                    given.target_tokens,
                    given.repeats,
                )
            )
            for chains in given.chains
        }
    times, found = Times.load(given.times), {}
    for chains in given.chains:
        played = Play(chains, given.turns, given.rho, given.draft_slots, given.target_slots)
        found[chains] = [
            (played.makespan("atts", times, seed), played.makespan("atts_sync", times, seed))
            for seed in range(given.repeats)
        ]
    return found


def _table(given: argparse.Namespace, found: dict[int, list[tuple[float, float]]]) -> Table:
    kind = "virtual" if given.command == "play" else "wall-clock"
    table = Table(
        "chains", "async s", "sync s", "sync / async", "lowest", "highest", title=f"{kind} seconds"
    )
    for chains, pairs in found.items():
        ratios = sorted(sync / async_ for async_, sync in pairs)
        means = [sum(values) / len(pairs) for values in zip(*pairs, strict=True)]
        table.add_row(
            str(chains),
            f"{means[0]:.3f}",
            f"{means[1]:.3f}",
            f"{means[1] / means[0]:.2f}",
            f"{ratios[0]:.2f}",
            f"{ratios[-1]:.2f}",
        )
    return table


if __name__ == "__main__":
    end_with(main)
