"""python -m bench [imports] [transport] [embedded] [--pairs 10] [--quick] [--into README.md]

Writes runs/bench/<table>.md and .json; with --into, also between the document's markers
`<!-- table:bench-<table> -->`.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from bench import embedded, imports, stub, transport
from bench.report import Table
from reasoning.evals import markdown

PARTS = ("imports", "transport", "embedded")


def tables(parts: list[str], pairs: int, quick: bool) -> Iterator[Table]:
    """Each table as it is done."""
    concurrency = (1, 32) if quick else transport.CONCURRENCY
    if "imports" in parts:
        yield imports.run()
    if "transport" in parts:
        least = 16 if quick else 64
        with stub.serving() as base_url:
            yield asyncio.run(transport.run("stub server", base_url, pairs, concurrency, least))
        if not quick:
            from reasoning.engines.vllm.server import CPU_ARGUMENTS, serving

            with (
                tempfile.TemporaryDirectory() as folder,
                serving(
                    "countdown-policy",
                    *("--max-model-len", "512", *CPU_ARGUMENTS),
                    log=Path(folder) / "vllm.log",
                ) as base_url,
            ):
                yield asyncio.run(transport.run("vLLM", base_url, pairs, concurrency, least))
                yield asyncio.run(transport.vllm_client(base_url, pairs, (32, 256)))
    if "embedded" in parts:
        yield asyncio.run(embedded.run(pairs, (1, 4) if quick else embedded.CONCURRENCY))


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
