"""The gateway's stamp: only the holder of the secret can make one, for one call."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autellix_sdk.errors import WireError
from autellix_server.stamp import Stamp, decode_stamp

SECRET = b"0123456789abcdef"
counts = st.integers(0, 10**15 - 1)


@given(counts, counts, counts)
def test_stamp_round_trips_under_the_secret(service_us: int, wait_us: int, debt_us: int) -> None:
    """The engine reads what the gateway signed."""
    stamp = Stamp(service_us, wait_us, debt_us)
    assert decode_stamp(stamp.encode(SECRET, "p", "c"), SECRET, "p", "c") == stamp


@pytest.mark.parametrize(
    ("secret", "program", "call"),
    [(b"x" * 16, "p", "c"), (SECRET, "q", "c"), (SECRET, "p", "d")],
)
def test_stamp_is_refused_under_another_secret_or_for_another_call(secret: bytes, program: str, call: str) -> None:
    """A stamp cannot be forged, nor moved to another program or call."""
    with pytest.raises(WireError, match="not signed"):
        decode_stamp(Stamp(1, 2, 3).encode(SECRET, "p", "c"), secret, program, call)


@given(st.text(max_size=80))
def test_arbitrary_text_is_not_a_stamp(text: str) -> None:
    """Hostile input raises WireError and nothing else."""
    with pytest.raises(WireError):
        decode_stamp(text, SECRET, "p", "c")


def test_changed_count_breaks_the_signature() -> None:
    """Nobody can lower a program's attained service on the way."""
    text = Stamp(5_000_000).encode(SECRET, "p", "c").replace("b=5000000", "b=0")
    with pytest.raises(WireError, match="not signed"):
        decode_stamp(text, SECRET, "p", "c")
