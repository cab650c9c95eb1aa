"""Control, scaling and performance of s1 (fact 4.4.3)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasoning.errors import ConfigError
from reasoning.evals.scaling import control, performance, scaling

RUNS = [(512.0, 0.2), (1024.0, 0.3), (2048.0, 0.5)]


def test_budget_forcing_4_4_3_by_hand() -> None:
    assert control([1, 2, 3, 4], 2, 3) == 0.5
    assert performance(RUNS) == 0.5
    slopes = [0.1 / 512, 0.2 / 1024, 0.3 / 1536]
    assert scaling(RUNS) == pytest.approx(sum(slopes) / 3)


@given(st.floats(-5, 5), st.floats(-1, 1), st.permutations([1.0, 2.0, 4.0, 9.0]))
def test_budget_forcing_4_4_3_the_scaling_of_a_line_is_its_slope(
    slope: float, start: float, lengths: list[float]
) -> None:
    runs = [(length, start + slope * length) for length in lengths]
    assert scaling(runs) == pytest.approx(slope, abs=1e-9)


def test_nothing_measured_is_an_error() -> None:
    for ask in (lambda: control([], 0, 1), lambda: performance([]), lambda: scaling(RUNS[:1])):
        with pytest.raises(ConfigError):
            ask()
