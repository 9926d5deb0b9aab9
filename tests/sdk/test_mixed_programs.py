"""Random programs side by side, by every means of forking and waiting: each call in its program, with its parents.

The expected graph is computed from the shape of a program alone, by `shapes.parents_of`. Another Python runs this by
``make sdk PYTHON=python3.13 VENV=.venv3.13``.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import uvloop

import autellix_sdk as autellix
from autellix_sdk._faults import faults
from autellix_sdk.wire import CallContext
from tests.sdk.conftest import WAIT_S
from tests.sdk.shape_runner import Recorder, Runner, at_most, loop_in_a_thread, make_room
from tests.sdk.shapes import Call, Carried, Child, Fork, Overlap, Shape, calls_of, make_shapes, parents_of
from tests.sdk.test_identity import eager

IN_FLIGHT = 40


def _eager_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
    return loop


loops = pytest.mark.parametrize(
    "make_loop",
    [
        pytest.param(asyncio.new_event_loop, id="asyncio"),
        pytest.param(uvloop.new_event_loop, id="uvloop"),
        pytest.param(_eager_loop, id="eager", marks=eager),
    ],
)


@contextmanager
def _running(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Recorder, Runner]]:
    """A recorder, the client switched on, and everything that programs share."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    spawn = multiprocessing.get_context("spawn")
    with Recorder().running() as recorder, loop_in_a_thread() as other_loop:
        asyncio.run_coroutine_threadsafe(make_room(), other_loop).result(WAIT_S)
        processes = ProcessPoolExecutor(2, spawn, autellix.init, (recorder.url,))
        with processes, ThreadPoolExecutor(4) as shared:
            assert processes.submit(os.getpid).result(60) != os.getpid()
            autellix.init(recorder.url)
            with Runner(recorder.url, shared, processes, other_loop) as runner:
                yield recorder, runner


def _run_all(runner: Runner, shapes: list[Shape], make_loop: Callable[[], Any]) -> dict[str, str]:
    """Run all programs, half of those in flight on the loop, half in threads; return their IDs by name."""
    on_loop, in_threads = ([shape for shape in shapes if shape.is_async is wanted] for wanted in (True, False))

    async def main() -> list[str]:
        await make_room()
        return await at_most(IN_FLIGHT // 2, [partial(runner.aprogram, shape) for shape in on_loop])

    with asyncio.Runner(loop_factory=make_loop) as loop, ThreadPoolExecutor(IN_FLIGHT // 2) as pool:
        ids = pool.map(runner.program, in_threads)
        return dict(zip((shape.name for shape in on_loop), loop.run(main()), strict=True)) | dict(
            zip((shape.name for shape in in_threads), ids, strict=True)
        )


def _check(shape: Shape, program: str, seen: dict[str, list[CallContext | None]]) -> None:
    """Every call of a program is in it, once or with its retry, has its parents, and stands in the right thread."""
    calls = [*calls_of(shape.steps), *calls_of(shape.straggler)]
    label_of: dict[tuple[str, str], str] = {}
    for call in calls:
        attempts = _attempts(call, seen)
        assert [(each.program, each.name, each.retry) for each in attempts] == [
            (program, shape.name, retry) for retry in range(1 + (call.kind == "retried"))
        ]
        assert len({(each.salt, each.call, each.thread, each.parents) for each in attempts}) == 1
        label_of[attempts[0].salt, attempts[0].call] = call.label
    assert len(label_of) == len(calls), "two calls share an ID"
    expected = parents_of(shape)
    for call in calls:
        context = _attempts(call, seen)[0]
        parents = [_key(context.salt, parent) for parent in context.parents or ()]
        assert {label_of[parent] for parent in parents} == expected[call.label], call
        _check_thread(context, parents, label_of)


def _check_thread(context: CallContext, parents: list[tuple[str, str]], known: dict[tuple[str, str], str]) -> None:
    """A call continues the lowest thread whose tail is a parent, and opens one where every parent goes on elsewhere."""
    thread, place = map(int, context.call.split("."))
    assert thread == context.thread
    assert not place or (context.salt, f"{thread}.{place - 1}") in parents
    for salt, parent in parents:
        parent_thread, parent_place = map(int, parent.split("."))
        if salt == context.salt and (parent_thread < thread or not place):
            assert (salt, f"{parent_thread}.{parent_place + 1}") in known


def _key(salt: str, parent: str) -> tuple[str, str]:
    """Name a parent by salt and call: another process's carries its salt."""
    foreign, _, call = parent.partition(".")
    return (foreign, call) if "." in call else (salt, parent)


def _attempts(call: Call, seen: dict[str, list[CallContext | None]]) -> list[CallContext]:
    attempts = seen[call.label]
    assert None not in attempts, f"{call} went unstamped"
    return [attempt for attempt in attempts if attempt is not None]


def _prove(shapes: list[Shape], make_loop: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with _running(monkeypatch) as (recorder, runner):
        ids = _run_all(runner, shapes, make_loop)
        autellix.shutdown()
    seen: dict[str, list[CallContext | None]] = {}
    for label, context in recorder.seen:
        seen.setdefault(label, []).append(context)
    assert len(set(ids.values())) == len(shapes)
    assert seen.keys() == {label for shape in shapes for label in parents_of(shape)}
    for shape in shapes:
        _check(shape, ids[shape.name], seen)
    first_end = dict(reversed(recorder.ended))
    assert first_end == {ids[shape.name]: "error" if shape.fails else "ok" for shape in shapes}
    assert not faults.counts


@loops
def test_mixed_programs_side_by_side(make_loop: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A few dozen of them, for every change."""
    _prove(make_shapes(seed=1, count=50), make_loop, monkeypatch)


@pytest.mark.slow
@loops
@pytest.mark.parametrize("seed", [2, 3])
def test_three_hundred_mixed_programs(seed: int, make_loop: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty in flight."""
    _prove(make_shapes(seed, count=300), make_loop, monkeypatch)


def test_shapes_are_the_same_for_the_same_seed() -> None:
    """And another seed makes others, with every kind of step among them."""
    assert make_shapes(1, 50) == make_shapes(1, 50) != make_shapes(2, 50)
    told = repr(make_shapes(1, 50))
    kinds = ("gather", "task group", "anyio", "executor", "pool map", "threads", "to_thread", "loop of another thread")
    assert all(kind in told for kind in (*kinds, "Overlap", "Carried", "shield", "timer", "retried", "shared pool"))


def test_the_expected_graph_of_a_known_shape() -> None:
    """The rules of `shapes`, by hand: forks, silent branches, overlaps and other processes."""
    a, b, c, d, e, f, g, h = (Call(label, "plain") for label in "abcdefgh")
    steps = (a, Fork("pool", ((b,), (), (Child("task", (c, d)),))), Carried((e,)), Overlap((f,), (g,)))
    parents = parents_of(Shape("p", False, steps, straggler=(h,), fails=False))
    assert {label: "".join(sorted(found)) for label, found in parents.items()} == {
        "a": "", "b": "a", "c": "a", "d": "c", "e": "bd", "f": "bd", "g": "bd", "h": "fg",
    }  # fmt: skip
