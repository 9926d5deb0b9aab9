"""The `autellix` command: finds the command module, runs it, and turns failures into one sentence."""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from autellix_sdk.errors import AutellixError

COMMANDS = {
    "serve": "start the program-aware server: one engine and the gateway in front of it",
    "key": "make API keys for the tenants of a gateway",
    "demo": "run several agents against a fresh server and show where their time goes",
    "doctor": "say what this machine can run, what is missing, and the command that mends it",
    "engine": "install, inspect, remove or measure the environments that engines run in",
    "trace": "generate, convert, describe and validate traces of agent programs",
    "simulate": "compare policies on model engines in virtual time",
    "study": "reproduce the paper's evaluation in simulation, as a page with plots",
    "bench": "compare servers under real load: programs arrive, whatever the server manages",
    "calibrate": "measure a running engine and write the engine model that `simulate` takes",
    "gateway-bench": "compare our gateway with others and with none: added latency, streams, memory",
    "mock-engine": "an engine model behind an OpenAI-compatible server, with faults on demand",
}
"""Each is a module of `autellix_server.commands`, imported only when it is the one that was asked for."""

SERVER_EXTRA = {"aiohttp", "matplotlib", "numpy", "pydantic", "pydantic_settings", "rich"}
"""Top-level modules that come with the extra `server`."""

EPILOG = """\
examples:
  autellix doctor                 what can this machine run?
  autellix serve                  OpenAI-compatible server with the bundled model on 127.0.0.1:8700
  autellix serve -- --tp 2        everything after -- goes to SGLang
  autellix serve --help           every command explains itself

exit status: 0 done, 1 failed or a value refused, 2 wrong usage or refused engine flag, 3 environment or model cannot be
built, 4 engine failed, 130 interrupted
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (`None` means that of the process) and return the exit status.

    Raises:
        SystemExit: from argparse, after help, version or a usage message.
    """
    if argv is None:
        # Ended by an exception, a command stops its children; ended by a signal, it would leave them behind.
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as SIGHUP is under nohup
                signal.signal(number, lambda number, _: sys.exit(128 + number))
    given = list(sys.argv[1:] if argv is None else argv)
    own, passthrough = _split(given)
    parser = build_parser(chosen=next((word for word in own if not word.startswith("-")), None))
    try:
        args = parser.parse_args(own)
        if "run" not in args:
            parser.print_help()
            return 2
        if "--" in given and not getattr(args, "takes_passthrough", False):
            parser.error(f"{args.command} takes nothing after --")
        args.passthrough = passthrough
        status: int = args.run(args)
        return status
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except AutellixError as error:
        return _fail(str(error), getattr(error, "exit_code", 1))
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in SERVER_EXTRA:
            raise
        return _fail(f'this needs {error.name}; install it with: pip install "autellix[server]"', 1)
    except BrokenPipeError:
        # The reader of our output left, as `head` does; nothing more can be said, not even at exit.
        sys.stdout = None
        return 1


def build_parser(chosen: str | None = None) -> argparse.ArgumentParser:
    """Return the parser; only the command called `chosen` has its own options."""
    parser = argparse.ArgumentParser(
        prog="autellix",
        description="Serve LLM agents as programs: a program-aware scheduler for SGLang.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"autellix {_version()}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, summary in COMMANDS.items():
        if name == chosen:
            importlib.import_module(f"autellix_server.commands.{name.replace('-', '_')}").register(subparsers)
        else:
            subparsers.add_parser(name, help=summary)
    return parser


def _split(argv: list[str]) -> tuple[list[str], list[str]]:
    """Return what stands before and after the first bare `--`."""
    if "--" not in argv:
        return argv, []
    at = argv.index("--")
    return argv[:at], argv[at + 1 :]


def _version() -> str:
    """Return the installed version, "unknown" when running from a checkout that is not installed."""
    try:
        return version("autellix")
    except PackageNotFoundError:
        return "unknown"


def _fail(message: str, status: int) -> int:
    print(f"autellix: {message}", file=sys.stderr)
    return status
