"""Policies: one conformance suite over all of them, and what sets each apart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autellix_sdk.errors import ConfigurationError
from autellix_server.scheduling.levels import geometric_levels
from autellix_server.scheduling.policy import POLICIES, Fcfs, Plas, make_policy

LEVELS = geometric_levels(count=4, first_bound_s=1.0)
seconds = st.floats(0, 1e9)
every_policy = pytest.mark.parametrize("name", sorted(POLICIES))


@every_policy
@given(service_s=seconds, base_s=seconds, call_s=seconds)
def test_policy_keeps_its_promises(name: str, service_s: float, base_s: float, call_s: float) -> None:
    """Levels exist, service never shrinks, and the same question gets the same answer."""
    policy = make_policy(name, LEVELS)
    assert policy.name == name
    assert 0 <= policy.start_level(base_s) < LEVELS.count
    assert policy.completed(service_s, base_s, call_s) >= service_s
    assert policy.start_level(base_s) == make_policy(name, LEVELS).start_level(base_s)


def test_plas_starts_a_call_where_its_program_stands() -> None:
    """PLAS: the sum of completed calls decides (section 4.2)."""
    plas = Plas(LEVELS)
    service_s = 0.0
    for call_s in (0.6, 0.6, 1.0):
        service_s = plas.completed(service_s, 0.0, call_s)
    assert service_s == pytest.approx(2.2)
    assert plas.start_level(service_s) == 2


def test_fcfs_knows_one_level_only() -> None:
    """However much a program has had, its calls queue with all others."""
    assert Fcfs(LEVELS).start_level(1e6) == 0


def test_unknown_policy_is_refused_with_the_choice() -> None:
    """The message lists what there is."""
    with pytest.raises(ConfigurationError, match="unknown policy 'sjf'; choose one of: fcfs, plas"):
        make_policy("sjf", LEVELS)
