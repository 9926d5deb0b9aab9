"""`--host-kv-gb`: what the engine is told, and what is refused before it starts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from autellix_sdk.errors import ConfigurationError
from autellix_server import cli
from autellix_server.engine.command import SglangLaunch, check_arguments, check_host_kv, engine_command
from autellix_server.engine.machine import available_memory_gb, memory_gb
from autellix_server.errors import RefusedFlag
from autellix_server.gateway.settings import read_settings

LAUNCH = SglangLaunch(Path("/engine/bin/python"), "owner/tiny", "plas", "cpu", 1.0, host_kv_gb=3, secret=b"s" * 32)


def hicache(launch: SglangLaunch) -> dict[str, str]:
    """Return what the engine is told of its host pool."""
    command = engine_command(launch, 5000, Path("/tmp/key.yaml"))
    told = {flag: value for flag, value in zip(command, [*command[1:], ""], strict=True) if flag.startswith("--hic")}
    return told | ({"enabled": "yes"} if "--enable-hierarchical-cache" in command else {})


def test_engine_gets_a_pool_of_the_size_asked_for() -> None:
    """On a CPU in the plainest layout; on a GPU SGLang's own choice stays."""
    on_any = {"enabled": "yes", "--hicache-size": "3", "--hicache-write-policy": "write_back"}
    assert hicache(replace(LAUNCH, device="cuda")) == on_any
    assert hicache(LAUNCH) == on_any | {"--hicache-mem-layout": "layer_first", "--hicache-io-backend": "direct"}


def test_pool_is_off_unless_asked_for() -> None:
    """A user who asks SGLang for one gets the write policy that the planner needs."""
    assert hicache(replace(LAUNCH, host_kv_gb=0)) == {"--hicache-write-policy": "write_back"}
    assert hicache(replace(LAUNCH, host_kv_gb=0, policy="off")) == {}


def test_stock_orders_copy_when_sglang_does() -> None:
    """The write policy is a matter of the planner."""
    assert "--hicache-write-policy" not in hicache(replace(LAUNCH, policy="lpm"))


@pytest.mark.parametrize("flag", ["--hicache-size", "--hicache-ratio", "--hicache-host-memory-fraction"])
def test_another_size_for_the_same_pool_is_refused(flag: str) -> None:
    """By itself each is fine."""
    with pytest.raises(RefusedFlag, match=f"refused flag {flag}: `--host-kv-gb` says"):
        check_host_kv(1, [flag, "2"], "plas", "cpu")
    check_arguments(["--enable-hierarchical-cache", flag, "2"], {}, "plas")


@pytest.mark.parametrize(
    ("argv", "allowed"),
    [
        (["--hicache-write-policy", "write_through"], ["--hicache-write-policy=write_back"]),
        (["--hicache-host-memory-mode=buffer_only"], ["--hicache-host-memory-mode", "cache"]),
    ],
)
def test_pools_that_keep_no_preempted_calls_are_refused_under_the_planner(argv: list[str], allowed: list[str]) -> None:
    """SGLang's own orders preempt nobody."""
    with pytest.raises(RefusedFlag, match=r"refused flag --hicache-.*; use `"):
        check_arguments(argv, {}, "plas")
    check_arguments(allowed, {}, "plas")
    check_arguments(argv, {}, "lpm")


def test_more_than_the_memory_is_refused() -> None:
    """The message names setting, value and what there is."""
    assert 0 < available_memory_gb() <= memory_gb()
    with pytest.raises(
        ConfigurationError, match=r"--host-kv-gb \(or AUTELLIX_HOST_KV_GB\) is 99999: only [\d.]+ GB of .* available"
    ):
        check_host_kv(99_999, [], "plas", "cuda")
    almost_all = int(available_memory_gb() * 0.9)
    with pytest.raises(ConfigurationError, match=r"for each of 2 ranks: only"):
        check_host_kv(almost_all, ["--tp", "2"], "plas", "cuda")


def test_cpu_engine_without_the_plugin_has_no_pool() -> None:
    """SGLang itself pins host memory through CUDA."""
    with pytest.raises(ConfigurationError, match="--policy off leaves it out"):
        check_host_kv(1, [], "off", "cpu")


@pytest.mark.parametrize(
    ("argv", "status", "complaint"),
    [
        (["--host-kv-gb", "-1"], 1, "--host-kv-gb (or AUTELLIX_HOST_KV_GB) is -1: "),
        (["--host-kv-gb", "99999"], 1, "is 99999: only "),
        (["--host-kv-gb", "1", "--", "--hicache-ratio", "2"], 2, "refused flag --hicache-ratio: "),
    ],
)
def test_serve_ends_with_one_sentence(
    argv: list[str], status: int, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is downloaded or started."""
    assert cli.main(["serve", "--device", "cpu", *argv]) == status
    err = capsys.readouterr().err
    assert complaint in err
    assert err.count("\n") == 1


def test_environment_sets_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The argument wins."""
    monkeypatch.setenv("AUTELLIX_HOST_KV_GB", "5")
    assert read_settings({}).host_kv_gb == 5
    assert read_settings({"host_kv_gb": 2}).host_kv_gb == 2
