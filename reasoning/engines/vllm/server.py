"""A vLLM server on this machine, for as long as a block lasts: for tests, benchmarks, scripts."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from reasoning.engines import weights
from reasoning.errors import EngineUnavailable

# What vLLM's CPU build needs: a KV size (it would take nearly all memory), and whole prompts
# (a seeded request that is prefilled in chunks kills it).
CPU_ARGUMENTS = (
    "--enforce-eager",
    "--kv-cache-memory-bytes=536870912",
    "--no-enable-chunked-prefill",
    "--max-num-batched-tokens=16384",
)


@contextlib.contextmanager
def serving(
    model: str, *arguments: str, log: Path | None = None, patience: float = 300.0
) -> Iterator[str]:
    """Serve a model folder (or shipped model) on a free loopback port; gives the base URL.

    arguments: of vLLM's server. log: a file for its output. Raises EngineUnavailable when it does
    not answer within `patience` seconds. The server and its children end with the block.
    """
    port = _free_port()
    # The module, not `vllm serve`: that looks up a distribution name which CPU wheels lack.
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(weights.resolve(model)), "--host", "127.0.0.1", "--port", str(port)),
        *("--scheduling-policy", "priority", "--enable-prompt-tokens-details"),
        *arguments,
    ]
    environment = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING", **os.environ}
    with contextlib.ExitStack() as stack:
        out = stack.enter_context(log.open("wb")) if log else subprocess.DEVNULL
        process = subprocess.Popen(
            command, env=environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
        stack.callback(_end, process)
        _wait(process, f"http://127.0.0.1:{port}/health", patience, log)
        yield f"http://127.0.0.1:{port}/v1"


def _wait(process: subprocess.Popen[bytes], url: str, patience: float, log: Path | None) -> None:
    until = time.monotonic() + patience
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            urllib.request.urlopen(url, timeout=5).close()
            return
        time.sleep(0.5)
    state = "ended" if process.poll() is not None else f"did not answer in {patience:g} s"
    raise EngineUnavailable(f"the vLLM server {state}; see {log or 'its output (give `log`)'}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """The whole group: vLLM's engine core and worker are processes of their own."""
    for number, seconds in ((signal.SIGTERM, 15), (signal.SIGKILL, 15)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
    process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
