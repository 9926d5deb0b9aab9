"""The scope of a program: nesting, decorators, generators, and what it refuses."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

import autellix_sdk as autellix
from autellix_sdk.wire import CALL_HEADER, PROGRAM_HEADER, decode_call
from tests.sdk.conftest import call_here

pytestmark = pytest.mark.usefixtures("offline_explicit")


def _current_id() -> str | None:
    program = autellix.current()
    return None if program is None else program.id


def test_leaving_an_inner_scope_restores_the_outer_one() -> None:
    """An inner scope is a program of its own, with a call graph of its own."""
    calls = []
    with autellix.program("outer") as outer:
        calls.append(autellix.headers())
        with autellix.program("inner") as inner:
            calls.append(autellix.headers())
        calls.append(autellix.headers())
    contexts = [decode_call(call[PROGRAM_HEADER], call[CALL_HEADER]) for call in calls]
    assert [(context.program, context.name, context.call, context.parents) for context in contexts] == [
        (outer.id, "outer", "0.0", ()),
        (inner.id, "inner", "0.0", ()),
        (outer.id, "outer", "0.1", ("0.0",)),
    ]
    assert autellix.headers() == {}


def test_ids_are_random_unless_given() -> None:
    """128 random bits, or what the user says."""
    with autellix.program() as first, autellix.program() as second:
        assert len({first.id, second.id}) == 2
        assert len(bytes.fromhex(first.id)) == 16
    with autellix.program("chat", id="session-7") as third:
        assert repr(third) == "Program(id='session-7', name='chat')"


def test_an_id_seen_before_continues_that_program() -> None:
    """One call graph, one bill, from one scope to the next; the name is the first one's."""
    with autellix.program("chat", id="session-7") as first:
        turn = [call_here(), call_here()]
    assert first.ledger.ended
    with autellix.program(id="session-7") as again:
        assert again is first
        assert not first.ledger.ended
        turn.append(call_here())
    assert [(call.name, call.call, call.parents) for call in turn] == [
        ("chat", "0.0", ()),
        ("chat", "0.1", ("0.0",)),
        ("chat", "0.2", ("0.1",)),
    ]
    assert first.bill().pending == 3


def test_scopes_side_by_side_under_one_id() -> None:
    """They fork and join like tasks, and the last one that is left ends the program."""
    outer, left, right = (autellix.program(id="session-8") for _ in range(3))
    with outer as p:
        start = call_here()
    calls = []
    left.__enter__()
    with ThreadPoolExecutor(1) as pool:

        def other_turn() -> None:
            with right:
                calls.append(call_here())

        pool.submit(other_turn).result()
    calls.append(call_here())
    assert not p.ledger.ended
    left.__exit__(None, None, None)
    left.__exit__(None, None, None)
    assert p.ledger.ended
    with autellix.program(id="session-8"):
        end = call_here()
    assert [call.parents for call in calls] == [(start.call,)] * 2
    assert set(end.parents or ()) == {call.call for call in calls}
    assert p.ledger.ended


def test_an_id_whose_program_is_forgotten_makes_no_call_id_twice() -> None:
    """Nothing is kept of programs that nobody holds; call IDs stay unique within program and salt."""
    calls = []
    for _ in range(3):
        with autellix.program(id="session-9"):
            calls.append(call_here())
        gc.collect()
    assert len({(call.salt, call.call) for call in calls}) == 3


@pytest.mark.parametrize(
    ("name", "program_id", "shown"),
    [
        ("é" * 30, None, "name '\\xe9\\xe9"),
        (7, None, "name 7"),
        (None, "a b", "ID 'a b'"),
        (None, "a\r\nx: y", "ID 'a\\r\\nx: y'"),
        (None, "x" * 70_000, "ID 'xxxx"),
        (None, "", "ID ''"),
        (None, 7, "ID 7"),
    ],
)
def test_values_that_cannot_be_sent_are_refused_at_once(name: object, program_id: object, shown: str) -> None:
    """The error shows the value, before anything was entered, and is short."""
    with pytest.raises(autellix.UsageError) as caught:
        autellix.program(name, id=program_id)  # type: ignore[arg-type]
    assert shown in str(caught.value)
    assert len(str(caught.value)) < 200


def test_a_name_with_line_breaks_travels_encoded() -> None:
    """Percent-encoding makes any short text safe in a header."""
    with autellix.program("a\r\nb: ü") as p:
        call = autellix.headers()
    assert call[CALL_HEADER].isprintable()
    assert decode_call(p.id, call[CALL_HEADER]).name == "a\r\nb: ü"


