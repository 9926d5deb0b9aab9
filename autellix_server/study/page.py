"""The study as one page of Markdown with plots; every number on it comes from the results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from textwrap import fill
from typing import Any

from autellix_sdk.errors import UsageError
from autellix_server.plots import Line, line_plot, parts_plot
from autellix_server.simulator.model import make_model
from autellix_server.study.jobs import SEEDS, SLOWDOWNS, Result
from autellix_server.study.run import ENGINES, LOADS, SETTINGS, stock_rates
from autellix_server.study.world import ARMS, CLAIRVOYANT, OURS, PRESET, SEED, STOCK, Workload, programs_of

PLOTTED = (STOCK, "fcfs + host", "mlfq", "atlas", OURS, CLAIRVOYANT)
PAPER = {"chat": "2x (8x on old vLLM)", "react": "2x (8x)", "mcts": "2x (5x)", "mixed": "4 to 5x (15x)"}
"""Throughput over vLLM-opt at equal latency that the paper reports, "up to"; in brackets over plain vLLM."""

_WIDTH = 120

WORSE = 1.02
"""An arm loses where it is this much worse than the stock engine."""


class Page:
    """Writes the page.

    Args:
        results: of all jobs.
        workloads: generated workloads, in the order of the page.
        traces: workloads from files.
    """

    def __init__(
        self, results: Sequence[Result], workloads: Mapping[str, Workload], traces: Mapping[str, Workload]
    ) -> None:
        self._results = results
        self._workloads = workloads
        self._traces = traces
        self._every = (*workloads, *traces)
        self.plots: dict[str, str] = {}
        """SVG text by file name, filled by `markdown`."""

    def markdown(self) -> str:
        """Return the page."""
        sections = (
            self._intro,
            self._throughput,
            self._gate,
            self._loads,
            self._near_clairvoyant,
            self._offline,
            self._breakdown,
            self._fleet,
            self._settings,
            self._losses,
        )
        return "\n\n".join(_wrap(section()) for section in sections) + "\n"

    def _intro(self) -> str:
        model = make_model(PRESET)
        arms = _table(
            ("arm", "policy", "what it is"), [(name, f"`{arm.policy}`", arm.about) for name, arm in ARMS.items()]
        )
        read = [
            f"{one.programs} programs of {name} ({programs_of(name, one)[0].source})"
            for name, one in self._traces.items()
        ]
        counts = ", ".join(f"{one.programs} {name}" for name, one in self._workloads.items())
        return INTRO.format(
            preset=PRESET,
            source=model.source,
            counts=counts,
            read=f"From traces, of which only counts are used: {'; '.join(read)}." if read else "",
            seed=SEED,
            seeds=", ".join(map(str, SEEDS)),
            arms=arms,
            stock=STOCK,
        )

    def _throughput(self) -> str:
        parts = [THROUGHPUT]
        for name in self._every:
            stock = self._curve(name, STOCK)
            rows = []
            for arm in ARMS:
                curve = self._curve(name, arm)
                cells = [
                    _rate_cell(found, base)
                    for found, base in zip(curve["throughput"], stock["throughput"], strict=True)
                ]
                rows.append((arm, *cells, f"{curve['offline_rate']:.3g}"))
            heads = ("arm", *(f"at {slowdown:g}x" for slowdown in SLOWDOWNS), "offline")
            title = f"### {name}\n\nUnloaded: {1e3 * stock['unloaded_s']:.1f} ms/token."
            paper = f" The paper, over vLLM-opt: {PAPER[name]}." if name in PAPER else ""
            parts += [title + paper, self._plot_curves(name), _table(heads, rows)]
        return "\n\n".join(parts)

    def _plot_curves(self, name: str) -> str:
        lines = []
        limit = 40 * self._curve(name, STOCK)["unloaded_s"]
        for arm in PLOTTED:
            points = [point for point in self._curve(name, arm)["points"] if point["mean"] <= limit]
            if points:
                lines.append(Line(arm, [point["rate"] for point in points], [1e3 * point["mean"] for point in points]))
        plot = line_plot(
            lines, "programs/s", "mean ms/token", title=f"{name}: token latency by arrival rate", log_y=True
        )
        return self._picture(f"latency-{name}.svg", plot, f"Token latency by arrival rate, {name}")

    def _gate(self) -> str:
        rows = []
        for name in self._every:
            stock = {found["slowdown"]: found for found in self._curve(name, STOCK)["throughput"]}
            for arm in (OURS, "auto, no names"):
                ours = {found["slowdown"]: found for found in self._curve(name, arm)["throughput"]}
                ratios = [ours[slowdown]["rate"] / stock[slowdown]["rate"] for slowdown in SLOWDOWNS]
                p99 = [
                    self._at(name, load, STOCK)["token_latency_s"]["p99"]
                    / self._at(name, load, arm)["token_latency_s"]["p99"]
                    for load in LOADS
                ]
                rows.append((name, arm, *(f"{ratio:.2f}" for ratio in ratios), *(f"{ratio:.2f}" for ratio in p99)))
        heads = (
            "workload",
            "arm",
            *(f"rate at {slowdown:g}x" for slowdown in SLOWDOWNS),
            *(f"P99, {load}" for load in LOADS),
        )
        return GATE + "\n\n" + _table(heads, rows)

    def _loads(self) -> str:
        parts = [LOAD_TEXT]
        for name in self._every:
            for load, rate in stock_rates(self._results, name).items():
                if load == "light":
                    continue  # Nobody waits, and all rows are the same; the gate and the losses have it.
                rows = [(arm, *_latency_cells(self._at(name, load, arm))) for arm in ARMS]
                parts += [f"### {name}, {load}: {rate:.3g} programs/s", _table(("arm", *_LATENCY_HEADS), rows)]
                parts += self._by_kind(name, load)
        return "\n\n".join(parts)

    def _by_kind(self, workload: str, load: str) -> list[str]:
        """Return a table of a mixed workload's kinds."""
        found = {arm: self._at(workload, load, arm)["kinds"] for arm in PLOTTED}
        kinds = list(found[STOCK])
        if len(kinds) < 2:
            return []
        rows = [(kind, arm, *_latency_cells(found[arm][kind])) for kind in kinds for arm in PLOTTED]
        return [_table(("kind", "arm", *_LATENCY_HEADS), rows)]

    def _near_clairvoyant(self) -> str:
        rows = []
        for name in self._every:
            for load in LOADS:
                best, ours, stock = (self._at(name, load, arm) for arm in (CLAIRVOYANT, OURS, STOCK))
                rows.append(
                    (
                        name,
                        load,
                        f"{ours['token_latency_s']['mean'] / best['token_latency_s']['mean']:.2f}",
                        f"{ours['completion_s']['mean'] / best['completion_s']['mean']:.2f}",
                        f"{ours['token_latency_s']['p99'] / stock['token_latency_s']['p99']:.2f}",
                    )
                )
        heads = ("workload", "load", f"mean latency / {CLAIRVOYANT}", f"completion / {CLAIRVOYANT}", f"P99 / {STOCK}")
        return NEAR + "\n\n" + _table(heads, rows)

    def _offline(self) -> str:
        rows = []
        for arm in ARMS:
            cells = []
            for name in self._every:
                stock, one = (self._one("offline", name, which) for which in (STOCK, arm))
                cells.append(f"{one['makespan_s']:.0f} s ({one['makespan_s'] / stock['makespan_s'] - 1:+.0%})")
            rows.append((arm, *cells))
        return OFFLINE + "\n\n" + _table(("arm", *self._every), rows)

    def _breakdown(self) -> str:
        parts = [BREAKDOWN]
        for name in self._workloads:
            shares = {arm: self._at(name, "busy", arm)["everything"]["time_share"] for arm in PLOTTED}
            causes = list(shares[STOCK])
            bars = {cause: [100 * shares[arm][cause] for arm in PLOTTED] for cause in causes}
            plot = parts_plot(PLOTTED, bars, "% of programs' time", title=f"{name}, busy: where time goes")
            parts.append(self._picture(f"time-{name}.svg", plot, f"Where time goes, {name}"))
        return "\n\n".join(parts)

    def _fleet(self) -> str:
        found = [one for one in self._results if one["study"] == "fleet"]
        if not found:
            return ""
        rows = []
        for arm in dict.fromkeys(one["arm"] for one in found):
            for balancer in dict.fromkeys(one["balancer"] for one in found):
                cells = []
                for engines in ENGINES:
                    one = next(
                        one
                        for one in found
                        if (one["arm"], one["balancer"], one["engines"]) == (arm, balancer, engines)
                    )
                    cells.append(f"{1e3 * one['mean']:.1f} / {1e3 * one['p99']:.0f} ({one['hits']:.0%})")
                rows.append((arm, balancer, *cells))
        heads = ("arm", "balancer", *(f"{engines} engine{'s' * (engines > 1)}" for engines in ENGINES))
        return FLEET.format(rate=f"{found[0]['rate']:.3g}") + "\n\n" + _table(heads, rows)

    def _settings(self) -> str:
        found = [one for one in self._results if one["study"] == "setting"]
        parts = [SETTINGS_TEXT]
        for setting in dict.fromkeys(one["name"] for one in found):
            values = SETTINGS[setting]
            rows = []
            here = [one for one in found if one["name"] == setting]
            for workload, arm in dict.fromkeys((one["workload"], one["arm"]) for one in here):
                mine = {one["value"]: one for one in here if (one["workload"], one["arm"]) == (workload, arm)}
                rows.append((workload, arm, *(_setting_cell(mine[value], setting) for value in values)))
            heads = ("workload", "arm", *("none" if value is None else f"{value:g}" for value in values))
            parts += [f"### {setting}", _table(heads, rows)]
        return "\n\n".join(parts)

    def _losses(self) -> str:
        rows = []
        for arm in ARMS:
            if arm == STOCK:
                continue
            for what, value in _MEASURES.items():
                lost = []
                for name in self._every:
                    for load in LOADS:
                        ratio = value(self._at(name, load, arm)) / value(self._at(name, load, STOCK))
                        if ratio > WORSE:
                            lost.append((ratio, f"{name}, {load} ({ratio - 1:+.0%})"))
                if lost:
                    rows.append((arm, what, "; ".join(text for _, text in sorted(lost, reverse=True))))
        return (
            LOSSES.format(worse=f"{WORSE - 1:.0%}", stock=STOCK)
            + "\n\n"
            + _table(("arm", "measure", "worse than stock on"), rows)
        )

    def _picture(self, file: str, plot: str, text: str) -> str:
        self.plots[file] = plot
        return f"![{text}](results/{file})"

    def _curve(self, workload: str, arm: str) -> Result:
        return self._one("curve", workload, arm)

    def _at(self, workload: str, load: str, arm: str) -> dict[str, Any]:
        found = self._one("load", workload, arm, load=load)
        return {**found, **found["everything"]}

    def _one(self, study: str, workload: str, arm: str, **options: str) -> Result:
        wanted = {"study": study, "workload": workload, "arm": arm, **options}
        for one in self._results:
            if one.items() >= wanted.items():
                return one
        words = ", ".join(f"{name} {value}" for name, value in wanted.items())
        raise UsageError(f"the results have none of {words}: they are of another study, or not whole")


