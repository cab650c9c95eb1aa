"""Settings of all tests."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from reasoning.isolation import close_shared_pool

# Examples share their machine with whatever else runs: wall-clock limits for single examples
# would fail at random.
settings.register_profile("shared", deadline=None)
settings.load_profile("shared")


# How pytest-xdist shares out the tests: a file to one worker, because its tests share fixtures; all
# files with tests of vLLM to the same one, because vLLM takes a core and much memory; these first,
# because they take longest. (Its own groups are lost with pytest 9.2, which has other node ids.)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not starts_vllm(item.path))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadFileScheduling

    class Scheduler(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file: str = super()._split_scope(nodeid)
            return "vllm" if starts_vllm(config.rootpath / file) else file

    config.option.loadscopereorder = False
    return Scheduler(config, log)


@functools.cache
def starts_vllm(file: Path) -> bool:
    """Whether some of its tests are marked `vllm`; workers and scheduler must agree on it."""
    return "mark.vllm" in file.read_text()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    passed = terminalreporter.getreports("passed")
    count = sum(report.when == "call" and "vllm" in report.keywords for report in passed)
    if count:
        terminalreporter.write_line(f"{count} of the tests that passed ran on a real vLLM")


@pytest.fixture(scope="session", autouse=True)
def no_worker_outlives_the_tests() -> Iterator[None]:
    yield
    close_shared_pool()
