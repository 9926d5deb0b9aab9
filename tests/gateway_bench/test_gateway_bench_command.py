"""`autellix gateway-bench`: a small comparison with real processes, what is refused, and the help that teaches."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

from autellix_server.cli import main
from autellix_server.engine.progress import PlainProgress
from autellix_server.errors import EngineFailure
from autellix_server.gateway_bench.arms import command_arm
from autellix_server.gateway_bench.load import Load
from autellix_server.gateway_bench.results import Results
from autellix_server.gateway_bench.run import GatewayBench

SMALL = ("--rounds", "1", "--seconds", "0.5", "--slices", "1", "--rate", "20", "--held", "3", "--events", "100")
LATE = ("--late-ms", "60000")


def test_ours_is_compared_with_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every call and every event comes through the gateway, bills and all; its processor time and memory are seen."""
    monkeypatch.setenv("AUTELLIX_HOME", str(tmp_path / "home"))
    assert main(["gateway-bench", *SMALL, *LATE, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(pair["kind"], pair["through"]["failures"]) for pair in found["pairs"]] == [("plain", {}), ("streamed", {})]
    assert [(rung["arm"], rung["delivered"], rung["carried"]) for rung in found["rungs"]] == [
        ("direct", 50, True),
        ("ours", 50, True),
    ]
    assert found["held"][0]["before_bytes"] > 10e6
    assert found["settings"]["complete"]
    log = (tmp_path / "home" / "logs" / "gateway-bench-ours.log").read_text()
    assert "bill from the engine is dropped" not in log


async def test_what_was_complete_is_kept_when_it_is_interrupted(tmp_path: Path) -> None:
    """As by Ctrl-C."""
    said = asyncio.Event()

    class Told(PlainProgress):
        def say(self, text: str) -> None:
            if "100 events/s: " in text:
                said.set()

    bench = GatewayBench(
        (), Load(seconds=0.5, ladder=(100, 200), late_s=60), 1, tmp_path, Told(sys.stderr), Results(())
    )
    run = asyncio.create_task(bench.run())
    await said.wait()
    run.cancel()
    assert await run is False
    assert [rung.events_per_s for rung in bench.results.rungs] == [100]


async def test_a_gateway_that_does_not_start_ends_the_comparison_with_its_last_words(tmp_path: Path) -> None:
    """Half a comparison would pass for a whole one."""
    arm = command_arm(f"""new={sys.executable} -c 'raise SystemExit("no engine")' {{port}} {{engine}}""")
    bench = GatewayBench((arm,), Load(ladder=()), 1, tmp_path, PlainProgress(sys.stderr), Results(["new"]))
    with pytest.raises(EngineFailure, match=r"new exited with status 1 before it answered; .*\n  no engine"):
        await bench.run()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--server", "serve"], "write NAME=COMMAND"),
        (["--server", "new=no-such-program {port} {engine}"], "--server new: there is no program no-such-program"),
        (["--server", "a=env {port} {engine}", "--server", "a=env {port} {engine}"], "several --server have the same"),
    ],
)
def test_mistakes_are_found_before_anything_is_started(
    capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    """In one sentence."""
    assert main(["gateway-bench", *arguments]) == 1
    assert sentence in capsys.readouterr().err


def test_help_says_what_is_measured_and_how_to_add_a_gateway(capsys: pytest.CaptureFixture[str]) -> None:
    """With commands to copy."""
    with pytest.raises(SystemExit):
        main(["gateway-bench", "--help"])
    shown = capsys.readouterr().out
    assert "a latency counts from when the call was due" in shown
    assert '--server "sglang-router=sglang-router launch --port {port} --worker-urls {engine}"' in shown