_MEASURES: Mapping[str, Callable[[Mapping[str, Any]], float]] = {
    "mean token latency": lambda one: one["token_latency_s"]["mean"],
    "P99 token latency": lambda one: one["token_latency_s"]["p99"],
    "mean completion time": lambda one: one["completion_s"]["mean"],
}

_LATENCY_HEADS = ("mean ms/token", "95 % interval", "P50", "P95", "P99", "completion s", "longest wait s", "Jain")


def _latency_cells(one: Mapping[str, Any]) -> tuple[str, ...]:
    latency, interval = one["token_latency_s"], one["mean_interval_s"]
    return (
        f"{1e3 * latency['mean']:.1f}",
        f"{1e3 * interval['low']:.1f} to {1e3 * interval['high']:.1f}",
        *(f"{1e3 * latency[part]:.1f}" for part in ("p50", "p95", "p99")),
        f"{one['completion_s']['mean']:.1f}",
        f"{one['longest_wait_s']:.0f}",
        f"{one['fairness']:.2f}",
    )


def _rate_cell(found: Mapping[str, float], stock: Mapping[str, float]) -> str:
    beyond = "" if found["reached"] else "≥ "
    interval = f"({found['low']:.3g} to {found['high']:.3g})"
    return f"{beyond}{found['rate']:.3g} {interval}, {beyond}{found['rate'] / stock['rate']:.2f}x"


