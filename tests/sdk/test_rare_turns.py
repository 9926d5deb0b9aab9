"""Turns that code of users, of other libraries and of other versions of Python takes seldom: none of them harms."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import autellix_sdk as autellix
from autellix_sdk import _programs, _spawns, _strands
from autellix_sdk._faults import Faults, faults
from autellix_sdk._local import local
from autellix_sdk._patches import Patches
from autellix_sdk.wire import CALL_HEADER, PROGRAM_HEADER, CallContext, decode_call
from tests.sdk.conftest import BASE_URL, WAIT_S, Backend, call_here, finishes, libraries

MODELS = BASE_URL + "/models"


def _echo(library: Any) -> Any:
    """A transport that answers with what it was sent."""
    return library.MockTransport(lambda request: library.Response(200, json=dict(request.headers)))


def test_errors_of_ours_are_raised_in_our_own_tests_alone() -> None:
    """Elsewhere they are counted."""
    survivor, strict = Faults(), Faults()
    strict.strict = True
    survivor.survive("something", LookupError())
    with pytest.raises(LookupError):
        strict.survive("something", LookupError())
    assert survivor.counts == strict.counts == {"something": 1}


@libraries
async def test_a_wrapper_that_outlives_shutdown_passes_everything_on(
    library: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody has kept our `send`, and our hook in a list of their own."""
    autellix.init(BASE_URL)
    ours = library.AsyncClient.send
    async with library.AsyncClient(transport=_echo(library)) as client:
        assert CALL_HEADER in (await client.get(MODELS)).json()
        hooks = list(client.event_hooks["request"])
        autellix.shutdown()
        monkeypatch.setattr(library.AsyncClient, "send", ours)
        client.event_hooks["request"] = hooks
        assert CALL_HEADER not in (await client.get(MODELS)).json()


@libraries
def test_a_client_that_takes_no_hook_calls_unstamped(library: Any, lenient: None) -> None:
    """That is counted."""

    class Closed(library.Client):  # type: ignore[misc, name-defined]
        event_hooks = property(lambda _: 1 // 0)

    autellix.init(BASE_URL)
    with Closed(transport=_echo(library)) as client, autellix.program():
        assert CALL_HEADER not in client.get(MODELS).json()
    assert faults.counts == {"a client could not be given our hook; its calls go unstamped": 1}


@libraries
def test_a_response_that_cannot_be_read_arrives(library: Any, lenient: None) -> None:
    """Its call is over; that it brought no bill is counted."""

    class Odd(library.Response):  # type: ignore[misc, name-defined]
        is_closed = property(lambda self: vars(self).get("closed", False), lambda self, closed: None)

        @property
        def status_code(self) -> int:
            if sys._getframe(1).f_code.co_name == "land":
                raise LookupError("mine")
            return 200

        @status_code.setter
        def status_code(self, _: int) -> None:
            """Keep nothing."""

    transport = library.MockTransport(lambda _: Odd(200, text="yes"))
    autellix.init(BASE_URL)
    with library.Client(transport=transport) as client, autellix.program() as p:
        assert client.get(MODELS).text == "yes"
        assert p.ledger.idle_s() > 0
    assert faults.counts == {"a response could not be read for its time bill": 1}


@libraries
def test_our_hook_called_by_hand_is_a_call_that_is_over(library: Any) -> None:
    """Without `send` around it, nobody will say how it went."""
    autellix.init(BASE_URL)
    with library.Client(transport=_echo(library)) as client, autellix.program() as p:
        client.get(MODELS)
        request = client.build_request("GET", MODELS)
        client.event_hooks["request"][-1](request)
        assert decode_call(request.headers[PROGRAM_HEADER], request.headers[CALL_HEADER]).call == "0.1"
        assert p.ledger.idle_s() > 0


@libraries
def test_a_call_that_never_set_out_is_over_with_the_send_it_began_in(library: Any) -> None:
    """A hook of the user's had our hook stamp another request, which nobody sent."""
    autellix.init(BASE_URL)

    def stamp_another(request: Any) -> None:
        if len(client.event_hooks["request"]) > 1:
            client.event_hooks["request"][-1](client.build_request("GET", MODELS))

    hooks = {"request": [stamp_another]}
    with library.Client(transport=_echo(library), event_hooks=hooks) as client, autellix.program() as p:
        client.get(MODELS)
        assert p.graph.calls == 2
        assert p.ledger.idle_s() > 0


def test_the_key_is_not_led_away(backend: Backend, elsewhere: Backend) -> None:
    """A redirect of the programs API is not followed."""
    backend.end_status, backend.redirect_to = 307, elsewhere.url + "/autellix/v1/programs/end"
    autellix.init(backend.base_url, api_key="secret")
    with autellix.program() as p:
        autellix.headers()
    assert p.bill(WAIT_S).pending == 1
    assert (len(backend.ends), elsewhere.ends, elsewhere.calls) == (1, [], [])
    assert faults.counts == {"the end of a program could not be posted": 1}


def test_modules_that_cannot_be_followed_are_imported_as_ever(tmp_path: Path) -> None:
    """A folder without code has no loader to follow, and what nobody finds is not found."""
    (tmp_path / "uvloop").mkdir()
    code = f"""
import sys
sys.path[:] = [{str(tmp_path)!r}, *(path for path in sys.path if "site-packages" not in path)]
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in repr(finder)]
import autellix_sdk
from autellix_sdk._faults import faults
autellix_sdk.init({BASE_URL!r})
import uvloop
assert uvloop.__path__
try:
    import httpx2
except ModuleNotFoundError as error:
    assert error.name == "httpx2"
else:
    raise AssertionError
"""
    subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        check=True,
        env=os.environ | {"PYTHONPATH": str(Path(autellix.__file__).parents[1])},
    )


