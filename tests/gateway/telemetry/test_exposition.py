"""Expositions of several servers as one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from autellix_server.gateway.telemetry.exposition import Exposition, merge

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

Samples = dict[tuple[str, str, frozenset[tuple[str, str]]], float]


def samples(text: str) -> Samples:
    """Return every sample with its type; a family that stands there twice is an error."""
    found: Samples = {}
    families = list(text_string_to_metric_families(text))
    names = [family.name for family in families]
    assert len(names) == len(set(names))
    for family in families:
        for each in family.samples:
            found[family.type, each.name, frozenset(each.labels.items())] = each.value
    return found


def test_families_are_merged_and_engines_told_apart() -> None:
    """One announcement, the samples together, the gateway's own unchanged."""
    ours = "# HELP up ours\n# TYPE up gauge\nup 1\n# TYPE own counter\nown 2\n"
    theirs = '# HELP up theirs\n# TYPE up gauge\nup 3\nup{a="b"} 4 1700000000000\n'
    merged = merge([Exposition(ours, TEXT), Exposition(theirs, TEXT, "e0"), Exposition(theirs, TEXT, "e1")])
    assert merged.splitlines() == [
        "# HELP up ours",
        "# TYPE up gauge",
        "up 1",
        'up{engine="e0"} 3',
        'up{engine="e0",a="b"} 4 1700000000000',
        'up{engine="e1"} 3',
        'up{engine="e1",a="b"} 4 1700000000000',
        "# TYPE own counter",
        "own 2",
    ]


def test_an_engine_label_that_is_there_already() -> None:
    """The same value stays one label; another is kept under another name, as Prometheus does, however often."""
    text = (
        'a{engine="e0"} 1\na{x="y",engine="inner"} 2\na{x=",engine=\\"e0\\""} 3\na{engine="1",exported_engine="2"} 4\n'
    )
    assert merge([Exposition(text, TEXT, "e0")]).splitlines()[1:] == [
        'a{engine="e0"} 1',
        'a{engine="e0",x="y",exported_engine="inner"} 2',
        'a{engine="e0",x=",engine=\\"e0\\""} 3',
        'a{engine="e0",exported_engine="1",exported_exported_engine="2"} 4',
    ]


def test_types_that_differ_are_no_type() -> None:
    """A family cannot be two things; its samples are all there."""
    expositions = [Exposition(f"# TYPE a {kind}\na 1\n", TEXT, kind) for kind in ("gauge", "counter")]
    assert merge(expositions) == '# TYPE a untyped\na{engine="gauge"} 1\na{engine="counter"} 1\n'


def test_lines_that_are_no_sample_are_left_out() -> None:
    """And a sample that nothing announces is untyped."""
    text = '# a comment\n\nno value\na{b 1\na{} 2\nb{c="}"} 3\r\nd 1e3\n# EOF\n{} 4\nx{y="z\n'
    assert samples(merge([Exposition(text, TEXT, "e")])) == {
        ("unknown", name, frozenset({"engine": "e", **labels}.items())): value
        for name, labels, value in (("a", {}, 2.0), ("b", {"c": "}"}, 3.0), ("d", {}, 1000.0))
    }


def test_a_hostile_line_takes_no_time() -> None:
    """Braces and quotes without end are given up at once (the test would not end otherwise)."""
    lines = ["a{" + "b" * 100_000, 'a{b="' + "\\\\" * 100_000, "a{" + '"x"' * 100_000, "a" * 100_000]
    assert merge([Exposition("\n".join(lines), TEXT, "e")]) == ""


def registry() -> CollectorRegistry:
    """Return metrics of every type that engines show."""
    metrics = CollectorRegistry()
    Counter("calls", "Calls.", ["model"], registry=metrics).labels('a "b"\\\n').inc(3, {"trace": "t1"})
    Gauge("level", "Level.", registry=metrics).set(1.5)
    Histogram("seconds", "Seconds.", ["a"], registry=metrics, buckets=(1, 2)).labels("b").observe(1.5, {"trace": "t2"})
    Info("build", "Build.", registry=metrics).info({"version": "1"})
    return metrics


def test_openmetrics_and_text_say_the_same() -> None:
    """The library's own text of some metrics, and ours made of its OpenMetrics, exemplars and units left out."""
    text, openmetrics = generate_latest(registry()).decode(), generate_openmetrics(registry()).decode()
    assert "# EOF" in openmetrics
    assert " # {" in openmetrics
    from_text, from_openmetrics = (
        {key: value for key, value in samples(merged).items() if not key[1].endswith("_created")}
        for merged in (merge([Exposition(text, TEXT, "e0")]), merge([Exposition(openmetrics, OPENMETRICS, "e0")]))
    )
    assert from_openmetrics == from_text


def test_a_counter_has_one_family_in_both_formats() -> None:
    """OpenMetrics names it without what its samples end in; when it was made is beside it, not in it."""
    text = "# HELP a A.\n# TYPE a_total counter\na_total 1\n"
    openmetrics = '# HELP a A.\n# TYPE a counter\n# UNIT a s\na_total 2 # {t="1"} 1 2\na_created 1.7e9\n# EOF\n'
    assert merge([Exposition(text, TEXT, "e0"), Exposition(openmetrics, OPENMETRICS, "e1")]).splitlines() == [
        "# HELP a_total A.",
        "# TYPE a_total counter",
        'a_total{engine="e0"} 1',
        'a_total{engine="e1"} 2',
        "# TYPE a_created gauge",
        'a_created{engine="e1"} 1.7e9',
    ]


def test_times_of_openmetrics_are_seconds() -> None:
    """The text format has milliseconds."""
    assert merge([Exposition("# TYPE a gauge\na 1 1700000000.5\n# EOF\n", OPENMETRICS, "e")]).endswith(
        " 1 1700000000500\n"
    )


VALUES = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@given(st.lists(st.tuples(VALUES, VALUES, st.integers(0, 9)), max_size=5, unique_by=lambda row: row[:2]), VALUES)
def test_every_sample_arrives(rows: list[tuple[str, str, int]], engine: str) -> None:
    """Whatever stands in labels: the samples are those of the original, and one label more."""
    metrics = CollectorRegistry()
    gauge = Gauge("g", "G.", ["engine_name", "model"], registry=metrics)
    for first, second, number in rows:
        gauge.labels(first, second).set(number)
    text = generate_latest(metrics).decode()
    before = {(key[0], key[1], key[2] | {("engine", engine)}): value for key, value in samples(text).items()}
    assert samples(merge([Exposition(text, TEXT, engine)])) == before
