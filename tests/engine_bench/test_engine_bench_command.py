"""`autellix engine bench`: what is refused before anything is started, and the help that teaches."""

from __future__ import annotations

from pathlib import Path

import pytest

from autellix_server.cli import main


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["--server", "serve"], 1, "write NAME=COMMAND"),
        (["--server", "new=no-such-program {port}"], 1, "--server new: there is no program no-such-program"),
        (["--server", "new=python3 {port} -m gone.gguf"], 1, "--server new: there is no file gone.gguf"),
        (["--server", "new=python3 {port}", "--server", "new=python3 {port}"], 1, "several --server have the same"),
        (["--tokens", "7"], 1, "--tokens is 7: a call must decode for 8 tokens or more"),
        (["--model", "/nowhere"], 1, "there is no model folder /nowhere"),
        (["--", "--port", "1"], 2, "--port"),
    ],
)
def test_mistakes_are_found_before_anything_is_started(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    status: int,
    sentence: str,
) -> None:
    """In one sentence; nothing is installed for them."""
    monkeypatch.setenv("AUTELLIX_HOME", str(tmp_path / "home"))
    assert main(["engine", "bench", *arguments]) == status
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("text", ["0", "1,x", "1,,2", ""])
def test_concurrency_is_a_list_of_whole_numbers(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The flag is named."""
    with pytest.raises(SystemExit):
        main(["engine", "bench", "--concurrency", text])
    assert "argument --concurrency" in capsys.readouterr().err


def test_help_says_what_is_measured_and_how_to_get_llama_cpp(capsys: pytest.CaptureFixture[str]) -> None:
    """With commands to copy."""
    with pytest.raises(SystemExit):
        main(["engine", "bench", "--help"])
    shown = capsys.readouterr().out
    assert "prefill N: N prompt tokens by the time to the first token, all included" in shown
    assert '--server llama.cpp="llama-server -m F.gguf --port {port}' in shown
