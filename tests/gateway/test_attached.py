"""Engines that somebody else runs: found, lost and found again, named in a file that changes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from fake_engine import CHAT, KEY, SECRET, Clock, FakeEngine, Seen, running_engine, running_gateway
from script_launch import until

from autellix_sdk.errors import ConfigurationError
from autellix_server.engine.limits import EngineLimits
from autellix_server.engine.supervisor import EngineState
from autellix_server.gateway.fleet.attachment import Attachment
from autellix_server.gateway.fleet.fleet import Fleet
from autellix_server.gateway.fleet.interruption import Interruption
from autellix_server.gateway.fleet.keeper import Keeper
from autellix_server.gateway.fleet.member import Member
from autellix_server.gateway.fleet.prober import Prober
from autellix_server.gateway.fleet.specs import EngineSpec, read_specs, spec_of_url

INFO = {"max_running_requests": 4, "autellix": {"policy": "plas", "http": True}}


def spec(url: str, **more: Any) -> EngineSpec:
    """Return what is said of an engine."""
    return EngineSpec.model_validate({"url": url, **more})


def url_of(engine: FakeEngine) -> str:
    """Return where a fake engine is."""
    assert engine.status.address is not None
    return engine.status.address.url


def entries(*names: str) -> str:
    """Return a file of engines, none of which is there; their URLs differ as their names do."""
    return "".join(f'[[engine]]\nurl = "http://127.0.0.1:9/{name}"\nname = "{name}"\n' for name in names)


class Work:
    """A call that nobody interrupts."""

    def interrupt(self, reason: Interruption) -> None:
        """Fail the test."""
        raise AssertionError("nobody interrupts it")


@asynccontextmanager
async def living(run: Any) -> AsyncIterator[None]:
    """Run a task for as long as the context lasts."""
    task = asyncio.create_task(run)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_an_attached_engine_is_ready_when_it_lists_its_models() -> None:
    """With its key, its models and its limits."""
    async with running_engine() as engine:
        engine.shown = INFO
        attachment = Attachment(spec(url_of(engine), name="far"), KEY, SECRET)
        async with living(attachment.run()):
            await until(lambda: attachment.status.state is EngineState.READY)
        status = attachment.status
        assert (status.models, status.limits) == (("tiny",), EngineLimits(slots=4))
        assert status.address is not None
        assert (status.address.name, status.address.key, status.address.secret) == ("far", KEY, SECRET)


async def test_an_engine_that_is_to_be_ours_and_is_not_is_not_used() -> None:
    """The secret would sign stamps that it does not understand, and bills be believed that anybody could write."""
    async with running_engine() as engine:
        attachment = Attachment(spec(url_of(engine)), KEY, SECRET)
        async with living(attachment.run()):
            await until(lambda: attachment.status.state is EngineState.UNREACHABLE)
        assert attachment.status.detail == "a secret is set for it, but our plugin is not at work there"
        assert attachment.status.address is None


async def test_an_engine_that_refuses_the_key_says_so() -> None:
    """The remedy is named."""

    async def refuse(request: web.Request, seen: object) -> web.Response:
        return web.Response(status=401)

    async with running_engine() as engine:
        engine.behave = refuse  # type: ignore[assignment]
        attachment = Attachment(spec(url_of(engine)), "wrong", None)
        async with living(attachment.run()):
            await until(lambda: attachment.status.state is EngineState.UNREACHABLE)
        assert attachment.status.detail == "it refuses the API key (key_env): /v1/models answers 401"


async def test_an_attached_engine_that_comes_back_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the times it did are counted."""
    monkeypatch.setattr("autellix_server.gateway.fleet.attachment._LOOK_PERIOD_S", 0.02)
    there = True

    async def behave(request: web.Request, seen: object) -> web.Response:
        return web.json_response({"data": [{"id": "tiny"}]}) if there else web.Response(status=502)

    async with running_engine(secret=None) as engine:
        engine.behave = behave  # type: ignore[assignment]
        attachment = Attachment(spec(url_of(engine)), KEY, None)
        async with living(attachment.run()):
            await until(lambda: attachment.status.state is EngineState.READY)
            there = False
            await until(lambda: attachment.status.state is EngineState.UNREACHABLE)
            assert attachment.status.detail == "/v1/models answers 502"
            there = True
            await until(lambda: attachment.status.state is EngineState.READY)
        assert attachment.status.restarts == 1


