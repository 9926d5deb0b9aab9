"""Identity across tasks, groups, threads and loops: each call in the right program, with the right parents."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.pool import ThreadPool
from types import FrameType
from typing import Any

import anyio
import anyio.to_thread
import httpx
import pytest
import uvloop

import autellix_sdk as autellix
from autellix_sdk import _programs
from autellix_sdk._graph import Branch, Graph
from autellix_sdk._local import local
from autellix_sdk._strands import current_strand
from autellix_sdk.wire import CALL_HEADER, PROGRAM_HEADER, CallContext, CallId, decode_call
from tests.sdk.conftest import BASE_URL, WAIT_S, call_here, finishes

eager = pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")


class Agent:
    """Makes calls that nobody answers over a network, and remembers what they carried, by label."""

    def __init__(self) -> None:
        self.seen: dict[str, CallContext] = {}
        transport = httpx.MockTransport(self._answer)
        self._client = httpx.Client(transport=transport, base_url=BASE_URL)
        self._async_client = httpx.AsyncClient(transport=transport, base_url=BASE_URL)

    def ask(self, label: str) -> str:
        """Make one call."""
        return self._client.get("/models", headers={"label": label}).text

    async def aask(self, label: str) -> str:
        """Make one call."""
        return (await self._async_client.get("/models", headers={"label": label})).text

    def together(self, parties: int) -> Callable[[str], str]:
        """Return `ask` for jobs that all start before any of them calls."""
        barrier = threading.Barrier(parties, timeout=WAIT_S)

        def ask(label: str) -> str:
            barrier.wait()
            return self.ask(label)

        return ask

    def parents(self, label: str) -> set[str]:
        """Labels of the calls that a call waited for."""
        label_of = {(seen.program, seen.call): label for label, seen in self.seen.items()}
        seen = self.seen[label]
        return {label_of[seen.program, parent] for parent in seen.parents or ()}

    def programs(self, *labels: str) -> list[str]:
        """Programs of some calls."""
        return [self.seen[label].program for label in labels]

    def _answer(self, request: httpx.Request) -> httpx.Response:
        label, headers = request.headers["label"], request.headers
        self.seen[label] = decode_call(headers[PROGRAM_HEADER], headers[CALL_HEADER])
        return httpx.Response(200, text=label)


@pytest.fixture
def agent() -> Agent:
    """An agent, with the client switched on."""
    autellix.init(BASE_URL)
    return Agent()


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def runner(request: Any) -> Iterator[asyncio.Runner]:
    """Runs coroutines on each kind of event loop."""
    with asyncio.Runner(loop_factory=request.param) as runner:
        yield runner


def test_gather_forks_and_joins(agent: Agent, runner: asyncio.Runner) -> None:
    """Map and reduce: the parts have the plan as their parent, the summary has every part."""

    async def main() -> str:
        async with autellix.program("map-reduce") as p:
            await agent.aask("plan")
            await asyncio.gather(*(agent.aask(f"part {number}") for number in range(3)))
            await agent.aask("summary")
        return p.id

    program = runner.run(main())
    assert {seen.program for seen in agent.seen.values()} == {program}
    assert [agent.parents(f"part {number}") for number in range(3)] == [{"plan"}] * 3
    assert agent.parents("summary") == {"part 0", "part 1", "part 2"}
    assert sorted(agent.seen[f"part {number}"].thread for number in range(3)) == [0, 1, 2]
    assert agent.seen["summary"].thread == 0


def test_task_groups_and_nested_tasks(agent: Agent, runner: asyncio.Runner) -> None:
    """A child that only awaits its own children hands on what they did."""

    async def pair(name: str) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(agent.aask(name + " a"))
            group.create_task(agent.aask(name + " b"))

    async def main() -> None:
        async with autellix.program(), asyncio.TaskGroup() as group:
            group.create_task(pair("left"))
            group.create_task(pair("right"))
        async with autellix.program():
            await asyncio.gather(pair("up"), pair("down"))
            await agent.aask("end")

    runner.run(main())
    assert len(set(agent.programs("left a", "left b", "right a", "right b"))) == 1
    assert agent.parents("end") == {"up a", "up b", "down a", "down b"}


def test_awaiting_one_task_is_a_chain(agent: Agent, runner: asyncio.Runner) -> None:
    """A finished task is a parent of what its awaiter does next, also through timeouts and shields."""

    async def main() -> None:
        async with autellix.program():
            task = asyncio.create_task(agent.aask("1"))
            await task
            await asyncio.wait_for(agent.aask("2"), WAIT_S)
            await asyncio.shield(agent.aask("3"))
            async with asyncio.timeout(WAIT_S):
                await agent.aask("4")
            for next_done in asyncio.as_completed([agent.aask("5")]):
                await next_done
            await asyncio.create_task(agent.aask("6"))

    runner.run(main())
    assert [agent.seen[label].call for label in "123456"] == ["0.0", "0.1", "0.2", "0.3", "0.4", "0.5"]
    assert [agent.parents(label) for label in "23456"] == [{"1"}, {"2"}, {"3"}, {"4"}, {"5"}]


def test_threads_of_a_task_belong_to_it(agent: Agent, runner: asyncio.Runner) -> None:
    """`to_thread`, executors and anyio's worker threads fork and join like tasks."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with autellix.program():
            await agent.aask("start")
            await asyncio.to_thread(agent.ask, "to_thread")
            await loop.run_in_executor(None, agent.ask, "executor")
            await anyio.to_thread.run_sync(agent.ask, "anyio")
            with ThreadPoolExecutor(2) as pool:
                ask = agent.together(2)
                await asyncio.gather(*(loop.run_in_executor(pool, ask, f"pool {number}") for number in (1, 2)))
            await agent.aask("end")

    runner.run(main())
    assert len(set(agent.programs(*agent.seen))) == 1
    chain = ["start", "to_thread", "executor", "anyio"]
    assert [agent.parents(label) for label in chain[1:]] == [{label} for label in chain[:-1]]
    assert agent.parents("pool 1") == agent.parents("pool 2") == {"anyio"}
    assert agent.parents("end") == {"pool 1", "pool 2"}


