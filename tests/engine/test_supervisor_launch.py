"""What is refused before an engine starts, and the command and environment it starts with."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Any

import pytest

from autellix_sdk.errors import ConfigurationError
from autellix_server.engine.command import (
    CPU_ENVIRONMENT,
    SglangLaunch,
    check_arguments,
    check_model,
    config_text,
    engine_command,
    served_name,
)
from autellix_server.engine.marker import code_version, marker_complaint
from autellix_server.engine.ranks import THREADS_BIND, tensor_parallel_size, threads_bind
from autellix_server.engine.refusals import owned_by_serve, refused, refused_environment
from autellix_server.errors import RefusedFlag
from autellix_server.sglang_plugin.settings import read_settings

LAUNCH = SglangLaunch(
    Path("/engine/bin/python"), "/models/tiny", "plas", "cpu", 1.0, arguments=("--log-level", "info"), secret=b"s" * 32
)


@pytest.mark.parametrize(
    "argv",
    [
        ["--pp-size", "2"],
        ["--pipeline-parallel-size=2"],
        ["--dp", "2"],
        ["--dp-size=4"],
        ["--speculative-algorithm", "EAGLE"],
        ["--enable-mixed-chunk"],
        ["--disaggregation-mode=prefill"],
        ["--enable-pdmux"],
        ["--dllm-algorithm", "LowConfidence"],
        ["--mamba-backend", "triton"],
        ["--enable-hisparse"],
        ["--enable-lmcache"],
        ["--enable-flexkv"],
        ["--disable-radix-cache"],
        ["--strip-thinking-cache"],
        ["--grpc-mode"],
        ["--grpc-port", "9"],
        ["--tokenizer-worker-num", "2"],
        ["--max-queued-requests", "10"],
        ["--use-ray"],
    ],
)
def test_flags_that_the_plugin_cannot_work_with_are_refused_by_name(argv: list[str]) -> None:
    """Whether written with a space, an equals sign or abbreviated, and wherever they stand."""
    flag = argv[0].partition("=")[0]
    reason = refused(["--tp-size", "1", *argv, "--log-level", "info"], planned=True)
    assert reason is not None
    assert reason.startswith(f"refused flag {flag}: ")


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["--tp", "2"],
        ["--pp-size", "1"],
        ["--dp-size=1"],
        ["--disaggregation-mode", "null"],
        ["--tokenizer-worker-num", "1"],
        ["--chat-template", "disable-radix-cache"],
        ["--enable-hierarchical-cache"],
    ],
)
def test_harmless_flags_and_values_are_not_refused(argv: list[str]) -> None:
    """A value that means "off" is no reason to refuse."""
    assert refused(argv, planned=False) is None
    assert owned_by_serve(argv) is None


@pytest.mark.parametrize(
    "argv",
    [
        ["--host", "::"],
        ["--port=1"],
        ["--api-key", "k"],
        ["--model", "m"],
        ["--config", "f"],
        ["--schedule-policy=lpm"],
    ],
)
def test_flags_that_serve_sets_itself_are_refused_with_the_remedy(argv: list[str]) -> None:
    """One error class for both kinds of refusal."""
    with pytest.raises(RefusedFlag, match=f"refused flag {argv[0].partition('=')[0]}: "):
        check_arguments(argv, {}, "plas")


def test_order_of_the_queue_is_the_users_without_the_plugin() -> None:
    """SGLang takes the last of two; with the plugin there is one place to say it."""
    argv = ("--schedule-policy", "lpm")
    check_arguments(argv, {}, "off")
    command = engine_command(replace(LAUNCH, policy="off", arguments=argv), 5000, Path("/tmp/key.yaml"))
    assert command[-2:] == [*argv]


def test_ranks_without_the_plugin_are_refused_where_all_must_plan_alike() -> None:
    """Ranks of this machine have it, and under the engine's own orders every rank decides alike without."""
    several = ["--tp", "2", "--nnodes", "2"]
    with pytest.raises(RefusedFlag, match="refused flag --nnodes: ranks on other machines"):
        check_arguments(several, {}, "plas")
    check_arguments(["--tp", "2", "--nnodes", "1"], {}, "plas")
    for policy in ("fcfs", "lpm", "off"):
        check_arguments(several, {}, policy)


