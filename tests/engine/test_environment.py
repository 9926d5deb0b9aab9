"""Building an engine environment in stages."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import pytest
from fake_installer import FakeInstaller, Notes, choose_compiler, install_torch

from autellix_server.cpu_ops import build
from autellix_server.engine import pins, stages
from autellix_server.engine.environment import EngineEnvironment
from autellix_server.engine.home import Device, Home
from autellix_server.engine.package import PackageSource
from autellix_server.errors import EnvironmentFailure

HERE = PackageSource(("--editable", "/checkouts/here"), "here")
THERE = PackageSource(("--editable", "/checkouts/there"), "there")
OPERATIONS = build.library(Path()).stem
CPU_STAGES = ("python", "torch", "sglang", "libraries", "autellix", OPERATIONS, "check")


@pytest.fixture
def installer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeInstaller:
    """Return an installer on a machine where everything is as the pins expect it."""
    monkeypatch.delenv("AUTELLIX_TORCH_INDEX", raising=False)
    choose_compiler(tmp_path, monkeypatch)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    return FakeInstaller()


def make(
    tmp_path: Path,
    installer: FakeInstaller,
    device: Device = "cpu",
    source: PackageSource = HERE,
    torch_index: str | None = None,
) -> EngineEnvironment:
    """Return the environment of `device` in a home below `tmp_path`."""
    return EngineEnvironment(
        Home(tmp_path / "home"), device, source=source, runners=installer.factory, torch_index=torch_index
    )


def test_nothing_is_there_before_the_first_build(tmp_path: Path, installer: FakeInstaller) -> None:
    """A status creates nothing and runs nothing."""
    status = make(tmp_path, installer).status()
    assert (status.state, status.missing, status.torch) == ("absent", CPU_STAGES, None)
    assert not (tmp_path / "home").exists()
    assert installer.commands == []


def test_a_cpu_build_does_every_stage_once(tmp_path: Path, installer: FakeInstaller) -> None:
    """A second call finds everything done, runs nothing and returns the same interpreter."""
    environment = make(tmp_path, installer)
    notes = Notes()
    python = environment.ensure(notes)
    count = len(installer.commands)
    assert python == environment.ensure(notes)
    assert python.is_file()
    assert (count, len(installer.commands), len(notes.stages)) == (7, 7, 7)
    assert environment.status().state == "ready"


def test_a_cpu_build_never_resolves_requirements(tmp_path: Path, installer: FakeInstaller) -> None:
    """A resolver could replace torch by a CUDA build; exact lists without dependencies cannot."""
    make(tmp_path, installer).ensure(Notes())
    assert installer.ran("install") == installer.ran("install", "--no-deps") == 4
    assert installer.ran(f"torch=={pins.TORCH_CPU_VERSION}+cpu") == 1


def test_a_torch_index_is_passed_on_without_showing_it(tmp_path: Path, installer: FakeInstaller) -> None:
    """An index address may carry a password, which must not reach the process list; it is used for torch alone."""
    make(tmp_path, installer, torch_index="https://user:secret@index.example/cpu").ensure(Notes())
    assert not any("secret" in word for command in installer.commands for word in command)
    indexes = [env.get("PIP_INDEX_URL") for env in installer.environments]
    assert [index for index in indexes if index] == ["https://user:secret@index.example/cpu"]
    assert installer.ran(f"torch=={pins.TORCH_CPU_VERSION}") == 1


def test_a_cuda_torch_is_refused_and_removed(tmp_path: Path, installer: FakeInstaller) -> None:
    """It would run, at gigabytes; the message has the remedy, and the next run does not find it installed."""
    installer.torch_cuda = "13.0"
    with pytest.raises(EnvironmentFailure, match=r"built for CUDA 13\.0 .* set AUTELLIX_TORCH_INDEX"):
        make(tmp_path, installer, torch_index="https://index.example/all").ensure(Notes())
    assert installer.ran("uninstall", "torch") == 1
    assert make(tmp_path, installer).status().missing == CPU_STAGES[1:]


def test_an_index_without_cpu_builds_is_answered_with_the_remedy(tmp_path: Path, installer: FakeInstaller) -> None:
    """Nothing is downloaded before this is known."""
    requirement = f"torch=={pins.TORCH_CPU_VERSION}+cpu"
    installer.failures = {requirement: [f"ERROR: No matching distribution found for {requirement}"]}
    with pytest.raises(EnvironmentFailure, match=r"has no torch==.* set AUTELLIX_TORCH_INDEX"):
        make(tmp_path, installer).ensure(Notes())


def test_a_cuda_build_lets_sglang_bring_its_own_torch(tmp_path: Path, installer: FakeInstaller) -> None:
    """Versions are held by constraints, and our CPU platform stays inactive."""
    make(tmp_path, installer, "cuda").ensure(Notes())
    assert installer.ran(pins.SGLANG, "-c", str(pins.CUDA_CONSTRAINTS)) == 1
    assert not any(env.get("AUTELLIX_CPU") for env in installer.environments)


@pytest.mark.parametrize("stage", range(1, 7))
def test_an_interrupted_build_goes_on_with_the_stage_it_was_in(
    tmp_path: Path, installer: FakeInstaller, stage: int
) -> None:
    """Stages that were complete are not repeated."""
    wheels = (f"torch=={pins.TORCH_CPU_VERSION}+cpu", pins.SGLANG, str(pins.CPU_REQUIREMENTS))
    installer.interrupt = ("venv", *wheels, "--editable", "-shared", "-c")[stage]
    environment = make(tmp_path, installer)
    with pytest.raises(KeyboardInterrupt):
        environment.ensure(Notes())
    assert (environment.status().state, environment.status().missing) == ("partial", CPU_STAGES[stage:])
    installer.commands.clear()
    environment.ensure(Notes())
    assert len(installer.commands) == len(CPU_STAGES) - stage
    assert environment.status().state == "ready"


def test_a_build_interrupted_in_its_first_stage_starts_afresh(tmp_path: Path, installer: FakeInstaller) -> None:
    """Half a virtual environment is no virtual environment."""
    installer.interrupt = "venv"
    environment = make(tmp_path, installer)
    with pytest.raises(KeyboardInterrupt):
        environment.ensure(Notes())
    environment.path.mkdir(parents=True, exist_ok=True)
    (environment.path / "leftover").touch()
    environment.ensure(Notes())
    assert not (environment.path / "leftover").exists()


def test_another_checkout_installs_only_itself(tmp_path: Path, installer: FakeInstaller) -> None:
    """Several checkouts share a home; the one that starts an engine has its own code in it."""
    make(tmp_path, installer).ensure(Notes())
    installer.commands.clear()
    other = make(tmp_path, installer, source=THERE)
    assert other.status().state == "outdated"
    other.ensure(Notes())
    assert [command[-2:] for command in installer.commands] == [list(THERE.arguments)]
    assert make(tmp_path, installer).status().state == "outdated"


def test_a_vanished_interpreter_means_building_again(tmp_path: Path, installer: FakeInstaller) -> None:
    """The Python that the environment was made with may be uninstalled."""
    environment = make(tmp_path, installer)
    environment.ensure(Notes())
    environment.python.unlink()
    assert environment.status().missing == CPU_STAGES
    assert environment.ensure(Notes()).is_file()


def test_a_version_change_repeats_the_stages_it_concerns(
    tmp_path: Path, installer: FakeInstaller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another list of libraries is installed over the old one, then SGLang is checked again."""
    make(tmp_path, installer).ensure(Notes())
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("numpy==9.9\n")
    monkeypatch.setattr(pins, "CPU_REQUIREMENTS", requirements)
    assert make(tmp_path, installer).status().missing == ("libraries", "check")


