"""`autellix serve`: engines, and the gateway in front of them."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import resource
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from autellix_server.balancing.balancer import DEFAULT_BALANCER
from autellix_server.commands.output import Subparsers, add_command, print_json, progress_display
from autellix_server.commands.stopping import add_stdin_flag, stop_requests, stop_when_stdin_ends
from autellix_server.engine.home import DEVICES, Device, Home
from autellix_server.scheduling.policies import DEFAULT_POLICY

if TYPE_CHECKING:
    import socket

    from autellix_server.engine.command import SglangLaunch
    from autellix_server.engine.supervisor import EngineStatus
    from autellix_server.gateway.backend import Backend
    from autellix_server.gateway.settings import ServeSettings

EPILOG = """\
what happens:
  The first start builds the engine environment and the bundled model (minutes, with progress); later ones
  take half a minute. The gateway answers on http://127.0.0.1:8700; point any OpenAI client at /v1 there. The
  engine behind it is restarted when it dies, and stopped, with all its processes, when you press Ctrl-C.

policies:
  auto          the best that is known, today gittins (the default)
  plas          calls of programs that have used little in all go first
  atlas         the same by the longest chain of a program's calls, for programs that fork
  atlas-dag     the same by the chain of each call, where the SDK names its parents
  gittins       programs go first that are likely to end soon, learned from those that have ended
  mlfq          calls that have used little go first, whatever their programs used
  program-fcfs  programs in order of arrival
  round-robin   calls take turns
  fcfs, lpm     SGLang's own orders, by arrival and by longest cached prefix; programs are counted, not preferred
  off           SGLang as it is shipped, without the plugin; -- --schedule-policy lpm for an order of its own
  Under all but the last three running calls make room for better ones, and go on later where they were.

environment (arguments win):
  AUTELLIX_HOST, AUTELLIX_PORT, AUTELLIX_WORKERS, AUTELLIX_ADMIN_HOST, AUTELLIX_ADMIN_PORT, AUTELLIX_TLS_CERT,
  AUTELLIX_TLS_KEY, AUTELLIX_KEYS_FILE, AUTELLIX_KEYS, AUTELLIX_STATE, AUTELLIX_LOG_FORMAT, AUTELLIX_LOG_LEVEL,
  AUTELLIX_MODEL, AUTELLIX_ENGINES, AUTELLIX_ENGINE_URL (separated by commas),
  AUTELLIX_ENGINES_FILE, AUTELLIX_HANG_LIMIT_S, AUTELLIX_BALANCER, AUTELLIX_POLICY, AUTELLIX_DEVICE,
  AUTELLIX_FIRST_BOUND_S, AUTELLIX_BOUNDS_S, AUTELLIX_BETA, AUTELLIX_HOLD_S, AUTELLIX_STEPS_BETWEEN_PLANS,
  AUTELLIX_HOST_KV_GB, AUTELLIX_LEASE_S, AUTELLIX_IDLE_LIMIT_S, AUTELLIX_RECORD_TRACE, AUTELLIX_MAX_BODY_BYTES,
  AUTELLIX_ALLOWED_ORIGINS: web pages that may use the server from a browser, separated by commas;
  AUTELLIX_ALLOWED_HOSTS: names, separated by commas, that requests may carry in their Host header beside localhost
  and addresses in digits

examples:
  autellix serve
  autellix serve --model ~/models/Qwen3-8B --device cuda
  autellix serve --policy fcfs --port 9000
  autellix serve --engines 2                      two engines on this machine, one address
  autellix serve --engine-url http://10.0.0.5:30000 --engine-url http://10.0.0.6:8000
  autellix serve -- --max-running-requests 16     everything after -- goes to SGLang
  autellix serve --record-trace today.jsonl       then: autellix simulate --trace today.jsonl
  autellix serve --workers 4                      for thousands of streams at once
  autellix serve --json                           one JSON line when ready, for scripts

