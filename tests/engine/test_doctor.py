"""`autellix doctor`: verdicts and remedies."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from fake_installer import FakeInstaller, Notes, choose_compiler, install_torch, make_environment

from autellix_server import cli
from autellix_server.commands import doctor
from autellix_server.commands.doctor import Finding
from autellix_server.engine import machine
from autellix_server.engine.environment import EngineEnvironment
from autellix_server.engine.home import Home

PORT_FREE = machine.port_free
"""The real probe, which the other tests replace."""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """Set and return an empty home on a machine that has all it takes and no GPU."""
    monkeypatch.setenv("AUTELLIX_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(machine, "nvidia_gpus", lambda: ())
    monkeypatch.setattr(machine, "cores", lambda: 2)
    monkeypatch.setattr(machine, "memory_gb", lambda: 8.0)
    choose_compiler(tmp_path, monkeypatch)
    monkeypatch.setattr(machine, "port_free", lambda port: True)
    monkeypatch.setattr("autellix_server.engine.stages.free_disk_gb", lambda _: 50.0)
    return Home(tmp_path / "home")


@pytest.mark.parametrize(
    ("finding", "verdict", "remedy"),
    [
        (doctor.check_system("Linux", "aarch64"), "ok", ""),
        (doctor.check_system("Darwin", "arm64"), "block", "run the server on Linux"),
        (doctor.check_python((3, 13)), "ok", ""),
        (doctor.check_python((3, 14)), "block", "Python 3.11 to 3.13"),
        (doctor.check_cores(1), "mend", "second core"),
        (doctor.check_memory(5.0), "mend", "have 6 GB"),
        (doctor.check_memory(2.0), "block", "have 6 GB"),
        (doctor.check_compiler(("/usr/bin/c++",)), "ok", ""),
        (doctor.check_operations(Path("operations.so")), "ok", ""),
        (doctor.check_operations(None), "mend", "autellix engine install --device cpu"),
        (doctor.check_gpu([]), "ok", ""),
        (doctor.check_port(False), "mend", "autellix serve --port 8701"),
        (doctor.check_gateway(["aiohttp"]), "block", 'pip install "autellix[server]"'),
        (doctor.check_agents(["httpx", "openai"]), "ok", ""),
        (doctor.check_agents(["httpx", "httpx2"]), "mend", 'pip install "autellix[examples]"'),
    ],
)
def test_each_thing_is_judged_with_a_remedy(finding: Finding, verdict: str, remedy: str) -> None:
    """What is in order has no remedy, and nothing else is without one."""
    assert finding.verdict == verdict
    assert remedy in finding.remedy
    assert bool(finding.remedy) == (verdict != "ok")


def test_a_bare_machine_can_serve_after_commands_that_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """Engine and model are missing, which blocks nothing; exit status 0."""
    assert cli.main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    remedies = {finding["what"]: finding["remedy"] for finding in report["findings"] if finding["verdict"] == "mend"}
    assert report["can_serve"] is True
    assert remedies == {
        "cpu engine": "autellix engine install --device cpu",
        "bundled model": "autellix engine install",
    }


def test_a_machine_that_cannot_serve_is_told_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit status 1, and the last line names what blocks."""
    monkeypatch.setattr(machine, "memory_gb", lambda: 1.0)
    assert cli.main(["doctor"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "This machine cannot serve yet: memory."


def test_a_full_disk_blocks_only_while_there_is_no_engine(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that is built needs no more room."""
    monkeypatch.setattr("autellix_server.engine.stages.free_disk_gb", lambda _: 0.5)
    assert doctor.check_disk(home).verdict == "block"
    make_environment(home.engine("cpu"))
    install_torch(home.engine("cpu"), None)
    assert doctor.check_disk(home).verdict == "ok"


def test_a_cuda_torch_on_a_cpu_engine_is_reported_with_the_remedy(home: Home) -> None:
    """It works, but wastes gigabytes, and a later update of it would be surprising."""
    environment = EngineEnvironment(home, "cpu", runners=FakeInstaller().factory)
    environment.ensure(Notes())
    install_torch(environment.path, "13.0")
    engine, operations, torch = doctor.check_engine(home, "cpu", wanted=True)
    assert (engine.verdict, operations.verdict, torch.verdict) == ("ok", "ok", "mend")
    assert torch.found == "2.13.0+cu130, built for CUDA 13.0"
    assert "AUTELLIX_TORCH_INDEX" in torch.remedy


def test_with_a_gpu_the_cuda_engine_is_the_one_that_is_missing(home: Home) -> None:
    """An environment that nobody would use is not asked for."""
    assert list(doctor.check_engine(home, "cpu", wanted=False)) == []
    (finding,) = doctor.check_engine(home, "cuda", wanted=True)
    assert finding.remedy == "autellix engine install --device cuda"


def test_a_port_in_use_is_seen() -> None:
    """The probe binds as the gateway would."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        assert PORT_FREE(server.getsockname()[1]) is False


def test_the_machine_is_read_without_harm() -> None:
    """Whatever it is, it has a core, memory and a size on disk."""
    assert machine.cores() >= 1
    assert machine.memory_gb() > 0.1
    assert machine.folder_bytes(Path(__file__).parent) > 1000
