"""Runs the programs of `shapes` by the means that their steps name, against a server that records every stamp."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import anyio
import anyio.to_thread
import httpx

import autellix_sdk as autellix
from autellix_sdk.wire import CALL_HEADER, PROGRAM_HEADER, CallContext, decode_call
from tests.sdk.conftest import WAIT_S
from tests.sdk.shapes import Call, Carried, Child, Fork, Overlap, Shape, Step, Steps

_LONG_S = 12 * WAIT_S
"""Longest wait while forty programs share a processor; only a failing test gets that far."""


class Sought(Exception):
    """What programs fail with on purpose."""


@dataclass
class Recorder:
    """A server on an event loop in a thread of its own.

    Attributes:
        url: base URL.
        seen: every call in order of arrival: its label, and who it is, if it was stamped.
        ended: every program whose end was posted, and how.
    """

    url: str = ""
    seen: list[tuple[str, CallContext | None]] = field(default_factory=list)
    ended: list[tuple[str, str]] = field(default_factory=list)

    @contextmanager
    def running(self) -> Iterator[Recorder]:
        """Serve until the end of the block."""
        with loop_in_a_thread() as loop:
            serve = asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=512)
            server = asyncio.run_coroutine_threadsafe(serve, loop).result(WAIT_S)
            self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
            yield self
            autellix.shutdown()
            loop.call_soon_threadsafe(server.close)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer), suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").splitlines()
                headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:])}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                status, answer = self._answer(head[0].split()[1], headers, body)
                length = f"content-type: application/json\r\ncontent-length: {len(answer)}\r\n\r\n"
                writer.write(f"HTTP/1.1 {status} \r\n{length}".encode() + answer)
                await writer.drain()

    def _answer(self, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        if path.startswith("/autellix/"):
            ends = json.loads(body)["programs"]
            self.ended += [(end["id"], end["status"]) for end in ends]
            results = [{"id": end["id"], "status": 200, "bill": None} for end in ends]
            return 200, json.dumps({"results": results}).encode()
        stamped = CALL_HEADER in headers
        self.seen.append(
            (headers["label"], decode_call(headers[PROGRAM_HEADER], headers[CALL_HEADER]) if stamped else None)
        )
        return int(headers["answer"]), b"{}"


@contextmanager
def loop_in_a_thread() -> Iterator[asyncio.AbstractEventLoop]:
    """Run an event loop in another thread until the end of the block."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield loop
    finally:
        asyncio.run_coroutine_threadsafe(_finish_tasks(), loop).result(WAIT_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(WAIT_S)
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


async def _finish_tasks() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks) if tasks else None


