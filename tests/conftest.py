"""Settings of all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

from reasoning.isolation import close_shared_pool

# Examples share their machine with whatever else runs: wall-clock limits for single examples
# would fail at random.
settings.register_profile("shared", deadline=None)
settings.load_profile("shared")


@pytest.fixture(scope="session", autouse=True)
def no_worker_outlives_the_tests() -> Iterator[None]:
    yield
    close_shared_pool()