def test_stock_orders_are_the_engines_own_queue() -> None:
    """The planner's policies sort the queue themselves, out of SGLang's plainest order."""
    orders = {
        policy: engine_command(replace(LAUNCH, policy=policy), 5000, Path("/tmp/key.yaml"))
        for policy in ("fcfs", "lpm", "auto", "off")
    }
    assert {name: command[command.index("--schedule-policy") + 1] for name, command in orders.items()} == {
        "fcfs": "fcfs",
        "lpm": "lpm",
        "auto": "fcfs",
        "off": "fcfs",
    }


def test_variables_that_keep_the_plugin_out_are_refused() -> None:
    """SGLang would start without us and say nothing."""
    assert refused_environment({"SGLANG_PLUGINS": "", "SGLANG_RUST_SERVER": "0"}, planned=True) is None
    with pytest.raises(ConfigurationError, match="SGLANG_PLUGINS"):
        check_arguments([], {"SGLANG_PLUGINS": "other"}, "plas")


def test_time_outs_that_run_on_for_preempted_calls_are_refused() -> None:
    """Under policies that preempt; SGLang's own default, -1, stands for none."""
    assert refused_environment({"SGLANG_REQ_RUNNING_TIMEOUT": "-1"}, planned=True) is None
    limited = {"SGLANG_REQ_RUNNING_TIMEOUT": "30"}
    check_arguments([], limited, "fcfs")
    with pytest.raises(ConfigurationError, match="SGLANG_REQ_RUNNING_TIMEOUT: it counts the time"):
        check_arguments([], limited, "plas")


def test_the_command_ends_with_the_users_arguments_and_shows_no_secret() -> None:
    """SGLang takes the last of repeated flags, so the user's win."""
    command = engine_command(LAUNCH, 5000, Path("/tmp/key.yaml"))
    assert command[:3] == ["/engine/bin/python", "-m", "sglang.launch_server"]
    assert command[-2:] == ["--log-level", "info"]
    assert command[command.index("--served-model-name") + 1] == "tiny"
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert LAUNCH.secret.hex() not in " ".join(command)
    assert json.loads(config_text("abc")) == {"api-key": "abc"}


def test_the_environment_says_what_the_plugin_needs_and_drops_what_would_mislead() -> None:
    """The caller's variables are kept but for those that would put foreign code in the engine's way."""
    callers = {"PATH": "/bin", "PYTHONPATH": "/elsewhere", "PYTHONDONTWRITEBYTECODE": "1", "AUTELLIX_POLICY": "fcfs"}
    made = LAUNCH.environment(callers)
    assert made["PATH"] == "/bin"
    assert {"PYTHONPATH", "PYTHONDONTWRITEBYTECODE"}.isdisjoint(made)
    assert (made["AUTELLIX_POLICY"], made["AUTELLIX_CPU"]) == ("plas", "1")
    assert bytes.fromhex(made["AUTELLIX_SECRET"]) == LAUNCH.secret
    assert (made["AUTELLIX_FIRST_BOUND_S"], made["AUTELLIX_BOUNDS_S"], made["AUTELLIX_BETA"]) == ("1.0", "", "30.0")
    on_gpu = SglangLaunch(LAUNCH.python, "m/m", "plas", "cuda", 1.0).environment({"AUTELLIX_CPU": "1"})
    assert "AUTELLIX_CPU" not in on_gpu


