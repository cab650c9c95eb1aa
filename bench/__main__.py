"""python -m bench [PART ...] [--pairs 10] [--quick] [--into RESULTS.md]

| part | what against what |
|---|---|
| imports | the core's import against its goal |
| transport | a strategy over HTTP against a raw client: a stub server that answers at once |
| transport-vllm | the same against a real vLLM, and its own bench client |
| embedded | the embedded engine against vLLM and Transformers |
| overhead | a chain policy that never acts against plain streaming |
| utilisation | searches against best-of-N: how busy they keep the models |
| wallclock | searches against best-of-N at equal tokens: how long they take |
| drafting | chain policies with a draft against plain decoding, on vLLM |

Writes runs/bench/<table>.md and .json; with --into, also between the document's markers
`<!-- table:bench-<table> -->`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console

from bench import (
    cores,
    drafting,
    embedded,
    imports,
    overhead,
    solving,
    stub,
    transport,
    utilisation,
    wallclock,
)
from bench.report import Table
from reasoning.engines.base import Engine
from reasoning.evals import markdown


def _imports(sizes: argparse.Namespace) -> Table:
    return imports.run(3 if sizes.quick else 11)


def _transport(sizes: argparse.Namespace) -> Table:
    waves, least = (2, 16) if sizes.quick else (4, 256)
    with contextlib.ExitStack() as stack:
        with cores.on(cores.servers()):
            url = stack.enter_context(stub.serving())
        stack.enter_context(cores.on(cores.client()))
        run = transport.run("stub server", url, sizes.pairs, sizes.at, waves=waves, least=least)
        return asyncio.run(run)


def _transport_vllm(sizes: argparse.Namespace) -> Table:
    with contextlib.ExitStack() as stack:
        # On two cores vLLM needs both: one for its worker, one for what keeps it busy.
        apart = len(cores.servers()) > 1
        with cores.on(cores.servers()) if apart else contextlib.nullcontext():
            url = stack.enter_context(_vllm(sizes.out))
        stack.enter_context(cores.on(cores.client()))
        table = asyncio.run(
            transport.run(
                "vLLM", url, sizes.pairs, sizes.at, waves=1, least=32, with_vllm_client=True
            )
        )
    if not apart:
        table.notes.append("The client shares a core with vLLM's front end.")
    return table


def _embedded(sizes: argparse.Namespace) -> Table:
    return asyncio.run(embedded.run(sizes.pairs, (1, 4) if sizes.quick else embedded.CONCURRENCY))


def _overhead(sizes: argparse.Namespace) -> Table:
    engines = _policies(with_vllm=not sizes.quick)
    run = overhead.run(engines, sizes.pairs, sizes.problems, sizes.waves, sizes.max_tokens)
    return asyncio.run(run)


def _utilisation(sizes: argparse.Namespace) -> Table:
    policy, prm = _policy_and_prm()
    return asyncio.run(
        utilisation.run(policy, prm, sizes.pairs, sizes.problems, sizes.waves, sizes.max_tokens)
    )


def _wallclock(sizes: argparse.Namespace) -> Table:
    policy, prm = _policy_and_prm()
    problems = min(sizes.problems, wallclock.PROBLEMS)
    return asyncio.run(
        wallclock.run(policy, prm, sizes.pairs, sizes.scale, problems, sizes.max_tokens)
    )


def _drafting(sizes: argparse.Namespace) -> Table:
    from reasoning.engines.vllm import VLLMEngine

    policy, draft = (
        VLLMEngine(f"countdown-{name}", max_model_len=1024, memory_share=0.4)
        for name in ("policy", "draft")
    )
    return asyncio.run(drafting.run(policy, draft, sizes.pairs, sizes.problems, sizes.max_tokens))


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
def _vllm(out: Path) -> Iterator[str]:
    """A vLLM server; what it says is kept in `out`."""
    from reasoning.engines.vllm.server import CPU_ARGUMENTS, serving

    out.mkdir(parents=True, exist_ok=True)
    log = out / "vllm-server.log"
    with serving("countdown-policy", "--max-model-len", "512", *CPU_ARGUMENTS, log=log) as url:
        yield url


PARTS: dict[str, Callable[[argparse.Namespace], Table]] = {
    "imports": _imports,
    "transport": _transport,
    "transport-vllm": _transport_vllm,
    "embedded": _embedded,
    "overhead": _overhead,
    "utilisation": _utilisation,
    "wallclock": _wallclock,
    "drafting": _drafting,
}
# Few of all; a vLLM takes a minute to start, and runs in `embedded`.
QUICK = {"at": (1, 32), "problems": 2, "waves": 1, "max_tokens": 32, "scale": 1 / 64}
QUICK_PARTS = [part for part in PARTS if part not in ("transport-vllm", "drafting")]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("parts", nargs="*", help=f"of {', '.join(PARTS)}; default: all")
    add("--pairs", type=int, default=10)
    add("--at", type=int, nargs="+", default=transport.CONCURRENCY, help="transport: requests")
    add("--problems", type=int, default=64, help="in flight; wallclock: 30 at most")
    add("--waves", type=int, default=2, help="measured: so many times the problems in flight")
    add("--max-tokens", type=int, default=solving.MAX_TOKENS, help="of a chain")
    add("--scale", type=float, default=0.125, help="wallclock: of N = 256")
    add("--quick", action="store_true", help="few of all: does it run at all")
    add("--out", type=Path, default=Path("runs/bench"))
    add("--into", type=Path, help="a Markdown document with markers")
    arguments = parser.parse_args()
    unknown = set(arguments.parts) - set(PARTS)
    if unknown:
        parser.error(f"unknown part {', '.join(sorted(unknown))}; known are {', '.join(PARTS)}")
    if arguments.quick:
        vars(arguments).update(QUICK)
    console = Console()
    for part in arguments.parts or (QUICK_PARTS if arguments.quick else PARTS):
        table = PARTS[part](arguments)
        table.write(arguments.out)
        console.print(table.rich())
        if arguments.into is not None:
            markdown.replace(arguments.into, f"bench-{table.name}", table.markdown())


if __name__ == "__main__":
    main()
