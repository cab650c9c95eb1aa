"""python -m bench [imports] [transport] [embedded] [--pairs 10] [--quick] [--into README.md]

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

from bench import cores, embedded, imports, stub, transport
from bench.report import Table
from reasoning.evals import markdown

PARTS = ("imports", "transport", "embedded")


def tables(parts: list[str], pairs: int, quick: bool) -> Iterator[Table]:
    """Each table as it is done. quick: few requests, and no real vLLM server."""
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


@contextlib.contextmanager
def _vllm() -> Iterator[str]:
    from reasoning.engines.vllm.server import CPU_ARGUMENTS, serving

    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "vllm.log"
        with serving("countdown-policy", "--max-model-len", "512", *CPU_ARGUMENTS, log=log) as url:
            yield url


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--quick", action="store_true", help="few requests: does it run at all")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    parser.add_argument("--into", type=Path, help="a Markdown document with markers")
    arguments = parser.parse_args()
    unknown = set(arguments.parts) - set(PARTS)
    if unknown:
        parser.error(f"unknown part {', '.join(sorted(unknown))}; known are {', '.join(PARTS)}")
    console = Console()
    for table in tables(arguments.parts or list(PARTS), arguments.pairs, arguments.quick):
        table.write(arguments.out)
        console.print(table.rich())
        if arguments.into is not None:
            markdown.replace(arguments.into, f"bench-{table.name}", table.markdown())


if __name__ == "__main__":
    main()
