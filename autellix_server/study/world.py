"""What the study runs: workloads, arms, and how many programs of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from pathlib import Path

from autellix_server.scheduling.levels import Levels, geometric_levels
from autellix_server.scheduling.planner import PlannerSettings
from autellix_server.simulator.model import make_model
from autellix_server.simulator.run import SimulationSettings, levels_for
from autellix_server.traces.jsonl import read_programs
from autellix_server.traces.model import TraceProgram
from autellix_server.traces.workloads.registry import generate

SEED = 101
"""Of programs and arrivals. Defaults were chosen on other programs, those of seed 0."""

PRESET = "a100-8b"


@dataclass(frozen=True, slots=True)
class Arm:
    """What is compared: a policy and the engine around it.

    Attributes:
        policy: name of the policy.
        about: what sets it apart, for the reader.
        host: whether evicted KV goes to the host.
        hold_s: see `PlannerSettings`; `None` is the default.
        class_names: whether the policy is told what kind a program is.
    """

    policy: str
    about: str
    host: bool = True
    hold_s: float | None = None
    class_names: bool = True


STOCK = "fcfs"
OURS = "auto"
CLAIRVOYANT = "srpt"

ARMS: Mapping[str, Arm] = {
    STOCK: Arm("fcfs", "the engine as it ships: prefix cache, chunked prefill, no host tier", host=False),
    "fcfs + host": Arm("fcfs", "the same with KV evicted to the host"),
    "mlfq": Arm("mlfq", "multi-level feedback queue over calls, with the host tier"),
    "round-robin": Arm("round-robin", "calls take turns, with the host tier"),
    "program-fcfs": Arm("program-fcfs", "programs in order of arrival, their KV held between calls"),
    "plas": Arm("plas", "the paper's policy for single chains: nothing held between calls", hold_s=0.0),
    "atlas": Arm("atlas", "the paper's policy for programs that fork: nothing held between calls", hold_s=0.0),
    "atlas + hold": Arm("atlas", "ATLAS with KV held between calls"),
    "gittins, no hold": Arm("gittins", "Gittins index, nothing held between calls", hold_s=0.0),
    "auto, no names": Arm("auto", "our default, not told what kind a program is", class_names=False),
    OURS: Arm("auto", "our default: Gittins index, KV held between calls"),
    CLAIRVOYANT: Arm("srpt", "clairvoyant: knows what every program will still need"),
}
"""Every arm of the study by its name in tables."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Programs of the study.

    Attributes:
        programs: how many.
        file: a trace to read them from; `None`: generated under the workload's name.
    """

    programs: int
    file: Path | None = None


WORKLOADS: Mapping[str, Workload] = {
    "chat": Workload(700),
    "react": Workload(700),
    "mcts": Workload(100),
    "mixed": Workload(200),
}
"""The paper's four, by the name of their generator."""


@cache
def programs_of(name: str, workload: Workload, seed: int = SEED) -> tuple[TraceProgram, ...]:
    """Return the programs of a workload; of a file, those that fit the engine."""
    if workload.file is None:
        return tuple(islice(generate(name, seed), workload.programs))
    longest = make_model(PRESET).kv_tokens * 3 // 4
    fitting = (program for program in read_programs(workload.file) if _longest_context(program) <= longest)
    return tuple(islice(fitting, workload.programs))


def settings_of(
    arm: Arm,
    programs: tuple[TraceProgram, ...],
    *,
    engines: int = 1,
    balancer: str = "autellix",
    planner: PlannerSettings | None = None,
    levels: Levels | None = None,
) -> SimulationSettings:
    """Return what is simulated for an arm.

    Args:
        arm: the arm.
        programs: their median call sets the first level's bound.
        engines: how many.
        balancer: its name.
        planner: settings other than the defaults.
        levels: other levels than the default ones.
    """
    model = make_model(PRESET)
    planner = planner or PlannerSettings()
    return SimulationSettings(
        model if arm.host else replace(model, host_tokens=0),
        arm.policy,
        levels or levels_for(model, programs),
        engines,
        balancer,
        planner if arm.hold_s is None else replace(planner, hold_s=arm.hold_s),
        arm.class_names,
    )


def levels_like(levels: Levels, *, count: int = 8, bound_factor: float = 1.0, growth: float = 2.0) -> Levels:
    """Return levels whose first bound is that of `levels` times a factor."""
    return geometric_levels(count, levels.bounds_s[0] * bound_factor, growth)


def _longest_context(program: TraceProgram) -> int:
    return max(call.prompt_tokens + call.output_tokens for call in program.calls)
