"""Engine flags and variables that the plugin cannot work with, each with the reason. Pure.

`autellix serve` asks before anything starts; the plugin's guard checks the resolved values again inside the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass


def _always(value: str | None) -> bool:
    return True


def _over_one(value: str | None) -> bool:
    return value not in {"0", "1"}


def _not_null(value: str | None) -> bool:
    return value != "null"


_SHORTEST_FLAG = len("--dp")


@dataclass(frozen=True, slots=True)
class _Rule:
    """Flags refused for one reason; a name that ends in ``*`` stands for every flag that starts with it.

    SGLang's parser accepts any unambiguous beginning of a flag (``--dp 2`` is common), so beginnings match too. No
    flag of SGLang is itself the beginning of one that is named here.
    """

    flags: tuple[str, ...]
    reason: str
    applies: Callable[[str | None], bool] = _always

    def matches(self, flag: str, value: str | None) -> bool:
        return any(self._names(name, flag) for name in self.flags) and self.applies(value)

    @staticmethod
    def _names(name: str, flag: str) -> bool:
        if name.endswith("*"):
            return flag.startswith(name[:-1])
        return name == flag or (len(flag) >= _SHORTEST_FLAG and name.startswith(flag))


_UNSUPPORTED = (
    _Rule(("--pp-size", "--pipeline-parallel-size"), "pipeline parallelism is not supported", _over_one),
    _Rule(
        ("--dp-size", "--data-parallel-size", "--attn-dp-size", "--attention-data-parallel-size"),
        "an engine is one scheduler; data parallel schedulers would each see a part of a program",
        _over_one,
    ),
    _Rule(("--enable-dp-attention",), "an engine is one scheduler; data parallel attention starts several"),
    _Rule(("--decoupled-spec-role",), "speculative decoding is not supported", _not_null),
    _Rule(("--speculative-*",), "speculative decoding is not supported"),
    _Rule(("--enable-mixed-chunk",), "service cannot be told apart when prefill and decode share a step"),
    _Rule(("--disaggregation-mode",), "prefill-decode disaggregation is not supported", _not_null),
    _Rule(("--encoder-only",), "encoder disaggregation is not supported"),
    _Rule(("--enable-pdmux", "--pdmux-config-path"), "prefill-decode multiplexing is not supported"),
    _Rule(("--dllm-*",), "diffusion language models are not supported"),
    _Rule(("--mamba-*", "--max-mamba-cache-size"), "Mamba models are not supported"),
    _Rule(
        ("--enable-hisparse", "--hisparse-config", "--hierarchical-sparse-attention-extra-config"),
        "HiSparse is not supported",
    ),
    _Rule(("--enable-lmcache", "--lmcache-config-file"), "LMCache is not supported"),
    _Rule(("--enable-flexkv", "--flexkv-config-file"), "FlexKV is not supported"),
    _Rule(("--radix-cache-backend",), "only the built-in radix cache is supported"),
    _Rule(("--disable-radix-cache",), "a preempted call's KV is kept in the radix cache"),
    _Rule(("--strip-thinking-cache",), "a preempted call's KV, thinking included, is kept in the radix cache"),
    _Rule(
        ("--grpc-mode", "--smg-grpc-mode", "--grpc-port", "--sidecar"),
        "the gateway and the time bill need the HTTP front end in Python",
    ),
    _Rule(("--tokenizer-worker-num",), "the plugin is not loaded in further tokenizer workers", _over_one),
    _Rule(("--enable-priority-scheduling",), "clients could set priorities that work against the policy's order"),
    _Rule(("--max-queued-requests",), "it would drop preempted calls when they queue again"),
    _Rule(("--incremental-streaming-output",), "the time bill needs each chunk's full record"),
    _Rule(
        ("--schedule-policy",),
        "the policy of `autellix serve` orders the queue; use `--policy`, or turn the plugin off by `--policy off`",
    ),
    _Rule(("--use-ray",), "the plugin is not loaded in Ray actors"),
)

_UNPLANNABLE = (
    _Rule(
        ("--nnodes",), "ranks on other machines are not started with the plugin, and would decide otherwise", _over_one
    ),
    _Rule(
        ("--min-free-slots-delay", "--enable-prefill-delayer"), "it holds back calls for which others have made room"
    ),
    _Rule(
        ("--hicache-write-policy",),
        "the memory of a preempted call would not be free before all of it is copied; use `write_back`",
        lambda value: value != "write_back",
    ),
    _Rule(
        ("--hicache-host-memory-mode",),
        "host memory has to keep the KV of preempted calls; use `cache`",
        lambda value: value != "cache",
    ),
)

_HOST_KV = (
    _Rule(
        ("--hicache-size", "--hicache-ratio", "--hicache-host-memory-fraction"),
        "`--host-kv-gb` says how large the host pool is; leave out one of the two",
    ),
)

_OWNED = (
    _Rule(("--model-path", "--model"), "use `--model` of `autellix serve`, before the `--`"),
    _Rule(("--host", "--port"), "the engine has a loopback port of its own; before the `--` they are the gateway's"),
    _Rule(("--api-key", "--admin-api-key"), "the engine gets a random key that only the gateway knows"),
    _Rule(("--device",), "use `--device` of `autellix serve`, before the `--`"),
    _Rule(("--config",), "the engine gets a configuration file from `autellix serve`; give its options one by one"),
    _Rule(("--ssl-*", "--fastapi-root-path"), "the gateway reaches the engine over loopback in plain HTTP"),
)

_VARIABLES = {
    "SGLANG_PLUGINS": "it can keep SGLang from loading the Autellix plugin",
    "SGLANG_PLATFORM": "it keeps SGLang from loading the Autellix platform and plugin",
    "SGLANG_USE_CPU_ENGINE": "it selects SGLang's own CPU platform, which needs compiled kernels",
    "SGLANG_RUST_SERVER": "the gateway and the time bill need the HTTP front end in Python",
    "SGLANG_GRPC_PORT": "the gateway and the time bill need the HTTP front end in Python",
}

_TIME_OUT = (
    "it counts the time that a call gave up for others; use a policy that preempts nobody, or the client's time-out"
)
_UNPLANNABLE_VARIABLES = {"SGLANG_REQ_WAITING_TIMEOUT": _TIME_OUT, "SGLANG_REQ_RUNNING_TIMEOUT": _TIME_OUT}
_NOT_SET = {"", "0", "-1", "false", "False"}


def refused(argv: Sequence[str], *, planned: bool) -> str | None:
    """Return why the engine cannot be started with these arguments, or `None` when it can.

    Args:
        argv: arguments for SGLang, as ``--flag value`` or ``--flag=value``.
        planned: the planner decides who runs, rather than the engine in an order of its own.

    Returns:
        A sentence that names the first offending flag and the reason.
    """
    return _first_refusal((*_UNSUPPORTED, *(_UNPLANNABLE if planned else ())), argv)


def owned_by_serve(argv: Sequence[str]) -> str | None:
    """Return which argument `autellix serve` sets itself, with the remedy, or `None`. Arguments as for `refused`."""
    return _first_refusal(_OWNED, argv)


def owned_by_host_kv(argv: Sequence[str]) -> str | None:
    """Return which argument contradicts `--host-kv-gb`, with the remedy, or `None`. Arguments as for `refused`."""
    return _first_refusal(_HOST_KV, argv)


def refused_environment(environ: Mapping[str, str], *, planned: bool) -> str | None:
    """Return which environment variable would keep the plugin from working, and why, or `None`; `planned` as above."""
    for name, reason in (_VARIABLES | (_UNPLANNABLE_VARIABLES if planned else {})).items():
        if environ.get(name, "") not in _NOT_SET:
            return f"refused environment variable {name}: {reason}; unset it"
    return None


def _first_refusal(rules: Sequence[_Rule], argv: Sequence[str]) -> str | None:
    for flag, value in flags(argv):
        for rule in rules:
            if rule.matches(flag, value):
                return f"refused flag {flag}: {rule.reason}"
    return None


def flags(argv: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Yield every flag of `argv` with its first value, `None` when it has none."""
    for index, token in enumerate(argv):
        if not token.startswith("--"):
            continue
        flag, equals, value = token.partition("=")
        if equals:
            yield flag, value
        else:
            following = argv[index + 1] if index + 1 < len(argv) else "--"
            yield flag, None if following.startswith("--") else following
