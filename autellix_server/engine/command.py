"""How SGLang is started: its command line, its environment, and what is checked before either is used."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from autellix_sdk.errors import ConfigurationError
from autellix_server.cpu_ops.build import has_bfloat16
from autellix_server.engine.machine import available_memory_gb, core_numbers, cores
from autellix_server.engine.ranks import THREADS_BIND, tensor_parallel_size, threads_bind
from autellix_server.engine.refusals import owned_by_host_kv, owned_by_serve, refused, refused_environment
from autellix_server.errors import RefusedFlag
from autellix_server.scheduling.planner import PlannerSettings

POLICY_OFF = "off"
"""Policy name that leaves the engine's scheduling as SGLang ships it: no hook, no stamp, no bill. A CPU engine computes
with our operations all the same (``AUTELLIX_CPU_OPS=off`` turns those off)."""

CPU_SLOTS = 16
"""Calls that a CPU engine runs at once, unless told otherwise."""

CPU_DEFAULTS = (
    *("--max-total-tokens", "32768", "--max-running-requests", str(CPU_SLOTS)),
    *("--chunked-prefill-size", "512", "--attention-backend", "autellix_cpu", "--sleep-on-idle"),
)
"""What a CPU engine starts with, see docs/decisions/0004; arguments given after them win."""

CPU_ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "TORCHDYNAMO_DISABLE": "1",
    "SGLANG_EXTERNAL_MODEL_PACKAGE": "autellix_server.sglang_plugin.cpu_models",
}
"""What a CPU engine starts with as well; what the caller's environment says wins. PyTorch's threads sleep instead of
spin, nothing is compiled while serving, and only the model's own class is imported: see docs/decisions/0004."""

