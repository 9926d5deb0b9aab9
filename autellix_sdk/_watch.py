"""`watch`: one line for each program that has finished."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from autellix_sdk._faults import faults
from autellix_sdk._lifecycle import Status
from autellix_sdk._runtime import runtime
from autellix_sdk._views import shares, size, title
from autellix_sdk.bill import ProgramBill


class Writable(Protocol):
    """A text stream."""

    def write(self, text: str, /) -> object:
        """Write `text`."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A program that has finished; `str` of it is the line that `watch` writes.

    Attributes:
        bill: its time bill: the server's where it acknowledged the end, else what was measured here.
        status: ``ok``, or ``error`` when its scope was left by an exception.
    """

    bill: ProgramBill
    status: Status

    def __str__(self) -> str:
        """Return one line: who, how it ended, wall time, calls, tokens where any call is billed, and shares."""
        bill = self.bill
        split: dict[str, float] = {}
        for part, share in shares(bill).items():
            name = part.partition(":")[0]
            split[name] = split.get(name, 0.0) + share
        tokens = f", {bill.prompt_tokens} + {bill.output_tokens} tokens" if bill.calls else ""
        spent = ", ".join(f"{name} {share:.0%}" for name, share in split.items())
        return f"{title(bill)} {self.status}: {bill.elapsed_us / 1e6:.2f} s, {size(bill)}{tokens}; {spent}"


class Watch:
    """What `watch` returns: it writes until it is closed, by `close`, by leaving it as a context, or by `shutdown`."""

    def __init__(self, to: Writable | Callable[[Finished], object] | None) -> None:
        self._to = to
        self._closed = False
        assert runtime.reporter is not None, "`watch` has switched the client on"
        runtime.reporter.add_listener(self._write)

    def close(self) -> None:
        """Write no more; a second time does nothing. Does not wait for a line that is being written."""
        self._closed = True  # an `init` in another thread may be handing it on at this moment
        if runtime.reporter is not None:
            runtime.reporter.remove_listener(self._write)

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, bill: ProgramBill, status: Status) -> None:
        if self._closed:
            return
        finished = Finished(bill, status)
        to = sys.stderr if self._to is None else self._to
        try:
            if callable(to):
                to(finished)
            else:
                to.write(f"autellix: {finished}\n")
        except BaseException as error:  # noqa: BLE001 the user's code and streams can fail in any way, or say `exit`
            faults.record("watch could not write a line", error)
