"""A scripted model on loopback, agents that run two at a time, and no way to anywhere else.

Frameworks report home, look for updates and keep files in the user's home. `QUIET` switches that off before any of
them is imported; what still reaches for another host is refused, and fails the test.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import tempfile
import textwrap
import threading
import warnings
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar

import pytest

import autellix_sdk as autellix
from tests.frameworks.replies import WHOLE, Reply, Use, events_text
from tests.sdk.conftest import WAIT_S, Backend, Handler, Seen, clean_client, serve

__all__ = ["clean_client"]

A = TypeVar("A")

TOPICS = ("comets", "tides")
"""What the two programs of a test are about. Each is the name of its program, and in the text of each of its calls."""

ANSWERS = {topic: f"All about {topic}." for topic in TOPICS}
"""What agents answer in the end."""

ONE_CALL: dict[str, set[str]] = {"0.0": set()}
"""The call graph of a single call: each call with its parents."""

CHAIN: dict[str, set[str]] = {"0.0": set(), "0.1": {"0.0"}}
"""The call graph of an agent that uses a tool and answers."""

DIAMOND: dict[str, set[str]] = {"0.0": set(), "0.1": {"0.0"}, "1.0": {"0.0"}, "0.2": {"0.1", "1.0"}}
"""The call graph of a plan, two branches side by side, and a summary of both."""

_home = tempfile.TemporaryDirectory(prefix="autellix-frameworks-")

QUIET = {
    "HOME": _home.name,
    "XDG_CACHE_HOME": _home.name,
    "XDG_DATA_HOME": _home.name,
    "DO_NOT_TRACK": "1",
    "OTEL_SDK_DISABLED": "true",
    "ANONYMIZED_TELEMETRY": "False",  # chromadb, which crewai imports
    "CREWAI_DISABLE_TELEMETRY": "true",
    "CREWAI_TRACING_ENABLED": "false",
    "CREWAI_DISABLE_VERSION_CHECK": "true",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "LANGSMITH_TRACING": "false",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it is downloaded at import
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
}
os.environ.update(QUIET)

_reached_for: list[str] = []


def _stay_at_home(event: str, args: tuple[Any, ...]) -> None:
    """Refuse to look up or connect to any other host: an audit hook sees what Python's own sockets do."""
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = args[1]
        host = address[0] if isinstance(address, tuple) else None  # a text is a path: a socket of this machine
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = args[0]
    else:
        return
    if isinstance(host, bytes):
        host = host.decode(errors="replace")
    if host in (None, "", "localhost"):
        return
    with suppress(ValueError):
        if ip_address(host).is_loopback:
            return
    _reached_for.append(f"{event} {host}")
    raise PermissionError(f"tests talk to loopback only, not to {host}")


sys.addaudithook(_stay_at_home)


def pytest_configure(config: pytest.Config) -> None:
    """What frameworks warn of is theirs to mend; what our modules do stays an error."""
    config.addinivalue_line("filterwarnings", "ignore")
    config.addinivalue_line("filterwarnings", r"error:::autellix_sdk(\..*)?")
    warnings.simplefilter("ignore")  # what they leave to the garbage collector after the last test


@dataclass
class Ask:
    """One request to the model.

    Attributes:
        seen: as it arrived.
        body: its JSON.
        text: all of its body, to look for words in.
        topic: which of `TOPICS` it is about.
        turn: how many the topic had before.
    """

    seen: Seen
    body: dict[str, Any]
    text: str
    topic: str
    turn: int


Rule = Callable[[Ask], Reply]


def looks_up_then_answers(ask: Ask) -> Reply:
    """The rule of an agent with a tool `look_up`: it uses it once, then answers."""
    return ANSWERS[ask.topic] if ask.turn else (Use("look_up", {"topic": ask.topic}),)


def answers(ask: Ask) -> Reply:
    """The rule of an agent without tools."""
    return ANSWERS[ask.topic]


