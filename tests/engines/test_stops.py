"""Where stop strings end a chain, whatever tokens it is decoded in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasoning.engines.base import Sampling
from reasoning.engines.stops import Stops
from reasoning.errors import ConfigError

PIECES = st.lists(st.sampled_from(["a", "b", "\n", "\n\n", "a\n", "\nb", "", "ab\nab\n"]))


def end(sampling: Sampling, pieces: list[str]) -> tuple[int, str] | None:
    """The piece that ends a chain, and by which string."""
    stops = Stops(sampling)
    for number, piece in enumerate(pieces):
        if found := stops.feed(piece):
            return number, found
    return None


@given(PIECES, st.integers(1, 4))
def test_the_nth_stop_is_the_end_of_n_chains(pieces: list[str], n: int) -> None:
    place = 0
    for _ in range(n):
        one = end(Sampling(stop=("ba", "\n")), pieces[place:])
        if one is None:
            break
        place += one[0] + 1
        if one[1] == "ba":  # a stop string like any other ends it at once
            break
    expected = one and (place - 1, one[1])
    assert end(Sampling(stop=("ba",), nth_stop=("\n", n)), pieces) == expected


def test_a_stop_that_was_not_heeded_is_none_later() -> None:
    """With min_tokens a chain goes on behind a stop; the next one ends it."""
    for sampling in (Sampling(stop=("\n",)), Sampling(nth_stop=("\n", 1))):
        stops = Stops(sampling)
        assert [stops.feed(piece) for piece in ("\n", "a", "b\n", "c")] == ["\n", None, "\n", None]


@pytest.mark.parametrize("nth_stop", [("", 2), ("\n", 0), ("\n", -1)])
def test_a_count_of_nothing_is_refused(nth_stop: tuple[str, int]) -> None:
    with pytest.raises(ConfigError, match="nth_stop"):
        Sampling(nth_stop=nth_stop)
