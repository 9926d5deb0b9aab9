"""Reading another environment from outside."""

from pathlib import Path

import pytest
from fake_installer import install_torch, make_environment

from autellix_server.engine.installed import TorchBuild, drop_torn, torch_build, versions


@pytest.mark.parametrize(("cuda", "version"), [(None, "2.13.0+cpu"), ("13.0", "2.13.0+cu130")])
def test_a_torch_build_is_told_from_its_version_file(tmp_path: Path, cuda: str | None, version: str) -> None:
    """CPU and CUDA builds differ in one line, which is read without importing torch."""
    make_environment(tmp_path / "engine")
    install_torch(tmp_path / "engine", cuda)
    assert torch_build(tmp_path / "engine") == TorchBuild(version, cuda)


def test_an_environment_without_torch_has_no_build(tmp_path: Path) -> None:
    """Neither a missing environment nor an empty one is an error."""
    make_environment(tmp_path / "empty")
    assert torch_build(tmp_path / "absent") is None
    assert torch_build(tmp_path / "empty") is None


def test_versions_come_from_the_other_environment(tmp_path: Path) -> None:
    """What is installed there counts, not what is installed here."""
    metadata = make_environment(tmp_path) / "sglang-0.5.23.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: sglang\nVersion: 0.5.23\n")
    assert versions(tmp_path) == {"sglang": "0.5.23"}
    assert versions(tmp_path / "absent") == {}


def test_a_package_that_was_cut_short_no_longer_looks_installed(tmp_path: Path) -> None:
    """Only packages that pip finished keep their metadata; what it had set aside is deleted."""
    packages = make_environment(tmp_path)
    for name, finished in (("whole-1.0", True), ("torn-1.0", False)):
        metadata = packages / f"{name}.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").touch()
        if finished:
            (metadata / "INSTALLER").touch()
    (packages / "~ld-0.9.dist-info").mkdir()
    drop_torn(tmp_path)
    assert [path.name for path in packages.iterdir()] == ["whole-1.0.dist-info"]