def test_a_task_that_wakes_its_maker_in_its_last_step_is_a_parent(agent: Agent, runner: asyncio.Runner) -> None:
    """What it hands over by a queue or an event comes before it counts as finished for the event loop."""

    async def worker(label: str, results: asyncio.Queue[str]) -> None:
        await asyncio.gather(agent.aask(label + " left"), agent.aask(label + " right"))
        results.put_nowait(label)

    async def signals(label: str, done: asyncio.Event) -> None:
        async with autellix.program():
            await agent.aask("another program's")
        await agent.aask(label)
        done.set()

    async def main() -> None:
        results: asyncio.Queue[str] = asyncio.Queue()
        done = asyncio.Event()
        async with autellix.program():
            tasks = [asyncio.create_task(worker("1", results))]
            await results.get()
            tasks.append(asyncio.create_task(signals("2", done)))
            await done.wait()
            await agent.aask("3")
            await asyncio.gather(*tasks)
            await agent.aask("4")

    runner.run(main())
    assert agent.parents("2") == {"1 left", "1 right"}
    assert (agent.parents("3"), agent.parents("4")) == ({"2"}, {"3"})


async def test_a_task_that_is_dropped_while_it_waits_is_let_go(agent: Agent) -> None:
    """What it did is a parent of what comes next, as if it had finished."""

    async def waits_for_nothing() -> None:
        await agent.aask("1")
        reached.set()
        await asyncio.Future()

    asyncio.get_running_loop().set_exception_handler(lambda _, context: dropped.append(context["message"]))
    dropped: list[str] = []
    reached = asyncio.Event()
    async with autellix.program():
        task = asyncio.create_task(waits_for_nothing())
        await reached.wait()
        del task
        gc.collect()
        await agent.aask("2")
    assert dropped == ["Task was destroyed but it is pending!"]
    assert agent.parents("2") == {"1"}


