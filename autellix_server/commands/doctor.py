"""`autellix doctor`: what this machine can run, what is missing, and the command that mends it."""

from __future__ import annotations

import argparse
import importlib.util
import platform
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from autellix_server.commands.output import Subparsers, add_command, print_json, print_table
from autellix_server.engine.home import Device, Home
from autellix_server.gateway import DEFAULT_PORT

EPILOG = """\
verdicts:
  ok      nothing to do
  mend    works after the command shown, or works less well without it
  block   this machine cannot serve until it is changed

examples:
  autellix doctor
  autellix doctor --json | python -m json.tool

Exit status: 0 if this machine can serve, perhaps after a command shown here; 1 if something blocks it.
"""

MEMORY_GB = {"block": 4.0, "mend": 6.0}
"""A CPU engine with the bundled model takes about 2.9 GB; the rest is the system's and the agents'."""

Verdict = Literal["ok", "mend", "block"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: its name.
        verdict: see the command's help.
        found: what is there.
        remedy: what to do about it; empty when there is nothing to do.
    """

    what: str
    verdict: Verdict
    found: str
    remedy: str = ""


def register(subparsers: Subparsers) -> None:
    """Add `autellix doctor`."""
    parser = add_command(
        subparsers,
        "doctor",
        summary="say what this machine can run, what is missing, and the command that mends it",
        description="Look at this machine, change nothing, and say what it can run and what is missing.",
        epilog=EPILOG,
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Show all findings; exit status 1 if one of them blocks."""
    findings = examine(Home.from_environment())
    can_serve = all(finding.verdict != "block" for finding in findings)
    if args.json:
        print_json({"can_serve": can_serve, "findings": [asdict(finding) for finding in findings]})
    else:
        rows = [(finding.verdict, finding.what, finding.found, finding.remedy) for finding in findings]
        print_table(("", "what", "found", "what to do"), rows)
        print(summary(findings))
    return 0 if can_serve else 1


def examine(home: Home) -> list[Finding]:
    """Look at everything; nothing is changed and nothing goes over the network."""
    from autellix_server.cpu_ops import build
    from autellix_server.engine import machine

    gpus = machine.nvidia_gpus()
    return [
        check_system(platform.system(), platform.machine()),
        check_python(sys.version_info[:2]),
        check_cores(machine.cores()),
        check_memory(machine.memory_gb()),
        check_compiler(build.compiler()),
        check_gpu(gpus),
        check_disk(home),
        *check_engine(home, "cpu", wanted=not gpus),
        *check_engine(home, "cuda", wanted=bool(gpus)),
        check_model(home),
        check_port(machine.port_free(DEFAULT_PORT)),
        check_gateway(_absent(("aiohttp", "pydantic", "pydantic_settings", "rich"))),
        check_agents(_absent(("httpx", "httpx2", "openai"))),
    ]


def summary(findings: Sequence[Finding]) -> str:
    """Return the verdict on the whole machine in one sentence."""
    blocking = [finding.what for finding in findings if finding.verdict == "block"]
    if blocking:
        return f"This machine cannot serve yet: {', '.join(blocking)}."
    if any(finding.verdict == "mend" for finding in findings):
        return "This machine can serve, see what to do above; `autellix serve` builds engine and model by itself."
    return "This machine can serve: run `autellix serve`."


def check_system(system: str, architecture: str) -> Finding:
    """Judge the operating system and the processor."""
    found = f"{system} {architecture}"
    if system == "Linux" and architecture in {"x86_64", "aarch64"}:
        return Finding("system", "ok", found)
    return Finding("system", "block", found, "run the server on Linux x86-64 or aarch64; the SDK works anywhere")


def check_python(version: tuple[int, int]) -> Finding:
    """Judge the Python that engine environments are made with."""
    from autellix_server.engine import pins

    found = ".".join(map(str, version))
    if pins.python_supported(version):
        return Finding("python", "ok", found)
    return Finding("python", "block", found, f"run autellix with Python {pins.supported_pythons()}")


def check_cores(count: int) -> Finding:
    """Judge the number of CPU cores that may be used."""
    if count >= 2:
        return Finding("cores", "ok", str(count))
    return Finding("cores", "mend", str(count), "give it a second core: engine and gateway share this one")


def check_memory(memory_gb: float) -> Finding:
    """Judge the memory that may be used."""
    found = f"{memory_gb:.1f} GB"
    if memory_gb >= MEMORY_GB["mend"]:
        return Finding("memory", "ok", found)
    verdict: Verdict = "mend" if memory_gb >= MEMORY_GB["block"] else "block"
    return Finding("memory", verdict, found, f"have {MEMORY_GB['mend']:.0f} GB for an engine, a gateway and agents")


def check_compiler(compiler: Sequence[str] | None) -> Finding:
    """Judge the C++ compiler: the CPU operations are compiled with it, and packages without a wheel for this machine.

    A C compiler, which SGLang's CUDA kernels ask for, comes with it.
    """
    from autellix_server.cpu_ops import build

    if compiler:
        return Finding("C++ compiler", "ok", " ".join(compiler))
    cause, remedy = build.no_compiler()
    return Finding("C++ compiler", "mend", f"{cause}; a CPU engine is several times slower without", remedy)


def check_gpu(gpus: Sequence[str]) -> Finding:
    """Say which NVIDIA GPUs there are; none is fine."""
    return Finding("NVIDIA GPU", "ok", ", ".join(gpus) or "none; engines run on the CPU")


def check_disk(home: Home) -> Finding:
    """Judge the room for a CPU engine, which is needed only until it is built."""
    from autellix_server.engine import pins
    from autellix_server.engine.installed import torch_build
    from autellix_server.engine.stages import free_disk_gb

    free_gb = free_disk_gb(home.path)
    found = f"{free_gb:.1f} GB free in {home.path}"
    if free_gb >= pins.DISK_GB["cpu"] or torch_build(home.engine("cpu")) or torch_build(home.engine("cuda")):
        return Finding("disk", "ok", found)
    return Finding("disk", "block", found, f"have {pins.DISK_GB['cpu']:.0f} GB, or set AUTELLIX_HOME to a larger disk")


def check_engine(home: Home, device: Device, *, wanted: bool) -> Iterable[Finding]:
    """Judge one engine environment and the torch in it; an environment that is neither wanted nor there is skipped."""
    from autellix_server.engine.environment import EngineEnvironment

    status = EngineEnvironment(home, device).status()
    if status.state == "absent" and not wanted:
        return
    command = f"autellix engine install --device {device}"
    found = f"{status.state}, {status.path}"
    ready = status.state == "ready"
    yield Finding(f"{device} engine", "ok" if ready else "mend", found, "" if ready else command)
    if device == "cpu" and status.state != "absent":
        yield check_operations(status.operations)
    if status.torch is None:
        return
    build = f"{status.torch.version}, built for {'CUDA ' + status.torch.cuda if status.torch.cuda else 'the CPU'}"
    fits = (status.torch.cuda is None) == (device == "cpu")
    remedy = f"autellix engine remove --device {device}, then {command}"
    if device == "cpu":
        remedy += " with AUTELLIX_TORCH_INDEX set to PyTorch's CPU wheel index"
    yield Finding(f"torch in {device} engine", "ok" if fits else "mend", build, "" if fits else remedy)


def check_operations(library: Path | None) -> Finding:
    """Judge the compiled operations of a CPU engine that is there."""
    if library:
        return Finding("CPU operations", "ok", f"compiled, {library}")
    remedy = "with a C++ compiler: autellix engine install --device cpu"
    return Finding("CPU operations", "mend", "not compiled; the engine uses PyTorch's, several times slower", remedy)


def check_model(home: Home) -> Finding:
    """Judge the bundled model."""
    from autellix_server.engine.model import BundledModel

    status = BundledModel(home).status()
    ready = status.state == "ready"
    remedy = "" if ready else "autellix engine install"
    return Finding("bundled model", "ok" if ready else "mend", f"{status.state}, {status.path}", remedy)


def check_port(free: bool) -> Finding:
    """Judge the gateway's default port."""
    if free:
        return Finding(f"port {DEFAULT_PORT}", "ok", "free")
    return Finding(f"port {DEFAULT_PORT}", "mend", "in use", "autellix serve --port 8701")


def check_gateway(absent: Sequence[str]) -> Finding:
    """Judge the packages that the gateway needs in this Python environment."""
    if not absent:
        return Finding("gateway packages", "ok", "installed")
    return Finding("gateway packages", "block", f"no {', '.join(absent)}", 'pip install "autellix[server]"')


def check_agents(absent: Sequence[str]) -> Finding:
    """Judge the client packages that agents in this Python environment can use; one HTTP client is enough."""
    present = [name for name in ("openai", "httpx", "httpx2") if name not in absent]
    found = ", ".join(present) or "none of openai, httpx, httpx2"
    if {"httpx", "httpx2"} & set(present):
        return Finding("client packages", "ok", found)
    return Finding("client packages", "mend", found, 'pip install "autellix[examples]"')


def _absent(modules: Iterable[str]) -> list[str]:
    """Return those of `modules` that cannot be imported here."""
    return [name for name in modules if importlib.util.find_spec(name) is None]
