"""What penalties have counted, on a fake engine whose steps commit their tokens at once or one step late."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
from fake_scheduler import FakeReq
from hypothesis import given
from hypothesis import strategies as st

from autellix_server.sglang_plugin.penalties import PenaltyHooks


@dataclass(eq=False)
class CountedReq(FakeReq):
    """A request of which is known what was sampled for it, committed or not.

    Attributes:
        sampled: its output, the token of a step still under way included.
        away: it left, so that the step still under way commits nothing.
    """

    sampled: list[int] = field(default_factory=list)
    away: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.origin_input_ids = [*range(100, 100 + self.prompt_tokens)]


class Penalizers:
    """Those of one batch: what they have counted of each of its requests, in order."""

    is_required = True

    def __init__(self, requests: int) -> None:
        self.counted: list[list[int]] = [[] for _ in range(requests)]

    def count(self, tokens: list[int]) -> None:
        """One token of each request."""
        for row, token in zip(self.counted, tokens, strict=True):
            row.append(token)

    def replay(self, outputs: list[list[int]]) -> None:
        """Any number of each."""
        assert not any(self.counted)
        self.counted = [list(tokens) for tokens in outputs]


class Batch:
    """A batch as `prepare_for_extend` leaves it, and as decode steps and merges change it."""

    def __init__(self, reqs: list[CountedReq], overlap: bool) -> None:
        self.reqs = reqs
        self.enable_overlap = overlap
        self.lengths: list[int] = []

    @property
    def seq_lens_cpu(self) -> SimpleNamespace:
        """Stands in for the tensor."""
        return SimpleNamespace(tolist=lambda: self.lengths)

    def prepare(self) -> None:
        """Stands in for the original `prepare_for_extend`."""
        self.lengths = [len(req.origin_input_ids) + len(req.output_ids) for req in self.reqs]
        self.sampling_info = SimpleNamespace(penalizer_orchestrator=Penalizers(len(self.reqs)))

    def take(self, other: Batch) -> None:
        """Merge."""
        self.reqs = self.reqs + other.reqs
        self.lengths = self.lengths + other.lengths
        self.rows.counted += other.rows.counted

    def keep(self, staying: list[CountedReq]) -> None:
        """Filter."""
        kept = [index for index, req in enumerate(self.reqs) if req in staying]
        self.reqs, self.lengths, self.rows.counted = (
            [whole[index] for index in kept] for whole in (self.reqs, self.lengths, self.rows.counted)
        )

    @property
    def rows(self) -> Penalizers:
        """Its penalizers."""
        penalizers: Penalizers = self.sampling_info.penalizer_orchestrator
        return penalizers


class Engine:
    """Steps of an event loop under the hooks. Every sampled token is a new number.

    Args:
        overlap: a step is planned before the one before it has committed its tokens.
    """

    def __init__(self, overlap: bool) -> None:
        self.overlap = overlap
        self.hooks = PenaltyHooks(Penalizers.count, Penalizers.replay)
        self.running = Batch([], overlap)
        self.running.prepare()
        self.under_way: list[tuple[CountedReq, int]] = []
        self.joining: Batch | None = None
        self.tokens = 0

    def step(self, *, prefill: list[CountedReq], leaving: list[CountedReq]) -> None:
        """Merge the last prefill, let some leave, then prefill those that come, or decode if none does."""
        if self.joining is not None:
            self.running.take(self.joining)
            self.joining = None
        for req in leaving:
            req.away = True
        self.running.keep([req for req in self.running.reqs if req not in leaving])
        if prefill:
            batch = self.joining = Batch(prefill, self.overlap)
            for req in prefill:
                # What a step under way when it left would have committed is lost.
                req.away, req.sampled = False, list(req.output_ids)
            self.hooks.replay_output(Batch.prepare, batch)
        else:
            batch = self.running
            self.hooks.count_output(lambda _: pytest.fail("stock count"), batch)
            batch.lengths = [length + 1 for length in batch.lengths]
        self._sample(batch)

    def _sample(self, batch: Batch) -> None:
        """Sample with what has been counted by now, which must be what it would be if each request ran alone."""
        launched = []
        for req, counted in zip(batch.reqs, batch.rows.counted, strict=True):
            assert counted == alone(req, self.overlap)
            self.tokens += 1
            req.sampled.append(self.tokens)
            launched.append((req, self.tokens))
        if not self.overlap:
            self.under_way = launched
        for req, token in self.under_way:
            if not req.away:
                req.output_ids.append(token)
        self.under_way = launched if self.overlap else []


def alone(req: CountedReq, overlap: bool) -> list[int]:
    """What SGLang has counted of a request that runs alone when it samples the next token."""
    if overlap and req.sampled:
        return [req.origin_input_ids[-1], *req.sampled[:-1]]
    return req.sampled


@pytest.mark.parametrize("overlap", [False, True], ids=["normal", "overlap"])
@given(st.lists(st.tuples(st.sets(st.integers(0, 3)), st.sets(st.integers(0, 3))), max_size=40))
def test_requests_count_as_if_alone_whatever_comes_between(
    overlap: bool, steps: list[tuple[set[int], set[int]]]
) -> None:
    """Prefills of others, leaving and coming back, in any order: each token is counted once, and no step late."""
    engine = Engine(overlap)
    reqs = [CountedReq(f"call-{number}", prompt_tokens=3 + number) for number in range(4)]
    for coming, leaving in steps:
        inside = [*engine.running.reqs, *(engine.joining.reqs if engine.joining else [])]
        # As in the engine: who leaves is not let in again in the same step.
        engine.step(
            prefill=[req for number, req in enumerate(reqs) if number in coming and req not in inside],
            leaving=[req for number, req in enumerate(reqs) if number in leaving and req in inside and req.output_ids],
        )


@pytest.mark.parametrize(("required", "output"), [(False, [1]), (True, [])], ids=["no penalties", "nobody came back"])
def test_prefill_without_anything_to_make_up_for_costs_nothing(required: bool, output: list[int]) -> None:
    """Most prefills are of fresh requests, and most requests have no penalties."""
    batch = Batch([CountedReq("call", output_ids=output)], overlap=True)

    def prepare(batch: Batch) -> None:
        batch.prepare()
        batch.rows.is_required = required

    hooks = PenaltyHooks(Penalizers.count, lambda *_: pytest.fail("replayed"))
    hooks.replay_output(prepare, batch)
    assert batch.rows.counted == [[]]


def test_members_of_a_beam_do_not_count() -> None:
    """Their lengths come after those of the requests."""
    batch = Batch([CountedReq("beam", prompt_tokens=3, output_ids=[7])], overlap=False)
    batch.prepare()
    batch.lengths = [3, 3, 3]
    PenaltyHooks(Penalizers.count, Penalizers.replay).count_output(lambda _: None, batch)
    assert batch.rows.counted == [[7]]