def test_what_a_cpu_engine_runs_with_is_the_users_to_change() -> None:
    """And no business of a GPU engine."""
    assert CPU_ENVIRONMENT.items() <= LAUNCH.environment({}).items()
    assert LAUNCH.environment({"TORCHDYNAMO_DISABLE": "0"})["TORCHDYNAMO_DISABLE"] == "0"
    assert CPU_ENVIRONMENT.keys().isdisjoint(replace(LAUNCH, device="cuda").environment({}))


def test_bounds_reach_the_plugin_as_they_were_given() -> None:
    """Also past a variable of the caller's that says something else."""
    launch = SglangLaunch(LAUNCH.python, "m/m", "plas", "cpu", bounds_s=(0.5, 2.0), beta=inf)
    settings = read_settings(launch.environment({"AUTELLIX_FIRST_BOUND_S": "9", "AUTELLIX_BETA": "9"}))
    assert settings is not None
    assert (settings.policy.levels.bounds_s, settings.planner.beta) == ((0.5, 2.0), inf)
    assert not settings.planner.calibrated


def test_every_rank_on_a_cpu_gets_its_cores() -> None:
    """SGLang ends without, on most machines; what the user set stays."""
    two = replace(LAUNCH, arguments=("--tp", "2"))
    assert two.environment({})[THREADS_BIND].count("|") == 1
    assert two.environment({THREADS_BIND: "3|1"})[THREADS_BIND] == "3|1"
    assert THREADS_BIND not in LAUNCH.environment({})
    assert THREADS_BIND not in replace(two, device="cuda").environment({})


@pytest.mark.parametrize(
    ("cores", "arguments", "threads"),
    [(8, (), "8"), (8, ("--tp", "2"), "4"), (7, ("--tp", "2"), "3"), (1, ("--tp", "2"), "1")],
)
def test_every_rank_on_a_cpu_computes_with_its_part_of_the_cores(
    monkeypatch: pytest.MonkeyPatch, cores: int, arguments: tuple[str, ...], threads: str
) -> None:
    """With one thread at least; what the user set stays, and on a GPU nothing is set."""
    monkeypatch.setattr("autellix_server.engine.command.cores", lambda: cores)
    launch = replace(LAUNCH, arguments=arguments)
    assert launch.environment({})["OMP_NUM_THREADS"] == threads
    assert launch.environment({})["OMP_WAIT_POLICY"] == "PASSIVE"
    assert launch.environment({"OMP_NUM_THREADS": "5"})["OMP_NUM_THREADS"] == "5"
    assert "OMP_NUM_THREADS" not in replace(launch, device="cuda").environment({})


@pytest.mark.parametrize(
    ("ranks", "cores", "bound"),
    [
        (2, [0, 1], "0|1"),
        (2, [0, 1, 4, 5, 6], "0,1|4,5,6"),
        (1, [2, 3], "2,3"),
        (4, [0, 1], "0|0|1|1"),
        (2, [7], "7|7"),
    ],
)
def test_cores_are_shared_out_among_ranks(ranks: int, cores: list[int], bound: str) -> None:
    """In order, evenly, and never none."""
    assert threads_bind(ranks, cores) == bound


@pytest.mark.parametrize(
    ("argv", "size"),
    [
        ([], 1),
        (["--tp", "2"], 2),
        (["--tp-size=4"], 4),
        (["--tensor-parallel-size", "8"], 8),
        (["--tp", "2", "--tp", "1"], 1),
        (["--tp", "0"], 1),
        (["--tp", "two"], 1),
        (["--tp"], 1),
        (["--tokenizer-path", "8"], 1),
    ],
)
def test_number_of_ranks_is_read_as_sglang_reads_it(argv: list[str], size: int) -> None:
    """The last one counts; nonsense is SGLang's to refuse."""
    assert tensor_parallel_size(argv) == size


def test_secrets_differ_between_launches_and_are_not_shown() -> None:
    """A representation ends up in logs."""
    one, two = (SglangLaunch(LAUNCH.python, "m/m", "plas", "cpu", 1.0) for _ in range(2))
    assert one.secret != two.secret
    assert "secret" not in repr(one)


