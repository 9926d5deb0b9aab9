"""The `autellix` command as a frame for its commands."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from autellix_sdk.errors import AutellixError
from autellix_server import cli
from autellix_server.errors import EngineFailure


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that puts something else in place of the command `serve`."""

    def replace(run: Callable[[argparse.Namespace], int], **defaults: Any) -> None:
        def register(subparsers: Any) -> None:
            parser = subparsers.add_parser("serve", allow_abbrev=False)
            parser.add_argument("--port", type=int)
            parser.set_defaults(run=run, **defaults)

        module = SimpleNamespace(register=register)
        monkeypatch.setitem(sys.modules, "autellix_server.commands.serve", module)

    return replace


def raising(error: BaseException) -> Callable[[argparse.Namespace], int]:
    """Return a command that raises `error`."""

    def run(args: argparse.Namespace) -> int:
        raise error

    return run


def test_everything_after_two_dashes_is_passed_through(serve: Callable[..., None]) -> None:
    """Options of the engine are not looked at, a second `--` included."""
    seen: list[argparse.Namespace] = []
    serve(lambda args: seen.append(args) or 0, takes_passthrough=True)
    assert cli.main(["serve", "--port", "1", "--", "--tp", "2", "--", "--help"]) == 0
    assert (seen[0].port, seen[0].passthrough) == (1, ["--tp", "2", "--", "--help"])


def test_commands_get_an_empty_list_without_two_dashes(serve: Callable[..., None]) -> None:
    """No command needs to ask whether there is something to pass through."""
    seen: list[argparse.Namespace] = []
    serve(lambda args: seen.append(args) or 7)
    assert cli.main(["serve"]) == 7
    assert seen[0].passthrough == []


def test_a_command_without_an_engine_refuses_arguments_for_it(capsys: pytest.CaptureFixture[str]) -> None:
    """Arguments are never silently dropped."""
    with pytest.raises(SystemExit) as exit_:
        cli.main(["doctor", "--", "--tp", "2"])
    assert exit_.value.code == 2
    assert "doctor takes nothing after --" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (AutellixError("the key is wrong"), 1, "autellix: the key is wrong\n"),
        (EngineFailure("the engine died"), 4, "autellix: the engine died\n"),
        (KeyboardInterrupt(), 130, "autellix: interrupted\n"),
        (
            ModuleNotFoundError("No module named 'aiohttp'", name="aiohttp"),
            1,
            'autellix: this needs aiohttp; install it with: pip install "autellix[server]"\n',
        ),
    ],
)
def test_a_failure_is_one_sentence_and_a_status(
    serve: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    status: int,
    message: str,
) -> None:
    """No traceback for what the user can do something about."""
    serve(raising(error))
    assert cli.main(["serve"]) == status
    assert capsys.readouterr().err == message


def test_an_internal_mistake_is_not_dressed_up(serve: Callable[..., None]) -> None:
    """A module of our own that is missing is a bug, with a traceback."""
    serve(raising(ModuleNotFoundError("No module named 'autellix_server.nope'", name="autellix_server.nope")))
    with pytest.raises(ModuleNotFoundError):
        cli.main(["serve"])


def test_no_command_shows_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """It is a usage error that teaches."""
    assert cli.main([]) == 2
    shown = capsys.readouterr().out
    assert all(name in shown for name in cli.COMMANDS)


@pytest.mark.parametrize(
    "words", [[name] for name in cli.COMMANDS] + [["engine", verb] for verb in ("install", "status", "remove")]
)
def test_every_command_has_help_with_its_purpose(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Commands are found by the names in the list, and explain themselves."""
    with pytest.raises(SystemExit) as exit_:
        cli.main([*words, "--help"])
    shown = capsys.readouterr().out
    assert exit_.value.code == 0
    assert shown.startswith(f"usage: autellix {' '.join(words)}")
    assert words == ["engine"] or ("examples:" in shown and "--json" in shown)


def test_help_imports_no_command_and_no_third_party_package() -> None:
    """Help is instant and works with the base install."""
    code = (
        "import sys; from autellix_server import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'rich', 'aiohttp', 'pydantic', 'autellix_server.engine', 'autellix_server.commands'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"
    assert "autellix doctor" in done.stdout


def test_the_package_runs_as_a_module() -> None:
    """`python -m autellix_server` is the same command, for where no script is installed."""
    command = [sys.executable, "-m", "autellix_server", "--version"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.startswith("autellix ")
