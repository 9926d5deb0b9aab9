"""Makes the helpers beside these tests importable, and leaves logging as it was."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """What sets up logging does so for the whole process."""
    loggers = [logging.getLogger(name) for name in (None, "autellix_server", "autellix_sdk", "aiohttp.server")]
    before = [(logger, logger.level, logger.handlers[:], logger.filters[:]) for logger in loggers]
    raises = logging.raiseExceptions
    yield
    logging.raiseExceptions = raises
    for logger, level, handlers, filters in before:
        logger.setLevel(level)
        logger.handlers[:], logger.filters[:] = handlers, filters
