"""Killable calls: limits hold, failures say why, nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from reasoning.errors import ConfigError
from reasoning.isolation import IsolatedFailure, IsolatedPool, close_shared_pool, shared_pool

HUGE = 387420489  # 9**9: a power of it keeps C code busy for hours


@pytest.fixture(scope="module")
def pool() -> Iterator[IsolatedPool]:
    with IsolatedPool(workers=2, seconds=5.0) as pool:
        yield pool


def children() -> set[int]:
    """Process ids of this process's direct children, zombies included."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid():
            found.add(int(stat.parent.name))
    return found


async def test_values_come_back(pool: IsolatedPool) -> None:
    assert await pool.call("operator:add", "a", "b\ud800\0") == "ab\ud800\0"
    assert pool.call_sync("operator:add", 2, 3) == 5


async def test_hundreds_at_once(pool: IsolatedPool) -> None:
    replies = await asyncio.gather(*(pool.call("operator:add", i, i) for i in range(400)))
    assert replies == [2 * i for i in range(400)]


@pytest.mark.parametrize(
    ("function", "args", "reason"),
    [
        ("time:sleep", (60,), "timeout"),
        ("builtins:pow", (9, HUGE), "timeout"),  # C code that holds the interpreter's lock
        ("operator:mul", ("a", 1 << 32), "memory"),
        ("os:abort", (), "died"),
        ("os:_exit", (3,), "died"),
        ("operator:truediv", (1, 0), "error"),
        ("builtins:object", (), "error"),  # no JSON
        ("no_such_module:f", (), "error"),
        ("builtins:exit", (1,), "error"),
    ],
)
async def test_failures_say_why_and_the_pool_goes_on(
    pool: IsolatedPool, function: str, args: tuple[object, ...], reason: str
) -> None:
    with pytest.raises(IsolatedFailure) as caught:
        await pool.call(function, *args, seconds=0.5 if reason == "timeout" else 10.0)
    assert caught.value.reason == reason, caught.value
    assert await asyncio.gather(*(pool.call("operator:add", i, 1) for i in range(4))) == [
        1, 2, 3, 4,
    ]  # fmt: skip


async def test_the_limit_starts_when_a_worker_takes_the_call_up() -> None:
    async with IsolatedPool(workers=1, seconds=2.0) as pool:
        await pool.call("time:sleep", 0)
        slow = [pool.call("time:sleep", 0.5) for _ in range(5)]
        assert await asyncio.gather(*slow) == [None] * 5


async def test_other_calls_pass_a_hanging_one(pool: IsolatedPool) -> None:
    hanging = asyncio.ensure_future(pool.call("time:sleep", 60, seconds=3.0))
    assert await pool.call("operator:add", 1, 1) == 2
    assert not hanging.done()
    with pytest.raises(IsolatedFailure):
        await hanging


def test_a_pool_serves_one_loop_after_another(pool: IsolatedPool) -> None:
    for i in range(3):
        assert asyncio.run(pool.call("operator:add", i, i)) == 2 * i


async def test_cancelled_calls_are_withdrawn() -> None:
    async with IsolatedPool(workers=1) as pool:
        await pool.call("time:sleep", 0)
        tasks = [asyncio.ensure_future(pool.call("time:sleep", 0.3)) for _ in range(50)]
        await asyncio.sleep(0.05)
        for task in tasks:
            task.cancel()
        start = time.monotonic()
        assert await pool.call("operator:add", 1, 1) == 2
        assert time.monotonic() - start < 7.0


async def test_close_leaves_no_process_and_ends_what_waits() -> None:
    before = children()
    pool = IsolatedPool(workers=2, seconds=30.0)
    await asyncio.gather(pool.call("time:sleep", 0.1), pool.call("time:sleep", 0.1))
    assert len(children() - before) == 2
    waiting = [asyncio.ensure_future(pool.call("time:sleep", 20)) for _ in range(6)]
    await asyncio.sleep(0.3)
    await asyncio.to_thread(pool.close)
    ended = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(e, IsolatedFailure | asyncio.CancelledError) for e in ended), ended
    assert children() - before == set()
    pool.close()
    with pytest.raises(ConfigError, match="closed"):
        await pool.call("operator:add", 1, 1)
    gc.collect()  # a ResourceWarning would be an error here


def test_workers_import_no_torch_and_hold_no_secret(
    pool: IsolatedPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with IsolatedPool(workers=1) as fresh:
        assert fresh.call_sync("os:getenv", "OPENAI_API_KEY") is None
        assert fresh.call_sync("os:getenv", "PYTHONHASHSEED") == "0"


def test_an_orphan_ends_by_itself() -> None:
    # The parent is killed in the middle of a call; the worker's own alarm must end it.
    code = (
        "import threading, time, os\n"
        "from reasoning.isolation import IsolatedPool\n"
        "pool = IsolatedPool(workers=1, seconds=1.0)\n"
        "pool.call_sync('time:sleep', 0)\n"
        "print(pool._all[0]._process.pid, flush=True)\n"
        "threading.Timer(0.3, lambda: os._exit(9)).start()\n"
        "pool.call_sync('builtins:pow', 9, 387420489)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 9, done.stderr
    deadline = time.monotonic() + 10
    while running(int(done.stdout)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not running(int(done.stdout))


def running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"  # without an init process to reap it, a dead orphan stays listed


def test_a_script_that_never_closes_exits_cleanly() -> None:
    code = (
        "import asyncio\n"
        "from reasoning.isolation import shared_pool\n"
        "print(asyncio.run(shared_pool().call('operator:add', 1, 2)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "3\n", "")


def test_the_shared_pool_can_be_closed_and_started_again() -> None:
    first = shared_pool()
    assert first.call_sync("operator:add", 1, 1) == 2
    close_shared_pool()
    close_shared_pool()
    assert shared_pool() is not first
    assert shared_pool().call_sync("operator:add", 1, 1) == 2
    close_shared_pool()


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError):
        IsolatedPool(workers=0)
    with pytest.raises(ConfigError):
        IsolatedPool(seconds=0)
    with IsolatedPool() as pool, pytest.raises(ConfigError, match="bytes"):
        pool.call_sync("builtins:len", "x" * (1 << 24))
