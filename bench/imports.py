"""What importing the core costs, in a fresh process."""

from __future__ import annotations

import statistics
import subprocess
import sys

from bench.report import Row, Table, verdict

GOAL_SECONDS, GOAL_MB = 0.5, 120.0
CODE = """
import time; began = time.perf_counter()
import reasoning
seconds = time.perf_counter() - began
import sys
from pathlib import Path
assert not {"torch", "vllm", "transformers"} & set(sys.modules)
# Not ru_maxrss: a process starts with that of the one it was forked from.
lines = Path("/proc/self/status").read_text().splitlines()
print(seconds, next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")))
"""


def run(times: int = 11) -> Table:
    """Medians; the first, which fills the disk cache, is thrown away."""
    found = []
    for _ in range(times + 1):
        done = subprocess.run(
            [sys.executable, "-c", CODE], capture_output=True, text=True, check=True
        )
        found.append(tuple(map(float, done.stdout.split())))
    seconds, megabytes = (statistics.median(column) for column in zip(*found[1:], strict=True))
    table = Table(
        "imports",
        f"`import reasoning` in a fresh process (torch, vLLM stay out), median of {times}",
        ("what", "measured", "goal"),
    )
    for what, value, digits, most in (
        ("seconds", seconds, 2, GOAL_SECONDS),
        ("peak MB", megabytes, 0, GOAL_MB),
    ):
        goal = f"< {most:g}: {verdict(value < most)}"
        table.add(Row((what, f"{value:.{digits}f}", goal), {"samples": found[1:]}))
    return table
