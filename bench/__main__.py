"""python -m bench [PART ...] [--pairs 10] [--scale 0.125] [--quick] [--into README.md]

| part | what against what |
|---|---|
| imports | the core's import against its goal |
| transport | a strategy over HTTP against a raw client |
| embedded | the embedded engine against vLLM and Transformers |
| overhead | a chain policy that never acts against plain streaming |
| utilisation | searches against best-of-N: how busy they keep the models |
| wallclock | searches against best-of-N at equal tokens: how long they take |

Writes runs/bench/<table>.md and .json; with --into, also between the document's markers
`<!-- table:bench-<table> -->`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from bench import cores, embedded, imports, overhead, stub, transport, utilisation, wallclock
from bench.report import Table
from reasoning.engines.base import Engine
from reasoning.evals import markdown

PARTS = ("imports", "transport", "embedded", "overhead", "utilisation", "wallclock")


def tables(parts: list[str], pairs: int, scale: float, quick: bool) -> Iterator[Table]:
    """Each table as it is done. quick: few requests, short chains, vLLM in `embedded` only."""
    if "imports" in parts:
        yield imports.run(3 if quick else 11)
    if "transport" in parts:
        with contextlib.ExitStack() as stack:
            with cores.on(cores.servers()):
                base_url = stack.enter_context(stub.serving())
            stack.enter_context(cores.on(cores.client()))
            concurrency = (1, 32) if quick else transport.CONCURRENCY
            waves, least = (2, 16) if quick else (4, 256)
            yield asyncio.run(
                transport.run("stub server", base_url, pairs, concurrency, waves=waves, least=least)
            )
        if not quick:
            with contextlib.ExitStack() as stack:
                # On two cores vLLM needs both: one for its worker, one for what keeps it busy.
                apart = len(cores.servers()) > 1
                with cores.on(cores.servers()) if apart else contextlib.nullcontext():
                    base_url = stack.enter_context(_vllm())
                stack.enter_context(cores.on(cores.client()))
                table = asyncio.run(
                    transport.run(
                        "vLLM",
                        base_url,
                        pairs,
                        transport.CONCURRENCY,
                        waves=1,
                        least=32,
                        with_vllm_client=True,
                    )
                )
                if not apart:
                    table.notes.append("The client shares a core with vLLM's front end.")
                yield table
    if "embedded" in parts:
        yield asyncio.run(embedded.run(pairs, (1, 4) if quick else embedded.CONCURRENCY))
    at_once = (2, 1, 32) if quick else (64, 2)
    if "overhead" in parts:
        yield asyncio.run(overhead.run(_policies(with_vllm=not quick), pairs, *at_once))
    if "utilisation" in parts:
        yield asyncio.run(utilisation.run(*_policy_and_prm(), pairs, *at_once))
    if "wallclock" in parts:
        size = (1 / 64, 2, 32) if quick else (scale, 30)
        yield asyncio.run(wallclock.run(*_policy_and_prm(), pairs, *size))


def _policies(*, with_vllm: bool) -> list[Engine]:
    """The shipped policy on each engine that runs in process."""
    from reasoning.engines.local import LocalEngine
    from reasoning.engines.vllm import VLLMEngine

    local = LocalEngine("countdown-policy")
    return [local, VLLMEngine("countdown-policy", max_model_len=1024)] if with_vllm else [local]


def _policy_and_prm() -> tuple[Engine, Engine]:
    from reasoning.engines.local import LocalEngine

    return LocalEngine("countdown-policy"), LocalEngine("countdown-prm")


@contextlib.contextmanager
def _vllm() -> Iterator[str]:
    from reasoning.engines.vllm.server import CPU_ARGUMENTS, serving

    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "vllm.log"
        with serving("countdown-policy", "--max-model-len", "512", *CPU_ARGUMENTS, log=log) as url:
            yield url


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--scale", type=float, default=0.125, help="wallclock: of N = 256")
    parser.add_argument("--quick", action="store_true", help="few requests: does it run at all")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    parser.add_argument("--into", type=Path, help="a Markdown document with markers")
    arguments = parser.parse_args()
    unknown = set(arguments.parts) - set(PARTS)
    if unknown:
        parser.error(f"unknown part {', '.join(sorted(unknown))}; known are {', '.join(PARTS)}")
    console = Console()
    parts = arguments.parts or list(PARTS)
    for table in tables(parts, arguments.pairs, arguments.scale, arguments.quick):
        table.write(arguments.out)
        console.print(table.rich())
        if arguments.into is not None:
            markdown.replace(arguments.into, f"bench-{table.name}", table.markdown())


if __name__ == "__main__":
    main()
