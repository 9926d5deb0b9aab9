"""`autellix bench` from its flags to its files."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from bench_world import call, program
from fake_openai_server import FakeOpenAI, running

from autellix_server.cli import main
from autellix_server.traces.jsonl import write_programs

NOWHERE = ("--arm", "http://127.0.0.1:9")


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """A trace of three programs without arrival times."""
    path = tmp_path / "mine.jsonl"
    calls = (call("0", prompt=10), call("1", "0", prompt=20, shared=14))
    write_programs(path, [program(*calls, name=f"p{number}") for number in range(3)])
    return path


async def autellix(*arguments: str) -> asyncio.subprocess.Process:
    """Start the command in a process of its own."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "autellix_server", "bench", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def test_it_compares_two_servers_and_writes_both_files(trace: Path, tmp_path: Path) -> None:
    """One JSON object on standard output, the same and more in the file."""
    async with running(FakeOpenAI(ours=True)) as fake:
        process = await autellix(
            *("--arm", f"old={fake.url}", "--arm", f"new={fake.url}", "--trace", str(trace), "--rates", "100,300"),
            *("--slowdown", "2", "--unloaded", "1", "--warmup", "0", "--cooldown", "0%", "--json"),
            *("--output", str(tmp_path / "out")),
        )
        printed, said = await process.communicate()
    assert process.returncode == 0, said.decode()
    document: dict[str, Any] = json.loads(printed)
    assert document["settings"]["source"] == "mine.jsonl"
    assert [(one["arm"], one["rate"]) for one in document["results"]] == [
        *(("old", None), ("new", None)),
        *(("old", 100.0), ("new", 100.0), ("old", 300.0), ("new", 300.0)),
    ]
    assert document["results"][2]["everything"]["programs"] == 2 * 3
    assert document["results"][2]["billed_calls"] == 2 * 3 * 2
    written = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert len(written.pop("programs")) == 2 * (1 + 2 * 2 * 3)
    assert written == document
    assert "round 10 of 10: new at 300 programs/s" in said.decode()
    assert (tmp_path / "out" / "bench.html").exists()


async def test_ctrl_c_leaves_a_report_of_what_was_measured(trace: Path, tmp_path: Path) -> None:
    """Exit status 130, marked as not whole."""
    async with running(FakeOpenAI()) as fake:
        process = await autellix(
            *("--arm", fake.url, "--trace", str(trace), "--rate", "inf", "--output", str(tmp_path), "--repeats", "2")
        )
        while len(fake.bodies) < 1 + 3 * 2:
            await asyncio.sleep(0.001)
        fake.hold = asyncio.Event()
        while not fake.waiting:
            await asyncio.sleep(0.001)
        process.send_signal(signal.SIGINT)
        printed, said = await process.communicate()
        fake.hold.set()
    assert process.returncode == 130
    assert said.decode().endswith("autellix: interrupted\n")
    assert "Note: Interrupted" in printed.decode()
    assert json.loads((tmp_path / "bench.json").read_text())["interrupted"] is True


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((*NOWHERE, "--workload", "chat"), "--rates 0.5, or --arrivals trace"),
        ((*NOWHERE, "--workload", "chat", "--arrivals", "trace"), "--arrivals trace wants the times of a --trace"),
        ((*NOWHERE, "--workload", "nonsense", "--rate", "1"), "--workload: there is no workload 'nonsense'"),
        ((*NOWHERE, "--workload", "chat", "--rate", "1", "--slowdown", "2"), "--slowdown interpolates between rates"),
        ((*NOWHERE, *NOWHERE, "--workload", "chat", "--rate", "1"), "several --arm have the same name"),
        ((*NOWHERE, "--workload", "chat", "--rate", "1", "--", "--tp", "2"), "goes to servers of --policies"),
        ((*NOWHERE, "--workload", "chat", "--rate", "1", "--warmup", "9999"), "--warmup 9999 s and --cooldown 10 %"),
        ((*NOWHERE, "--workload", "chat", "--rate", "1", "--scale-context", "1"), "--scale-context 1"),
        ((*NOWHERE, "--workload", "chat", "--rate", "1", "--api-key-env", "NO_SUCH_KEY"), "NO_SUCH_KEY is not set"),
        ((*NOWHERE, "--trace", "none.jsonl", "--rate", "1"), "none.jsonl: the file cannot be opened"),
        (
            (*NOWHERE, "--workload", "chat", "--programs", "2", "--rate", "1"),
            "server: the server cannot be reached at 127.0.0.1:",
        ),
        (("--policies", "fcfs,nonsense", "--workload", "chat", "--rate", "1"), "our server has no policy 'nonsense'"),
    ],
)
def test_what_cannot_be_run_is_one_sentence(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    """It names the flag and what helps."""
    assert main(["bench", *arguments]) in (1, 2)
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--arm", "ftp://x"), "'ftp://x' is not a server; write NAME=URL"),
        (("--arm", "a=http://"), "is not a server; write NAME=URL"),
        (("--rates", "1,-2"), "is not a list of rates above 0"),
        (("--rates", "nan"), "is not a list of rates above 0"),
        (("--warmup", "120%"), "is not a part of a round; write a share such as 10% or seconds such as 30"),
        (("--repeats", "0"), "is not a whole number of 1 or more"),
        (("--slowdown", "1"), "is not a number over 1"),
        (("--timeout", "0"), "is not a number above 0"),
        (("--scale-gaps", "-1"), "is not a number of 0 or more"),
        (("--policies", "a,,b"), "has an empty name"),
    ],
)
def test_a_malformed_flag_is_named_with_the_remedy(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    """As argparse says it."""
    with pytest.raises(SystemExit):
        main(["bench", *arguments])
    said = capsys.readouterr().err
    assert f"argument {arguments[0]}" in said.replace("--rates/--rate", "--rates")
    assert words in said


def test_trace_times_need_times(capsys: pytest.CaptureFixture[str], trace: Path) -> None:
    """The program without one is named, before a server is spoken to."""
    assert main(["bench", *NOWHERE, "--trace", str(trace), "--arrivals", "trace"]) == 2
    assert "give program p0 a time, or choose a Poisson rate" in capsys.readouterr().err
