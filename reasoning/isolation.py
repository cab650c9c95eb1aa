"""Calls in processes that can be killed: for work that may hang, eat memory or crash.

Symbolic equality of a model's answer is such work: `9**9**9**9` never ends. A pool keeps a few
worker processes; each call has a wall-clock limit that starts when a worker takes it up, and a
worker that hangs, dies or runs out of memory is killed and replaced while the caller gets an
`IsolatedFailure` that says why. Workers are fresh interpreters, not forks: forking a process
with torch's threads can deadlock, and workers neither import torch nor see the environment's
secrets. Calls and replies are JSON, so that nothing a worker says is unpickled here.

A pool belongs to no event loop; `call` may be awaited from any, `call_sync` from any thread.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import json
import os
import queue
import select
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, Any, Literal

from reasoning.errors import ConfigError, ReasoningError

Reason = Literal["timeout", "memory", "died", "error"]

SECONDS = 5.0  # for one call
IMPORT_SECONDS = 120.0  # for a function's imports, once in each worker
MEMORY = 1 << 30  # bytes of address space of a worker
MAX_MESSAGE = 1 << 24  # bytes of one call or reply
HEADER = struct.Struct(">I")


class IsolatedFailure(ReasoningError):
    """A call that gave no value. `reason`: timeout, memory, died (of a signal), or error."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason: Reason = reason


class IsolatedPool:
    """A few killable workers. Started on first use; a context manager, sync or async.

    workers: processes, by default one for each core up to 4; seconds: limit of one call; memory:
    bytes of address space for each.
    """

    def __init__(
        self, workers: int | None = None, seconds: float = SECONDS, memory: int | None = MEMORY
    ) -> None:
        if (workers is not None and workers < 1) or seconds <= 0:
            raise ConfigError("an isolated pool needs at least one worker and seconds above 0")
        self.seconds = seconds
        self.memory = memory
        self._size = workers or min(4, os.cpu_count() or 1)
        self._lock = threading.Lock()
        self._closed = False
        self._threads: ThreadPoolExecutor | None = None
        self._all: list[_Worker] = []
        self._idle: queue.LifoQueue[_Worker] = queue.LifoQueue()

    async def call(self, function: str, *args: Any, seconds: float | None = None) -> Any:
        """The JSON value of `function` ("module:name") called with JSON arguments in a worker.

        Hundreds may be awaited at once; they queue for the workers. Cancelling the awaiting task
        withdraws a call that no worker has taken up. Raises IsolatedFailure.
        """
        return await asyncio.wrap_future(self._submit(function, args, seconds))

    def call_sync(self, function: str, *args: Any, seconds: float | None = None) -> Any:
        """`call` for code without an event loop; blocks the calling thread."""
        return self._submit(function, args, seconds).result()

    def close(self) -> None:
        """Withdraw what waits, kill the workers and reap them. Idempotent."""
        with self._lock:
            self._closed = True
            threads, self._threads = self._threads, None
            workers, self._all = self._all, []
        for worker in workers:
            worker.retire()  # wakes a thread that waits for a reply
        if threads is not None:
            threads.shutdown(wait=True, cancel_futures=True)
        for worker in workers:
            worker.kill()

    def __enter__(self) -> IsolatedPool:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    async def __aenter__(self) -> IsolatedPool:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await asyncio.to_thread(self.close)

    def _submit(self, function: str, args: tuple[Any, ...], seconds: float | None) -> Future[Any]:
        message = json.dumps(args).encode()
        if len(message) > MAX_MESSAGE:
            raise ConfigError(f"a call of {len(message):,} bytes is over {MAX_MESSAGE:,}")
        limit = self.seconds if seconds is None else seconds
        with self._lock:
            if self._closed:
                raise ConfigError("the isolated pool is closed")
            if self._threads is None:
                self._threads = ThreadPoolExecutor(self._size, thread_name_prefix="isolated")
                self._all = [_Worker(self.memory) for _ in range(self._size)]
                for worker in self._all:
                    self._idle.put(worker)
            return self._threads.submit(self._run, function, message, limit)

    def _run(self, function: str, message: bytes, seconds: float) -> Any:
        # As many threads as workers: one is always idle here. The latest is the warmest.
        worker = self._idle.get()
        try:
            return worker.call(function, message, seconds)
        finally:
            self._idle.put(worker)