async def test_what_a_task_left_running_may_be_over_in_the_turn_in_which_it_is() -> None:
    """Neither end is reported yet when the maker of the first one goes on, nor did that one make a call."""
    over, started = [], []
    is_to_end = asyncio.Event()

    async def left_running() -> None:
        is_to_end.set()
        await asyncio.sleep(0)
        over.append(call_here().call)

    async def leaves() -> None:
        started.append(asyncio.create_task(left_running()))
        await is_to_end.wait()

    autellix.init(BASE_URL)
    async with autellix.program():
        await asyncio.create_task(leaves())
        assert call_here().parents == tuple(over) == ("0.0",)


async def test_a_scope_that_is_opened_again_goes_on_from_tasks_that_outlived_it(agent: Agent) -> None:
    """Also from one that is awaited before it makes its first call, and whose end is reported after that."""
    async with autellix.program(id="session"):
        task = asyncio.create_task(agent.aask("1"))
    await task
    async with autellix.program(id="session"):
        await agent.aask("2")
    assert agent.parents("2") == {"1"}


async def test_the_end_of_a_task_is_watched_once_it_matters(agent: Agent) -> None:
    """From its first call on, or from the first task or job that it starts: before that it has nothing to report."""

    async def work(*actions: Callable[[], object]) -> None:
        for action in actions:
            action()
        await asyncio.sleep(0)

    async def watched(*actions: Callable[[], object]) -> int:
        task = asyncio.create_task(work(*actions))
        assert not task._callbacks
        await asyncio.sleep(0)
        callbacks = len(task._callbacks or ())
        await task
        return callbacks

    assert await watched() == 0
    assert await watched(autellix.current, lambda: autellix.program().__enter__()) == 0
    assert await watched(call_here, call_here) == 1
    assert await watched(lambda: asyncio.create_task(work()), autellix.capture, call_here) == 1


@eager
@pytest.mark.parametrize("loop_is_eager", [False, True])
def test_tasks_made_by_calling_the_eager_factory(agent: Agent, loop_is_eager: bool) -> None:
    """They are linked as the loop's own are, whatever factory the loop has; and anyio still knows that factory."""

    async def ask(label: str) -> None:
        await asyncio.sleep(0)  # or it would be over before the next one begins
        await agent.aask(label)

    async def pair(name: str) -> None:
        loop, make = asyncio.get_running_loop(), asyncio.eager_task_factory  # type: ignore[attr-defined]
        await asyncio.gather(make(loop, ask(name + " a"), name="a"), make(loop, ask(name + " b")))

    async def main() -> None:
        if loop_is_eager:
            asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
        async with autellix.program():
            await agent.aask("start")
            await asyncio.create_task(pair("1"))
            async with anyio.create_task_group() as group:
                group.start_soon(ask, "2 a")
                group.start_soon(ask, "2 b")
            await agent.aask("end")

    asyncio.run(main())
    assert len(set(agent.programs(*agent.seen))) == 1
    assert agent.parents("1 a") == agent.parents("1 b") == {"start"}
    assert agent.parents("2 a") == agent.parents("2 b") == {"1 a", "1 b"}
    assert agent.parents("end") == {"2 a", "2 b"}


def test_so_is_one_whose_maker_ended_before(agent: Agent, runner: asyncio.Runner) -> None:
    """It then belongs to the maker of its maker, which asks it in its maker's place."""

    async def worker(results: asyncio.Queue[None], maker_is_over: asyncio.Event) -> None:
        await agent.aask("first")
        await maker_is_over.wait()
        await agent.aask("second")
        results.put_nowait(None)

    async def main() -> None:
        results: asyncio.Queue[None] = asyncio.Queue()
        maker_is_over = asyncio.Event()
        workers = []

        async def maker() -> None:
            workers.append(asyncio.create_task(worker(results, maker_is_over)))
            while "first" not in agent.seen:
                await asyncio.sleep(0)

        async with autellix.program():
            await asyncio.create_task(maker())
            maker_is_over.set()
            await results.get()
            await agent.aask("end")

    runner.run(main())
    assert agent.parents("end") == {"second"}


