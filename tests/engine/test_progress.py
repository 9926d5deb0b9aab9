"""Plain progress: readable in a log file, alive on long work."""

from __future__ import annotations

import io

from autellix_server.engine.progress import PlainProgress


def test_steps_are_printed_when_nothing_was_for_a_while() -> None:
    """Of a hundred steps, one a second, those are printed that come half a minute after the last line."""
    stream, now = io.StringIO(), [0.0]
    progress = PlainProgress(stream, lambda: now[0])
    progress.stage("working", steps=100)
    for number in range(1, 101):
        now[0] += 1.0
        progress.step(f"part {number}")
    progress.close()
    assert stream.getvalue().splitlines() == [
        "autellix: working",
        "autellix:   30 of 100: part 30",
        "autellix:   60 of 100: part 60",
        "autellix:   90 of 100: part 90",
        "autellix:   done in 100 s",
    ]