class _Worker:
    """One process and its pipes; started, and started again after a kill, by the next call."""

    def __init__(self, memory: int | None) -> None:
        self._memory = memory
        self._process: subprocess.Popen[bytes] | None = None
        self._loaded: set[str] = set()
        self._retired = False
        self._lock = threading.Lock()

    def call(self, function: str, message: bytes, seconds: float) -> Any:
        process = self._started()
        if function not in self._loaded:
            self._ask(process, b"load " + function.encode(), IMPORT_SECONDS, "its imports")
            self._loaded.add(function)
        head = b"call " + function.encode() + b" " + repr(seconds).encode() + b" "
        return self._ask(process, head + message, seconds, "the call")

    def retire(self) -> None:
        """Kill the process for good; a call in flight ends with reason died."""
        with self._lock:
            self._retired = True
            if self._process is not None:
                self._process.kill()

    def kill(self) -> None:
        """Kill and reap the process and close its pipes, so that no zombie is left."""
        with self._lock:
            process, self._process = self._process, None
            self._loaded.clear()
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                _open(pipe).close()

    def _started(self) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._retired:
                raise IsolatedFailure("died", "the pool was closed before the call")
            if self._process is not None:
                return self._process
            self._process = subprocess.Popen(
                # -P: the current folder is no place to import from. -B: workers write no files.
                [sys.executable, "-P", "-B", "-m", "reasoning.isolated_worker", str(self._memory)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                env=_environment(),
                start_new_session=True,  # Ctrl-C is for the parent to handle
            )
            return self._process

    def _ask(
        self, process: subprocess.Popen[bytes], message: bytes, seconds: float, what: str
    ) -> Any:
        deadline = time.monotonic() + seconds
        try:
            data = HEADER.pack(len(message)) + message
            while data:
                data = data[_open(process.stdin).write(data) :]
            (size,) = HEADER.unpack(_read(_open(process.stdout), HEADER.size, deadline))
            if size > MAX_MESSAGE:
                raise IsolatedFailure("error", f"a reply of {size:,} bytes is too large")
            reply = json.loads(_read(_open(process.stdout), size, deadline))
        except TimeoutError:
            self.kill()
            raise IsolatedFailure("timeout", f"{what} took over {seconds:g} s") from None
        except (OSError, EOFError, ValueError) as error:
            self.kill()
            code = process.returncode
            raise IsolatedFailure(
                "died", f"the worker died during {what} (exit {code}): {error}"
            ) from None
        except BaseException:
            self.kill()
            raise
        if "value" in reply:
            return reply["value"]
        if reply["reason"] == "memory":
            self.kill()  # what a process does after it ran out of memory is anyone's guess
        raise IsolatedFailure(reply["reason"], reply["message"])


def _open(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise EOFError("the pipe is gone")
    return pipe


def _read(pipe: IO[bytes], size: int, deadline: float) -> bytes:
    """Exactly `size` bytes, or TimeoutError at the deadline, or EOFError."""
    parts, missing = [], size
    ready = select.poll()  # select() itself fails in a process with over 1,024 open files
    ready.register(pipe, select.POLLIN)
    while missing:
        left = deadline - time.monotonic()
        if left <= 0 or not ready.poll(left * 1000):
            raise TimeoutError
        part = os.read(pipe.fileno(), min(missing, 1 << 16))
        if not part:
            raise EOFError("end of the reply pipe")
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def _environment() -> dict[str, str]:
    """What a worker needs to import this package, and none of the parent's secrets."""
    kept = {k: os.environ[k] for k in ("PATH", "LANG", "LC_ALL", "SYSTEMROOT") if k in os.environ}
    # One thread each, and one hash seed: the order of a set must not decide an equality.
    return kept | {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


_shared: IsolatedPool | None = None
_shared_lock = threading.Lock()


def shared_pool() -> IsolatedPool:
    """The process-wide pool with default limits, closed at exit."""
    global _shared
    with _shared_lock:
        if _shared is None:
            _shared = IsolatedPool()
            atexit.register(close_shared_pool)
        return _shared


def close_shared_pool() -> None:
    """Close the process-wide pool; the next use starts another."""
    global _shared
    with _shared_lock:
        pool, _shared = _shared, None
    if pool is not None:
        atexit.unregister(close_shared_pool)
        pool.close()
