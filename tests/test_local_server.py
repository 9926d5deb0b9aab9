"""The server as a child process: ready, refused, and never left behind."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from autellix_server import local_server
from autellix_server.errors import EngineFailure
from autellix_server.local_server import running_server

SERVE = """
import json, signal, sys
signal.signal(signal.SIGTERM, lambda *_: (open(sys.argv[-1], "w").close(), sys.exit()))
print("autellix: engine starting", file=sys.stderr, flush=True)
print(json.dumps({"event": "ready", "url": "http://127.0.0.1:1"}), flush=True)
signal.pause()
"""
REFUSE = "import sys; print('autellix: port 1 is in use', file=sys.stderr); sys.exit(1)"


def serve_with(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str) -> None:
    """Let `autellix serve` be a script."""
    stand_in = tmp_path / "python"
    (tmp_path / "serve.py").write_text(script)
    stand_in.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{tmp_path / "serve.py"}" "$@"\n')
    stand_in.chmod(0o755)
    monkeypatch.setattr(local_server.sys, "executable", str(stand_in))


async def test_server_runs_for_the_context_and_its_progress_is_passed_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Leaving the context waits for its end."""
    serve_with(monkeypatch, tmp_path, SERVE)
    said: list[str] = []
    mark = tmp_path / "stopped"
    async with running_server([str(mark)], said.append) as url:
        assert url == "http://127.0.0.1:1"
        assert not mark.exists()
    assert mark.exists()
    assert said == ["autellix: engine starting"]


async def test_server_that_ends_early_is_an_error_with_its_last_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The user learns why, in one sentence."""
    serve_with(monkeypatch, tmp_path, REFUSE)
    with pytest.raises(EngineFailure, match=r"^the server did not start: port 1 is in use$"):
        async with running_server([], lambda line: None):
            pytest.fail("the context was entered")
