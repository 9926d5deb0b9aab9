"""Priorities in request bodies: ours alone, and nothing else changed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autellix_server.gateway.fleet.priority import with_priority

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
)
bodies = st.dictionaries(st.sampled_from(["model", "messages", "priority", "Priority", ""]) | st.text(), values)


@given(body=bodies, priority=st.integers(-8, 8), indent=st.none() | st.integers(0, 3), ascii_only=st.booleans())
def test_meaning_stays_the_same_but_for_the_priority(
    body: dict[str, object], priority: int, indent: int | None, ascii_only: bool
) -> None:
    """Whatever is in the request, however it is written."""
    text = json.dumps(body, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    assert json.loads(with_priority(text, priority)) == {**body, "priority": priority}


def test_text_stays_as_it_was() -> None:
    """Numbers keep their digits, strings their escapes, and what is nested is none of ours."""
    body = b'{"seed": 1.500000000000000000001, "text":"\\u00e9\\/", "nested": {"priority": 9}}'
    expected = b'{"seed": 1.500000000000000000001,"text":"\\u00e9\\/","nested": {"priority": 9},"priority":-2}'
    assert with_priority(body, -2) == expected


@pytest.mark.parametrize("key", [b'"priority"', b'"\\u0070riority"'])
def test_client_cannot_choose_its_priority(key: bytes) -> None:
    """However it is spelled, and however often: readers differ in which of several they take."""
    body = b'{%s: 100, "model": "m", %s: 99}' % (key, key)
    assert with_priority(body, 3) == b'{"model": "m","priority":3}'


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32-le", "utf-8-sig"])
def test_other_encodings_become_utf_8(encoding: str) -> None:
    """JSON may come in them, if rarely."""
    assert json.loads(with_priority('{"model": "é"}'.encode(encoding), 1)) == {"model": "é", "priority": 1}


NO_OBJECTS = [b"", b"   ", b"[1]", b"7", b"{", b"{}{}", b'{"a":1} x', b'{"a" 1}', b'{"a":1,}', b"{1:2}", b'{"a":']
NO_OBJECTS += [b"\xff\xfe{", b'{"a":' + b"[" * 100_000]


@pytest.mark.parametrize("body", NO_OBJECTS)
def test_what_is_no_object_is_left_to_the_engine(body: bytes) -> None:
    """It says better than we could what is wrong."""
    assert with_priority(body, 1) == body