@dataclass
class Model(Backend):
    """A model behind chat completions, Responses and Messages, streamed or not, that says what it is told to.

    The first calls of the two topics wait for each other, so that both programs are under way at once.

    Attributes:
        rule: what the model says to a request.
        meet: word to number: as many requests with that word in them wait for each other.
        asks: what it was asked, in order of arrival.
        problems: what should not have been asked.
    """

    rule: Rule = answers
    meet: dict[str, int] = field(default_factory=dict)
    asks: list[Ask] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def graph(self, topic: str) -> dict[str, set[str]]:
        """The call graph of a topic: the parents of each call. All of them are in one program, which has its name."""
        contexts = [ask.seen.context for ask in self.asks if ask.topic == topic]
        graph: dict[str, set[str]] = {}
        for context in contexts:
            assert context is not None, f"a call about {topic} was not stamped"
            assert context.name == topic, f"a call about {topic} is in a program named {context.name}"
            assert context.program == contexts[0].program
            assert context.parents is not None
            assert (context.thread, context.retry) == (int(context.call.split(".")[0]), 0)
            assert context.call not in graph
            graph[context.call] = set(context.parents)
        return graph

    def graphs(self) -> list[dict[str, set[str]]]:
        """The call graphs of both topics."""
        return [self.graph(topic) for topic in TOPICS]

    def read(self, seen: Seen) -> Ask:
        """Take in a request, and wait for those that it is to be in flight with."""
        text = seen.body.decode()
        topics = [topic for topic in TOPICS if topic in text]
        assert len(topics) == 1, f"{seen.path} is about {topics}: {text[:2000]}"
        with self.changed:
            turn = sum(ask.topic == topics[0] for ask in self.asks)
            ask = Ask(seen, json.loads(text), text, topics[0], turn)
            self.asks.append(ask)
            self.changed.notify_all()
            if not turn:
                self._until("the other program's first call", lambda: {each.topic for each in self.asks} == {*TOPICS})
            for word, number in self.meet.items():
                if word in text:
                    self._until(f"{number} of {word}", lambda w=word, n=number: self._count(w) >= n)  # type: ignore[misc]
        return ask

    def _count(self, word: str) -> int:
        return sum(word in ask.text for ask in self.asks)

    def _until(self, what: str, happened: Callable[[], bool]) -> None:
        assert self.changed.wait_for(happened, WAIT_S), f"waited in vain for {what}"


class _ModelHandler(Handler):
    backend: Model

    def _call(self, seen: Seen) -> None:
        model = self.backend
        try:
            path_end = next(end for end in WHOLE if seen.path.partition("?")[0].endswith(end))
            ask = model.read(seen)
            reply, number = model.rule(ask), model.asks.index(ask)
        except Exception as error:  # noqa: BLE001 told to the test
            model.problems.append(f"{seen.path}: {error!r}")
            self._answer(400, {"error": {"message": "not in the script"}})
            return
        if ask.body.get("stream"):
            self._send(events_text(path_end, number, reply), "text/event-stream")
        else:
            self._answer(200, WHOLE[path_end](number, reply))


@pytest.fixture
def model() -> Iterator[Model]:
    """The model, with the client switched on. Nothing it did not expect was asked, of it or of anyone else."""
    model = Model()
    for serving in serve(model, _ModelHandler):
        autellix.init(model.base_url)
        yield serving
    assert model.problems == []
    assert _reached_for == []


def in_threads(agent: Callable[[str], A]) -> dict[str, A]:
    """Run an agent on both topics at once, each in an OS thread and a program of its own; return what it answers."""

    def run(topic: str) -> A:
        with autellix.program(topic):
            return agent(topic)

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(TOPICS, pool.map(run, TOPICS), strict=True))


async def in_tasks(agent: Callable[[str], Awaitable[A]]) -> dict[str, A]:
    """Run an agent on both topics at once, each in a task and a program of its own; return what it answers."""

    async def run(topic: str) -> A:
        async with autellix.program(topic):
            return await agent(topic)

    return dict(zip(TOPICS, await asyncio.gather(*map(run, TOPICS)), strict=True))


def run_page(model: Model, page: str, **names: Any) -> None:
    """Run the code of a page of ``docs/frameworks``, on both topics at once.

    Args:
        names: what the code uses without saying what it is.
    """
    text = (Path(__file__).parents[2] / "docs" / "frameworks" / f"{page}.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)

    def run(topic: str) -> None:
        body = code.replace("http://127.0.0.1:8700", model.url)
        for word in ("comets", "research"):  # what the page asks about, and the name of its program
            assert word in body
            body = body.replace(word, topic)
        defined = dict(names)
        is_async = "await " in body
        head = "async def main():\n" if is_async else "def main():\n"
        exec(compile(head + textwrap.indent(body, "    "), page, "exec"), defined)
        asyncio.run(defined["main"]()) if is_async else defined["main"]()

    with ThreadPoolExecutor(2) as pool:
        for _ in pool.map(run, TOPICS):
            pass
