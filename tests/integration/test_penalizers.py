"""SGLang's own penalizers: what is made up for after a preemption is, bit for bit, what counting step by step gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.test_failures import run_engine_python

pytestmark = pytest.mark.engine


def test_requests_that_come_and_go_have_the_penalties_of_one_that_stays(engine_python: Path) -> None:
    """Twelve leave and come back, in batches where all, some or none have penalties."""
    done = run_engine_python(engine_python, [str(Path(__file__).with_name("penalizers_check.py"))])
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.splitlines()[-1]) > 60