def test_two_threads_of_one_strand_open_one_implicit_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes second takes the one of the first."""
    autellix.init(BASE_URL)
    owner, made = _programs.ImplicitOwner(), []

    class Slow(_programs.ProgramRecord):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)
            if len(made) == 1:  # another thread comes in between
                made.append(owner.resolve())

    monkeypatch.setattr(_programs, "ProgramRecord", Slow)
    assert owner.resolve() is made[1]
    assert owner.peek() is made[1] is not made[0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_fork_while_the_client_is_off() -> None:
    """And in a thread that nothing is known of: the child may switch it on."""
    autellix.init(BASE_URL)
    autellix.shutdown()

    def fork() -> int:
        pid = os.fork()
        if pid:
            return os.waitpid(pid, 0)[1]
        status = 1
        try:
            assert (local.strand, autellix.current(), autellix.headers()) == (None, None, {})
            autellix.init(BASE_URL)
            status = int(call_here().parents != ())
        finally:
            os._exit(status)

    assert finishes(fork) == 0


def _eager_at_first(seen: list[CallContext], again: Callable[[], Any] | None = None) -> Callable[..., Any]:
    """Make a task factory whose tasks call before `create_task` returns, as eager ones do, on every version."""

    def factory(loop: Any, coro: Any, **kwargs: Any) -> Any:
        task, outer = asyncio.Task(coro, loop=loop, **kwargs), asyncio.current_task(loop)
        if outer is None:  # the first task of all
            return task
        asyncio.tasks._leave_task(loop, outer)
        asyncio.tasks._enter_task(loop, task)
        try:
            if again is not None:
                again()
            seen.append(call_here())
        finally:
            asyncio.tasks._leave_task(loop, task)
            asyncio.tasks._enter_task(loop, outer)
        return task

    return factory


def test_a_task_that_runs_before_it_is_returned_is_a_child() -> None:
    """It goes on where it began."""
    autellix.init(BASE_URL)
    seen: list[CallContext] = []

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(_eager_at_first(seen))
        async with autellix.program():
            seen.append(call_here())
            await asyncio.create_task(child())
            seen.append(call_here())

    async def child() -> None:
        seen.append(call_here())

    asyncio.run(main())
    assert [call.parents for call in seen[1:]] == [(call.call,) for call in seen[:-1]]
    assert len({call.program for call in seen}) == 1


def test_a_task_that_cannot_be_linked_is_nobody_elses(monkeypatch: pytest.MonkeyPatch, lenient: None) -> None:
    """It does not take the place of the one whose creation it came in between."""
    autellix.init(BASE_URL)
    seen: list[CallContext] = []
    tasks: list[Any] = []

    def start_another() -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(None)
        with monkeypatch.context() as patch:
            patch.setattr(_spawns, "fork_task", lambda: 1 // 0)
            tasks.append(loop.create_task(stranger()))

    async def stranger() -> None:
        seen.append(call_here())

    async def main() -> str:
        asyncio.get_running_loop().set_task_factory(_eager_at_first(seen, start_another))
        async with autellix.program() as p:
            await asyncio.create_task(asyncio.sleep(0))
            await tasks[0]
        return p.id

    program = asyncio.run(main())
    assert [call.program == program for call in seen] == [True, False]


async def test_a_task_that_is_done_when_it_is_returned_has_been_waited_for() -> None:
    """What it called is the parent of what comes next."""
    autellix.init(BASE_URL)
    async with autellix.program() as p:
        task = asyncio.ensure_future(asyncio.sleep(0))
        await task
        strand = _strands.current_strand().fork()
        _, call, _ = p.graph.begin(strand.branch)
        _strands.attach(task, strand)
        assert call_here().parents == (call,)


def test_callbacks_from_another_thread_call_for_whoever_scheduled_them() -> None:
    """On the loop's thread, outside any task."""
    autellix.init(BASE_URL)
    seen: list[CallContext] = []
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    done = threading.Event()
    with autellix.program() as p:
        start = call_here()
        loop.call_soon_threadsafe(lambda: (seen.append(call_here()), done.set()))
        assert done.wait(WAIT_S)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(WAIT_S)
    loop.close()
    assert [(call.program, call.parents) for call in seen] == [(p.id, (start.call,))]