NOT_INHERITED = frozenset({"AUTELLIX_CPU", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE"})
"""What the caller's environment does not decide for an engine. Its packages are ours and come without bytecode: without
a place to keep it, every process compiles 3,000 modules at every start (docs/decisions/0004)."""

THREADS = "OMP_NUM_THREADS"
"""Threads that compute in each rank: PyTorch's, and those of our own operations, which take their number from it."""

HOST_WRITE_POLICY = "write_back"
"""When HiCache copies KV to the host under the planner, which counts on the room of a call that leaves: see `swap`."""

CPU_HOST_KV = ("--hicache-mem-layout", "layer_first", "--hicache-io-backend", "direct")
"""How a CPU engine keeps KV in host memory; arguments given after them win."""

STOCK_ORDERS = ("fcfs", "lpm")
"""Policies that are an order of SGLang's own queue, for comparison: the plugin keeps accounts, the planner rests."""

_SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class SglangLaunch:
    """One SGLang engine, not yet started. Satisfies `supervisor.Launch`.

    Attributes:
        python: interpreter of the engine environment.
        model: model folder, or a Hugging Face ID.
        policy: scheduling policy, or `POLICY_OFF`.
        device: ``cpu`` or ``cuda``.
        first_bound_s: upper bound of the best level, in seconds of attained service; `None`: calibrated.
        steps_between_plans: forward passes after which the planner looks again at who runs.
        bounds_s: every bound of the levels; empty: they follow from the first.
        beta: a program that waited this many times as long as it was served is promoted.
        hold_s: seconds that a program's KV keeps its place on the device between two calls.
        host_kv_gb: gigabytes, 1e9 bytes, of host memory for KV that the device has no room for, for each rank; 0: none.
        arguments: further arguments for SGLang; they win over ours where SGLang takes the last one.
        name: name of the engine in bills.
        engines: engines on this machine, which share its cores.
        first_gpu: number of the first GPU of this engine; 0 on a CPU.
        secret: signs the gateway's stamps for this engine; never on a command line.
    """

    python: Path
    model: str
    policy: str
    device: str
    first_bound_s: float | None = None
    steps_between_plans: int = PlannerSettings().steps_between_plans
    bounds_s: tuple[float, ...] = ()
    beta: float = PlannerSettings().beta
    hold_s: float = PlannerSettings().hold_s
    host_kv_gb: int = 0
    arguments: tuple[str, ...] = ()
    name: str = "e0"
    engines: int = 1
    first_gpu: int = 0
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(_SECRET_BYTES), repr=False)

    def copies(self, engines: int) -> list[Self]:
        """Return launches of several engines like this one on this machine, named ``e0``, ``e1`` and so on."""
        # To SGLang the number of a GPU is on a CPU that of a NUMA node, of which the engines share what there is.
        gpus = 0 if self.device == "cpu" else tensor_parallel_size(self.arguments)
        return [replace(self, name=f"e{number}", engines=engines, first_gpu=number * gpus) for number in range(engines)]

    def command(self, port: int, config: Path) -> list[str]:
        """Return the command line of an engine on a loopback port; `config` is a file of `config_text`."""
        return engine_command(self, port, config)

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return the engine's environment, made from the caller's."""
        ours = {
            "AUTELLIX_POLICY": self.policy,
            "AUTELLIX_ENGINE_NAME": self.name,
            "AUTELLIX_FIRST_BOUND_S": "auto" if self.first_bound_s is None else repr(self.first_bound_s),
            "AUTELLIX_BOUNDS_S": ",".join(map(repr, self.bounds_s)),
            "AUTELLIX_BETA": repr(self.beta),
            "AUTELLIX_HOLD_S": repr(self.hold_s),
            "AUTELLIX_STEPS_BETWEEN_PLANS": str(self.steps_between_plans),
            "AUTELLIX_SECRET": self.secret.hex(),
            # The folder the user happens to be in must not shadow the engine's packages (`kernels`, for one).
            "PYTHONSAFEPATH": "1",
            "PYTHONUNBUFFERED": "1",
        }
        inherited = {name: value for name, value in environ.items() if name not in NOT_INHERITED}
        if self.device == "cpu":
            ours["AUTELLIX_CPU"] = "1"
            inherited = CPU_ENVIRONMENT | inherited
            ranks = tensor_parallel_size(self.arguments)
            inherited.setdefault(THREADS, str(max(1, cores() // (ranks * self.engines))))
            if ranks > 1:
                inherited.setdefault(THREADS_BIND, threads_bind(ranks, core_numbers()))
        return inherited | ours


def is_planned(policy: str) -> bool:
    """Return whether the planner decides who runs under a policy, rather than SGLang."""
    return policy != POLICY_OFF and policy not in STOCK_ORDERS


def schedule_policy(policy: str) -> str:
    """Return the order that SGLang's own queue is to have under a policy."""
    return policy if policy in STOCK_ORDERS else "fcfs"


def check_arguments(arguments: Sequence[str], environ: Mapping[str, str], policy: str) -> None:
    """Check what the user gives to SGLang.

    Args:
        arguments: for SGLang, beside those that `engine_command` sets.
        environ: environment that the engine will inherit.
        policy: under `POLICY_OFF` there is no plugin that a flag or a variable could disturb.

    Raises:
        RefusedFlag: `autellix serve` sets this itself, or the plugin cannot work with it.
        ConfigurationError: a variable of the environment would keep the plugin out.
    """
    with_plugin = policy != POLICY_OFF
    if complaint := owned_by_serve(arguments) or (with_plugin and refused(arguments, planned=is_planned(policy))):
        raise RefusedFlag(complaint)
    if with_plugin and (complaint := refused_environment(environ, planned=is_planned(policy))):
        raise ConfigurationError(complaint)


def check_host_kv(host_kv_gb: int, arguments: Sequence[str], policy: str, device: str) -> None:
    """Check that there can be a host pool of `host_kv_gb` gigabytes.

    Args:
        host_kv_gb: as in `SglangLaunch`, above 0.
        arguments: of the user, for SGLang.
        policy: scheduling policy.
        device: ``cpu`` or ``cuda``.

    Raises:
        RefusedFlag: SGLang is told another size as well.
        ConfigurationError: there is not as much memory, or SGLang as it is shipped has no such pool on a CPU.
    """
    if complaint := owned_by_host_kv(arguments):
        raise RefusedFlag(complaint)
    setting = f"--host-kv-gb (or AUTELLIX_HOST_KV_GB) is {host_kv_gb}"
    if policy == POLICY_OFF and device == "cpu":
        raise ConfigurationError(f"{setting}: on a CPU it needs the plugin, and --policy off leaves it out")
    available_gb = available_memory_gb()
    ranks = tensor_parallel_size(arguments)
    if host_kv_gb * ranks > available_gb:
        each = f" for each of {ranks} ranks" if ranks > 1 else ""
        raise ConfigurationError(f"{setting}{each}: only {available_gb:.1f} GB of this machine's memory are available")


def engine_command(launch: SglangLaunch, port: int, config: Path) -> list[str]:
    """Return the command that starts SGLang.

    The API key comes from `config`, so that it shows in no process list. SGLang answers to any model name; the one
    it lists is the last part of the model's path, because the whole path would show the machine's folders.

    Args:
        launch: what to start.
        port: loopback port the engine listens on.
        config: YAML file with the engine's API key.
    """
    return [
        str(launch.python),
        *("-m", "sglang.launch_server"),
        *("--config", str(config)),
        *("--model-path", launch.model),
        *("--served-model-name", served_name(launch.model)),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--device", launch.device),
        *("--schedule-policy", schedule_policy(launch.policy)),
        *("--log-level-http", "warning"),
        *(_cpu_defaults() if launch.device == "cpu" else ()),
        *(("--base-gpu-id", str(launch.first_gpu)) if launch.first_gpu else ()),
        *_host_kv(launch),
        *launch.arguments,
    ]


def _cpu_defaults() -> tuple[str, ...]:
    return CPU_DEFAULTS if has_bfloat16() else (*CPU_DEFAULTS, "--dtype", "float32")


def _host_kv(launch: SglangLaunch) -> Iterator[str]:
    if is_planned(launch.policy):  # even without a pool of ours: the user may ask SGLang for one
        yield from ("--hicache-write-policy", HOST_WRITE_POLICY)
    if launch.host_kv_gb:
        yield from ("--enable-hierarchical-cache", "--hicache-size", str(launch.host_kv_gb))
        yield from CPU_HOST_KV if launch.device == "cpu" else ()


def config_text(key: str) -> str:
    """Return the configuration file that tells SGLang its API key: JSON, which is YAML too."""
    return json.dumps({"api-key": key}) + "\n"


def served_name(model: str) -> str:
    """Return the model name that clients see: a folder's own name, or a Hugging Face ID as it is."""
    return Path(model).name if Path(model).is_absolute() else model


def check_model(model: str) -> None:
    """Check that `model` can be one: an existing model folder, or something that looks like a Hugging Face ID.

    Raises:
        ConfigurationError: it is neither; the message names it and the remedy.
    """
    folder = Path(model)
    looks_like_id = not folder.is_absolute() and model.count("/") <= 1 and not model.startswith((".", "~"))
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ConfigurationError(f"model folder {model} has no config.json; give the folder that holds the model")
    elif not looks_like_id or "/" not in model:
        raise ConfigurationError(
            f"there is no model folder {model}; give an existing folder or a Hugging Face ID such as owner/name"
        )
