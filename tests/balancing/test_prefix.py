"""Prefix affinity: blocks of requests, who served them, and the guard against piling up."""

from __future__ import annotations

import json
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from autellix_sdk.wire import ProgramId
from autellix_server.balancing.choice import BalancedCall, Choice
from autellix_server.balancing.load import EngineLoad
from autellix_server.balancing.prefix import BLOCK_BYTES, MAX_BLOCKS, PrefixAffinity, prompt_blocks

plain = st.text("abc", max_size=40).map(str.encode)


def call(*blocks: str) -> BalancedCall:
    """A call whose prompt has these beginnings."""
    return BalancedCall(ProgramId("p"), 4000, tuple(block.encode() for block in blocks))


def fleet(*calls: int) -> list[EngineLoad]:
    """Engines e0, e1, ... with so many calls each."""
    return [EngineLoad(f"e{index}", count) for index, count in enumerate(calls)]


def chat(*contents: str, model: str = "m", **more: object) -> bytes:
    """A chat request."""
    messages = [{"role": "user", "content": content} for content in contents]
    return json.dumps({**more, "model": model, "messages": messages}).encode()


def common(one: tuple[bytes, ...], other: tuple[bytes, ...]) -> int:
    """How many beginnings both have."""
    return len(set(one) & set(other))


def test_blocks_of_a_longer_chat_begin_with_those_of_the_shorter() -> None:
    """A call replays what was said before: all whole blocks of it are found again but the one where it ended."""
    first, second = "a" * 5000, "b" * 3000
    before, after = prompt_blocks(chat(first)), prompt_blocks(chat(first, second))
    assert after[:4] == before[:4]
    assert len(after) == (len(chat(first, second)) - chat(first, second).index(b'"messages"')) // BLOCK_BYTES


def test_what_stands_before_the_prompt_does_not_matter() -> None:
    """Settings that clients write first."""
    assert prompt_blocks(chat("a" * 5000)) == prompt_blocks(chat("a" * 5000, temperature=0.5, seed=7))


def test_models_share_nothing() -> None:
    """Equal prompts of two models have no KV in common, whatever clients call them."""
    body = chat("a" * 5000)
    assert common(prompt_blocks(body, "one"), prompt_blocks(body, "two")) == 0
    assert prompt_blocks(body, "\ud800")


@given(shared=st.integers(0, 9), one=plain, other=plain)
def test_prompts_share_blocks_up_to_where_they_differ(shared: int, one: bytes, other: bytes) -> None:
    """Every block stands for all that comes before it."""
    head = b"x" * (shared * BLOCK_BYTES)
    tails = [head + tail + end * 3 * BLOCK_BYTES for tail, end in ((one, b"1"), (other, b"2"))]
    assert common(prompt_blocks(tails[0]), prompt_blocks(tails[1])) == shared


def test_long_prompts_have_a_bounded_number_of_blocks() -> None:
    """A megabyte costs what 64 kilobytes cost."""
    assert len(prompt_blocks(b"x" * (1 << 20))) == MAX_BLOCKS


def test_call_follows_the_longest_prefix() -> None:
    """Two engines served a part of it; the longer part wins, though its engine has more to do."""
    balancer = PrefixAffinity()
    balancer.choose(call("a"), fleet(0, 1), None)
    balancer.choose(call("a", "ab"), fleet(1, 0)[1:], None)
    assert balancer.choose(call("a", "ab", "abc"), fleet(0, 3), None).engine.name == "e1"


def test_prefix_that_is_a_small_part_is_not_worth_it() -> None:
    """Every chat begins alike: one block of four does not decide."""
    balancer = PrefixAffinity()
    balancer.choose(call("a"), fleet(0, 1), None)
    assert balancer.choose(call("a", "b", "c", "d"), fleet(1, 0), None) == Choice(EngineLoad("e1", 0))


def test_guard_sends_calls_elsewhere_and_says_so() -> None:
    """Nine calls more than on an idle engine are too many: the move is seen, and both have the prefix from then on."""
    balancer, shared = PrefixAffinity(), call("a", "ab")
    balancer.choose(shared, fleet(0, 0), None)
    assert balancer.choose(shared, fleet(8, 0), None) == Choice(EngineLoad("e0", 8))
    assert balancer.choose(shared, fleet(9, 0), None) == Choice(EngineLoad("e1", 0), moved_from="e0")
    assert balancer.choose(shared, fleet(9, 1), None) == Choice(EngineLoad("e1", 1))
    assert balancer.choose(shared, fleet(2, 5), None) == Choice(EngineLoad("e0", 2))


def test_hot_prefix_does_not_pile_up() -> None:
    """A thousand calls in a row that all begin alike: no engine of four gets over three times its share."""
    balancer, counts = PrefixAffinity(), Counter({f"e{index}": 0 for index in range(4)})
    for _ in range(1000):
        engines = [EngineLoad(name, calls) for name, calls in sorted(counts.items())]
        counts[balancer.choose(call("a", "ab"), engines, None).engine.name] += 1
    assert max(counts.values()) <= 1.5 * min(counts.values()) + 9


def test_engine_that_is_gone_holds_nothing() -> None:
    """Nobody can go there, and nobody moved by choice of the balancer."""
    balancer = PrefixAffinity()
    balancer.choose(call("a"), fleet(0), None)
    assert balancer.choose(call("a"), fleet(0, 0)[1:], None) == Choice(EngineLoad("e1", 0))


@given(prompts=st.lists(st.lists(st.binary(min_size=1, max_size=2), max_size=6), max_size=60))
def test_memory_is_bounded(prompts: list[list[bytes]]) -> None:
    """Beyond the bound the blocks not seen for longest go; those of the last call are there."""
    balancer = PrefixAffinity(max_blocks=10)
    for blocks in prompts:
        balancer.choose(BalancedCall(ProgramId("p"), 1, tuple(blocks)), fleet(0, 0), None)
        assert balancer.remembered <= 10
        if blocks:
            again = BalancedCall(ProgramId("p"), 1, tuple(blocks))
            assert balancer.choose(again, fleet(0, 0), None).moved_from is None