def test_a_failed_check_quotes_the_last_line_and_the_way_out(tmp_path: Path, installer: FakeInstaller) -> None:
    """The last line of a traceback is the one that says something."""
    installer.failures = {"-c": ["Traceback (most recent call last):", "ImportError: no libfoo.so", ""]}
    with pytest.raises(EnvironmentFailure, match=r"ImportError: no libfoo\.so .*`autellix engine remove --device cpu`"):
        make(tmp_path, installer).ensure(Notes())


def test_an_unsupported_python_is_refused_before_anything_is_made(
    tmp_path: Path, installer: FakeInstaller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the versions that work."""
    monkeypatch.setattr(sys, "version_info", (3, 14, 1))
    with pytest.raises(EnvironmentFailure, match=r"run autellix with Python 3\.11 to 3\.13"):
        make(tmp_path, installer).ensure(Notes())
    assert installer.commands == []


def test_a_full_disk_is_noticed_before_the_download(
    tmp_path: Path, installer: FakeInstaller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message says how much is needed, how much there is, and what to do."""
    monkeypatch.setattr("autellix_server.engine.environment.free_disk_gb", lambda _: 1.26)
    with pytest.raises(EnvironmentFailure, match=r"needs 4 GB and .* has 1\.3 GB free.*AUTELLIX_HOME"):
        make(tmp_path, installer).ensure(Notes())
    assert installer.commands == []


def test_a_home_that_cannot_be_made_is_one_sentence(tmp_path: Path, installer: FakeInstaller) -> None:
    """Errors of the operating system arrive as ours."""
    (tmp_path / "home").write_text("a file where the folder should be")
    with pytest.raises(EnvironmentFailure, match=r"cannot build .*engine-cpu: File exists"):
        make(tmp_path, installer).ensure(Notes())


def test_removal_leaves_nothing(tmp_path: Path, installer: FakeInstaller) -> None:
    """Removing twice is not an error."""
    environment = make(tmp_path, installer)
    environment.ensure(Notes())
    assert environment.remove(Notes()) is True
    assert environment.remove(Notes()) is False
    assert environment.status().state == "absent"


def test_status_sees_a_torch_that_somebody_else_put_there(tmp_path: Path, installer: FakeInstaller) -> None:
    """The record says what we installed; the version file says what is there."""
    environment = make(tmp_path, installer)
    environment.ensure(Notes())
    install_torch(environment.path, "13.0")
    torch = environment.status().torch
    assert torch is not None
    assert torch.cuda == "13.0"


def test_free_space_is_asked_of_the_nearest_folder_that_exists(tmp_path: Path) -> None:
    """A home that is yet to be made has the space of the disk it will be on."""
    assert stages.free_disk_gb(tmp_path / "not" / "yet") == pytest.approx(stages.free_disk_gb(tmp_path), rel=0.1)
