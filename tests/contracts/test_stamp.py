"""The gateway's stamp: only the holder of the secret can make one, for one call."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autellix_sdk.errors import ConfigurationError, WireError
from autellix_sdk.wire import CALL_HEADER, PROGRAM_HEADER, STAMP_HEADER, ProgramId
from autellix_server.scheduling.shares import TENANT_NAME, TenantStanding
from autellix_server.scheduling.table import Program
from autellix_server.stamp import (
    ENDED_HEADER,
    EndedProgram,
    EndedPrograms,
    Stamp,
    believed_ended,
    believed_stamp,
    decode_ended,
    decode_stamp,
    encode_ended,
    read_secret,
)

SECRET = b"0123456789abcdef"
counts = st.integers(0, 10**15 - 1)


tenants = st.builds(
    TenantStanding,
    st.from_regex(f"({TENANT_NAME}|)", fullmatch=True),
    st.integers(0, 10**18 - 1),
    st.integers(1, 10**9).map(lambda weight: weight / 1000),
)


@given(counts, counts, st.booleans(), tenants)
def test_stamp_round_trips_under_the_secret(
    service_us: int, wait_us: int, single: bool, tenant: TenantStanding
) -> None:
    """The engine reads what the gateway signed."""
    stamp = Stamp(service_us, wait_us, single, tenant)
    assert decode_stamp(stamp.encode(SECRET, "p", "c"), SECRET, "p", "c") == stamp


@pytest.mark.parametrize(
    ("secret", "program", "call"),
    [(b"x" * 16, "p", "c"), (SECRET, "q", "c"), (SECRET, "p", "d")],
)
def test_stamp_is_refused_under_another_secret_or_for_another_call(secret: bytes, program: str, call: str) -> None:
    """A stamp cannot be forged, nor moved to another program or call."""
    with pytest.raises(WireError, match="not signed"):
        decode_stamp(Stamp(1, 2).encode(SECRET, "p", "c"), secret, program, call)


@given(st.text(max_size=80))
def test_arbitrary_text_is_not_a_stamp(text: str) -> None:
    """Hostile input raises WireError and nothing else."""
    with pytest.raises(WireError):
        decode_stamp(text, SECRET, "p", "c")


@pytest.mark.parametrize("change", [("b=5000000", "b=0"), ("a=7", "a=0"), ("t=acme", "t=evil"), ("g=1000", "g=9000")])
def test_changed_count_breaks_the_signature(change: tuple[str, str]) -> None:
    """Nobody can lower a program's attained service on the way, nor its tenant's, nor weigh more."""
    text = Stamp(5_000_000, tenant=TenantStanding("acme", 7)).encode(SECRET, "p", "c").replace(*change)
    with pytest.raises(WireError, match="not signed"):
        decode_stamp(text, SECRET, "p", "c")


def stamped(secret: bytes) -> dict[str, str]:
    """Return the headers of a call that a gateway with this secret stamped."""
    return {PROGRAM_HEADER: "p", CALL_HEADER: "c", STAMP_HEADER: Stamp(1, 2).encode(secret, "p", "c")}


def test_an_engine_believes_its_own_gateway_alone(caplog: pytest.LogCaptureFixture) -> None:
    """A stamp that is not believed is one line in the log, and the call runs without; so does one without headers."""
    with caplog.at_level(logging.WARNING, logger="autellix_server.stamp"):
        assert believed_stamp(stamped(SECRET), SECRET) == Stamp(1, 2)
        assert believed_stamp({}, SECRET) is None
        assert believed_stamp(stamped(SECRET), None) is None
        assert caplog.messages == []
        assert believed_stamp(stamped(b"x" * 16), SECRET) is None
        assert believed_stamp({STAMP_HEADER: "v1"}, SECRET) is None
    assert caplog.messages == [
        "stamp not believed: stamp is not signed with this engine's secret",
        "stamp not believed: stamp is malformed",
    ]


def test_the_secret_is_read_from_the_environment() -> None:
    """In hexadecimal; without one no stamp is believed."""
    assert read_secret({"AUTELLIX_SECRET": "ab" * 16}) == b"\xab" * 16
    assert read_secret({}) is None
    assert read_secret({"AUTELLIX_SECRET": ""}) is None


@pytest.mark.parametrize("text", ["swordfish", "abcd", "ab" * 15, "x" * 32])
def test_a_secret_that_is_none_is_refused_unseen(text: str) -> None:
    """The variable is named, its value is not shown."""
    with pytest.raises(ConfigurationError) as caught:
        read_secret({"AUTELLIX_SECRET": text})
    assert str(caught.value) == "AUTELLIX_SECRET must be at least 32 hexadecimal digits"


programs = st.lists(st.builds(EndedProgram, st.text(max_size=8), st.text(max_size=20), counts), max_size=8).map(tuple)


@given(programs)
def test_ended_programs_round_trip_as_a_header_and_cannot_be_made_up(ended: tuple[EndedProgram, ...]) -> None:
    """Names in any script travel in one line of ASCII."""
    text = encode_ended(ended, SECRET)
    assert text.isascii()
    assert text.isprintable()
    assert decode_ended(text, SECRET) == ended
    with pytest.raises(WireError, match="not signed"):
        decode_ended(text, b"x" * 16)
    with pytest.raises(WireError, match="not signed"):
        decode_ended(f"{text} ", SECRET)


def test_ends_are_told_once_a_few_at_a_time_and_only_where_something_was_served() -> None:
    """Headers stay short, and a program that was refused teaches nothing."""
    told = EndedPrograms()
    for number in range(12):
        told.add(Program(ProgramId(f"p{number}"), None, 0.0, 0.0, service_us=number))
    first, second = told.take(), told.take()
    assert [program.id for program in (*first, *second)] == [f"p{number}" for number in range(1, 12)]
    assert len(first) == 8
    assert told.take() == ()


def test_an_engine_believes_ends_of_its_own_gateway_alone() -> None:
    """A list with another signature is left out, and the call runs."""
    ended = (EndedProgram(ProgramId("p"), "agent", 7),)
    headers = {ENDED_HEADER: encode_ended(ended, SECRET)}
    assert believed_ended(headers, SECRET) == ended
    assert believed_ended(headers, b"x" * 16) == believed_ended(headers, None) == believed_ended({}, SECRET) == ()
