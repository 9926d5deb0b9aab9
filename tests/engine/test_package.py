"""Where our own package is installed from."""

from pathlib import Path

import pytest

from autellix_server.engine.marker import code_version
from autellix_server.engine.package import PackageSource
from autellix_server.errors import EnvironmentFailure


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a folder that looks like a checkout."""
    folder = tmp_path / "a checkout"
    folder.mkdir()
    (folder / "pyproject.toml").write_text("[project]\nname = 'autellix'\n")
    return folder


def test_an_editable_checkout_is_installed_editable(checkout: Path) -> None:
    """The engine runs the files that the user edits."""
    source = PackageSource.of_direct_url({"url": checkout.as_uri(), "dir_info": {"editable": True}})
    assert source.arguments == ("--editable", str(checkout))


def test_a_copy_of_a_directory_is_known_by_its_code(checkout: Path) -> None:
    """The folder may have moved on, or be gone, since our side was installed from it."""
    source = PackageSource.of_direct_url({"url": (checkout / "gone").as_uri(), "dir_info": {}})
    assert source.arguments == (str(checkout / "gone"),)
    assert source.identity.endswith(f"code={code_version()}")


def test_an_editable_checkout_that_is_gone_is_one_sentence(checkout: Path) -> None:
    """It names the folder and the remedy."""
    with pytest.raises(EnvironmentFailure, match=r"gone, which cannot be read .*install it again"):
        PackageSource.of_directory(checkout / "gone")


def test_an_edited_project_file_is_another_source(checkout: Path) -> None:
    """Entry points are read at installation, so an edit of the project file asks for a new one."""
    before = PackageSource.of_directory(checkout)
    (checkout / "pyproject.toml").write_text("[project]\nname = 'autellix'\nversion = '2'\n")
    assert PackageSource.of_directory(checkout).identity != before.identity


def test_a_commit_and_an_archive_are_installed_from_their_urls() -> None:
    """What pip recorded is what the engine gets."""
    commit = PackageSource.of_direct_url(
        {"url": "https://git.example/autellix.git", "vcs_info": {"vcs": "git", "commit_id": "abc123"}}
    )
    archive = PackageSource.of_direct_url(
        {"url": "file:///wheels/autellix.whl", "archive_info": {"hashes": {"sha256": "00"}}}
    )
    assert commit.arguments == ("autellix @ git+https://git.example/autellix.git@abc123",)
    assert archive.arguments == ("autellix @ file:///wheels/autellix.whl",)
    assert "00" in archive.identity


def test_a_release_is_installed_from_the_index() -> None:
    """The same version on both sides."""
    assert PackageSource.of_release("1.2.3").arguments == ("autellix==1.2.3",)


def test_the_running_code_has_a_source() -> None:
    """These tests run from a checkout, installed editable or not at all."""
    repository = Path(__file__).parent.parent.parent
    assert PackageSource.of_running().arguments == ("--editable", str(repository))
