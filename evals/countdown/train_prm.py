"""Trains the Countdown process reward model on labelled rollouts of the policy.

    python -m reasoning.evals.countdown.train_prm --policy local/countdown-policy --out FOLDER

It starts from the policy's weights; a linear head reads each newline that ends a line. The target
of a line is the chance that the policy still ends right from there. One rollout is a poor estimate
of it, so chances are averaged over all rollouts whose line the exact solver judges alike
(`Chances`: numbers left, share of moves that keep the target in reach); on the answer line the
target is the check. Traces of the generator with slips and wrong claims, labelled by the same
averages, are added to the rollouts: they cost no sampling. AUROC by depth is measured on rollouts
of the calibrate split. Rollouts are kept in FOLDER/rollouts.json, and drawn once; a training that
was stopped goes on from FOLDER/checkpoint.pt.
"""

from __future__ import annotations

import argparse
import asyncio
import bisect
import json
import math
import platform
import random
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from transformers import Qwen3ForTokenClassification

from reasoning.engines import weights
from reasoning.evals.countdown import data, manifest, tokenizer, training
from reasoning.evals.countdown.problems import CountdownProblem, Split, problems
from reasoning.evals.countdown.rollouts import Rollout, Verdict, roll
from reasoning.evals.countdown.train_policy import encode
from reasoning.solver import engine

NEWLINE = 2 + tokenizer.CHARACTERS.index("\n")
# ids; of each line end its position, target, weight, and whether the rollout ended right.
Example = tuple[list[int], list[tuple[int, float, float, bool]]]
# Where the bins of a verdict's worth end: none, few, some, many of the moves are good.
WORTHS = (0.0, 0.05, 0.15, 0.4, 1.0)
PROCESSES = 2  # that write the generator's traces
# Weight of the answer line, where selection happens; the others weigh 1.
ANSWER_WEIGHT = 2.0
# Sequences a step: to learn a comparison takes steps, not tokens.
BATCH = 12


class Chances:
    """The policy's chance to end right, by what the solver says of a line."""

    def __init__(self, rollouts: Iterable[Rollout]) -> None:
        self._right: dict[tuple[int, int], int] = {}
        self._seen: dict[tuple[int, int], int] = {}
        for rollout in rollouts:
            for verdict in rollout.verdicts:
                place = self._place(verdict)
                self._seen[place] = self._seen.get(place, 0) + 1
                self._right[place] = self._right.get(place, 0) + rollout.right

    def of(self, verdict: Verdict) -> float:
        """The check itself on an answer line; else the average, 0 where nothing alike was seen."""
        if verdict.left == 0:
            return verdict.worth
        place = self._place(verdict)
        return self._right.get(place, 0) / self._seen.get(place, 1)

    def table(self) -> dict[str, float]:
        """For the manifest: chances by "numbers left/worth bin"."""
        places = sorted(self._seen)
        return {f"{n}/{w}": round(self._right[n, w] / self._seen[n, w], 4) for n, w in places}

    @staticmethod
    def _place(verdict: Verdict) -> tuple[int, int]:
        return verdict.left, bisect.bisect_left(WORTHS, verdict.worth)


def example(rollout: Rollout, chances: Chances) -> Example | None:
    """Positions of line ends in the whole sequence, with their targets."""
    start = len(rollout.prompt_ids)
    ends = [start + i for i, token in enumerate(rollout.ids) if token == NEWLINE]
    if not ends:
        return None
    # A rollout that was cut off may end in half a line, which has a verdict but no end.
    marks = [
        (
            end,
            chances.of(verdict),
            ANSWER_WEIGHT if verdict.left == 0 else 1.0,
            rollout.right,
        )
        for end, verdict in zip(ends, rollout.verdicts, strict=False)
    ]
    return [*rollout.prompt_ids, *rollout.ids], marks


def written(rollout: Rollout) -> list[Any]:
    """What `read` makes the rollout of again, as JSON values."""
    problem = rollout.problem
    return [problem.numbers, problem.target, rollout.prompt_ids, rollout.ids, rollout.text]


def read(record: list[Any]) -> Rollout:
    """The rollout that `written` wrote, judged anew."""
    numbers, target, prompt_ids, ids, text = record
    return Rollout.of(CountdownProblem(tuple(numbers), target), prompt_ids, ids, text)


def generated(count: int, seed: int) -> list[Rollout]:
    """Traces of the generator as rollouts, flawed as a policy's: dead ends, slips, wrong claims."""
    manner = data.Manner(insight=(0.0, 0.9), patience=(1, 4), slips=0.08, claims=0.4)
    made = []
    for question, text in data.parallel("train", count, seed, PROCESSES, manner):
        numbers, _, target = question.partition(" = ")
        problem = CountdownProblem(tuple(map(int, numbers.split())), int(target))
        (ids, start), *_ = encode([(question, text)])
        made.append(Rollout.of(problem, ids[:start], ids[start:], text))
    return made


def auroc(scores: list[float], labels: list[bool]) -> float:
    """Area under the ROC curve by ranks, ties counted half; NaN without both classes."""
    from scipy.stats import rankdata

    positives = sum(labels)
    negatives = len(labels) - positives
    if not positives or not negatives:
        return math.nan
    ranks = rankdata(scores)
    total = float(sum(rank for rank, label in zip(ranks, labels, strict=True) if label))
    return (total - positives * (positives + 1) / 2) / (positives * negatives)