def test_scopes_that_a_task_leaves_open_are_over_with_it() -> None:
    """What was called around them is joined; a scope left later harms nothing."""
    autellix.init(BASE_URL)
    scopes: list[Any] = []

    async def child() -> None:
        call_here()
        for _ in range(2):
            scopes.append(autellix.program())
            scopes[-1].__enter__()
            call_here()

    async def main() -> CallContext:
        async with autellix.program():
            await asyncio.create_task(child())
            return call_here()

    assert asyncio.run(main()).parents == ("0.0",)
    for scope in scopes:
        scope.__exit__(None, None, None)


def test_scopes_left_in_the_order_they_were_entered() -> None:
    """The outermost first: each leaves what is inside it alone."""
    autellix.init(BASE_URL)
    scopes = [autellix.program(str(number)) for number in range(4)]
    for scope in scopes:
        scope.__enter__()
    for scope in scopes:
        innermost = autellix.current()
        assert innermost is not None
        assert innermost.name == "3"
        scope.__exit__(None, None, None)
    assert autellix.current() is None
    scopes[0].__exit__(None, None, None)
    assert autellix.current() is None


def test_a_watch_closed_after_shutdown_stays_closed(backend: Backend) -> None:
    """There is nobody to tell."""
    lines: list[autellix.Finished] = []
    autellix.init(backend.base_url)
    watch = autellix.watch(lines.append)
    autellix.shutdown()
    watch.close()
    autellix.init(backend.base_url)
    with autellix.program():
        autellix.headers()
    autellix.shutdown()
    assert lines == []


def test_an_import_that_shutdown_overtakes_is_left_to_others() -> None:
    """The import system may have taken our finder out of the list before another thread takes it back."""
    patches = Patches()
    patches.when_imported("no_such_package", lambda module: None)
    sys.meta_path.remove(patches)
    assert patches.find_spec("no_such_package") is None
    patches.undo()