async def test_a_file_of_engines_is_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Engines join and leave as it changes, those with calls when they have ended; a wrong file changes nothing."""
    monkeypatch.setattr("autellix_server.gateway.fleet.keeper._LOOK_PERIOD_S", 0.02)
    file, fleet = tmp_path / "engines.toml", Fleet()

    def write(*names: str) -> None:
        file.write_text(entries(*names))

    def names() -> list[str]:
        return [member.name for member in fleet]

    write("a", "b")
    keeper = Keeper(fleet, [], [spec("http://127.0.0.1:9", name="fixed")], file=file, environ={})
    assert names() == ["fixed", "a", "b"]
    async with living(keeper.run()):
        first = fleet.get("a")
        assert first is not None
        work = Work()
        first.calls.add(work)
        write("b", "c")
        await until(lambda: names() == ["fixed", "a", "b", "c"])
        assert first.draining
        first.calls.clear()
        await until(lambda: names() == ["fixed", "b", "c"])
        file.write_text("[[engine]]\nurl = 3\n")
        await until(lambda: "url: Input should be a valid string" in caplog.text)
        assert names() == ["fixed", "b", "c"]
        write("c", "fixed")
        await until(lambda: "two engines are called fixed" in caplog.text)
        assert names() == ["fixed", "b", "c"]
        write()
        await until(lambda: names() == ["fixed"])


async def test_a_file_that_cannot_be_read_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever is wrong with it: it is said once, and the file is followed again when it is back."""
    monkeypatch.setattr("autellix_server.gateway.fleet.keeper._LOOK_PERIOD_S", 0.02)
    file, fleet = tmp_path / "engines.toml", Fleet()
    file.write_text(entries("a"))
    async with living(Keeper(fleet, [], file=file, environ={}).run()):
        file.write_bytes(b"\xff\xfe")
        await until(lambda: "it is no TOML: 'utf-8' codec can't decode" in caplog.text)
        file.write_text("a = " + "[" * 100_000)
        await until(lambda: "recursion" in caplog.text)
        file.unlink()
        await until(lambda: "No such file" in caplog.text)
        looks: list[Path] = []
        with monkeypatch.context() as patch:
            patch.setattr("autellix_server.gateway.fleet.keeper._version", looks.append)
            await until(lambda: len(looks) > 3)
        assert [member.name for member in fleet] == ["a"]
        file.write_text(entries("b"))
        await until(lambda: [member.name for member in fleet] == ["b"])
    assert len(caplog.records) == 3


async def test_an_engine_that_is_named_again_before_it_has_left_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets calls again; one that an operator has drained gets none, whatever else changes in the file."""
    monkeypatch.setattr("autellix_server.gateway.fleet.keeper._LOOK_PERIOD_S", 0.02)
    file, fleet = tmp_path / "engines.toml", Fleet()
    file.write_text(entries("a", "b"))
    async with living(Keeper(fleet, [], file=file, environ={}).run()):
        a, b = fleet
        a.calls.add(Work())
        b.draining = True
        file.write_text(entries("b"))
        await until(lambda: a.draining)
        file.write_text(entries("a", "b", "c"))
        await until(lambda: not a.draining)
        assert [member.name for member in fleet] == ["a", "b", "c"]
        assert b.draining


async def test_an_engine_of_the_file_is_not_called_as_one_that_is_started_here(tmp_path: Path) -> None:
    """It would take its place."""
    async with running_engine(name="e0") as started:
        with pytest.raises(ConfigurationError, match="two engines are called e0"):
            Keeper(Fleet(), [started], [spec("http://x", name="e0")], environ={})  # type: ignore[list-item]


async def test_a_watcher_that_fails_is_not_overlooked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that nobody watches would be ready for ever."""
    monkeypatch.setattr("autellix_server.gateway.fleet.keeper._LOOK_PERIOD_S", 0.02)

    async def fail(attachment: Attachment) -> None:
        raise RuntimeError(f"nobody watches {attachment.name}")

    file = tmp_path / "engines.toml"
    file.write_text(entries("a"))
    monkeypatch.setattr(Attachment, "run", fail)
    with pytest.raises(RuntimeError, match="nobody watches a"):
        await asyncio.wait_for(Keeper(Fleet(), [], file=file, environ={}).run(), 5)
    with pytest.raises(RuntimeError, match="nobody watches fixed"):
        await asyncio.wait_for(Keeper(Fleet(), [], [spec("http://x", name="fixed")], environ={}).run(), 5)


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (
            web.Response(status=307, headers={"Location": "http://x/v1/models"}),
            "a redirect to http://x/v1/models: give",
        ),
        (web.Response(body=b" " * (5 << 20)), "/v1/models answers more than 4194304 bytes"),
        (web.Response(body=b"[" * 100_000), "lists no models under /v1/models"),
    ],
)
async def test_an_engine_with_a_strange_answer_is_not_used(answer: web.Response, complaint: str) -> None:
    """And the reason is told."""

    async def behave(request: web.Request, seen: object) -> web.Response:
        return web.Response(status=answer.status, headers=answer.headers, body=answer.body)

    async with running_engine(secret=None) as engine:
        engine.behave = behave  # type: ignore[assignment]
        attachment = Attachment(spec(url_of(engine)), KEY, None)
        async with living(attachment.run()):
            await until(lambda: attachment.status.state is EngineState.UNREACHABLE)
        assert complaint in attachment.status.detail


