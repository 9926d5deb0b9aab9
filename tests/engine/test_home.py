"""Where things live, and who may change them."""

import fcntl
from pathlib import Path

import pytest

from autellix_server.engine.home import Home


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"AUTELLIX_HOME": "/big/disk", "XDG_CACHE_HOME": "/cache"}, Path("/big/disk")),
        ({"XDG_CACHE_HOME": "/cache"}, Path("/cache/autellix")),
        ({"XDG_CACHE_HOME": "relative"}, Path.home() / ".cache/autellix"),
        ({"AUTELLIX_HOME": "", "XDG_CACHE_HOME": ""}, Path.home() / ".cache/autellix"),
        ({"AUTELLIX_HOME": "~/engines"}, Path.home() / "engines"),
    ],
)
def test_home_is_the_first_folder_that_the_environment_names(environ: dict[str, str], expected: Path) -> None:
    """AUTELLIX_HOME wins over the cache folder; empty and relative cache settings do not count."""
    assert Home.from_environment(environ).path == expected


def test_a_relative_home_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands change folders and children have their own, so the home must not depend on it."""
    monkeypatch.chdir(tmp_path)
    assert Home.from_environment({"AUTELLIX_HOME": "here"}).path == tmp_path / "here"


def test_each_device_has_its_own_environment() -> None:
    """The CPU and the CUDA engine need different builds of torch."""
    home = Home(Path("/home"))
    assert home.engine_python("cpu") == Path("/home/engine-cpu/bin/python")
    assert home.engine_python("cuda") == Path("/home/engine-cuda/bin/python")


def test_a_free_lock_is_taken_silently_and_released(tmp_path: Path) -> None:
    """Nobody to wait for, nothing to say; the next one gets it."""
    said: list[str] = []
    home = Home(tmp_path / "new")
    with home.lock(said.append):
        pass
    with home.lock(said.append):
        pass
    assert said == []


def test_a_second_process_says_that_it_waits(tmp_path: Path) -> None:
    """While the lock is held elsewhere, one sentence names the folder; then the wait ends."""
    said: list[str] = []
    with (tmp_path / "install.lock").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)

        def say(text: str) -> None:
            said.append(text)
            fcntl.flock(other, fcntl.LOCK_UN)  # the other process is done as soon as we have said it

        with Home(tmp_path).lock(say):
            pass
    assert said == [f"another process is installing into {tmp_path}; waiting for it to finish"]
