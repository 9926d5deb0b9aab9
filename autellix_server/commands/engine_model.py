"""Engine models as command-line users name them: a preset, or a file that `autellix calibrate` wrote."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autellix_sdk.errors import ConfigurationError, UsageError

if TYPE_CHECKING:
    from autellix_server.simulator.model import EngineModel


def add_model_arguments(parser: argparse.ArgumentParser, default: str) -> None:
    """Add ``--preset`` and ``--engine-model``; `default` is the preset that is taken when neither is given."""
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument(
        "--preset",
        default=default,
        metavar="NAME",
        help="engine model: a100-8b, h100-8b or cpu-smollm2 (default: %(default)s)",
    )
    choice.add_argument(
        "--engine-model", type=Path, metavar="FILE", help="engine model from a file of autellix calibrate"
    )


def chosen_model(args: argparse.Namespace) -> EngineModel:
    """Return the engine model that the arguments of `add_model_arguments` name.

    Raises:
        UsageError: there is no such preset, or the file is not one; names the flag.
    """
    from autellix_server.simulator.model import make_model

    flag = "--preset" if args.engine_model is None else "--engine-model"
    try:
        return make_model(args.preset) if args.engine_model is None else read_model(args.engine_model)
    except ConfigurationError as error:
        raise UsageError(f"{flag}: {error}") from error


def read_model(path: Path) -> EngineModel:
    """Read an engine model file.

    Raises:
        ConfigurationError: it cannot be read, or breaks the format; names file, field and remedy.
    """
    from autellix_server.simulator.model_file import parse_model

    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}; check the name") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: not UTF-8; write it with autellix calibrate") from error
    return parse_model(text, str(path))


def write_model(path: Path, model: EngineModel, fit: Mapping[str, Any]) -> None:
    """Write an engine model file, with `fit` saying how good it is.

    Raises:
        ConfigurationError: the file cannot be written.
    """
    from autellix_server.simulator.model_file import format_model

    try:
        path.write_text(format_model(model, fit), encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be written: {error.strerror}; choose another --output") from error
