"""`autellix engine`: install, inspect, remove and measure engine environments and the bundled model."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from autellix_server.commands import engine_bench
from autellix_server.commands.output import Subparsers, add_command, print_json, print_table, progress_display
from autellix_server.engine.home import DEVICES, Home

if TYPE_CHECKING:
    from autellix_server.engine.environment import EngineEnvironment
    from autellix_server.engine.model import BundledModel

INSTALL_EPILOG = """\
examples:
  autellix engine install                  for the GPU if there is one, else for the CPU
  autellix engine install --device cpu     0.8 GB to download, 3 GB on disk, one to three minutes
  AUTELLIX_TORCH_INDEX=URL autellix engine install --device cpu
                                           take the CPU build of torch from that package index

`autellix serve` does this on first use. An install that was cut short goes on where it stopped; one that
is complete returns at once. Everything lives under AUTELLIX_HOME, by default autellix in your cache folder.
"""
STATUS_EPILOG = """\
states: absent; partial (cut short: install goes on); outdated (the next serve takes over this Autellix and
compiles its CPU operations, in seconds); ready

examples:
  autellix engine status
  autellix engine status --device cpu --json
"""
REMOVE_EPILOG = """\
examples:
  autellix engine remove --device cpu      that environment alone
  autellix engine remove                   all environments and the bundled model
"""


def register(subparsers: Subparsers) -> None:
    """Add `autellix engine` with its verbs."""
    parser = subparsers.add_parser(
        "engine",
        help="install, inspect, remove or measure the environments that engines run in",
        description="SGLang pins its own torch and openai, so engines run in environments of their own.",
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True, title="verbs")
    install = add_command(
        verbs,
        "install",
        summary="build the environment and convert the bundled model",
        description="Build the engine environment for one device and convert the bundled model.",
        epilog=INSTALL_EPILOG,
    )
    install.add_argument("--no-model", action="store_true", help="leave the bundled model out")
    install.set_defaults(run=run_install)
    status = add_command(
        verbs,
        "status",
        summary="show what is installed",
        description="Show the engine environments and the bundled model; runs and changes nothing.",
        epilog=STATUS_EPILOG,
    )
    status.set_defaults(run=run_status)
    remove = add_command(
        verbs,
        "remove",
        summary="delete environments and the bundled model",
        description="Delete engine environments; without --device also the bundled model. Stop servers first.",
        epilog=REMOVE_EPILOG,
    )
    remove.set_defaults(run=run_remove)
    for verb in (install, status, remove):
        verb.add_argument("--device", choices=DEVICES, help="what the engine computes on")
    engine_bench.register(verbs)


def run_install(args: argparse.Namespace) -> int:
    """Build what is missing; exit status 0 when all is there."""
    from autellix_server.engine.environment import EngineEnvironment
    from autellix_server.engine.machine import best_device
    from autellix_server.engine.model import BundledModel

    home = Home.from_environment()
    environment = EngineEnvironment(home, args.device or best_device())
    model = None if args.no_model else BundledModel(home)
    with progress_display() as progress:
        python = environment.ensure(progress)
        if model:
            model.ensure(python, progress)
    if args.json:
        print_json({"engine": _describe(environment), "model": model and _describe_model(model)})
    else:
        print(f"The {environment.device} engine is ready in {environment.path}.")
        if model:
            print(f"The bundled model is ready in {model.path}.")
    return 0


def run_status(args: argparse.Namespace) -> int:
    """Show what is installed; always exit status 0."""
    from autellix_server.engine.environment import EngineEnvironment
    from autellix_server.engine.model import BundledModel

    home = Home.from_environment()
    devices = [args.device] if args.device else DEVICES
    engines = [_describe(EngineEnvironment(home, device)) for device in devices]
    model = _describe_model(BundledModel(home))
    if args.json:
        print_json({"home": home.path, "engines": engines, "model": model})
        return 0
    rows = [
        (f"{engine['device']} engine", engine["state"], _contents(engine), _gb(engine), engine["path"])
        for engine in engines
    ]
    rows.append(("bundled model", model["state"], model["package"], _gb(model), model["path"]))
    print_table(("what", "state", "contents", "disk", "where"), rows)
    return 0


def run_remove(args: argparse.Namespace) -> int:
    """Delete what was asked for; exit status 0 also when there was nothing."""
    from autellix_server.engine.environment import EngineEnvironment
    from autellix_server.engine.model import BundledModel

    home = Home.from_environment()
    targets: list[EngineEnvironment | BundledModel] = [
        EngineEnvironment(home, device) for device in ([args.device] if args.device else DEVICES)
    ]
    if not args.device:
        targets.append(BundledModel(home))
    with progress_display() as progress:
        removed = [target.path for target in targets if target.remove(progress)]
    if args.json:
        print_json({"removed": [str(path) for path in removed]})
    else:
        print("\n".join(f"Removed {path}." for path in removed) or "There was nothing to remove.")
    return 0


def _describe(environment: EngineEnvironment) -> dict[str, Any]:
    """Return an engine environment's status for `--json`."""
    from autellix_server.engine.machine import folder_bytes

    status = environment.status()
    return {
        "device": status.device,
        "state": status.state,
        "missing": list(status.missing),
        "versions": dict(status.versions),
        "operations": status.operations and str(status.operations),
        "path": str(status.path),
        "python": str(environment.python),
        "bytes": folder_bytes(status.path),
    }


def _describe_model(model: BundledModel) -> dict[str, Any]:
    """Return the bundled model's status for `--json`."""
    from autellix_server.engine.machine import folder_bytes

    status = model.status()
    return {
        "state": status.state,
        "package": status.manifest.get("package", ""),
        "path": str(status.path),
        "bytes": folder_bytes(status.path),
    }


def _contents(engine: dict[str, Any]) -> str:
    """Return the versions in an engine environment and, for a CPU, whether it has the compiled operations."""
    contents = [f"{name} {version}" for name, version in engine["versions"].items()]
    if contents and engine["device"] == "cpu":
        contents.append("CPU operations compiled" if engine["operations"] else "CPU operations not compiled")
    return ", ".join(contents)


def _gb(described: dict[str, Any]) -> str:
    return f"{described['bytes'] / 1e9:.1f} GB" if described["bytes"] else ""
