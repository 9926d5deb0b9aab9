"""The way to a server: what it can do is found out, and every failure has words."""

from __future__ import annotations

import asyncio

import pytest
from fake_openai_server import FakeOpenAI, running

from autellix_sdk.wire import CallContext, CallId, ProgramId, decode_call
from autellix_server.bench.api import CallFailure
from autellix_server.bench.client import ClientSettings, connect, open_session
from autellix_server.errors import ServerError

CALL = CallContext(ProgramId("p1"), "b", 0, CallId("1"), (CallId("0"),), name="chat")


async def test_lengths_are_forced_and_verified() -> None:
    """The server is asked for a length, and its count is what is believed."""
    async with running(FakeOpenAI()) as fake, open_session(fake.url + "/v1/", ClientSettings()) as session:
        server = await connect(session, ClientSettings())
        answer = await server.send(CALL, " one two", 6)
    assert (fake.bodies[-1]["min_tokens"], answer.output_tokens, answer.prompt_tokens) == (6, 6, 2)
    assert server.complaints == ()


@pytest.mark.parametrize(
    ("refused", "left"),
    [({"min_tokens"}, ("ignore_eos",)), ({"ignore_eos"}, ("min_tokens",))],
)
async def test_a_field_that_a_server_refuses_is_left_out(refused: set[str], left: tuple[str, ...]) -> None:
    """One way of forcing lengths is enough."""
    fake = FakeOpenAI(refused_fields=frozenset(refused))
    async with running(fake), open_session(fake.url, ClientSettings()) as session:
        server = await connect(session, ClientSettings())
    assert server.dialect.forcing == left


async def test_a_server_that_forces_nothing_is_refused_with_the_remedy() -> None:
    """The remedy works."""
    fake = FakeOpenAI(refused_fields=frozenset({"min_tokens", "ignore_eos"}))
    async with running(fake), open_session(fake.url, ClientSettings()) as session:
        with pytest.raises(ServerError, match=r"status 400: unknown field \w+; .*--free-lengths"):
            await connect(session, ClientSettings())
        assert (await connect(session, ClientSettings(force_lengths=False))).dialect.forcing == ()


@pytest.mark.parametrize(
    ("fake", "words"),
    [(FakeOpenAI(stops_after=2), "gave 2: it does not force"), (FakeOpenAI(counts=False), "does not count tokens")],
)
async def test_a_server_that_does_not_do_as_asked_is_complained_about(fake: FakeOpenAI, words: str) -> None:
    """It is measured all the same."""
    async with running(fake), open_session(fake.url, ClientSettings()) as session:
        (complaint,) = (await connect(session, ClientSettings())).complaints
    assert words in complaint


async def test_identity_is_said_unless_calls_are_to_be_anonymous() -> None:
    """The headers are those of the wire contract."""
    async with running(FakeOpenAI(ours=True)) as fake, open_session(fake.url, ClientSettings()) as session:
        await (await connect(session, ClientSettings())).send(CALL, " one", 1)
        said = fake.headers[-1]
        anonymous = await connect(session, ClientSettings(anonymous=True))
        await anonymous.send(CALL, " one", 1)
    assert decode_call(said["x-autellix-program"], said["x-autellix-call"]) == CALL
    assert "x-autellix-program" not in fake.headers[-1]
    assert not anonymous.ends_programs


async def test_programs_are_ended_where_the_server_knows_programs() -> None:
    """Elsewhere nothing is said."""
    async with running(FakeOpenAI(ours=True)) as fake, open_session(fake.url, ClientSettings()) as session:
        server = await connect(session, ClientSettings())
        await server.end(ProgramId("p1"), failed=True)
    assert fake.ended[-1] == {"id": "p1", "status": "failed"}
    async with running(FakeOpenAI()) as plain, open_session(plain.url, ClientSettings()) as session:
        assert not (await connect(session, ClientSettings())).ends_programs


async def test_bills_are_collected() -> None:
    """The wait is the one that the server knows."""
    async with running(FakeOpenAI(ours=True)) as fake, open_session(fake.url, ClientSettings()) as session:
        answer = await (await connect(session, ClientSettings())).send(CALL, " one", 1)
    assert answer.bill is not None
    assert answer.bill.time.total_queued_us == 2_000_000


async def test_facts_name_no_machine_and_no_folder() -> None:
    """Reports are passed on."""
    async with running(FakeOpenAI()) as fake, open_session(fake.url, ClientSettings()) as session:
        server = await connect(session, ClientSettings())
    assert server.facts == {"model": "tiny", "max_model_len": 512, "version": "9.9", "tp_size": 2}
    assert server.dialect.model == "/secret/folder/tiny"


async def test_a_call_that_takes_too_long_fails() -> None:
    """With the flag that says how long."""
    settings = ClientSettings(timeout_s=0.01)
    async with running(FakeOpenAI()) as fake, open_session(fake.url, settings) as session:
        server = await connect(session, ClientSettings())
        server.settings = settings
        fake.hold = asyncio.Event()
        with pytest.raises(CallFailure, match=r"no answer within 0.01 s \(--timeout\)"):
            await server.send(CALL, " one", 1)
        fake.hold.set()


async def test_a_connection_that_breaks_fails_the_call() -> None:
    """In the midst of a stream, too."""
    async with running(FakeOpenAI()) as fake, open_session(fake.url, ClientSettings()) as session:
        server = await connect(session, ClientSettings())
        fake.cut = True
        with pytest.raises(CallFailure, match=r"the connection failed|the stream ended before"):
            await server.send(CALL, " one", 1)


async def test_a_server_without_a_list_of_models_needs_a_name() -> None:
    """The status is said, as it may be another server altogether."""
    async with running(FakeOpenAI()) as fake, open_session(fake.url + "/elsewhere", ClientSettings()) as session:
        with pytest.raises(ServerError, match=r"GET /elsewhere/v1/models is answered with 404: .*--model"):
            await connect(session, ClientSettings())
        with pytest.raises(ServerError, match="refuses a short call with status 404"):
            await connect(session, ClientSettings(model="tiny"))


async def test_a_server_may_live_below_a_path() -> None:
    """As behind a proxy that serves several."""
    async with running(FakeOpenAI(), below="/api/tiny") as fake, open_session(fake.url, ClientSettings()) as session:
        answer = await (await connect(session, ClientSettings())).send(CALL, " one", 3)
    assert answer.output_tokens == 3


async def test_a_server_that_is_not_there_is_one_sentence() -> None:
    """No traceback of a library."""
    settings = ClientSettings()
    async with open_session("http://127.0.0.1:9", settings) as session:
        with pytest.raises(ServerError, match="the server cannot be reached"):
            await connect(session, settings)
