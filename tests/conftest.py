"""What holds for all tests."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Iterator

import pytest

# A shell that runs us in the background lets us, and the programs that we start and interrupt, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def process_as_it_was() -> Iterator[None]:
    """A command run within a test sets up logging, and how threads take turns, for the whole process."""
    loggers = [logging.getLogger(name) for name in (None, "autellix_server", "autellix_sdk")]
    before = [(logger, logger.level, logger.handlers[:], logger.filters[:]) for logger in loggers]
    raises, turn_s = logging.raiseExceptions, sys.getswitchinterval()
    yield
    sys.setswitchinterval(turn_s)
    logging.raiseExceptions = raises
    for logger, level, handlers, filters in before:
        logger.setLevel(level)
        logger.handlers[:], logger.filters[:] = handlers, filters