def test_children_are_asked_once_in_a_turn_of_the_loop(runner: asyncio.Runner) -> None:
    """However many tasks are made in it; in the next one they are asked again."""
    asked = []

    class Counted(Branch):
        def ask_children(self) -> None:
            asked.append(self)
            super().ask_children()

    async def child() -> None:
        call_here()
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def main() -> None:
        current_strand().branch = Counted()
        tasks = [asyncio.create_task(child()) for _ in range(3)]
        await asyncio.sleep(0)
        for turn in (1, 2):
            tasks += [asyncio.create_task(asyncio.sleep(0)) for _ in range(10)]
            assert len(asked) == turn
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)

    autellix.init(BASE_URL)
    runner.run(main())


def test_anyio_task_groups(agent: Agent, runner: asyncio.Runner) -> None:
    """anyio builds its tasks through the loop as well."""

    async def main() -> None:
        async with autellix.program():
            async with anyio.create_task_group() as group:
                group.start_soon(agent.aask, "1")
                group.start_soon(agent.aask, "2")
            await agent.aask("3")

    runner.run(main())
    assert agent.parents("3") == {"1", "2"}


def test_pools_and_threads_in_a_scope(agent: Agent) -> None:
    """Jobs and threads started in a scope belong to it and are joined when they finish."""
    with autellix.program() as p, ThreadPoolExecutor(2) as pool:
        agent.ask("start")
        assert list(pool.map(agent.together(2), ["job 1", "job 2"])) == ["job 1", "job 2"]
        agent.ask("middle")
        threads = [threading.Thread(target=agent.ask, args=("thread",)), threading.Timer(0, agent.ask, ("timer",))]
        for thread in threads:
            thread.start()
            thread.join(WAIT_S)
        agent.ask("end")
    assert agent.programs(*agent.seen) == [p.id] * 7
    assert agent.parents("job 1") == agent.parents("job 2") == {"start"}
    assert agent.parents("middle") == {"job 1", "job 2"}
    assert (agent.parents("thread"), agent.parents("timer"), agent.parents("end")) == (
        {"middle"},
        {"thread"},
        {"timer"},
    )


def test_a_pool_outlives_the_program_that_started_its_worker(agent: Agent) -> None:
    """The worker thread keeps nothing of the first job's program."""
    with ThreadPoolExecutor(1) as pool:
        with autellix.program() as first:
            pool.submit(agent.ask, "1").result(WAIT_S)
        with autellix.program() as second:
            pool.submit(agent.ask, "2").result(WAIT_S)
        pool.submit(agent.ask, "3").result(WAIT_S)
        assert pool.submit(lambda: local.strand).result(WAIT_S) is None
    assert agent.programs("1", "2") == [first.id, second.id]
    assert agent.programs("3")[0] not in (first.id, second.id)


def test_a_thread_pool_serves_nobody_in_particular(agent: Agent) -> None:
    """Workers of `multiprocessing.pool.ThreadPool` outlive the program that they were started in."""
    with autellix.program() as first:
        pool = ThreadPool(1)
        pool.apply(agent.ask, ("1",))
    with autellix.program() as second, pool:
        pool.apply(agent.ask, ("2",))
    pool.join()
    assert not {first.id, second.id} & set(agent.programs("1", "2"))


def test_anyio_workers_serve_nobody_in_particular(agent: Agent) -> None:
    """Not even where `run_sync` was imported before `init`, and is not seen."""
    autellix.shutdown()
    early_run_sync = anyio.to_thread.run_sync
    autellix.init(BASE_URL)

    async def main() -> None:
        async with autellix.program() as first:
            await early_run_sync(agent.ask, "1")
        async with autellix.program() as second:
            await early_run_sync(agent.ask, "2")
            await anyio.to_thread.run_sync(agent.ask, "3")
        assert agent.programs("3") == [second.id]
        assert not {first.id, second.id} & set(agent.programs("1", "2"))

    asyncio.run(main())