Ctrl-C, SIGTERM and the end of its terminal stop it with exit status 0.
"""

_log = logging.getLogger(__name__)
_log.setLevel(logging.INFO)  # Progress is reported whatever the level of the log.

_SWITCH_INTERVAL_S = 0.0005
_MOST_FILES = 1 << 20


def register(subparsers: Subparsers) -> None:
    """Add `autellix serve`."""
    parser = add_command(
        subparsers,
        "serve",
        summary="start the program-aware server: engines, and the gateway in front of them",
        description="Start an OpenAI-compatible server that schedules whole programs, not single calls.",
        epilog=EPILOG,
    )
    parser.add_argument("--model", metavar="PATH|ID", help="model folder or Hugging Face ID (default: bundled model)")
    parser.add_argument(
        "--engines", type=int, metavar="N", help="engines to start on this machine (default: 1; 0 with attached ones)"
    )
    parser.add_argument(
        "--engine-url",
        action="append",
        metavar="URL",
        help="attach a running engine, as http://host:port; repeatable: ours, SGLang, vLLM, llama.cpp's server, any "
        "other with OpenAI's API",
    )
    parser.add_argument(
        "--engines-file", metavar="FILE", help="attach the running engines of a TOML file, followed while serving"
    )
    parser.add_argument(
        "--hang-limit-s",
        type=float,
        metavar="S",
        help="an engine without a sign of life for so long is lost and started again (default: 60, inf: never)",
    )
    parser.add_argument(
        "--balancer", help=f"what chooses among engines, see: autellix simulate --help (default: {DEFAULT_BALANCER})"
    )
    parser.add_argument("--policy", help=f"scheduling policy (default: {DEFAULT_POLICY})")
    parser.add_argument("--device", choices=("auto", *DEVICES), help="what the engine computes on (default: auto)")
    parser.add_argument("--host", help="address the gateway listens on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port the gateway listens on, 0 for a free one (default: 8700)")
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes that accept clients and move bytes, beside the one that decides (default: 0, that one does)",
    )
    parser.add_argument(
        "--first-bound-s",
        metavar="S",
        help="service after which a program leaves the best of eight levels; each further one ends at twice as much "
        "(default: auto, the running median service of a call)",
    )
    parser.add_argument(
        "--bounds-s", metavar="A,B,...", help="every bound of the levels, increasing, in place of --first-bound-s"
    )
    parser.add_argument(
        "--beta",
        type=float,
        metavar="X",
        help="a program that waited X times as long as it was served goes to the best level, inf for none "
        "(default: 30)",
    )
    parser.add_argument(
        "--hold-s",
        type=float,
        metavar="S",
        help="how long a program's KV keeps its place on the device between two calls, 0 for not at all (default: 5)",
    )
    parser.add_argument(
        "--steps-between-plans", type=int, metavar="N", help="engine steps between two looks at who runs (default: 8)"
    )
    parser.add_argument(
        "--host-kv-gb",
        type=int,
        metavar="GB",
        help="host memory for KV of calls that made room for others, and of histories (default: 0, they compute again)",
    )
    parser.add_argument(
        "--keys-file",
        metavar="FILE",
        help="TOML file of tenants and hashed API keys, followed while serving; see: autellix key new --help",
    )
    parser.add_argument(
        "--state",
        metavar="FILE",
        help="where programs and what was learned survive a restart, `none` for nowhere (default: a file for each port "
        "under AUTELLIX_HOME)",
    )
    parser.add_argument("--log-format", choices=("text", "json"), help="how a line of the log looks (default: text)")
    parser.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        help="info: a line for each call (default: warning)",
    )
    parser.add_argument("--admin-host", help="address for operators' endpoints, with --admin-port (default: 127.0.0.1)")
    parser.add_argument(
        "--admin-port",
        type=int,
        help="port for operators' endpoints (/metrics, /autellix/v1/engines), 0 for a free one (default: on --port as "
        "long as only this machine can reach that)",
    )
    parser.add_argument("--tls-cert", metavar="FILE", help="serve https with this PEM certificate chain")
    parser.add_argument("--tls-key", metavar="FILE", help="its private key, where it is not in the same file")
    parser.add_argument(
        "--idle-limit-s",
        type=float,
        metavar="S",
        help="a connection without a request, or without the rest of one, for so long is dropped (default: 75)",
    )
    parser.add_argument("--lease-s", type=float, metavar="S", help="idle time after which a program ends")
    parser.add_argument(
        "--record-trace",
        metavar="FILE",
        help="record programs as a trace: structure and counts, never text (see: autellix trace)",
    )
    add_stdin_flag(parser)
    parser.set_defaults(run=run, takes_passthrough=True)


def run(args: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM; exit status 0 then."""
    from autellix_server.gateway.settings import ServeSettings, read_settings
    from autellix_server.gateway.sockets import bind
    from autellix_server.gateway.telemetry.logs import set_up_logging

    if args.until_stdin_ends:
        stop_when_stdin_ends()
    settings = read_settings({name: getattr(args, name, None) for name in ServeSettings.model_fields})
    set_up_logging(settings.log_format, settings.log_level)
    refuse_early(settings, args.passthrough)
    # The thread that writes the state file waits for the interpreter: 5 ms a step, and longer beside a busy event loop
    # that gives it away for a moment in every turn.
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    allow_connections()
    with bind(settings.host, settings.port) as bound:
        warn_if_open(settings)
        launches = prepare_launches(settings, args.passthrough)
        return asyncio.run(serve(settings, launches, bound, as_json=args.json))