def _setting_cell(one: Mapping[str, float], setting: str) -> str:
    text = f"{1e3 * one['mean']:.1f} / {1e3 * one['p99']:.0f}"
    return f"{text}, {one['promotions']:.1%}" if setting in ("beta", "max_overtakes") else text


def _wrap(text: str) -> str:
    """Fold the paragraphs of prose to the width of a line."""
    paragraphs = text.split("\n\n")
    return "\n\n".join(one if one[:1] in "#|!" else fill(one, _WIDTH) for one in paragraphs)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


INTRO = """\
# Results

Everything here is simulated, and made by one command: `make results` (`autellix study --help` says what it takes). The
engine is the preset `{preset}`, {source}. It is a model: what it says of your machine, `autellix calibrate` and
`autellix bench` say better; [measured.md](measured.md) has what they said of a small engine on a CPU.

Programs: {counts}, generated to the means that the paper gives. {read}
The defaults were chosen on other programs (seed 0); these are of seed {seed}. Programs arrive by a Poisson process.
Token latency is a program's response time, tools left out, by the tokens that it generated. Loads pool draws of the
arrivals (seeds {seeds}); intervals are bootstrap intervals of 95 % over programs.

{arms}

`{stock}` is the baseline: what the paper calls vLLM-opt, a modern engine with prefix cache and chunked prefill. Several
arms have a tier of host memory that it has not; `fcfs + host` shows what that alone is worth."""