async def make_room() -> None:
    """Let the running loop have as many worker threads as jobs: jobs here wait for other jobs."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(400))
    anyio.to_thread.current_default_thread_limiter().total_tokens = 400


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()  # once: every client would make its own, which is slow


def run_carried(url: str, carried: dict[str, str], steps: Steps) -> None:
    """Run steps in a worker process."""
    with Runner(url) as runner, autellix.extract(carried).attach():
        runner.run(steps)


class Runner:
    """Runs steps; a context that closes what it opened.

    Args:
        url: of the recorder.
        shared: a pool of threads that all programs use; `None` in a worker process.
        processes: a pool of processes, likewise.
        other_loop: a loop of another thread, likewise.
    """

    def __init__(
        self,
        url: str,
        shared: ThreadPoolExecutor | None = None,
        processes: ProcessPoolExecutor | None = None,
        other_loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._url = url
        self._shared = shared
        self._processes = processes
        self._other_loop = other_loop
        self._options: dict[str, Any] = {
            "verify": _tls(),
            "timeout": _LONG_S,
            "limits": httpx.Limits(max_connections=None, max_keepalive_connections=50),
        }
        self._client = httpx.Client(**self._options)

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def program(self, shape: Shape) -> str:
        """Run a whole program as a function; return its ID."""
        go_on, left = threading.Event(), []
        with suppress(Sought), autellix.program(shape.name) as p:
            self.run(shape.steps)
            if shape.straggler:
                left.append(threading.Thread(target=self._run_after, args=(go_on, shape.straggler)))
                left[0].start()
            if shape.fails:
                raise Sought
        go_on.set()
        for thread in left:
            thread.join(_LONG_S)
        return p.id

    async def aprogram(self, shape: Shape) -> str:
        """Run a whole program as a coroutine; return its ID."""
        go_on, left = asyncio.Event(), []
        async with httpx.AsyncClient(**self._options) as client:
            with suppress(Sought):
                async with autellix.program(shape.name) as p:
                    await self._arun(client, shape.steps)
                    if shape.straggler:
                        left.append(asyncio.create_task(self._arun_after(client, go_on, shape.straggler)))
                    if shape.fails:
                        raise Sought
            go_on.set()
            await asyncio.gather(*left)
        return p.id

    def run(self, steps: Steps) -> None:
        """Run steps as a function."""
        for step in steps:
            match step:
                case Call():
                    self._call(step)
                case Fork():
                    self._fork(step)
                case Child():
                    self._child(step)
                case Overlap():
                    go_on = threading.Event()
                    with ThreadPoolExecutor(1) as pool:
                        background = pool.submit(self._run_after, go_on, step.background)
                        self.run(step.foreground)
                        go_on.set()
                        background.result(_LONG_S)
                case Carried():
                    assert self._processes is not None
                    job = self._processes.submit(run_carried, self._url, autellix.inject(), step.steps)
                    job.result(_LONG_S)

    def _call(self, call: Call) -> None:
        if call.kind == "stream":
            with self._client.stream("POST", self._url, headers=_headers(call)) as response:
                assert response.read() == b"{}"
            return
        if call.kind == "retried":
            self._client.post(self._url, headers=_headers(call, answer="500"))
        again = {"x-stainless-retry-count": "1"} if call.kind == "retried" else {}
        assert self._client.post(self._url, headers=_headers(call) | again).status_code == 200

    def _fork(self, fork: Fork) -> None:
        jobs = self._together(fork.branches)
        if fork.kind == "threads":
            with _threads(jobs):
                return
        with ThreadPoolExecutor(len(jobs)) as pool:
            if fork.kind == "pool":
                for future in [pool.submit(job) for job in jobs]:
                    future.result(_LONG_S)
            else:
                assert list(pool.map(lambda job: job(), jobs)) == [None] * len(jobs)

    def _child(self, child: Child) -> None:
        steps = child.steps
        match child.kind:
            case "thread":
                with _threads([partial(self.run, steps)]):
                    return
            case "timer":
                timer = threading.Timer(0, self.run, (steps,))
                timer.start()
                timer.join(_LONG_S)
            case "generator":
                for _ in (self.run((step,)) for step in steps):
                    pass
            case "loop":
                asyncio.run(self._run_loop(steps))
            case "loop of another thread":
                assert self._other_loop is not None
                asyncio.run_coroutine_threadsafe(self._alone(steps), self._other_loop).result(_LONG_S)
            case "shared pool":
                assert self._shared is not None
                self._shared.submit(self.run, steps).result(_LONG_S)
            case kind:
                raise AssertionError(kind)

    def _together(self, branches: tuple[Steps, ...]) -> list[Callable[[], None]]:
        """Return jobs that all start before any of them calls."""
        barrier = threading.Barrier(len(branches), timeout=_LONG_S)

        def job(steps: Steps) -> None:
            barrier.wait()
            self.run(steps)

        return [partial(job, branch) for branch in branches]

    def _run_after(self, go_on: threading.Event, steps: Steps) -> None:
        assert go_on.wait(_LONG_S)
        self.run(steps)

    async def _run_loop(self, steps: Steps) -> None:
        """Run steps on a new loop."""
        await make_room()
        await self._alone(steps)

    async def _alone(self, steps: Steps) -> None:
        """Run steps on a loop for which there is no client yet."""
        async with httpx.AsyncClient(**self._options) as client:
            await self._arun(client, steps)

    async def _arun(self, client: httpx.AsyncClient, steps: Steps) -> None:
        for step in steps:
            await self._astep(client, step)

    async def _astep(self, client: httpx.AsyncClient, step: Step) -> None:
        match step:
            case Call():
                await self._acall(client, step)
            case Fork():
                await self._afork(client, step)
            case Child():
                await self._achild(client, step)
            case Overlap():
                go_on = asyncio.Event()
                background = asyncio.create_task(self._arun_after(client, go_on, step.background))
                await self._arun(client, step.foreground)
                go_on.set()
                await background
            case Carried():
                job = partial(run_carried, self._url, autellix.inject(), step.steps)
                await asyncio.get_running_loop().run_in_executor(self._processes, job)

    async def _acall(self, client: httpx.AsyncClient, call: Call) -> None:
        if call.kind == "stream":
            async with client.stream("POST", self._url, headers=_headers(call)) as response:
                assert await response.aread() == b"{}"
            return
        if call.kind == "retried":
            await client.post(self._url, headers=_headers(call, answer="500"))
        again = {"x-stainless-retry-count": "1"} if call.kind == "retried" else {}
        assert (await client.post(self._url, headers=_headers(call) | again)).status_code == 200

    async def _afork(self, client: httpx.AsyncClient, fork: Fork) -> None:
        if fork.kind == "executor":
            loop, jobs = asyncio.get_running_loop(), self._together(fork.branches)
            with ThreadPoolExecutor(len(jobs)) as pool:
                await asyncio.gather(*(loop.run_in_executor(pool, job) for job in jobs))
            return
        if fork.kind == "anyio":
            async with anyio.create_task_group() as tasks:
                for branch in fork.branches:
                    tasks.start_soon(self._arun, client, branch)
            return
        if fork.kind == "task group":
            async with asyncio.TaskGroup() as group:
                for branch in fork.branches:
                    group.create_task(self._arun(client, branch))
            return
        branches = [self._arun(client, branch) for branch in fork.branches]
        match fork.kind:
            case "gather":
                await asyncio.gather(*branches)
            case "as completed":
                for branch_done in asyncio.as_completed(branches):
                    await branch_done
            case "wait":
                done, _ = await asyncio.wait([asyncio.create_task(branch) for branch in branches])
                assert [task.result() for task in done] == [None] * len(branches)
            case kind:
                raise AssertionError(kind)

    async def _achild(self, client: httpx.AsyncClient, child: Child) -> None:
        steps = child.steps
        match child.kind:
            case "task":
                await asyncio.create_task(self._arun(client, steps))
            case "failing task":
                with suppress(Sought):
                    await asyncio.create_task(self._arun_and_fail(client, steps))
            case "wait_for":
                await asyncio.wait_for(self._arun(client, steps), _LONG_S)
            case "timeout":
                async with asyncio.timeout(_LONG_S):
                    await self._arun(client, steps)
            case "shield":
                await asyncio.shield(self._arun(client, steps))
            case "generator":
                async for _ in self._agenerator(client, steps):
                    pass
            case "to_thread":
                await asyncio.to_thread(self.run, steps)
            case "anyio thread":
                await anyio.to_thread.run_sync(self.run, steps)
            case "loop in a thread":
                await asyncio.to_thread(lambda: asyncio.run(self._run_loop(steps)))
            case "shared pool":
                await asyncio.get_running_loop().run_in_executor(self._shared, self.run, steps)
            case kind:
                raise AssertionError(kind)

    async def _agenerator(self, client: httpx.AsyncClient, steps: Steps) -> AsyncIterator[Step]:
        for step in steps:
            await self._astep(client, step)
            yield step

    async def _arun_and_fail(self, client: httpx.AsyncClient, steps: Steps) -> None:
        await self._arun(client, steps)
        raise Sought

    async def _arun_after(self, client: httpx.AsyncClient, go_on: asyncio.Event, steps: Steps) -> None:
        await go_on.wait()
        await self._arun(client, steps)


def _headers(call: Call, answer: str = "200") -> dict[str, str]:
    return {"label": call.label, "answer": answer}


@contextmanager
def _threads(jobs: list[Callable[[], None]]) -> Iterator[None]:
    """Run each job in a thread of its own, and wait for them after the block; what they raise is raised."""
    errors: list[BaseException] = []

    def run(job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join(_LONG_S)
    assert not errors


async def at_most(parties: int, jobs: list[Callable[[], Coroutine[Any, Any, str]]]) -> list[str]:
    """Run coroutines, no more than so many at a time; return their results in order."""
    room = asyncio.Semaphore(parties)

    async def run(job: Callable[[], Coroutine[Any, Any, str]]) -> str:
        async with room:
            return await job()

    return await asyncio.gather(*(run(job) for job in jobs))