def test_starting_a_thread_is_as_ever(agent: Agent) -> None:
    """A thread that cannot start says so as Python does, and an instance keeps its own `run`."""

    class Forgetful(threading.Thread):
        def __init__(self) -> None:
            """Leave the base class out."""

    def run() -> None:
        agent.ask("run")

    with autellix.program() as p:
        with pytest.raises(RuntimeError, match=r"__init__\(\) not called"):
            Forgetful().start()
        thread = threading.Thread()
        thread.run = run  # type: ignore[method-assign]
        thread.start()
        thread.join(WAIT_S)
        with pytest.raises(RuntimeError, match="once"):
            thread.start()
    assert vars(thread)["run"] is run
    assert agent.programs("run") == [p.id]


def test_the_garbage_collector_may_close_clients_at_any_time(agent: Agent) -> None:
    """OpenAI's async client starts a task when it is collected, which may be in the middle of our own work."""

    class Dropped(httpx.AsyncClient):
        def __del__(self) -> None:
            asyncio.get_running_loop().create_task(self.aclose())

    def collect(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code is Graph._settle.__code__:
            sys.setprofile(None)
            gc.collect()
            collected.append(True)

    async def main() -> str:
        async with autellix.program():
            await asyncio.gather(agent.aask("1"), agent.aask("2"))
            client: Any = Dropped()
            client.itself = client
            del client
            sys.setprofile(collect)
            await asyncio.create_task(asyncio.sleep(0))
            return await agent.aask("3")

    collected: list[bool] = []
    assert finishes(lambda: asyncio.run(main())) == "3"
    assert collected == [True]
    assert agent.parents("3") == {"1", "2"}


def test_a_subclass_of_thread_keeps_its_run(agent: Agent) -> None:
    """Threads are linked without being changed for good, and starting one twice fails as ever."""

    class Worker(threading.Thread):
        def run(self) -> None:
            agent.ask("worker")

    with autellix.program() as p:
        worker = Worker()
        worker.start()
        worker.join(WAIT_S)
        with pytest.raises(RuntimeError, match="once"):
            worker.start()
    assert agent.programs("worker") == [p.id]
    assert "run" not in vars(worker)


def test_work_handed_to_a_loop_in_another_thread(agent: Agent, runner: asyncio.Runner) -> None:
    """`run_coroutine_threadsafe` links the coroutine to the thread that scheduled it."""
    loop = runner.get_loop()
    server = threading.Thread(target=loop.run_forever)
    server.start()
    try:
        with autellix.program() as p:
            agent.ask("before")
            asyncio.run_coroutine_threadsafe(agent.aask("there"), loop).result(WAIT_S)
            agent.ask("after")
        asyncio.run_coroutine_threadsafe(agent.aask("other"), loop).result(WAIT_S)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        server.join(WAIT_S)
    assert agent.programs("before", "there", "after") == [p.id] * 3
    assert (agent.parents("there"), agent.parents("after")) == ({"before"}, {"there"})
    assert agent.programs("other") != [p.id]


def test_a_loop_run_inside_a_scope_or_a_job(agent: Agent) -> None:
    """`asyncio.run` in a scope belongs to it, also from a worker thread."""

    async def main() -> None:
        async with autellix.program():
            await asyncio.to_thread(asyncio.run, agent.aask("inner"))
            await agent.aask("outer")

    with autellix.program() as p:
        asyncio.run(agent.aask("1"))
        agent.ask("2")
    asyncio.run(main())
    assert agent.programs("1", "2") == [p.id] * 2
    assert (agent.parents("2"), agent.parents("outer")) == ({"1"}, {"inner"})


def test_each_root_task_is_an_implicit_program(agent: Agent, runner: asyncio.Runner) -> None:
    """Without a scope, a root task and its children are one program; a warm-up call in the thread adopts none."""

    async def main() -> list[str]:
        await asyncio.gather(agent.aask("a"), agent.aask("b"))
        await agent.aask("c")
        program = autellix.current()
        assert program is not None
        return [program.id]

    agent.ask("warm-up")
    first = runner.run(main())
    assert agent.parents("c") == {"a", "b"}
    assert agent.programs("a", "b", "c") == first * 3
    assert agent.programs("warm-up") != first
    assert runner.run(main()) != first


def test_each_root_job_is_an_implicit_program(agent: Agent) -> None:
    """Jobs handed out by a plain thread are requests of their own; what they hand on in turn belongs to them."""

    def job(name: str) -> None:
        agent.ask(name)
        asyncio.run(agent.aask(name + " loop"))

    with ThreadPoolExecutor(1) as pool:
        pool.submit(job, "1").result(WAIT_S)
        pool.submit(job, "2").result(WAIT_S)
        pool.submit(asyncio.run, _nested(agent)).result(WAIT_S)
    assert len(set(agent.programs("1", "2", "1 loop", "2 loop"))) == 4
    assert len(set(agent.programs("outer", "nested 1", "nested 2"))) == 1


async def _nested(agent: Agent) -> None:
    def job() -> None:
        agent.ask("nested 1")
        thread = threading.Thread(target=agent.ask, args=("nested 2",))
        thread.start()
        thread.join(WAIT_S)

    await agent.aask("outer")
    await asyncio.to_thread(job)


def test_implicit_programs_can_be_switched_off() -> None:
    """With implicit="off", only scopes are stamped."""
    autellix.init(BASE_URL, implicit="off")
    transport = httpx.MockTransport(lambda request: httpx.Response(200, text=str(PROGRAM_HEADER in request.headers)))
    with httpx.Client(transport=transport, base_url=BASE_URL) as client:
        assert client.get("/models").text == "False"
        assert autellix.headers() == {}
        with autellix.program():
            assert client.get("/models").text == "True"


def test_threads_can_be_left_alone() -> None:
    """With threads=False, nothing about OS threads is wrapped."""
    originals = (threading.Thread.start, ThreadPoolExecutor.submit, asyncio.BaseEventLoop.call_soon_threadsafe)
    autellix.init(BASE_URL, threads=False)
    assert originals == (
        threading.Thread.start,
        ThreadPoolExecutor.submit,
        asyncio.BaseEventLoop.call_soon_threadsafe,
    )


def test_shutdown_restores_every_wrap() -> None:
    """Classes and modules are as they were, down to methods that were only inherited."""
    owners = [
        asyncio.BaseEventLoop,
        uvloop.Loop,
        threading.Thread,
        ThreadPoolExecutor,
        anyio.to_thread,
        httpx.Client,
        httpx.AsyncClient,
    ]
    before = [dict(vars(owner)) for owner in owners]
    path = list(sys.meta_path)
    autellix.init(BASE_URL)
    assert [dict(vars(owner)) for owner in owners] != before
    autellix.shutdown()
    assert [dict(vars(owner)) for owner in owners] == before
    assert sys.meta_path == path


def test_a_spawn_that_cannot_be_linked_still_runs(
    agent: Agent, runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch, lenient: None
) -> None:
    """An error of ours costs identity, never the user's task."""

    async def answer() -> int:
        return 42

    async def main() -> int:
        with monkeypatch.context() as patch:
            patch.setattr(_programs.ProgramRecord, "resolve", lambda _: 1 // 0)
            patch.setattr("autellix_sdk._spawns.fork_task", lambda: 1 // 0)
            patch.setattr("autellix_sdk._spawns.fork_job", lambda: 1 // 0)
            first = await asyncio.create_task(answer())
            second = await asyncio.to_thread(lambda: 42)
        with monkeypatch.context() as patch:
            patch.setattr("autellix_sdk._spawns.attach", lambda *_: 1 // 0)
            return first + second + await asyncio.create_task(answer())

    assert runner.run(main()) == 126


def test_tasks_without_attributes_are_remembered_weakly(agent: Agent) -> None:
    """A task class that takes no attributes works through a weak dictionary."""

    class Slotted:
        __slots__ = ("__weakref__",)

    from autellix_sdk import _strands

    task, strand = Slotted(), _strands.new_root()
    _strands._adopt(task, strand)
    assert _strands._find(task) is strand
    del task
    assert len(_strands._of_odd_tasks) == 0


def test_tasks_built_by_hand_are_roots(agent: Agent) -> None:
    """`asyncio.Task(...)` is not seen: its calls are an implicit program of their own."""

    async def main() -> str:
        async with autellix.program() as p:
            await asyncio.Task(agent.aask("by hand"))
        return p.id

    assert asyncio.run(main()) != agent.programs("by hand")[0]


@eager
def test_eager_tasks(agent: Agent) -> None:
    """Tasks that run before `create_task` returns are children, whether they wait or not."""

    async def quick(label: str) -> None:
        agent.ask(label)

    async def slow(label: str) -> None:
        await asyncio.sleep(0)
        await asyncio.gather(agent.aask(label + " a"), quick(label + " b"))

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
        async with autellix.program():
            await agent.aask("start")
            await asyncio.gather(quick("1"), quick("2"), slow("3"))
            await agent.aask("end")

    asyncio.run(main())
    assert len(set(agent.programs(*agent.seen))) == 1
    assert agent.parents("1") == {"start"}
    assert agent.parents("2") == {"1"}, "the first had finished before the second was created"
    assert agent.parents("3 a") == {"2"}
    assert agent.parents("3 b") == {"3 a"}
    assert agent.parents("end") == {"3 b"}


def test_many_programs_at_once(agent: Agent, runner: asyncio.Runner) -> None:
    """Forty interleaved programs: no call in the wrong one, every parent as expected."""

    async def one(name: str) -> None:
        async with autellix.program(name):
            await agent.aask(name + " plan")
            await asyncio.gather(
                agent.aask(name + " a"), asyncio.to_thread(agent.ask, name + " b"), agent.aask(name + " c")
            )
            await agent.aask(name + " end")

    async def main() -> None:
        await asyncio.gather(*(one(str(number)) for number in range(40)))

    runner.run(main())
    for number in range(40):
        calls = {label: seen for label, seen in agent.seen.items() if label.split()[0] == str(number)}
        assert len(calls) == 5
        assert {(seen.name, seen.program) for seen in calls.values()} == {
            (str(number), agent.seen[f"{number} plan"].program)
        }
        assert agent.parents(f"{number} end") == {f"{number} {part}" for part in "abc"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_fork_continues_the_program_under_its_own_salt(agent: Agent) -> None:
    """The child's calls name the parent's, cannot be mistaken for them, and do not end the program."""

    def in_child() -> str:
        agent.ask("child")
        seen = agent.seen["child"]
        return f"{seen.program} {seen.salt} {seen.call} {','.join(seen.parents or ())}"

    read, write = os.pipe()
    with autellix.program() as p:
        agent.ask("parent")
        pid = os.fork()
        if pid == 0:
            try:
                os.write(write, in_child().encode())
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        agent.ask("later")
    program, salt, call, parents = os.read(read, 1000).decode().split()
    os.close(read)
    os.close(write)
    mine = agent.seen["later"]
    assert (program, call, parents) == (p.id, "1.0", f"{mine.salt}.0.0")
    assert salt != mine.salt
    assert (mine.call, mine.parents) == ("0.1", ("0.0",))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_fork_waits_for_none_of_the_threads_that_stayed_behind(agent: Agent) -> None:
    """Neither for their locks nor for their calls in flight."""
    forked, holding = threading.Event(), threading.Barrier(2, timeout=WAIT_S)
    with autellix.program(id="forked") as p:

        def hold() -> None:
            p.ledger.begin((0, CallId("9.0"), ()))
            with _programs._lock, p.graph._lock, p.ledger._lock:
                holding.wait()
                forked.wait(WAIT_S)

        thread = threading.Thread(target=hold)
        thread.start()
        holding.wait()
        pid = os.fork()
        if pid == 0:
            signal.alarm(int(WAIT_S))  # ends a child that hangs
            status = 1
            try:
                with autellix.program(id="forked") as same:
                    agent.ask("child")
                status = int(not (same is p and p.ledger.idle_s() > 0 and agent.programs("child") == ["forked"]))
            finally:
                os._exit(status)
        forked.set()
        thread.join(WAIT_S)
        assert os.waitpid(pid, 0)[1] == 0
