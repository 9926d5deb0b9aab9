"""Probes: what is sent, and how answers become equations."""

from __future__ import annotations

import pytest

from autellix_server.calibration.client import Answer
from autellix_server.calibration.probes import Counts, Limits, Probe, batch_sizes, plan_probes, read_answers

LIMITS = Limits(slots=16, kv_tokens=32_768, chunk_tokens=512, context_tokens=8192)


def answer(sent_s: float, first_s: float, step_s: float, tokens: int, cached: int | None = None) -> Answer:
    """Return an answer whose tokens come at a steady pace."""
    return Answer(sent_s, tuple((first_s + step_s * token, token + 1) for token in range(tokens)), cached)


def test_a_plan_has_prompts_of_many_lengths_and_batches_of_many_sizes() -> None:
    """Alone and behind a cached prefix, in short and in long contexts, nothing twice."""
    probes = plan_probes(LIMITS, quick=False)
    names = [probe.name for probe in probes]
    assert len(set(names)) == len(names)
    assert names[:9] == [
        "prefill, 1024 tokens",
        "prefill, 16 tokens",
        "prefill, 128 tokens",
        "prefill, 256 tokens",
        "prefill, 512 tokens",
        "prefill, 16 tokens after 256 cached",
        "prefill, 16 tokens after 512 cached",
        "prefill, 16 tokens after 1024 cached",
        "prefill, 256 tokens after 1024 cached",
    ]
    assert [probe.calls for probe in probes if probe.kind == "decode"] == [1, 2, 4, 8, 16] * 2


@pytest.mark.parametrize("slots", [2, 3, 4, 48, 256])
def test_batches_reach_the_slots(slots: int) -> None:
    """And a quick plan has the ends of the row."""
    assert batch_sizes(slots, quick=False)[-1] == slots
    quick = batch_sizes(slots, quick=True)
    assert (quick[0], quick[-1], len(quick) <= 3) == (1, slots, True)


@pytest.mark.parametrize(
    "limits", [LIMITS, Limits(4, 600, 512, 8192), Limits(4, 32_768, 512, 300), Limits(2, 200, 8, 99)]
)
def test_no_probe_is_longer_than_a_call_may_be(limits: Limits) -> None:
    """Nor larger than the memory, the shared prefix counted once."""
    for probe in plan_probes(limits, quick=False):
        assert probe.prompt_tokens >= 1
        assert probe.prompt_tokens + probe.output_tokens <= max(limits.context_tokens, 2 * 32 + 32)
        assert probe.shared_tokens <= max(32, limits.kv_tokens // 4)


def test_prompts_share_what_they_should_and_nothing_else() -> None:
    """Between probes of a round the prefix; between rounds nothing."""
    seeding = Probe("prefill", 1, 100, 0, shared_is_cached=False)
    batch = Probe("decode", 2, 100, 16, 32)
    (seed,), (one, other) = seeding.prompts("a"), batch.prompts("a")
    assert one[:100] == other[:100] == seed
    assert one[100:] != other[100:]
    assert len(one) == 116
    assert seeding.prompts("b") != [seed]


@pytest.mark.parametrize(
    ("probe", "cached", "counts"),
    [
        (Probe("prefill", 1, 0, 16), None, Counts(1, 16, 0, 0, 0, 1)),
        (Probe("prefill", 1, 0, 1100), None, Counts(3, 1100, 512 + 1024, 0, 0, 1)),
        (Probe("prefill", 1, 1024, 16), None, Counts(1, 16, 1024, 0, 0, 1)),
        (Probe("prefill", 1, 1024, 16), 1000, Counts(1, 40, 1000, 0, 0, 1)),
        (Probe("prefill", 1, 1024, 0, shared_is_cached=False), None, Counts(2, 1024, 512, 0, 0, 1)),
        (Probe("prefill", 1, 0, 16), 16, Counts(1, 1, 15, 0, 0, 1)),
    ],
)
def test_the_first_token_is_that_of_all_chunks(probe: Probe, cached: int | None, counts: Counts) -> None:
    """What the server says it had cached goes before what was expected; the last prompt token is always computed."""
    assert read_answers(probe, [answer(10.0, 10.5, 0, 1, cached)], chunk_tokens=512) == (counts, 0.5)


def test_a_step_is_measured_while_all_decode() -> None:
    """From the last first token to the first last one; the KV that a step reads is that of the middle."""
    probe = Probe("decode", 2, 0, 32, 9)
    early, late = answer(0, 1.0, 0.5, 9), answer(0, 2.0, 0.5, 9)
    measured = read_answers(probe, [early, late], chunk_tokens=512)
    # Until 5.0 s, when the early one ends: it has 3 to 9 tokens then, the late one 1 to 7.
    assert measured == (Counts(1, 0, 0, 2, 2 * 32 + 6 + 4, 0), 0.5)


def test_tokens_that_come_together_are_counted_one_by_one() -> None:
    """A server may send several in one event."""
    probe = Probe("decode", 1, 0, 32, 8)
    lumps = Answer(0.0, ((1.0, 2), (2.0, 4), (3.0, 6), (4.0, 8)), None)
    measured = read_answers(probe, [lumps], chunk_tokens=512)
    assert measured is not None
    assert measured[1] == 0.5


def test_calls_that_hardly_met_measure_nothing() -> None:
    """The first ended when the last had just begun."""
    probe = Probe("decode", 2, 0, 32, 8)
    assert read_answers(probe, [answer(0, 1.0, 0.5, 8), answer(0, 4.0, 0.5, 8)], chunk_tokens=512) is None
    assert read_answers(probe, [answer(0, 1.0, 0.5, 8), answer(0, 9.0, 0.5, 8)], chunk_tokens=512) is None
