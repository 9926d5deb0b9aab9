"""Levels: half-open, contiguous bins."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autellix_sdk.errors import ConfigurationError
from autellix_server.scheduling.levels import Levels, geometric_levels


def test_geometric_levels_double_from_the_first_bound() -> None:
    """Eight levels have seven bounds; the last level has none."""
    levels = geometric_levels(count=4, first_bound_s=0.5)
    assert levels.bounds_s == (0.5, 1.0, 2.0)
    assert levels.count == 4


@pytest.mark.parametrize(
    ("service_s", "level"), [(0.0, 0), (0.49, 0), (0.5, 1), (1.0, 2), (1.99, 2), (2.0, 3), (1e9, 3)]
)
def test_bounds_are_half_open(service_s: float, level: int) -> None:
    """A program exactly at a bound is in the level above it."""
    assert geometric_levels(count=4, first_bound_s=0.5).level_of(service_s) == level


@given(st.floats(0, 1e12), st.floats(0, 1e12))
def test_more_service_never_means_a_better_level(one: float, other: float) -> None:
    """Level order follows service order."""
    levels = geometric_levels()
    low, high = sorted((one, other))
    assert levels.level_of(low) <= levels.level_of(high) < levels.count


@pytest.mark.parametrize("bounds", [(0.0,), (-1.0,), (1.0, 1.0), (2.0, 1.0)])
def test_bounds_that_do_not_increase_are_refused(bounds: tuple[float, ...]) -> None:
    """The message shows the bounds."""
    with pytest.raises(ConfigurationError, match="increasing"):
        Levels(bounds)


@pytest.mark.parametrize(("setting", "value"), [("count", 0), ("first_bound_s", 0.0), ("growth", 1.0)])
def test_parameter_out_of_range_is_refused_by_name(setting: str, value: float) -> None:
    """The message names the parameter and its value."""
    with pytest.raises(ConfigurationError, match=setting):
        geometric_levels(**{setting: value})  # type: ignore[arg-type]