def test_a_model_is_a_folder_with_a_configuration_or_an_id(tmp_path: Path) -> None:
    """Anything else is one sentence before anything starts."""
    check_model("Qwen/Qwen3-8B")
    (tmp_path / "config.json").write_text("{}")
    check_model(str(tmp_path))
    assert served_name(str(tmp_path)) == tmp_path.name
    assert served_name("Qwen/Qwen3-8B") == "Qwen/Qwen3-8B"
    (tmp_path / "empty").mkdir()
    for wrong in (str(tmp_path / "nothing"), "./nothing/here", "nothing", str(tmp_path / "empty")):
        with pytest.raises(ConfigurationError, match="model folder"):
            check_model(wrong)


@pytest.mark.parametrize(
    "info",
    [
        {},
        {"autellix": "yes"},
        {"autellix": {"version": code_version(), "policy": "plas"}},
        {"internal_states": [{"autellix": {"version": code_version(), "policy": "plas", "http": True}}]},
    ],
)
def test_an_engine_without_the_whole_marker_is_not_ours(info: dict[str, Any]) -> None:
    """Both processes must have vouched for their hooks, at the place where the plugin writes."""
    complaint = marker_complaint(info, "plas")
    assert complaint is not None
    assert "not at work" in complaint


def test_the_engine_with_the_marker_we_asked_for_is_ours() -> None:
    """Version, policy and both processes agree."""
    marker = {"version": code_version(), "policy": "plas", "name": "e0", "http": True}
    assert marker_complaint({"autellix": marker}, "plas") is None
    assert marker_complaint({"autellix": marker}, "fcfs") == "the engine runs policy 'plas', not 'fcfs'"


def test_a_marker_of_another_version_or_policy_is_a_complaint() -> None:
    """The message says which, and what to do."""
    complaint = marker_complaint({"autellix": {"version": "0.0.0", "policy": "plas", "http": True}}, "plas")
    assert complaint is not None
    assert "0.0.0" in complaint
    assert "autellix engine install" in complaint


def test_with_the_policy_off_sglang_takes_every_flag_that_serve_does_not_set() -> None:
    """There is no plugin that could be disturbed."""
    check_arguments(["--speculative-algorithm", "EAGLE"], {"SGLANG_PLUGINS": "other"}, "off")
    with pytest.raises(RefusedFlag, match="refused flag --port"):
        check_arguments(["--port", "1"], {}, "off")


def test_a_cpu_without_bfloat16_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless the user wants another type: the last one counts."""
    monkeypatch.setattr("autellix_server.engine.command.has_bfloat16", lambda: True)
    assert "--dtype" not in LAUNCH.command(1, Path("c"))
    monkeypatch.setattr("autellix_server.engine.command.has_bfloat16", lambda: False)
    command = replace(LAUNCH, arguments=("--dtype", "bfloat16")).command(1, Path("c"))
    assert [word for before, word in pairwise(command) if before == "--dtype"] == ["float32", "bfloat16"]
    assert "--dtype" not in replace(LAUNCH, device="cuda").command(1, Path("c"))


def test_engines_side_by_side_have_gpus_of_their_own_and_share_a_cpu() -> None:
    """By as many as there are ranks; SGLang takes the number for a NUMA node's on a CPU, and there may be one."""
    on_gpu = SglangLaunch(LAUNCH.python, "m/m", "plas", "cuda", arguments=("--tp", "2")).copies(2)
    assert [launch.name for launch in on_gpu] == ["e0", "e1"]
    assert "--base-gpu-id" not in on_gpu[0].command(1, Path("c"))
    command = on_gpu[1].command(1, Path("c"))
    assert command[command.index("--base-gpu-id") + 1] == "2"
    for launch in SglangLaunch(LAUNCH.python, "m/m", "plas", "cpu").copies(2):
        assert "--base-gpu-id" not in launch.command(1, Path("c"))
