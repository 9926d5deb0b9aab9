"""How many calls a second the simulator does, on a chat workload and an engine of 256 slots.

Run by hand: ``python tests/simulator/bench_simulator.py --calls 1000000 --policy fcfs``. At the default rate the engine
keeps up; above 1 program/s calls pile up, and each costs more. Programs are generated, or read from the trace given
with ``--trace`` and repeated. Not a test: machines differ.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import time
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from pstats import Stats
from random import Random

from autellix_server.simulator.model import make_model
from autellix_server.simulator.programs import Arrival, ProgramTrace, poisson_arrivals
from autellix_server.simulator.run import Simulation, SimulationSettings, levels_for
from autellix_server.traces.jsonl import read_programs
from autellix_server.traces.workloads.registry import generate


def load(trace: Path | None, calls: int, rate: float) -> list[Arrival]:
    """Return arrivals of programs with about as many calls."""
    source = generate("chat", seed=0) if trace is None else iter(read_programs(trace))
    pool: list[ProgramTrace] = list(islice(source, 2000))
    mean_calls = sum(len(program.calls) for program in pool) / len(pool)
    return poisson_arrivals(list(islice(cycle(pool), round(calls / mean_calls))), rate, Random(0))


def main() -> None:
    """Simulate once and print the rate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--rate", type=float, default=0.5, help="programs per second")
    parser.add_argument("--policy", default="fcfs")
    parser.add_argument("--trace", type=Path)
    parser.add_argument("--kv-tokens", type=int, default=410_000)
    parser.add_argument("--profile", action="store_true", help="print where the time went; slower")
    args = parser.parse_args()
    arrivals = load(args.trace, args.calls, args.rate)
    model = replace(make_model("a100-8b"), kv_tokens=args.kv_tokens)
    settings = SimulationSettings(model, args.policy, levels_for(model, [arrival.trace for arrival in arrivals[:2000]]))
    simulation = Simulation(settings, arrivals)
    gc.disable()  # A simulation makes no cycles: there is nothing to find.
    profile = cProfile.Profile()
    start_s = time.process_time()
    programs = profile.runcall(simulation.run) if args.profile else simulation.run()
    cpu_s = time.process_time() - start_s
    calls = sum(program.calls for program in programs)
    decode_s = sum(program.times.decode_s for program in programs)
    busy = decode_s / max(program.ended_s for program in programs)
    print(
        f"{args.policy}: {calls} calls in {cpu_s:.1f} s of CPU, {calls / cpu_s:.0f} calls/s, "
        f"{1e6 * cpu_s / calls:.1f} us a call; {busy:.0f} calls decoding on average"
    )
    if args.profile:
        Stats(profile).sort_stats("tottime").print_stats(25)


if __name__ == "__main__":
    main()
