"""Generated programs: the paper's means, the right shapes, the same programs for the same seed."""

from __future__ import annotations

import math
import random
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autellix_sdk.errors import UsageError
from autellix_server.traces.distributions import Quantiles
from autellix_server.traces.model import TraceProgram, check_program
from autellix_server.traces.workloads.registry import WORKLOADS, generate

ENOUGH = {"chat": 12_000, "react": 6_000, "mcts": 2_000}
"""Programs after which three standard errors of every mean are below 5 %."""


def first(name: str, count: int, seed: int = 0) -> list[TraceProgram]:
    """Return the first programs of a workload."""
    return list(islice(generate(name, seed), count))


@pytest.mark.parametrize("name", ENOUGH)
def test_means_are_those_of_the_paper(name: str) -> None:
    """Calls a program, prefill and decode a call: within 5 % of what section 8 publishes; none longer than there."""
    published = WORKLOADS[name].published
    assert published is not None
    programs = first(name, ENOUGH[name])
    calls = [call for program in programs for call in program.calls]
    assert len(calls) / len(programs) == pytest.approx(published.calls, rel=0.05)
    assert sum(call.new_tokens for call in calls) / len(calls) == pytest.approx(published.prefill_tokens, rel=0.05)
    assert sum(call.output_tokens for call in calls) / len(calls) == pytest.approx(published.decode_tokens, rel=0.05)
    longest = max(len(program.calls) for program in programs)
    assert 0.9 * published.most_calls <= longest <= published.most_calls


@pytest.mark.parametrize("name", WORKLOADS)
def test_programs_follow_the_format(name: str) -> None:
    """Every generated program passes the checks of the format, under IDs of its own."""
    programs = first(name, 60, seed=3)
    for program in programs:
        check_program(program)
    assert len({program.program_id for program in programs}) == 60


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_same_seed_gives_the_same_programs(name: str) -> None:
    """However many are taken; another seed gives others."""
    assert first(name, 5) == first(name, 8)[:5]
    assert first(name, 5) != first(name, 5, seed=1)


def test_mixed_is_made_of_the_three_in_equal_parts() -> None:
    """Each kind has a third of the programs, within three standard errors."""
    kinds = [program.kind for program in first("mixed", 900)]
    assert set(kinds) == {"chat", "react", "mcts"}
    assert all(abs(kinds.count(kind) - 300) < 3 * math.sqrt(200) for kind in set(kinds))


def test_chat_has_a_heavy_tail() -> None:
    """Most conversations are short, and a few hold much of the work, as in ShareGPT."""
    lengths = sorted(len(program.calls) for program in first("chat", 4000))
    assert lengths[2000] <= 4
    assert lengths[3960] >= 35
    assert sum(lengths[3600:]) > 0.35 * sum(lengths)


@pytest.mark.parametrize("name", ["chat", "react"])
def test_serial_programs_replay_their_history(name: str) -> None:
    """Each prompt begins with the prompt and the output of the call before it."""
    for program in first(name, 50):
        assert program.threads == 1
        for before, call in zip(program.calls, program.calls[1:], strict=False):
            assert call.parents == (before.id,)
            assert call.shared_prefix_tokens == before.history_tokens


def test_react_programs_with_the_same_tools_share_their_schemas() -> None:
    """The opening's name stands for its text: one name, one length, used by several programs."""
    programs = first("react", 200)
    lengths = {(program.opening, program.tool_tokens) for program in programs}
    assert len(lengths) == len({program.opening for program in programs}) == 40
    assert all(program.calls[0].prompt_tokens > program.tool_tokens > 2000 for program in programs)


def test_tree_search_runs_rounds_of_five_side_by_side() -> None:
    """Siblings that sample from one prompt share all of it, and a round waits for the whole round before it."""
    calls = first("mcts", 1)[0].calls
    assert [call.role for call in calls[:10]] == ["generate"] * 5 + ["value"] * 5
    assert [call.thread for call in calls[:10]] == [0, 1, 2, 3, 4] * 2
    assert all(call.shared_prefix_tokens == call.prompt_tokens == calls[0].prompt_tokens for call in calls[1:5])
    assert all(call.parents == ("0", "1", "2", "3", "4") for call in calls[5:10])
    assert calls[5].shared_prefix_tokens == 0
    assert all(call.shared_prefix_tokens == calls[0].prompt_tokens for call in calls[6:10])


def test_coding_sessions_have_subagents_that_report_back() -> None:
    """Some sessions run a thread of their own context beside the main one, and the main one waits for it."""
    with_subagents = [program for program in first("coding", 60) if program.threads > 1]
    assert with_subagents
    for program in with_subagents:
        by_id = {call.id: call for call in program.calls}
        joins = [call for call in program.calls if len(call.parents) == 2]
        assert all(by_id[call.parents[1]].role == "subagent" and call.role is None for call in joins)


def test_map_reduce_is_wide_and_then_one() -> None:
    """The last call waits for all others, which wait for none."""
    for program in first("map_reduce", 20):
        *chunks, last = program.calls
        assert all(call.parents == () for call in chunks)
        assert last.parents == tuple(call.id for call in chunks)


def test_an_unknown_workload_lists_the_known_ones() -> None:
    """Asked before the first program is drawn."""
    with pytest.raises(UsageError, match="there is no workload 'rag'; use one of chat, react, mcts, mixed"):
        generate("rag", 0)


@given(
    st.lists(st.integers(0, 10_000), min_size=3, max_size=6).map(sorted),
    st.integers(0, 2**32),
)
def test_draws_stay_between_the_first_and_the_last_quantile(values: list[int], seed: int) -> None:
    """Also when they are bent alike, and also when all quantiles are equal."""
    quantiles = Quantiles(*((index / (len(values) - 1), value) for index, value in enumerate(values)))
    rng = random.Random(seed)
    for drawn in (quantiles.draw_count(rng), quantiles.draw_count_alike(rng, rng.gauss(0, 1), 0.5)):
        assert values[0] <= drawn <= values[-1]


def test_the_mean_of_quantiles_is_exact() -> None:
    """The closed form agrees with the average over a fine grid of shares."""
    quantiles = Quantiles((0, 1), (0.5, 10), (0.9, 10), (1, 2000))
    grid = [quantiles.at((index + 0.5) / 100_000) for index in range(100_000)]
    assert quantiles.mean == pytest.approx(sum(grid) / len(grid), rel=1e-4)


def test_likeness_leaves_the_distribution_as_it_is() -> None:
    """Over many groups, draws that are alike within each have the same mean as draws that are not."""
    rng = random.Random(5)
    quantiles = Quantiles((0, 1), (0.5, 100), (1, 800))
    groups = [[quantiles.draw_count_alike(rng, bent, 0.5) for _ in range(4)] for bent in _bents(rng, 6000)]
    drawn = [value for group in groups for value in group]
    assert sum(drawn) / len(drawn) == pytest.approx(quantiles.mean, rel=0.03)


def _bents(rng: random.Random, count: int) -> list[float]:
    return [rng.gauss(0, 1) for _ in range(count)]


@pytest.mark.parametrize("points", [[(0, 1)], [(0, 1), (0.5, 2)], [(0, 2), (1, 1)], [(0, -1), (1, 1)]])
def test_quantiles_that_are_none_are_refused(points: list[tuple[float, float]]) -> None:
    """Shares go from 0 to 1, and values do not fall."""
    with pytest.raises(ValueError, match="quantiles"):
        Quantiles(*points)
