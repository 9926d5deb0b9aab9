"""Switching the client on and off, and what it does when the process forks or exits."""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from autellix_sdk import _intercept, _programs, _spawns
from autellix_sdk._calls import begin_call
from autellix_sdk._faults import faults
from autellix_sdk._lifecycle import Reporter
from autellix_sdk._local import local
from autellix_sdk._patches import Patches
from autellix_sdk._programs import Program
from autellix_sdk._runtime import runtime
from autellix_sdk._settings import Endpoint, Implicit, read_settings, without_password
from autellix_sdk._strands import current_strand, known_strand
from autellix_sdk._translate import call_headers
from autellix_sdk._watch import Finished, Watch, Writable
from autellix_sdk.errors import UsageError

T = TypeVar("T")

_log = logging.getLogger("autellix_sdk")
_lock = threading.RLock()
_patches = Patches()
_warned: set[str] = set()
_process_hooks_registered = False


def init(
    base_url: str | None = None,
    *,
    api_key: str | None = None,
    threads: bool = True,
    implicit: Implicit = "root",
    tasks: bool = True,
    dialects: Iterable[str] | None = None,
) -> None:
    """Switch the client on: calls to the backend carry who they are from now on, whoever makes them.

    Args:
        base_url: the backend's OpenAI base URL, such as ``http://127.0.0.1:8700/v1``. Only requests under it are
            touched. Default: ``AUTELLIX_BASE_URL``, else ``OPENAI_BASE_URL``; without any of them nothing is stamped.
        api_key: sent to the backend with the end of programs. Default: ``AUTELLIX_API_KEY``, else ``OPENAI_API_KEY``
            where the base URL came from ``OPENAI_BASE_URL``.
        threads: follow work handed to other OS threads too.
        implicit: ``"root"`` makes calls outside any scope one program per root task or root thread job, which ends
            after a minute without a call; ``"off"`` leaves them unstamped.
        tasks: follow asyncio tasks by wrapping ``create_task`` of the event loop classes. Without it, tasks are roots
            except on loops that have a `task_factory`.
        dialects: names of other servers' headers that calls carry beside ours, see ``docs/dialects.md``. Default:
            ``AUTELLIX_DIALECTS``, with commas between them; else none.

    Calling it again replaces the settings; what `watch` returned goes on, with the new backend.

    Raises:
        UsageError: an argument is not accepted.
        ConfigurationError: an environment variable does not hold a URL, or names a dialect that there is not.
    """
    settings = read_settings(base_url, api_key, threads, implicit, os.environ, tasks=tasks, dialects=dialects)
    with _lock:
        if settings == runtime.settings:
            return
        listeners = () if runtime.reporter is None else runtime.reporter.listeners
        shutdown()
        try:
            _intercept.install(_patches)
            _spawns.install(_patches, threads=threads, tasks=tasks)
            _register_process_hooks()
        except BaseException:
            _patches.undo()
            raise
        origin = None if settings.endpoint is None else settings.endpoint.origin
        runtime.reporter = Reporter(origin, settings.api_key, listeners)
        runtime.settings = settings


def shutdown() -> None:
    """Switch the client off: undo every wrap, take our hooks off clients, post what is queued for at most 1 s."""
    with _lock:
        _patches.undo()
        _intercept.remove_hooks()
        runtime.settings = None
        if runtime.reporter is not None:
            runtime.reporter.close()
            runtime.reporter = None


def wrap(client: T) -> T:
    """Check that a client's calls will be seen, and return the same client.

    Initialises from the environment if `init` was not called. A client whose base URL is not the backend's is logged
    once at WARNING, and its calls stay unstamped.

    Args:
        client: an OpenAI or AsyncOpenAI client, an httpx or httpx2 client, or a ChatOpenAI model.

    Raises:
        UsageError: `client` is none of these.
    """
    if runtime.settings is None:
        init()
    base_url = _base_url(client)
    shown = without_password(base_url)
    if base_url and not _is_covered(base_url) and shown not in _warned:
        _warned.add(shown)
        _log.warning(
            "calls to %s are not stamped: it is not the backend; see init(base_url=...) and AUTELLIX_BASE_URL", shown
        )
    return client


def watch(to: Writable | Callable[[Finished], object] | None = None) -> Watch:
    """Write one line for each program that finishes from now on: how long it took, and where the time went.

    A line comes when the backend acknowledged the program's end, or could not be told: so it covers streamed calls too.
    A program without a call has no line, unless `inject` carried it to where calls may be made of it; one that goes on
    and finishes again gets another. There is none either for ends, or lines, that were given up because 10,000 younger
    ones waited. Lines are written by the client's background thread, which none of your calls waits for; at exit it has
    a second for everything.

    Initialises from the environment if `init` was not called. Without a backend there is nothing to watch, which is
    logged at WARNING.

    Args:
        to: a text stream, or a function that is called with each `Finished`, in the background thread: it should return
            soon, and what it raises is logged once. By default `sys.stderr`.

    Returns:
        The watch: `close` it, or use it as a context. `shutdown` closes it too; another `init` does not.
    """
    with _lock:
        if runtime.settings is None:
            init()
        if runtime.settings is None or runtime.settings.endpoint is None:
            _log.warning("there is nothing to watch without a backend; see init(base_url=...) and AUTELLIX_BASE_URL")
        return Watch(to)


def current() -> Program | None:
    """Return the program that the running code belongs to; `None` outside any scope before the first call."""
    strand = known_strand()
    return None if strand is None else strand.owner.peek()


def headers() -> dict[str, str]:
    """Return the headers of one call that starts now, for transports that are not seen, such as websockets.

    Each result is for one call. Empty while the client is off or knows no backend, and where a call would go unstamped.
    """
    settings = runtime.settings
    if settings is None or settings.endpoint is None:
        return {}
    try:
        begun = begin_call(current_strand())
        if begun is None:
            return {}
        owner, flight = begun
        flight.close()
        return call_headers(owner, flight, settings.dialects)
    except Exception as error:  # noqa: BLE001 must not break the user's call
        faults.survive("headers could not be made", error)
        return {}


def _base_url(client: Any) -> str:
    for owner in (client, getattr(client, "root_client", None), getattr(client, "root_async_client", None)):
        if (base_url := getattr(owner, "base_url", None)) is not None:
            return str(base_url)
    raise UsageError(f"wrap() takes an OpenAI, httpx or ChatOpenAI client, not {type(client).__name__}")


def _is_covered(base_url: str) -> bool:
    endpoint = None if runtime.settings is None else runtime.settings.endpoint
    try:
        return endpoint is not None and endpoint.may_serve(Endpoint.parse(base_url))
    except ValueError:
        return False


def _register_process_hooks() -> None:
    global _process_hooks_registered
    if not _process_hooks_registered:
        _process_hooks_registered = True
        atexit.register(shutdown)
        os.register_at_fork(
            before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
        )


def _before_fork() -> None:
    # No event loop counts as running in the child, so the forking task's strand has to be noted here.
    local.forking = known_strand()


def _after_fork_in_parent() -> None:
    local.forking = None


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.RLock()
    runtime.after_fork()
    strand = local.forking
    local.strand, local.handed, local.unborn, local.forking = strand, None, None, None
    if strand is not None:
        strand.after_fork()
    _programs.after_fork()
