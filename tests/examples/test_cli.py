"""What the examples share: programs side by side and exit codes."""

from __future__ import annotations

import json
from argparse import Namespace

import pytest
from cli import Outcome, finish, side_by_side

PLAIN = Namespace(concurrency=2, json=False)


def summarised(outcomes: list[Outcome]) -> str:
    """How many programs ended."""
    return f"{len(outcomes)} programs"


async def refused(task: int) -> Outcome:
    """A program whose first call fails."""
    return Outcome("test", error=f"program {task} was refused")


async def answered(task: int) -> Outcome:
    """A program with one answered call."""
    return Outcome("test", calls=task)


def test_no_answer_at_all_stops_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    """Each worker gives up after its first program, and the exit code says why in one sentence."""
    assert finish(side_by_side(refused, range(1, 100), PLAIN), summarised, PLAIN) == 1
    printed = capsys.readouterr()
    assert printed.out.count("refused") == 2
    assert printed.err == "error: program 1 was refused\n"


def test_answers_are_summed_up(capsys: pytest.CaptureFixture[str]) -> None:
    """Every task is run once; the summary ends standard output."""
    assert finish(side_by_side(answered, range(1, 4), PLAIN), summarised, PLAIN) == 0
    printed = capsys.readouterr()
    assert (printed.out.splitlines()[-1], printed.err) == ("3 programs", "")


def test_json_leaves_standard_output_to_the_outcomes(capsys: pytest.CaptureFixture[str]) -> None:
    """One object a line; the summary goes to standard error."""
    args = Namespace(concurrency=1, json=True)
    assert finish(side_by_side(answered, [7, 8], args), summarised, args) == 0
    printed = capsys.readouterr()
    assert [json.loads(line)["calls"] for line in printed.out.splitlines()] == [7, 8]
    assert printed.err == "2 programs\n"


def test_an_interrupt_exits_with_130() -> None:
    """Ctrl-C while programs run ends them without a traceback."""

    async def interrupted() -> list[Outcome]:
        raise KeyboardInterrupt

    assert finish(interrupted(), summarised, PLAIN) == 130
