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


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Group the tests for pytest-xdist's workers. vLLM takes a core and much memory, so one worker
    has all of its tests, and has them first, because they take longest. Of the others a file's
    stay together: they share fixtures."""
    if not hasattr(config, "workerinput"):
        return
    items.sort(key=lambda item: item.get_closest_marker("vllm") is None)
    for item in items:
        group = "vllm" if item.get_closest_marker("vllm") else item.path.stem
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="session", autouse=True)
def no_worker_outlives_the_tests() -> Iterator[None]:
    yield
    close_shared_pool()
