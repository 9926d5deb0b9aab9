"""The copies behind swapping, alone: every bit of KV comes back."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gpu.suite import SUITE, report
from tests.integration.host_pool import faulty, round_trips

pytestmark = pytest.mark.gpu


def test_kv_is_bit_equal_after_a_round_trip(engine_python: Path) -> None:
    """Our pool and SGLang's, every layout with each way of copying it, in every layer; nothing else is touched.

    Ours also finds, of several pages, the one of which a bit was turned in host memory.
    """
    cases = round_trips(engine_python, SUITE.device)
    report(f"{len(cases)} round trips to host memory, {len(faulty(cases))} of them not bit-equal")
    assert len(cases) >= 36
    assert {"KernelHostPool"} <= {case["pool"] for case in cases}
    assert faulty(cases) == []
