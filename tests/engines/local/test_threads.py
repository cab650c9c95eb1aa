"""How PyTorch's threads are shared out among embedded engines."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

torch = pytest.importorskip("torch")
from reasoning.engines.local import threads as module  # noqa: E402
from reasoning.engines.local.threads import WORTH, Threads  # noqa: E402


@pytest.fixture
def four(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CORES", 4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(Threads, "_busy", set())


def taken(threads: Threads, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many it set; 4 where it left them as they were."""
    found = [4]
    monkeypatch.setattr(torch, "set_num_threads", found.append)
    threads.take()
    return found[-1]


@pytest.mark.usefixtures("four")
def test_engines_with_work_share_and_those_without_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, three = (Threads(None, 100 * WORTH) for _ in range(3))
    assert taken(one, monkeypatch) == 4
    assert taken(two, monkeypatch) == 2 == taken(one, monkeypatch)
    assert taken(three, monkeypatch) == 1 == taken(one, monkeypatch)
    two.leave()
    three.leave()
    assert taken(one, monkeypatch) == 4
    crowd = [Threads(None, 100 * WORTH) for _ in range(9)]
    assert [taken(other, monkeypatch) for other in crowd][-1] == 1


@pytest.mark.usefixtures("four")
def test_a_small_model_has_one_and_a_number_that_is_given_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert taken(Threads(None, WORTH - 1), monkeypatch) == 1
    assert taken(Threads(None, 3 * WORTH), monkeypatch) == 2  # of 4, between two
    assert taken(Threads(3, WORTH), monkeypatch) == 3


def counted(threads: Threads) -> int:
    threads.take()
    torch.ones(1000, 1000).sum()
    threads.leave()
    return int(torch.get_num_threads())


def test_an_engine_of_a_later_thread_has_all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """`solve` under a running loop has a thread of its own each time."""
    monkeypatch.setattr(module, "CORES", 3)
    for weights, expected in ((0, 1), (100 * WORTH, 3)):
        with ThreadPoolExecutor(1) as pool:
            made = pool.submit(Threads, None, weights).result()
            assert pool.submit(counted, made).result() == expected


def test_they_are_those_of_the_thread_that_takes_them() -> None:
    before = torch.get_num_threads()

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(counted, Threads(3, 0)).result() == 3
    assert torch.get_num_threads() == before
