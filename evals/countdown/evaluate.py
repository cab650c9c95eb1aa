"""Measures a policy's pass@k on a split and writes it into the checkpoint's manifest.

python -m reasoning.evals.countdown.evaluate --model local/countdown-policy --split dev
"""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

from reasoning.engines import weights
from reasoning.evals.countdown import manifest
from reasoning.evals.countdown.problems import problems
from reasoning.evals.countdown.rollouts import pass_at, roll
from reasoning.solver import engine


async def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    chosen = list(problems(arguments.split, arguments.count, arguments.numbers))
    async with engine(arguments.model) as sampler:
        rollouts = await roll(
            sampler, chosen, arguments.samples, max_tokens=arguments.max_tokens, seed=0
        )
    ks = [k for k in (1, 2, 4, 8, 16, 32, 64) if k <= arguments.samples]
    lengths = [len(rollout.ids) for rollout in rollouts]
    return {
        "split": arguments.split,
        "numbers": arguments.numbers,
        "problems": len(chosen),
        "samples": arguments.samples,
        "temperature": 1.0,
        "pass_at": {str(k): round(v, 4) for k, v in pass_at(rollouts, ks).items()},
        "tokens_a_sample": round(sum(lengths) / len(lengths), 1),
        "finished": round(sum("answer" in r.text for r in rollouts) / len(rollouts), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="local/countdown-policy")
    parser.add_argument("--split", default="dev")
    parser.add_argument("--numbers", type=int, default=4)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--max-tokens", type=int, default=640)
    parser.add_argument("--write", action="store_true", help="into the manifest")
    arguments = parser.parse_args()
    found = asyncio.run(measure(arguments))
    print(found)
    if arguments.write:
        folder = weights.resolve(arguments.model.partition("/")[2])
        manifest.add(folder, measured=found)


if __name__ == "__main__":
    main()
