"""What each OS thread knows about the strand it is working for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autellix_sdk._strands import Strand


class _Local(threading.local):
    """Per thread.

    Attributes:
        strand: the strand of the job that this thread runs; `None` until somebody asks.
        handed: strand that tasks created right now, outside any task, belong to.
        unborn: strand of the task that is being created: an eager task runs before `create_task` returns it.
        forking: strand that is calling `os.fork` right now.
        detached: threads started right now serve nobody in particular.
    """

    strand: Strand | None = None
    handed: Strand | None = None
    unborn: Strand | None = None
    forking: Strand | None = None
    detached: bool = False


local = _Local()


@contextmanager
def detached() -> Iterator[None]:
    """Start threads inside this block without linking them to the current strand."""
    before, local.detached = local.detached, True
    try:
        yield
    finally:
        local.detached = before