def allow_connections() -> None:
    """Allow this process and its children as many connections as the machine lets them have: a call takes two.

    The usual soft limit, 1024 descriptors, is there for programs that use `select`, which we do not.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = _MOST_FILES if most == resource.RLIM_INFINITY else min(most, _MOST_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, most))


def refuse_early(settings: ServeSettings, arguments: list[str]) -> None:
    """Check everything that can be wrong before anything is downloaded or started.

    Raises:
        RefusedFlag: an argument for SGLang that cannot be given.
        ConfigurationError: the environment, the model, the host memory or the file to record to cannot be used.
    """
    from autellix_sdk.errors import ConfigurationError
    from autellix_server.engine.command import POLICY_OFF, check_arguments, check_host_kv, check_model
    from autellix_server.errors import RefusedFlag
    from autellix_server.gateway.recording import open_trace
    from autellix_server.gateway.sockets import tls_context

    tls_context(settings)
    if settings.started_engines:
        check_arguments(arguments, os.environ, settings.policy)
    elif not settings.engine_url and settings.engines_file is None:
        raise ConfigurationError("--engines is 0: give engines to attach with --engine-url or --engines-file")
    elif arguments:
        raise RefusedFlag(f"{arguments[0]} is for an engine that is started here; attached engines have their own")
    if settings.host_kv_gb:
        check_host_kv(settings.host_kv_gb, arguments, settings.policy, chosen_device(settings))
    if settings.model is not None:
        check_model(settings.model)
    if settings.record_trace is not None:
        if settings.policy == POLICY_OFF:
            raise ConfigurationError("--record-trace needs what the plugin measures, and --policy off leaves it out")
        open_trace(settings.record_trace).close()


def chosen_device(settings: ServeSettings) -> Device:
    """Return what the engine computes on."""
    from autellix_server.engine.machine import best_device

    return best_device() if settings.device == "auto" else settings.device


def warn_if_open(settings: ServeSettings) -> None:
    """Warn when everybody on the network may use the gateway, or operate it."""
    from autellix_server.gateway.guard import is_loopback
    from autellix_server.gateway.tenants.keys_file import KEYS_VARIABLE

    if not is_loopback(settings.host) and settings.keys_file is None and not os.environ.get(KEYS_VARIABLE):
        say(
            f"warning: {settings.host} can be reached from other machines, and callers need no key: see --keys-file",
            settings,
        )
    if settings.admin_port is not None and not is_loopback(settings.admin_host):
        say(
            f"warning: operators' endpoints on {settings.admin_host} can be reached from other machines, and ask for "
            "no key: leave out --admin-host, or see to it that only operators reach --admin-port",
            settings,
        )


def prepare_launches(settings: ServeSettings, arguments: list[str]) -> list[SglangLaunch]:
    """Return what starts the engines of this machine, which takes `prepare_launch` if there are any."""
    if not settings.started_engines:
        return []
    return prepare_launch(settings, arguments).copies(settings.started_engines)


def prepare_launch(settings: ServeSettings, arguments: list[str]) -> SglangLaunch:
    """Build the engine environment and the bundled model if they are needed and not there.

    Raises:
        EnvironmentFailure: one of them cannot be built.
    """
    from autellix_server.engine.command import SglangLaunch
    from autellix_server.engine.environment import EngineEnvironment
    from autellix_server.engine.model import BundledModel

    home = Home.from_environment()
    device = chosen_device(settings)
    with progress_display() as progress:
        python = EngineEnvironment(home, device).ensure(progress)
        model = str(BundledModel(home).ensure(python, progress)) if settings.model is None else settings.model
    return SglangLaunch(
        python=python,
        model=str(Path(model).absolute()) if Path(model).is_dir() else model,
        policy=settings.policy,
        device=device,
        first_bound_s=settings.first_bound_s,
        steps_between_plans=settings.steps_between_plans,
        bounds_s=settings.bounds_s,
        beta=settings.beta,
        hold_s=settings.hold_s,
        host_kv_gb=settings.host_kv_gb,
        arguments=tuple(arguments),
    )


async def serve(settings: ServeSettings, launches: list[SglangLaunch], bound: socket.socket, *, as_json: bool) -> int:
    """Run gateway and engines until a signal comes.

    Raises:
        EngineFailure: the engine does not start, or cannot be kept alive.
    """
    from autellix_server.gateway.backend import Backend

    asked_to_stop = stop_requests()
    home, port = Home.from_environment(), bound.getsockname()[1]
    logs = {one.name: home.log(f"{one.name}-{port}") for one in launches}
    state = state_file(settings, home)
    async with Backend(
        settings, launches, logs.__getitem__, bound=bound, state=state, on_change=partial(show_change, settings)
    ) as backend:
        for path in logs.values():
            say(f"engine log: {path}", settings)
        stop = asyncio.create_task(asked_to_stop.wait())
        life = asyncio.create_task(announce_and_serve(backend, settings, logs, as_json=as_json))
        await asyncio.wait({stop, life}, return_when=asyncio.FIRST_COMPLETED)
        if life.done():
            stop.cancel()
            life.result()
        else:
            life.cancel()
            say("stopping", settings)
    return 0


def state_file(settings: ServeSettings, home: Home) -> Path | None:
    """Return where the gateway's state is kept, `None` where it is not: a free port is not the same one next time."""
    from autellix_server.gateway.settings import NO_STATE

    if settings.state is not None:
        return None if settings.state == NO_STATE else Path(settings.state)
    return home.state(settings.port) if settings.port else None


