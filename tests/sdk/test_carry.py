"""Identity carried to other processes: what travels, what is believed, and call IDs that no two processes share."""

from __future__ import annotations

import gc
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import autellix_sdk as autellix
from autellix_sdk import _programs
from autellix_sdk._faults import faults
from autellix_sdk.errors import WireError
from autellix_sdk.wire import (
    CONTINUE_HEADER,
    MAX_HEADER_BYTES,
    CallContext,
    CallId,
    ProgramId,
    decode_continue,
    encode_name,
    format_continue,
)
from tests.sdk.conftest import BASE_URL, WAIT_S, Backend, call_here

pytestmark = pytest.mark.usefixtures("offline")
UNREADABLE = "who a job or request belongs to could not be read"


def _elsewhere(carried: dict[str, str], work: Callable[[], Any]) -> Any:
    """Do work where nothing is known of the programs of this process, as another process would."""
    living, _programs._living = _programs._living, type(_programs._living)()
    try:
        with autellix.extract(carried).attach():
            return work()
    finally:
        _programs._living = living


def _job(carried: dict[str, str]) -> list[CallContext]:
    with autellix.extract(carried).attach():
        return [call_here(), call_here()]


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_jobs_of_a_process_pool(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They belong to the program that queued them, whichever the worker was started for, and share no call ID."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(2, context, autellix.init, (BASE_URL,)) as pool:
        with autellix.program("first") as first:
            start = call_here()
            jobs = list(pool.map(_job, [autellix.inject() for _ in range(4)], timeout=60))
            end = call_here()
        with autellix.program("second") as second:
            other = pool.submit(_job, autellix.inject()).result(60)
    assert {(call.program, call.name) for job in jobs for call in job} == {(first.id, "first")}
    assert [(call.program, call.name, call.parents) for call in other] == [
        (second.id, "second", ()),
        (second.id, "second", (other[0].call,)),
    ]
    assert [job[0].parents for job in jobs] == [(f"{start.salt}.{start.call}",)] * 4
    assert [job[1].parents for job in jobs] == [(job[0].call,) for job in jobs]
    assert len({(call.salt, call.call) for call in [start, end, *(call for job in jobs for call in job)]}) == 10
    assert end.parents == (start.call,)


def test_what_travels_is_one_short_string() -> None:
    """The program, the calls behind the code, named for others, and the program's name, encoded."""
    with autellix.program("a;b\r\nc", id="session-7") as p:
        start = call_here()
        carried = autellix.inject({"kept": "yes"})
    assert carried == {
        "kept": "yes",
        CONTINUE_HEADER: f"v1;i=session-7;p={p.salt}.{start.call};n=a%3Bb%0D%0Ac",
    }


def test_headers_of_http_clients() -> None:
    """They are mappings of strings too, in any case of letters; what another sender had said is replaced."""
    with autellix.program() as first:
        headers = autellix.inject(httpx.Headers({"accept": "*/*"}))
    with autellix.program() as second:
        assert autellix.inject(headers) is headers
    upper = {name.upper(): value for name, value in headers.items()}
    del first, second
    gc.collect()
    with autellix.extract(upper).attach():
        assert call_here().program in upper[CONTINUE_HEADER.upper()]


def test_code_that_belongs_to_no_program_injects_nothing() -> None:
    """Nor does it pass on what somebody else injected."""
    autellix.init(BASE_URL, implicit="off")
    assert autellix.inject({CONTINUE_HEADER: "v1;i=other"}) == {}


def test_while_the_client_is_off_nothing_travels() -> None:
    """Least of all what somebody else injected, in whatever case of letters."""
    autellix.shutdown()
    with autellix.program() as p:
        assert autellix.inject({CONTINUE_HEADER.title(): "v1;i=other", "kept": "yes"}) == {"kept": "yes"}
    assert not p.injected


def test_a_program_that_has_just_begun_has_no_calls_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The calls of the idle one that it follows are none of its own."""
    before = [call_here(), call_here()]
    monkeypatch.setattr(_programs, "IMPLICIT_IDLE_S", 0.0)
    program, parents, _ = decode_continue(autellix.inject()[CONTINUE_HEADER])
    assert program != before[1].program
    assert parents == ()


def test_within_one_process_the_thread_goes_on() -> None:
    """A job queue may lead back here: then the calls are this process's own, and so is the program object."""
    with autellix.program() as p:
        start = call_here()
        carried = autellix.inject()
        with autellix.program(), autellix.extract(carried).attach():
            assert autellix.current() is p
            there = call_here()
    assert (there.program, there.salt, there.call, there.parents) == (p.id, start.salt, "0.1", (start.call,))


def test_a_job_hands_on() -> None:
    """Parents keep the salt of the process that made them, from the second process to the third."""

    def second() -> tuple[dict[str, str], CallContext, dict[str, str]]:
        return autellix.inject(), call_here(), autellix.inject()

    with autellix.program() as p:
        start = call_here()
        before, there, after = _elsewhere(autellix.inject(), second)
    assert before[CONTINUE_HEADER] == f"v1;i={p.id};p={start.salt}.{start.call}"
    assert after[CONTINUE_HEADER] == f"v1;i={p.id};p={there.salt}.{there.call}"


def test_more_calls_than_fit_are_joined_as_all() -> None:
    """What is called after them says the same, also beside calls of its own."""
    with autellix.program():
        branches = [autellix.capture() for _ in range(100)]
        for branch in branches:
            with branch.attach():
                call_here()
        carried = autellix.inject()

    def work() -> tuple[CallContext, CallContext]:
        inner = autellix.capture()
        with inner.attach():
            first = call_here()
        return first, call_here()

    assert ";p=*" in carried[CONTINUE_HEADER]
    assert [call.parents for call in _elsewhere(carried, work)] == [None, ("0.0",)]


def test_a_worker_does_not_end_the_program(backend: Backend) -> None:
    """The process that began it does, even if only others made its calls."""
    autellix.init(backend.base_url)
    with autellix.program() as p:
        carried = autellix.inject()
        worker_program = _elsewhere(carried, lambda: [call_here(), autellix.current()][1])
        worker_program.end()
        assert worker_program.id == p.id
        assert worker_program is not p
    assert p.bill(WAIT_S).pending == 0
    assert backend.ended() == {p.id: "ok"}
    assert len(backend.ends) == 1


@pytest.mark.parametrize(
    "value",
    [
        "",
        "v2;i=a",
        "v1",
        "v1;i=",
        "v1;i=a b",
        "v1;i=a\r\nx: y",
        "v1;i=a;p=A",
        "v1;i=a;p=0.0,abc",
        "v1;i=a;p=salt.0.0,0.1",
        "v1;i=a;p=salt.0.00000000000000",
        "v1;i=a;n=%",
        "v1;i=a;i=b",
        "v" * 5000,
        7,
    ],
)
def test_what_cannot_be_read_is_counted_and_left_alone(value: Any) -> None:
    """Calls stay where they would have been."""
    with autellix.program() as p, autellix.extract({CONTINUE_HEADER: value}).attach():
        assert call_here().program == p.id
        assert faults.counts[UNREADABLE] == 1


@pytest.mark.parametrize("carried", [None, "text", [("name", "value")], 7])
def test_what_is_no_mapping_is_counted_and_left_alone(carried: Any) -> None:
    """A queue may deliver anything."""
    with autellix.program() as p, autellix.extract(carried).attach():
        assert call_here().program == p.id
        assert faults.counts[UNREADABLE] == 1


def test_nothing_to_extract_is_no_fault() -> None:
    """A job that was queued by older code still runs."""
    with autellix.program() as p, autellix.extract({}).attach():
        assert call_here().program == p.id
        assert not faults.counts[UNREADABLE]


salted = st.from_regex(r"[0-9a-z]{6}\.[0-9]{1,3}\.[0-9]{1,3}", fullmatch=True).map(CallId)


@given(
    st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True).map(ProgramId),
    st.lists(salted, max_size=100).map(tuple),
    st.none() | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=10),
)
def test_what_is_written_is_read(program: ProgramId, parents: tuple[CallId, ...], name: str | None) -> None:
    """Round trip, within the size limit; too many parents become all calls."""
    text = format_continue(program, parents, f";n={encode_name(name)}" if name else "")
    fits = len(",".join(parents)) <= 512
    assert text.isascii()
    assert len(text) <= MAX_HEADER_BYTES
    assert decode_continue(text) == (program, parents if fits else None, name)


@given(st.text(max_size=300) | st.text("v1;ipn=%.,*Aa0", max_size=40).map(lambda text: "v1;i=a" + text))
def test_hostile_text_raises_nothing_but_wire_errors(text: str) -> None:
    """Whatever is accepted can be written again."""
    try:
        program, parents, name = decode_continue(text)
    except WireError:
        return
    assert parents is None or decode_continue(format_continue(program, parents, ""))[:2] == (program, parents)
    assert name is None or len(encode_name(name)) <= 128
