"""The client on one core, the server it measures on the others."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


def servers() -> set[int]:
    """All cores but the client's; the same core where there is one only."""
    own = sorted(os.sched_getaffinity(0))
    return set(own[:-1] or own)


def client() -> set[int]:
    return {max(os.sched_getaffinity(0))}


@contextlib.contextmanager
def on(cores: set[int]) -> Iterator[None]:
    """This thread on `cores`, and with it the processes and threads that are started meanwhile."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