async def announce_and_serve(
    backend: Backend, settings: ServeSettings, logs: Mapping[str, Path], *, as_json: bool
) -> None:
    """Say when an engine is ready, and return only by an exception.

    Raises:
        EngineFailure: no engine starts, or can be kept alive.
    """
    await backend.ready()
    members = list(backend.fleet)
    if as_json:
        print_json(
            {
                "event": "ready",
                "url": backend.url,
                "admin_url": backend.admin_url or None,
                "engines": {
                    member.name: {
                        "state": member.status.state,
                        "pid": member.status.pid,
                        "log": str(logs[member.name]) if member.name in logs else None,
                    }
                    for member in members
                },
                "models": backend.fleet.models,
                "policy": settings.policy,
            }
        )
    else:
        models = ", ".join(backend.fleet.models) or "not said"
        print(READY.format(url=backend.url, model=models, engines=len(members), policy=settings.policy), flush=True)
    await backend.failed()


READY = """
Autellix is ready
  url      {url}/v1
  model    {model}
  engines  {engines}
  policy   {policy}

  from openai import OpenAI; client = OpenAI(base_url="{url}/v1", api_key="none")
  import autellix_sdk as autellix; autellix.init("{url}/v1")     # your programs become visible to the scheduler

Press Ctrl-C to stop."""


def show_change(settings: ServeSettings, name: str, status: EngineStatus) -> None:
    """Report a change of an engine's status."""
    detail = "" if status.detail == status.state else f": {status.detail}"
    say(f"engine {name} {status.state}{detail}", settings)


def say(text: str, settings: ServeSettings) -> None:
    """Report progress: a line for people, or one more of the log where programs read that."""
    if settings.log_format == "json":
        _log.info("%s", text)
    else:
        print(f"autellix: {text}", file=sys.stderr, flush=True)