async def test_an_engine_that_nothing_can_be_called_is_unreachable() -> None:
    """A name with an empty part is a mistake in a file that is followed."""
    attachment = Attachment(spec("http://no..host:9"), "", None)
    async with living(attachment.run()):
        await until(lambda: attachment.status.state is EngineState.UNREACHABLE)
    assert "idna" in attachment.status.detail


async def test_an_engine_that_is_silent_is_busy_until_it_is_condemned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some compute a prompt and answer nothing meanwhile; how long that may take is the prober's to know."""
    monkeypatch.setattr("autellix_server.gateway.fleet.attachment._LOOK_PERIOD_S", 0.01)
    monkeypatch.setattr("autellix_server.gateway.fleet.attachment._ANSWER_LIMIT_S", 0.2)
    silent, looks = False, 0

    async def behave(request: web.Request, seen: object) -> web.StreamResponse:
        nonlocal looks
        if silent:
            looks += 1
            await asyncio.sleep(60)
        return web.json_response({"data": [{"id": "tiny"}]})

    async with running_engine(secret=None) as engine:
        engine.behave = behave  # type: ignore[assignment]
        attachment = Attachment(spec(url_of(engine)), KEY, None)
        async with living(attachment.run()):
            await until(lambda: attachment.status.state is EngineState.READY)
            silent = True
            await until(lambda: looks > 2)
            assert attachment.status.state is EngineState.READY
            attachment.condemn("gave no sign of life for 60 s")
            looks = 0
            await until(lambda: looks > 1)
            assert attachment.status.state is EngineState.UNREACHABLE
            silent = False
            await until(lambda: attachment.status.state is EngineState.READY)


async def test_an_engine_that_does_not_show_its_load_is_used() -> None:
    """Whatever it does when it is asked."""

    async def behave(request: web.Request, seen: object) -> web.StreamResponse:
        if request.path == "/v1/loads":
            assert request.transport is not None
            request.transport.abort()
        return web.json_response({"data": [{"id": "tiny"}]})

    async with running_engine() as engine:
        engine.shown, engine.behave = INFO, behave  # type: ignore[assignment]
        attachment = Attachment(spec(url_of(engine)), KEY, SECRET)
        async with living(attachment.run()):
            await until(lambda: attachment.status.state is not EngineState.STARTING)
        assert (attachment.status.state, attachment.shown) == (EngineState.READY, None)


