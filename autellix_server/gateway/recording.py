"""Recording: programs that end become rows of a trace file. Counts and structure, never text; never a call's trouble.

Everything happens on the event loop: a row is built and handed to the page cache when its program ends, which takes
tens of microseconds a call.
"""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from autellix_sdk.bill import CallBill
from autellix_sdk.errors import ConfigurationError
from autellix_sdk.wire import CallContext, ProgramId
from autellix_server.scheduling.table import Program
from autellix_server.traces.jsonl import dump_programs
from autellix_server.traces.model import TraceError, TraceProgram
from autellix_server.traces.recorder import TraceRecorder

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class RecordingCounts:
    """What became of the programs that ended.

    Attributes:
        programs: rows written.
        unrecorded_programs: programs that ended after the file could not be written any more.
        dropped_calls: calls left out because the recorder holds no more, see `RecorderLimits`.
    """

    programs: int = 0
    unrecorded_programs: int = 0
    dropped_calls: int = 0


class Recording:
    """Writes what a `CallLedger` sees to a trace file; the ledger is its only caller.

    The first error of the disk ends the recording: the log has one line, the file has whole rows, and `counts` say
    what is missing.

    Args:
        stream: as returned by `open_trace`; closed with the recording.
        recorder: collects calls.
    """

    def __init__(self, stream: io.FileIO, recorder: TraceRecorder | None = None) -> None:
        self._stream = stream
        self._recorder = recorder or TraceRecorder()
        self._written_bytes = 0
        self._counts = RecordingCounts()

    @property
    def counts(self) -> RecordingCounts:
        """What was recorded so far."""
        self._counts.dropped_calls = self._recorder.dropped
        return self._counts

    def arrived(self, call: CallContext, now: float) -> None:
        """Take note of a call that arrived."""
        self._recorder.arrived(call, now)

    def completed(self, call: CallContext, bill: CallBill, now: float) -> None:
        """Take note of a call's bill."""
        self._recorder.completed(call, bill, now)

    def ended(self, program: Program) -> None:
        """Write the row of a program that ended; one without a billed call has none."""
        self._end(program.id)

    def close(self, programs: Iterable[ProgramId]) -> None:
        """Write the rows of the programs that are still open, and close the file."""
        for program in programs:
            self._end(program)
        self._stream.close()

    def _end(self, program: ProgramId) -> None:
        row = self._recorder.ended(program)
        if row is None:
            return
        if not self._stream.closed and self._write(row):
            self._counts.programs += 1
        else:
            self._counts.unrecorded_programs += 1

    def _write(self, row: TraceProgram) -> bool:
        """Add a row to the file and say whether it is there; the first that cannot be added ends the recording."""
        try:
            text = io.StringIO()
            dump_programs(text, [row])
            data = text.getvalue().encode()
            rest = memoryview(data)
            while rest:
                rest = rest[self._stream.write(rest) :]
        except (OSError, TraceError) as error:
            _log.warning("recording to %s has stopped: %s", self._stream.name, error)
            with suppress(OSError):
                self._stream.truncate(self._written_bytes)  # the beginning of a row is no trace
            with suppress(OSError):
                self._stream.close()
            return False
        self._written_bytes += len(data)
        return True


def open_trace(path: Path) -> io.FileIO:
    """Open a file for a new trace, which only its owner may read if it is created.

    Raises:
        ConfigurationError: it has rows already, cannot be written, or its name asks for compression.
    """
    setting = f"--record-trace (or AUTELLIX_RECORD_TRACE) is {str(path)!r}"
    if path.suffix == ".gz":
        raise ConfigurationError(f"{setting}: traces are not compressed while they grow; leave out .gz")
    try:
        stream = io.FileIO(path, "a", opener=lambda name, flags: os.open(name, flags, 0o600))
    except OSError as error:
        raise ConfigurationError(f"{setting}: the file cannot be written: {error.strerror}") from error
    if os.fstat(stream.fileno()).st_size:
        stream.close()
        raise ConfigurationError(f"{setting}: the file is not empty; name a new one for each run of the server")
    return stream
