"""The text of an engine model file: JSON with the model and how well it fitted. Pure; files are read by commands."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from math import isfinite
from typing import Any

from autellix_sdk.errors import ConfigurationError
from autellix_server.simulator.model import EngineModel

_TYPES = {field.name: str(field.type) for field in fields(EngineModel)}
_SECTIONS = ("model", "fit")


def parse_model(text: str, file: str) -> EngineModel:
    """Return the engine model in the text of a file; section ``fit`` is for people and is not interpreted.

    Args:
        text: of the file.
        file: its name, for errors.

    Raises:
        ConfigurationError: naming file, field and remedy.
    """
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{file}: not JSON ({error}); write it with autellix calibrate") from None
    if not isinstance(record, dict) or not isinstance(record.get("model"), dict):
        raise ConfigurationError(f"{file}: no section model; write the file with autellix calibrate --output")
    for section in record.keys() - set(_SECTIONS):
        raise ConfigurationError(f"{file}: unknown section {section!a}; leave it out: there are model and fit")
    values = record["model"]
    for name in sorted(values.keys() - _TYPES.keys()):
        raise ConfigurationError(f"{file}: unknown field {name!a}; leave it out: there are {', '.join(_TYPES)}")
    try:
        return EngineModel(**{name: _value(values, name, kind) for name, kind in _TYPES.items()})
    except ConfigurationError as error:
        raise ConfigurationError(f"{file}: {error}") from None


def format_model(model: EngineModel, fit: Mapping[str, Any]) -> str:
    """Return the text of a file that `parse_model` reads; `fit` says how good the model is, as JSON values."""
    return json.dumps({"model": asdict(model), "fit": fit}, indent=2, allow_nan=False) + "\n"


def _value(values: Mapping[str, object], name: str, kind: str) -> Any:
    """Return one field's value if it has the field's type; ranges are the model's own matter."""
    if name not in values:
        raise ConfigurationError(f"field {name} is missing; add it, or write the file anew with autellix calibrate")
    value = values[name]
    if kind == "str":
        if isinstance(value, str):
            return value
        raise ConfigurationError(f"field {name} is {value!a}; write a text")
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if kind == "float" and isinstance(value, float) and isfinite(value):
        return value
    raise ConfigurationError(f"field {name} is {value!a}; write a {'number' if kind == 'float' else 'whole number'}")