async def test_calls_that_are_answered_are_signs_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that has no time for probes is not lost as long as it serves."""
    monkeypatch.setattr("autellix_server.gateway.fleet.prober._PERIOD_S", 0.01)
    monkeypatch.setattr("autellix_server.gateway.fleet.prober._ANSWER_LIMIT_S", 0.05)

    async def busy(request: web.Request, seen: Seen) -> web.StreamResponse:
        if request.path == "/health":
            await asyncio.sleep(60)
        return await engine.answer(request, seen)

    async with running_engine() as engine, running_gateway(engine, Clock(time.monotonic())) as gateway:
        engine.behave = busy
        (member,) = gateway.fleet
        clock = gateway.clock
        async with living(Prober(gateway.fleet, 0.5, clock).run()):
            await until(lambda: member.alive_s)
            clock.now_s += 0.4
            status, _ = await gateway.json("POST", "/v1/chat/completions", json=CHAT)
            assert (status, member.alive_s) == (200, clock.now_s)


async def test_an_engine_that_hangs_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its calls are interrupted and it is condemned, once it has given no sign of life for the limit; not before."""
    monkeypatch.setattr("autellix_server.gateway.fleet.prober._PERIOD_S", 0.02)
    monkeypatch.setattr("autellix_server.gateway.fleet.prober._ANSWER_LIMIT_S", 0.05)
    reasons: list[str] = []
    hung = asyncio.Event()

    class Work:
        def interrupt(self, reason: Interruption) -> None:
            reasons.append(reason.code)

    async def health(request: web.Request, seen: object) -> web.Response:
        if hung.is_set():
            await asyncio.sleep(60)
        return web.Response(status=503)

    async with running_engine() as engine:
        engine.behave = health  # type: ignore[assignment]
        engine.condemn = reasons.append  # type: ignore[attr-defined]
        member = Member(engine)  # type: ignore[arg-type]
        member.calls.add(Work())
        async with living(Prober(Fleet([member]), 0.3).run()):
            await until(lambda: len(engine.seen) > 3)
            assert reasons == []
            hung.set()
            await until(lambda: len(reasons) >= 2)
    assert reasons[0] == "engine_lost"
    assert reasons[1].startswith("gave no sign of life for ")


def test_the_example_of_a_file_is_right(tmp_path: Path) -> None:
    """What the documentation shows can be read."""
    guide = (Path(__file__).parents[2] / "docs" / "operating.md").read_text()
    file = tmp_path / "engines.toml"
    file.write_text("[[engine]]" + guide.partition("```toml\n[[engine]]")[2].partition("```")[0])
    (engine,) = read_specs(file)
    assert (engine.label, engine.window) == ("gpu0", 32)
    assert engine.credentials({"GPU0_KEY": "k", "GPU0_SECRET": "00" * 16}) == ("k", bytes(16))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[[engine", "it is no TOML"),
        ("engines = 3", "engines: Extra inputs are not permitted"),
        ("[[engine]]\nname = 'a'", "engine.0.url: Field required"),
        ("[[engine]]\nurl = 'ftp://x'", "engine.0.url: give http://host:port"),
        ("[[engine]]\nurl = 'http://x'\nwindow = 0", "engine.0.window: Input should be greater than or equal to 1"),
        ("[[engine]]\nurl = 'http://x'\n[[engine]]\nurl = 'http://x/v1'", "two engines are called x:80"),
        (
            "[[engine]]\nurl = 'http://x'\n[[engine]]\nurl = 'http://x/v1'\nname = 'y'",
            "two engines have the URL http://x; leave one of them out",
        ),
    ],
)
def test_a_file_that_is_wrong_is_explained(tmp_path: Path, text: str, complaint: str) -> None:
    """The key is named."""
    file = tmp_path / "engines.toml"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=complaint.replace("(", r"\(")):
        read_specs(file)


def test_a_missing_file_or_key_is_explained(tmp_path: Path) -> None:
    """Before anything starts."""
    with pytest.raises(ConfigurationError, match="No such file"):
        read_specs(tmp_path / "none.toml")
    with pytest.raises(ConfigurationError, match="key_env of engine x:80 is MISSING"):
        Keeper(Fleet(), [], [spec("http://x", key_env="MISSING")], environ={})
    with pytest.raises(ConfigurationError, match="is 'x': give http://host:port"):
        spec_of_url("x")
    with pytest.raises(ConfigurationError, match="key_env of engine x:80 is KEY: its value has characters"):
        Keeper(Fleet(), [], [spec("http://x", key_env="KEY")], environ={"KEY": "a\nb"})
    assert spec("http://x", key_env="KEY").credentials({"KEY": "a\n"}) == ("a", None)


def test_a_base_url_may_end_with_v1() -> None:
    """As people know it from clients."""
    assert spec_of_url("http://127.0.0.1:8000/v1/").url == "http://127.0.0.1:8000"
