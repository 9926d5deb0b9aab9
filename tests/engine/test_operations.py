"""Compiling the CPU operations as a stage of the engine environment."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from fake_installer import FakeInstaller, Notes, choose_compiler

from autellix_server import cli
from autellix_server.commands import doctor
from autellix_server.cpu_ops import build
from autellix_server.engine.environment import EngineEnvironment
from autellix_server.engine.home import Device, Home
from autellix_server.engine.package import PackageSource

HERE = PackageSource(("--editable", "/checkouts/here"), "here")


@pytest.fixture
def installer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeInstaller:
    """Return an installer on a machine with a compiler."""
    choose_compiler(tmp_path, monkeypatch)
    return FakeInstaller()


@pytest.fixture
def cpu_info(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file that describes the CPU of this machine."""
    file = tmp_path / "cpuinfo"
    file.write_text("flags : avx2\n")
    monkeypatch.setattr(build, "_CPU_INFO", file)
    return file


def make(tmp_path: Path, installer: FakeInstaller, device: Device = "cpu") -> EngineEnvironment:
    """Return the environment of `device` as a new command would see it."""
    return EngineEnvironment(Home(tmp_path / "home"), device, source=HERE, runners=installer.factory)


def ensure(tmp_path: Path, installer: FakeInstaller) -> Notes:
    """Build what is missing of a CPU environment and return what was said."""
    notes = Notes()
    make(tmp_path, installer).ensure(notes)
    return notes


def test_the_operations_are_where_an_engine_looks(tmp_path: Path, installer: FakeInstaller) -> None:
    """In its own environment, under the name that it computes itself."""
    ensure(tmp_path, installer)
    library = build.library(tmp_path / "home" / "engine-cpu" / build.FOLDER)
    assert library.read_bytes() == b"operations"
    assert make(tmp_path, installer).status().operations == library


def test_a_gpu_engine_has_none(tmp_path: Path, installer: FakeInstaller) -> None:
    """Nothing is compiled, and nothing said to be missing."""
    make(tmp_path, installer, "cuda").ensure(Notes())
    status = make(tmp_path, installer, "cuda").status()
    assert (installer.ran("-shared"), status.state, status.operations) == (0, "ready", None)


def test_no_compiler_is_said_once_and_mended_by_one(
    tmp_path: Path, installer: FakeInstaller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment is ready without, and compiles by itself what it can when it can."""
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    (said,) = ensure(tmp_path, installer).said
    assert said == (
        "no C++ compiler: the engine will compute with PyTorch's own operations, several times slower; "
        "install g++ and run `autellix engine install --device cpu` again"
    )
    status = make(tmp_path, installer).status()
    assert (status.state, status.operations, ensure(tmp_path, installer).stages) == ("ready", None, [])
    choose_compiler(tmp_path, monkeypatch)
    assert make(tmp_path, installer).status().state == "outdated"
    assert ensure(tmp_path, installer).stages == ["compiling the CPU operations"]
    assert make(tmp_path, installer).status().operations is not None


def test_a_compiler_that_fails_leaves_an_engine_that_is_slow(tmp_path: Path, installer: FakeInstaller) -> None:
    """It names compiler and log; each start tries again, since the disk may have been full."""
    installer.failures = {"-shared": ["ops.cpp: fatal error"]}
    (said,) = ensure(tmp_path, installer).said
    log = Home(tmp_path / "home").log("install-cpu")
    assert said.startswith(f"{tmp_path / 'g++'} cannot compile the CPU operations (log: {log}): the engine will")
    assert "install a newer g++, or name another in CXX, and run `autellix engine install --device cpu`" in said
    assert make(tmp_path, installer).status().state == "outdated"
    installer.failures = {}
    assert ensure(tmp_path, installer).said == []
    assert make(tmp_path, installer).status().state == "ready"


def test_what_is_compiled_needs_no_compiler(
    tmp_path: Path, installer: FakeInstaller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment stays ready for whoever has another one, or none."""
    ensure(tmp_path, installer)
    monkeypatch.setenv("CXX", f"{tmp_path / 'g++'} -v")
    assert make(tmp_path, installer).status().state == "ready"
    monkeypatch.setenv("CXX", str(tmp_path / "gone"))
    assert make(tmp_path, installer).status().state == "ready"
    assert ensure(tmp_path, installer).said == []
    assert installer.ran("-shared") == 1
    assert make(tmp_path, installer).status().operations is not None


def test_two_cpus_share_an_environment(tmp_path: Path, installer: FakeInstaller, cpu_info: Path) -> None:
    """Each compiles once, whoever starts in between."""
    for flags in ("avx2", "avx512f", "avx2", "avx512f"):
        cpu_info.write_text(f"flags : {flags}\n")
        ensure(tmp_path, installer)
    assert installer.ran("-shared") == 2
    assert len(list((tmp_path / "home" / "engine-cpu" / build.FOLDER).iterdir())) == 2


def test_two_checkouts_share_an_environment(
    tmp_path: Path, installer: FakeInstaller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has its own operations; edited sources are outdated until the next start."""
    ensure(tmp_path, installer)
    first = make(tmp_path, installer).status().operations
    other = tmp_path / "native"
    shutil.copytree(build._NATIVE, other)
    (other / "ops.cpp").write_text("edited")
    monkeypatch.setattr(build, "_NATIVE", other)
    assert make(tmp_path, installer).status().state == "outdated"
    ensure(tmp_path, installer)
    second = make(tmp_path, installer).status().operations
    monkeypatch.undo()
    assert first is not None
    assert second is not None
    assert first != second
    assert first.exists()


def test_status_says_whether_they_are_compiled(
    tmp_path: Path, installer: FakeInstaller, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the table by a word, in JSON by the library's path."""
    monkeypatch.setenv("AUTELLIX_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "400")
    ensure(tmp_path, installer)
    library = make(tmp_path, installer).status().operations
    packages = tmp_path / "home" / "engine-cpu" / "lib" / "python3.11" / "site-packages"
    (packages / "sglang-0.5.23.dist-info").mkdir()
    (packages / "sglang-0.5.23.dist-info" / "METADATA").write_text("Name: sglang\nVersion: 0.5.23\n")
    cli.main(["engine", "status"])
    assert "sglang 0.5.23, CPU operations compiled" in capsys.readouterr().out
    assert library is not None
    library.unlink()
    cli.main(["engine", "status"])
    assert "sglang 0.5.23, CPU operations not compiled" in capsys.readouterr().out
    cli.main(["engine", "status", "--device", "cpu", "--json"])
    assert json.loads(capsys.readouterr().out)["engines"][0]["operations"] is None


def test_doctor_names_the_compiler_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It blocks nothing."""
    monkeypatch.setenv("CXX", "/opt/icpx")
    finding = doctor.check_compiler(build.compiler())
    assert (finding.verdict, finding.remedy) == ("mend", "unset CXX or let it name a C++ compiler")
    assert finding.found == "CXX is /opt/icpx, which cannot be run; a CPU engine is several times slower without"
