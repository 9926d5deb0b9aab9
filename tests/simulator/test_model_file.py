"""Engine model files: what is written is read, and what is wrong is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from autellix_sdk.errors import ConfigurationError
from autellix_server import cli
from autellix_server.commands.engine_model import read_model, write_model
from autellix_server.simulator.model import PRESETS
from autellix_server.simulator.model_file import format_model, parse_model

MODEL = PRESETS["cpu-smollm2"]


def changed(**fields: Any) -> str:
    """Return the text of a file with fields of the model changed; `None` leaves one out."""
    record = json.loads(format_model(MODEL, {}))
    record["model"] = {name: value for name, value in (record["model"] | fields).items() if value is not None}
    return json.dumps(record)


@pytest.mark.parametrize("name", PRESETS)
def test_what_is_written_is_read(name: str, tmp_path: Path) -> None:
    """Every field as it was; the fit is for people."""
    file = tmp_path / "model.json"
    write_model(file, PRESETS[name], {"r2": 0.99})
    assert read_model(file) == PRESETS[name]
    assert json.loads(file.read_text())["fit"] == {"r2": 0.99}


def test_a_whole_number_is_a_number() -> None:
    """People write 0 for 0.0."""
    assert parse_model(changed(kv_token_s=0), "f").kv_token_s == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "f: not JSON"),
        ("[]", "f: no section model"),
        ('{"model": 3}', "f: no section model"),
        ('{"model": {}, "modle": {}}', "f: unknown section 'modle'; leave it out"),
        (changed(slots=None), "f: field slots is missing; add it"),
        (changed(slotz=3), "f: unknown field 'slotz'; leave it out: there are step_s,"),
        (changed(slots=2.5), "f: field slots is 2.5; write a whole number"),
        (changed(slots=True), "f: field slots is True; write a whole number"),
        (changed(step_s="fast"), "f: field step_s is 'fast'; write a number"),
        (changed(step_s=float("nan")), "f: field step_s is nan; write a number"),
        (changed(source=7), "f: field source is 7; write a text"),
        (changed(step_s=0), "f: step_s of an engine model is out of range: 0"),
        (changed(slots=-1), "f: slots of an engine model is out of range: -1"),
    ],
)
def test_what_is_wrong_is_named(text: str, said: str) -> None:
    """File, field and remedy."""
    with pytest.raises(ConfigurationError) as caught:
        parse_model(text, "f")
    assert str(caught.value).startswith(said)


def test_a_file_that_cannot_be_read_names_the_flag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As `autellix simulate` prints it; a preset beside it is refused."""
    simulate = ["simulate", "--workload", "chat", "--programs", "2"]
    assert cli.main([*simulate, "--engine-model", "missing.json"]) == 1
    assert "--engine-model: missing.json: cannot be read: No such file" in capsys.readouterr().err
    (tmp_path / "binary").write_bytes(b"\xff")
    assert cli.main([*simulate, "--engine-model", str(tmp_path / "binary")]) == 1
    assert "not UTF-8" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        cli.main([*simulate, "--engine-model", "x.json", "--preset", "a100-8b"])
