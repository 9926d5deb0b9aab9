"""What the suite runs on, and with what: CUDA at full size, or a rehearsal of the same code on a CPU."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from autellix_server.engine.command import SglangLaunch
from autellix_server.engine.home import Device
from tests.integration.random_llama import EIGHT_B, TINY, Shape

DEVICE_VARIABLE = "AUTELLIX_GPU_SUITE_DEVICE"
"""``cuda``, the default, or ``cpu`` for a rehearsal."""


@dataclass(frozen=True)
class Load:
    """What policies are compared under: arguments of `autellix bench`, and of SGLang."""

    programs: tuple[str, ...]
    engine: tuple[str, ...]


@dataclass(frozen=True)
class Suite:
    """The suite on one device.

    Attributes:
        device: what engines compute on.
        shape: size of the model.
        page_sizes: tokens in a page; one engine for each.
        host_kv_gb: host memory for KV, enough for all calls of a test.
        start_limit_s: an engine that takes longer to start has failed.
        kernels: arguments of SGLang that choose what it computes with.
        variables: of the engine's environment, likewise.
        load: what policies are compared under.
    """

    device: Device
    shape: Shape
    page_sizes: tuple[int, ...]
    host_kv_gb: int
    start_limit_s: float
    load: Load
    kernels: tuple[str, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)

    def launch(self, engine_python: Path, model: Path, page_size: int) -> SglangLaunch:
        """Return an engine in float32 that preempts as often as it can, with room for a third of a test's KV."""
        return SglangLaunch(
            engine_python,
            str(model),
            "plas",
            self.device,
            first_bound_s=0.02,
            steps_between_plans=2,
            host_kv_gb=self.host_kv_gb,
            arguments=(
                *("--dtype", "float32", "--max-running-requests", "4", "--chunked-prefill-size", "128"),
                *("--max-total-tokens", "1024", "--page-size", str(page_size)),
                *self.kernels,
            ),
        )


# The one attention backend of SGLang's that takes float32, every page size and CUDA graphs: fa3 and flashinfer take
# half precision alone. With PyTorch's sampling it does without the largest parts of sgl_kernel, too.
_KERNELS = ("--attention-backend", "triton", "--sampling-backend", "pytorch")

_CUDA = Suite(
    device="cuda",
    shape=EIGHT_B,
    page_sizes=(1, 16, 64),
    # 262 kB a token: 15,000 tokens.
    host_kv_gb=4,
    start_limit_s=600,
    kernels=(*_KERNELS, "--cuda-graph-max-bs-decode", "4"),
    variables={
        # SGLang's fused norms take half precision alone.
        "SGLANG_FORCE_FUSED_OP_BACKEND": "torch",
        # As exact as float32, on tensor cores. Plain TF32 is a thousand times coarser, and the same call, preempted,
        # takes other kernels; "ieee" has the prefill kernel spill 12 kB of registers for each thread.
        "TRITON_F32_DEFAULT": "tf32x3",
    },
    load=Load(
        programs=(
            *("--workload", "chat", "--programs", "40", "--rate", "3", "--repeats", "2"),
            *("--scale-outputs", "0.5", "--scale-context", "6000", "--scale-calls", "8"),
        ),
        engine=("--max-running-requests", "16", "--max-total-tokens", "16384", *_KERNELS),
    ),
)

_CPU = Suite(
    device="cpu",
    shape=TINY,
    page_sizes=(1, 16),
    variables={"AUTELLIX_CPU_OVERLAP": "on"},
    host_kv_gb=1,
    start_limit_s=240,
    load=Load(
        programs=(
            *("--workload", "chat", "--programs", "12", "--rate", "4", "--repeats", "1"),
            *("--scale-prompts", "0.1", "--scale-outputs", "0.1", "--scale-context", "2000", "--scale-calls", "4"),
        ),
        engine=("--max-running-requests", "4", "--max-total-tokens", "4096"),
    ),
)


def suite_of(device: str) -> Suite:
    """Return the suite on a device; end the session when it is neither ``cuda`` nor ``cpu``."""
    for suite in (_CUDA, _CPU):
        if suite.device == device:
            return suite
    raise pytest.UsageError(f"{DEVICE_VARIABLE} is {device!r}; leave it out for a GPU, or set it to cpu")


SUITE = suite_of(os.environ.get(DEVICE_VARIABLE, "cuda"))


def report(line: str) -> None:
    """Show a result at once: `make gpu` lets standard output through."""
    print(f"\n{line}", end="", flush=True)
