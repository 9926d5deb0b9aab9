"""The report of a comparison: one HTML page that needs nothing but itself, and the same numbers as JSON beside it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from math import isinf
from pathlib import Path
from string import Template
from typing import Any

from autellix_sdk.errors import UsageError
from autellix_server.bench.outcome import METHOD, Outcome, environment
from autellix_server.bench.summary import Result, causes_of
from autellix_server.bench.tables import Table, tables
from autellix_server.plots import Bar, Line, bar_plot, cdf_plot, line_plot, parts_plot

_NAME = "bench"
_SUFFIXES = (".html", ".json")
_LEAST_MS = 1e-3
"""Where a logarithmic axis of milliseconds begins."""

_PAGE = Template("""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem;
  color: #222; background: #fff; }
table { border-collapse: collapse; font-size: 13px; }
caption { text-align: left; font-weight: 600; padding: .4rem 0; }
th, td { text-align: right; padding: .2rem .6rem; border-bottom: 1px solid #8884; white-space: nowrap; }
th:first-child, td:first-child, th:nth-child(2), td:nth-child(2) { text-align: left; }
section { margin: 2rem 0; overflow-x: auto; }
figure { margin: 1rem 0; }
.warnings { border-left: 4px solid #d9722e; padding-left: 1rem; }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #181818; } }
</style>
</head>
<body>
<h1>$title</h1>
$warnings
$tables
<section><h2>Figures</h2>
$figures
</section>
<section><h2>How it was measured</h2>
<p>$method</p>
$settings
</section>
</body>
</html>
""")


def report_files(output: Path) -> tuple[Path, Path]:
    """Return the names of the page and of the JSON file, and make sure that they can be written.

    Args:
        output: a folder, made if need be, or the name of one of the two files.

    Raises:
        UsageError: they cannot be written there.
    """
    named = output.suffix in _SUFFIXES
    stem = output.with_suffix("") if named else output / _NAME
    files = stem.with_name(f"{stem.name}.html"), stem.with_name(f"{stem.name}.json")
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        for file in files:
            new = not file.exists()
            file.touch()
            if new:
                file.unlink()  # should nothing be measured, no empty file is left
    except OSError as error:
        raise UsageError(f"--output: {error.filename} cannot be written: {error.strerror}; name another") from error
    return files


def write_report(outcome: Outcome, files: tuple[Path, Path]) -> None:
    """Write the page and the JSON file; `files` as `report_files` returns them."""
    page, data = files
    page.write_text(render(outcome), encoding="utf-8")
    data.write_text(json.dumps(outcome.to_json(with_programs=True), allow_nan=False) + "\n", encoding="utf-8")


def render(outcome: Outcome) -> str:
    """Return the page."""
    facts: dict[str, Any] = {**outcome.settings, **{f"client: {key}": value for key, value in environment().items()}}
    for arm, server in outcome.facts.items():
        facts |= {f"{arm}: {key}": value for key, value in server.items()}
    settings = Table("settings and environment", ("what", "value"), [(key, _words(facts[key])) for key in facts])
    warnings = "".join(f"<li>{escape(warning)}</li>" for warning in outcome.warnings)
    return _PAGE.substitute(
        title=escape(f"{' and '.join(outcome.arms)} under {outcome.settings.get('source', 'load')}"),
        warnings=f'<ul class="warnings">{warnings}</ul>' if warnings else "",
        tables="\n".join(map(_table, tables(outcome))),
        figures="\n".join(f"<figure>{figure}</figure>" for figure in _figures(outcome)),
        method=escape(METHOD),
        settings=_table(settings),
    )


def _figures(outcome: Outcome) -> Iterator[str]:
    shown = [result for result in outcome.loaded if result.everything is not None]
    if not shown:
        return
    for pace in dict.fromkeys(result.pace for result in shown):
        samples = {
            arm: [1e3 * program.token_latency_s for one in rounds for program in one.measured]
            for arm in outcome.arms
            if (rounds := [one for one in outcome.rounds if one.round.arm.name == arm and one.round.pace == pace])
        }
        samples = {arm: _above_zero(sample) for arm, sample in samples.items() if sample}
        yield cdf_plot(samples, "ms/token", title=f"Token latency {pace}", y_label="share of programs")
    if lines := list(_lines(outcome, shown)):
        limit = 1e3 * outcome.equal_latency[0].limit_s if outcome.equal_latency else None
        title = "Mean token latency, 95 % intervals" + ("; dashed: equal latency" if limit else "")
        yield line_plot(lines, "programs/s", "ms/token", title=title, limit=limit)
    kinds = list(dict.fromkeys(kind for result in shown for kind in result.kinds))
    if len(kinds) > 1:
        bars = {f"{result.arm} {result.pace}": [_bar(result, kind) for kind in kinds] for result in shown}
        yield bar_plot(kinds, bars, "ms/token", title="Mean token latency by kind, 95 % intervals")
    totals_s = [sum(result.time_s.values()) or 1.0 for result in shown]
    parts = {
        cause: [100 * r.time_s.get(cause, 0.0) / total for r, total in zip(shown, totals_s, strict=True)]
        for cause in causes_of(shown)
    }
    yield parts_plot([f"{r.arm} {r.pace}" for r in shown], parts, "% of programs' time", title="Where time went")
    lags = {
        arm: _above_zero(1e3 * call.lag_s for one in rounds for program in one.programs for call in program.calls)
        for arm in outcome.arms
        if (rounds := [one for one in outcome.rounds if one.round.arm.name == arm])
    }
    lags = {arm: sample for arm, sample in lags.items() if sample}
    yield cdf_plot(lags, "ms", title="How late the client sent calls", y_label="share of calls")


def _lines(outcome: Outcome, results: Iterable[Result]) -> Iterator[Line]:
    """Yield for each arm its latency by rate; nothing unless there are two rates."""
    finite = [result for result in results if result.pace.rate is not None and not isinf(result.pace.rate)]
    if len({result.pace.rate for result in finite}) < 2:
        return
    for arm in outcome.arms:
        found = sorted(
            (result.pace.rate or 0.0, result.everything) for result in finite if result.arm == arm and result.everything
        )
        if found:
            yield Line(
                arm,
                [rate for rate, _ in found],
                [1e3 * group.token_latency_s.mean for _, group in found],
                [1e3 * group.mean_interval_s.low for _, group in found],
                [1e3 * group.mean_interval_s.high for _, group in found],
            )


def _bar(result: Result, kind: str) -> Bar:
    group = result.kinds.get(kind)
    if group is None:
        return Bar(0.0)
    interval = group.mean_interval_s
    return Bar(1e3 * group.token_latency_s.mean, 1e3 * interval.low, 1e3 * interval.high)


def _above_zero(sample: Iterable[float]) -> list[float]:
    return [max(_LEAST_MS, value) for value in sample]


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in table.columns)
    rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>\n" for row in table.rows)
    caption = f"<caption>{escape(table.title)}</caption>"
    return f"<section><table>{caption}<thead><tr>{head}</tr></thead>\n<tbody>{rows}</tbody></table></section>"


def _words(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_words(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_words, value))
    return "-" if value is None else str(value)