def test_a_scope_is_entered_once() -> None:
    """Entering it again would mix two runs up."""
    scope = autellix.program("once")
    with scope, pytest.raises(autellix.UsageError, match="'once' is entered twice"):
        scope.__enter__()
    assert autellix.current() is None


def test_scopes_left_out_of_order() -> None:
    """Whatever the order, no scope that was left stays current."""
    outer, inner = autellix.program(), autellix.program()
    outer.__enter__()
    kept = inner.__enter__()
    outer.__exit__(None, None, None)
    assert autellix.current() is kept
    inner.__exit__(None, None, None)
    assert autellix.current() is None
    inner.__exit__(None, None, None)
    assert autellix.current() is None


def test_a_scope_left_in_another_task_leaves_that_task_alone() -> None:
    """A generator closed elsewhere ends its own scope on the strand that entered it."""

    async def opened() -> AsyncIterator[str | None]:
        with autellix.program():
            yield _current_id()

    async def close(generator: AsyncIterator[str | None]) -> str | None:
        with autellix.program() as mine:
            await generator.aclose()  # type: ignore[attr-defined]
            assert autellix.current() is mine
        return _current_id()

    async def main() -> None:
        generator = opened()
        inside = await anext(generator)
        assert inside == _current_id()
        assert await asyncio.create_task(close(generator)) == inside
        assert autellix.current() is None

    asyncio.run(main())


def test_decorated_functions_run_each_call_as_a_program() -> None:
    """Two runs, two programs; errors pass through."""

    @autellix.program("agent")
    def agent(fail: bool = False) -> str | None:
        """Do it."""
        if fail:
            raise LookupError
        return _current_id()

    assert agent.__name__ == "agent"
    assert agent.__doc__ == "Do it."
    assert None not in {agent(), agent()}
    assert agent() != agent()
    with pytest.raises(LookupError):
        agent(fail=True)
    assert autellix.current() is None


async def test_decorated_coroutine_functions() -> None:
    """Concurrent runs are apart."""

    @autellix.program()
    async def agent() -> str | None:
        await asyncio.sleep(0)
        return _current_id()

    first, second = await asyncio.gather(agent(), agent())
    assert None not in (first, second)
    assert first != second
    assert autellix.current() is None


def test_decorated_generators_are_in_scope_only_while_they_run() -> None:
    """One program per generator, and the consumer between two items is not in it."""
    closed_in = []

    @autellix.program()
    def agent() -> Iterator[str | None]:
        received = None
        try:
            while True:
                try:
                    received = yield received or _current_id()
                except LookupError:
                    received = "caught in " + str(_current_id())
        finally:
            closed_in.append(_current_id())

    generator = agent()
    inside = next(generator)
    assert inside is not None
    assert autellix.current() is None
    assert generator.send("sent") == "sent"  # type: ignore[attr-defined]
    assert generator.throw(LookupError) == f"caught in {inside}"  # type: ignore[attr-defined]
    assert next(generator) == inside
    generator.close()  # type: ignore[attr-defined]
    assert closed_in == [inside]
    assert autellix.current() is None


def test_decorated_generators_return_and_raise() -> None:
    """Return values and errors come through."""

    @autellix.program()
    def agent(fail: bool) -> Iterator[int]:
        yield 1
        if fail:
            raise LookupError
        return 2

    def delegate() -> Iterator[int]:
        yield (yield from agent(fail=False)) + 40

    assert list(delegate()) == [1, 42]
    with pytest.raises(LookupError):
        list(agent(fail=True))


async def test_decorated_async_generators() -> None:
    """The same for async generators, stepped by different tasks."""
    closed_in = []

    @autellix.program()
    async def agent() -> AsyncIterator[str | None]:
        try:
            while True:
                try:
                    received = yield _current_id()
                    assert received in (None, "sent")
                except LookupError:
                    yield "caught"
        finally:
            closed_in.append(_current_id())

    generator = agent()
    inside = await anext(generator)
    assert inside is not None
    assert autellix.current() is None
    assert await asyncio.create_task(generator.asend("sent")) == inside  # type: ignore[attr-defined]
    assert await generator.athrow(LookupError) == "caught"  # type: ignore[attr-defined]
    await generator.aclose()  # type: ignore[attr-defined]
    assert closed_in == [inside]

    @autellix.program()
    async def short() -> AsyncIterator[int]:
        yield 1

    assert [item async for item in short()] == [1]
    assert autellix.current() is None
