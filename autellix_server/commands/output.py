"""What all commands share in talking to people and to programs.

Results go to standard output, progress to standard error; with `--json` standard output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autellix_sdk.errors import UsageError
from autellix_server.engine.progress import PlainProgress, Progress

if TYPE_CHECKING:
    from rich.progress import TaskID

Subparsers = Any
"""What `ArgumentParser.add_subparsers` returns; argparse gives its class no public name."""


def add_command(
    subparsers: Subparsers, name: str, *, summary: str, description: str, epilog: str
) -> argparse.ArgumentParser:
    """Add a command's parser, with `--json`, and return it for its own options.

    Args:
        subparsers: of the parent parser.
        name: the word that selects the command.
        summary: one line for the parent's list.
        description: what the command does, for its own help.
        epilog: examples, kept as they are laid out.
    """
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name,
        help=summary,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    return parser


def print_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object on one line of standard output; infinite numbers become texts, which JSON lacks."""
    print(json.dumps(_finite(value), default=str, allow_nan=False), flush=True)


def check_writable(file: Path, flag: str) -> None:
    """Make sure that a file can be written, before the work whose result it is for; none is left there.

    Raises:
        UsageError: it cannot be written; names the flag.
    """
    new = not file.exists()
    try:
        file.open("a", encoding="utf-8").close()
    except OSError as error:
        raise UsageError(f"{flag}: {file} cannot be written: {error.strerror}; name another") from error
    if new:
        file.unlink()


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str | None = None) -> None:
    """Print a table to standard output.

    Args:
        columns: headings.
        rows: cells, as many as there are columns; shown with `str`, never as markup.
        title: printed above, if given.
    """
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ModuleNotFoundError:  # the base install; `autellix doctor` must be able to say so
        print("\n".join("  ".join(str(cell) for cell in row if cell) for row in rows))
        return

    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    # Without a terminal there is no width to keep to, and a folded path cannot be copied or searched for.
    Console(width=None if sys.stdout.isatty() else 1000).print(table)


def _finite(value: Any) -> Any:
    """Return a JSON value with texts in place of numbers that are infinite or none."""
    if isinstance(value, float) and not isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list | tuple) else value


@contextmanager
def progress_display() -> Iterator[Progress]:
    """Yield a progress that draws on a terminal and prints plain lines elsewhere, on standard error."""
    progress: Progress = RichProgress() if sys.stderr.isatty() else PlainProgress(sys.stderr)
    try:
        yield progress
        progress.close()
    finally:
        if isinstance(progress, RichProgress):
            progress.stop()


class RichProgress:
    """Progress as a line that is redrawn: spinner, stage, bar, present step and time."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Display

        self._display = Display(
            SpinnerColumn(finished_text="✓"),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TimeElapsedColumn(),
            TextColumn("{task.fields[step]}", markup=False, style="dim"),
            console=Console(stderr=True),
        )
        self._task: TaskID | None = None
        self._display.start()

    def stage(self, title: str, steps: int | None = None) -> None:
        """Draw a line for the stage below those that are done."""
        self.close()
        self._task = self._display.add_task(title, total=steps, step="")

    def step(self, text: str) -> None:
        """Advance the bar and show the step's text."""
        if self._task is not None:
            self._display.update(self._task, advance=1, step=text)

    def say(self, text: str) -> None:
        """Print the sentence above the lines that are redrawn."""
        self._display.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        """Mark the last stage as done."""
        if self._task is not None:
            self._display.update(self._task, total=1, completed=1, step="")
            self._task = None

    def stop(self) -> None:
        """Stop drawing and leave the cursor on a fresh line."""
        self._display.stop()