THROUGHPUT = """\
## Throughput at equal latency

Arrival rate, in programs per second, at which the mean token latency is 2, 5 and 10 times that of a program alone
on the engine; its interval; and its ratio to the stock engine's. "Offline" is the rate at which programs are completed
when all are there from the start: a higher rate of arrival is kept up for as long as this many programs last, not for
ever. "≥": the latency is lower even when the programs arrive within four times what one takes by itself."""

GATE = """\
## The gate: how much better than the stock engine

The rate at equal latency over the stock engine's, and the stock engine's P99 over ours. At twice the unloaded latency
no policy can matter much: on this engine batching alone doubles the latency before anybody waits
([decision 5](decisions/0005-equal-latency-at-several-multiples.md)). Where the stock engine goes from waiting for
nobody to computing every history again within a few percent of the rate, as with ReAct, no rate
can lie far above its own, and the gain is in the latency beyond that point."""

LOAD_TEXT = """\
## Loads

Light, busy and overload are the rates at which the stock engine is 2 and 5 times slower than unloaded, and a quarter
above the latter. At light load all arms are alike, and are not listed."""

NEAR = """\
## How near to clairvoyant, and never much worse than stock

SRPT knows the future; the others do not. Smaller is better, 1.00 is as good."""

OFFLINE = """\
## Offline: makespan

Time until all are done that are there from the start, and the change against the stock engine."""

BREAKDOWN = """\
## Where time goes

Shares of the programs' time on a busy engine. Admission: before a call starts; retraction: after it was preempted;
batch: steps of others, mostly their prompts, that the call sits out."""

FLEET = """\
## One to eight engines, and balancers

Mixed programs, in proportion to the engines, at {rate} programs/s for each: mean / P99 ms per token, and the share of
prompt tokens found in the prefix cache."""

SETTINGS_TEXT = """\
## Settings, and where the defaults come from

One setting at a time, in overload: mean / P99 ms per token; for the guards also the share of calls that they promote.
Bounds are multiples of the median service of a call."""

LOSSES = """\
## Where each arm loses

Against `{stock}`, by more than {worse}."""
