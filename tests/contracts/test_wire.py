"""The identity headers: grammar, limits, round trip."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autellix_sdk.errors import WireError
from autellix_sdk.wire import (
    MAX_HEADER_BYTES,
    CallContext,
    CallId,
    ProgramId,
    check_program_id,
    decode_call,
    encode_call,
    encode_name,
)

call_ids = st.from_regex(r"[0-9a-z.]{1,20}", fullmatch=True).map(CallId)
contexts = st.builds(
    CallContext,
    program=st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True).map(ProgramId),
    salt=st.from_regex(r"[0-9a-z]{1,8}", fullmatch=True),
    thread=st.integers(0, 999_999),
    call=call_ids,
    parents=st.none() | st.lists(call_ids, max_size=12).map(tuple),
    retry=st.integers(0, 999),
    name=st.none() | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=10),
)


@given(contexts)
def test_encoded_call_decodes_to_itself(context: CallContext) -> None:
    """Whatever the SDK can send, the server reads back unchanged, within the size limit."""
    header = encode_call(context)
    assert header.isascii()
    assert len(header) <= MAX_HEADER_BYTES
    assert decode_call(context.program, header) == context


fields = st.sampled_from("stcprnz").flatmap(
    lambda key: st.text("0123456789.,*az%FfCc3-", max_size=12).map(lambda value: f"{key}={value}")
)
plausible_calls = st.lists(fields, max_size=6).map(lambda parts: ";".join(["v1", "s=a", "t=0", "c=0.0", *parts]))


@given(st.from_regex(r"[a-z.]{1,8}", fullmatch=True), plausible_calls | st.text(max_size=300))
def test_whatever_decodes_can_be_sent_on(program: str, call: str) -> None:
    """Hostile input raises WireError and nothing else; what is accepted survives being encoded again."""
    try:
        context = decode_call(program, call)
    except WireError:
        return
    assert decode_call(program, encode_call(context)) == context


def test_too_many_parents_become_joins_all() -> None:
    """Over 512 bytes of parents the header says that the call joins every earlier one."""
    parents = tuple(CallId(f"{i}.0") for i in range(200))
    header = encode_call(CallContext(ProgramId("p"), "a", 0, CallId("0.0"), parents))
    assert ";p=*" in header
    assert decode_call("p", header).parents is None


@pytest.mark.parametrize(
    ("program", "call", "complaint"),
    [
        ("", "v1;s=a;t=0;c=0.0", "program ID ''"),
        ("x" * 65, "v1;s=a;t=0;c=0.0", "program ID"),
        ("a b", "v1;s=a;t=0;c=0.0", "program ID 'a b'"),
        ("p", "v2;s=a;t=0;c=0.0", "'v2'"),
        ("p", "v1;s=a;t=0", "field c"),
        ("p", "v1;s=a;t=-1;c=0.0", "field t"),
        ("p", "v1;s=a;t=0;c=0.0;c=0.1", "repeated"),
        ("p", "v1;s=a;t=0;c=0.0;p=A", "field p"),
        ("p", "v1;s=a;t=0;c=0.0;p=" + ",".join(["0.0"] * 200), "field p of x-autellix-call is 799 bytes"),
        ("p", "v1;s=a;t=0;c=0.0;n=a b", "field n"),
        ("p", "v1;s=a;t=0;c=0.0;n=" + "a" * 129, "field n"),
        ("p", "v1;s=a;t=0;c=0.0;n=" + "%FF" * 42, "field n"),
        ("p", "v1;s=a;t=0;c=0.0;r=1000", "field r"),
        ("p", "v1;s=a;t=0;c=0.0;x" + "y" * 1024, "the limit is 1024"),
    ],
)
def test_malformed_header_is_refused_by_name(program: str, call: str, complaint: str) -> None:
    """The error names the field and what is wrong with it, and never echoes more than a little."""
    with pytest.raises(WireError) as error:
        decode_call(program, call)
    assert complaint in str(error.value)
    assert len(str(error.value)) < 200


def test_unknown_fields_are_ignored() -> None:
    """A later client may send more."""
    assert decode_call("p", "v1;z=1;s=a;t=0;c=0.0").call == "0.0"


def test_name_too_long_once_encoded_is_refused() -> None:
    """The limit counts bytes on the wire, not characters."""
    assert encode_name("é" * 21) == "%C3%A9" * 21
    with pytest.raises(WireError, match="132 bytes"):
        encode_name("é" * 22)


@pytest.mark.parametrize("text", ["a\r\nb", "ü", "a/b"])
def test_program_id_with_other_characters_is_refused(text: str) -> None:
    """A program ID is safe in a header and in a URL."""
    with pytest.raises(WireError):
        check_program_id(text)
