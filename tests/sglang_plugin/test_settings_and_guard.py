"""Settings from the environment, and refusal of an engine the hooks were not written for."""

from __future__ import annotations

import os
import sys

import pytest

from autellix_sdk.errors import ConfigurationError
from autellix_server.scheduling.policies import SERVABLE
from autellix_server.sglang_plugin import guard, platform, plugin
from autellix_server.sglang_plugin.guard import Target, check_engine, check_markers, source_digest
from autellix_server.sglang_plugin.settings import read_settings


@pytest.mark.parametrize(
    "environ", [{}, {"AUTELLIX_POLICY": ""}, {"AUTELLIX_POLICY": "off"}, {"AUTELLIX_SECRET": "zz"}]
)
def test_policy_off_means_no_settings(environ: dict[str, str]) -> None:
    """Unless a policy is named the plugin has nothing to do, and nothing to complain about."""
    assert read_settings(environ) is None


def test_settings_are_read_once_into_a_frozen_value() -> None:
    """Every variable has its place."""
    environ = {
        "AUTELLIX_POLICY": "plas",
        "AUTELLIX_ENGINE_NAME": "e3",
        "AUTELLIX_FIRST_BOUND_S": "0.25",
        "AUTELLIX_STEPS_BETWEEN_PLANS": "3",
        "AUTELLIX_BETA": "12.5",
        "AUTELLIX_SECRET": "ab" * 16,
        "AUTELLIX_SWAP_CHECK": "0.5",
    }
    settings = read_settings(environ)
    assert settings is not None
    assert (settings.policy.name, settings.engine_name, settings.secret) == ("plas", "e3", b"\xab" * 16)
    assert settings.policy.start_level(0.25) == 1
    assert settings.swap_check == 0.5
    planner = settings.planner
    assert (settings.planned, planner.steps_between_plans, planner.hold_s, planner.beta) == (True, 3, 5.0, 12.5)
    assert not planner.calibrated


@pytest.mark.parametrize(
    ("environ", "bounds_s", "calibrated"),
    [
        ({}, (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0), True),
        ({"AUTELLIX_FIRST_BOUND_S": "auto", "AUTELLIX_BOUNDS_S": ""}, (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0), True),
        ({"AUTELLIX_BOUNDS_S": "0.5, 2,1e3"}, (0.5, 2.0, 1000.0), False),
    ],
)
def test_bounds_are_calibrated_unless_they_are_given(
    environ: dict[str, str], bounds_s: tuple[float, ...], calibrated: bool
) -> None:
    """A list gives as many levels as it has bounds, and one more."""
    settings = read_settings({"AUTELLIX_POLICY": "plas", **environ})
    assert settings is not None
    assert (settings.policy.levels.bounds_s, settings.planner.calibrated) == (bounds_s, calibrated)


@pytest.mark.parametrize("name", [*SERVABLE])
def test_every_policy_that_needs_no_oracle_can_be_served(name: str) -> None:
    """The engine's own orders are left to the engine."""
    settings = read_settings({"AUTELLIX_POLICY": name})
    assert settings is not None
    assert settings.planned == (name not in {"fcfs", "lpm"})


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("AUTELLIX_POLICY", "fastest"),
        ("AUTELLIX_POLICY", "srpt"),
        ("AUTELLIX_STEPS_BETWEEN_PLANS", "0"),
        ("AUTELLIX_STEPS_BETWEEN_PLANS", "many"),
        ("AUTELLIX_FIRST_BOUND_S", "soon"),
        ("AUTELLIX_FIRST_BOUND_S", "nan"),
        ("AUTELLIX_FIRST_BOUND_S", "-1"),
        ("AUTELLIX_BOUNDS_S", "1,2,2"),
        ("AUTELLIX_BOUNDS_S", "0,1"),
        ("AUTELLIX_BOUNDS_S", "1,,2"),
        ("AUTELLIX_BOUNDS_S", "1,inf"),
        ("AUTELLIX_BETA", "0"),
        ("AUTELLIX_BETA", "nan"),
        ("AUTELLIX_BETA", "much"),
        ("AUTELLIX_SWAP_CHECK", "some"),
        ("AUTELLIX_SWAP_CHECK", "1.5"),
        ("AUTELLIX_SWAP_CHECK", "nan"),
        ("AUTELLIX_SECRET", "short"),
        ("AUTELLIX_SECRET", "abcd"),
    ],
)
def test_wrong_setting_is_refused_by_name(variable: str, value: str) -> None:
    """The message names the variable, so that it can be mended."""
    with pytest.raises(ConfigurationError, match=variable):
        read_settings({"AUTELLIX_POLICY": "plas", variable: value})


def test_a_first_bound_beside_a_list_of_bounds_is_refused() -> None:
    """The message says which to leave out."""
    with pytest.raises(ConfigurationError, match=r"AUTELLIX_BOUNDS_S is '1,2': .*leave out first_bound_s"):
        read_settings({"AUTELLIX_POLICY": "plas", "AUTELLIX_FIRST_BOUND_S": "1", "AUTELLIX_BOUNDS_S": "1,2"})


def engine_function(self: object, batch: int) -> int:
    """Stands in for an engine function."""
    return batch


PATH = f"{__name__}.engine_function"


@pytest.fixture(autouse=True)
def _resolvable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, __name__, sys.modules[engine_function.__module__])
    monkeypatch.setattr(guard, "version", lambda _: "0.5.23")


def test_engine_that_matches_is_accepted() -> None:
    """Version, parameters and source agree."""
    check_engine([Target(PATH, ("self", "batch"), source_digest(engine_function))])


@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        (Target(PATH, ("self",)), "has parameters"),
        (Target(PATH, ("self", "batch"), "0" * 16), "changed body"),
        (Target(f"{__name__}.gone", ()), "does not exist"),
    ],
)
def test_changed_target_ends_the_process_and_is_named(target: Target, complaint: str) -> None:
    """SGLang would only log an exception; a SystemExit stops it."""
    with pytest.raises(SystemExit, match=f"autellix: engine target .*{complaint}"):
        check_engine([target])


def test_other_engine_version_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names both versions."""
    monkeypatch.setattr(guard, "version", lambda _: "0.5.24")
    with pytest.raises(SystemExit, match=r"SGLang 0\.5\.24 is installed; this plugin supports 0\.5\.23 only"):
        check_engine([])


def test_every_scheduler_must_prove_its_hooks() -> None:
    """One process without the marker, or with a hook missing, is enough to refuse."""
    good = {"autellix": {"hooks": 5}}
    check_markers([good, good], {"hooks": 5})
    with pytest.raises(SystemExit, match="process 1 runs without the plugin"):
        check_markers([good, {}], {"hooks": 5})
    with pytest.raises(SystemExit, match="process 0 reports"):
        check_markers([{"autellix": {"hooks": 4}}], {"hooks": 5})


def test_wrong_setting_ends_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A typo in the policy must not give an engine without scheduling."""
    monkeypatch.setenv("AUTELLIX_POLICY", "fastest")
    with pytest.raises(SystemExit, match="autellix: AUTELLIX_POLICY is 'fastest'"):
        plugin.register()


def test_platform_is_inactive_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU machine the CPU platform touches nothing."""
    monkeypatch.delenv("AUTELLIX_CPU", raising=False)
    before = dict(os.environ), set(sys.modules)
    assert platform.activate() is None
    assert (dict(os.environ), set(sys.modules)) == before