async def rollouts(policy: str, seed: int, *asked: tuple[Split, int, int]) -> list[list[Rollout]]:
    """For each (split, problems, samples): a quarter of the problems has three numbers."""
    made = []
    async with engine(policy) as sampler:
        for split, count, samples in asked:
            easy, hard = (
                problems(split, count // 4, 3, seed),
                problems(split, count * 3 // 4, 4, seed),
            )
            chosen = [*hard, *easy]
            made.append(await roll(sampler, chosen, samples, max_tokens=640, seed=seed))
    return made


def batches(examples: list[Example], rng: random.Random, size: int) -> list[list[Example]]:
    order = sorted(examples, key=lambda e: len(e[0]) + rng.random() * 8)
    groups = [order[i : i + size] for i in range(0, len(order), size)]
    rng.shuffle(groups)
    return groups


def forward(
    model: Qwen3ForTokenClassification, group: list[Example]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, targets and weights of the group's line ends."""
    width = max(len(ids) for ids, _ in group)
    padded = torch.zeros(len(group), width, dtype=torch.long)
    for row, (ids, _) in enumerate(group):
        padded[row, : len(ids)] = torch.tensor(ids)
    device = next(model.parameters()).device
    half = training.computes_in_bf16(device.type)
    with torch.autocast(device.type, torch.bfloat16, enabled=half):
        logits = model(input_ids=padded.to(device)).logits[..., 0].float()
    places = [(r, p) for r, (_, marks) in enumerate(group) for p, *_ in marks]
    rows, columns = (torch.tensor(axis, device=device) for axis in zip(*places, strict=True))
    marked = [mark for _, marks in group for mark in marks]
    targets = torch.tensor([target for _, target, _, _ in marked], device=device)
    shares = torch.tensor([weight for _, _, weight, _ in marked], device=device)
    return logits[rows, columns], targets, shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policy", default="local/countdown-policy", help="engine/model")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--problems", type=int, default=2400)
    parser.add_argument("--samples", type=int, default=12)
    parser.add_argument("--held", type=int, default=200, help="problems to measure on")
    parser.add_argument("--lr", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--traces", type=int, default=16_000, help="of the generator, added")
    parser.add_argument("--start", type=Path, help="a reward model to go on from, not the policy")
    parser.add_argument("--minutes", type=float, default=12)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    began = time.monotonic()
    args.out.mkdir(parents=True, exist_ok=True)
    kept = args.out / "rollouts.json"
    if not kept.exists():
        drawn = asyncio.run(
            rollouts(
                args.policy,
                args.seed,
                ("train", args.problems, args.samples),
                ("calibrate", args.held, args.samples),
            )
        )
        kept.write_text(json.dumps([[written(r) for r in part] for part in drawn]))
    rolled, held = ([read(record) for record in part] for part in json.loads(kept.read_text()))
    folder = weights.resolve(args.policy.partition("/")[2])
    print(f"{len(rolled)} rollouts after {(time.monotonic() - began) / 60:.1f} min", flush=True)
    chances = Chances(rolled)
    print(chances.table(), flush=True)
    rolled += generated(args.traces, args.seed)
    examples = [e for r in rolled if (e := example(r, chances)) is not None]
    device = training.device()
    model = Qwen3ForTokenClassification.from_pretrained(
        args.start or folder,
        num_labels=1,
        dtype=torch.float32,
        attn_implementation=training.ATTENTION[device],
    ).to(device)
    course = training.Training(model, args.lr, args.minutes, args.out / "checkpoint.pt")
    train(model, examples, course, args.seed)
    measured = measure(model, [e for r in held if (e := example(r, chances)) is not None])
    print(measured, flush=True)
    model.to("cpu", torch.bfloat16).save_pretrained(str(args.out))
    tokenizer.save(args.out)
    manifest.write(
        args.out,
        command="python -m reasoning.evals.countdown.train_prm " + " ".join(sys.argv[1:]),
        seed=args.seed,
        split="train",
        minutes=(time.monotonic() - began) / 60,
        hardware=f"{platform.machine()}, {torch.get_num_threads()} threads",
        measured=measured,
        chances=chances.table(),
        policy_sha256=manifest.weights_hash(folder),
    )


def train(
    model: Qwen3ForTokenClassification,
    examples: list[Example],
    course: training.Training,
    seed: int,
) -> None:
    """Binary cross-entropy at line ends."""
    running = 0.0
    model.train()
    for group in course.batches(lambda rng: batches(examples, rng, BATCH), seed):
        logits, targets, shares = forward(model, group)
        losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        loss = (losses * shares).sum() / shares.sum()
        course.step(loss)
        running = 0.99 * running + 0.01 * loss.item() if running else loss.item()
        if course.steps % 100 == 0:
            print(f"{course.steps} {course.spent / 60:.1f}min loss {running:.4f}", flush=True)
    model.eval()


@torch.inference_mode()
def measure(model: Qwen3ForTokenClassification, held: list[Example]) -> dict[str, object]:
    """AUROC of the final outcome: over all lines, by line number, and at the last line."""
    by_depth: dict[int, tuple[list[float], list[bool]]] = {}
    last: tuple[list[float], list[bool]] = ([], [])
    for start in range(0, len(held), 64):
        group = held[start : start + 64]
        logits, _, _ = forward(model, group)
        scores = iter(torch.sigmoid(logits).tolist())
        for _, marks in group:
            for depth, (*_, passed) in enumerate(marks):
                score = next(scores)
                bins = by_depth.setdefault(min(depth, 12), ([], []))
                bins[0].append(score)
                bins[1].append(passed)
            last[0].append(score)
            last[1].append(passed)
    every = (
        [s for b in by_depth.values() for s in b[0]],
        [r for b in by_depth.values() for r in b[1]],
    )
    return {
        "split": "calibrate",
        "auroc": round(auroc(*every), 4),
        "auroc_last_line": round(auroc(*last), 4),
        "auroc_by_line": {str(d): round(auroc(*b), 4) for d, b in sorted(by_depth.items())},
    }


if __name__ == "__main__":
    main()
