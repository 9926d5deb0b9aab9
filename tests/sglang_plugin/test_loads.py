"""What is loaded from host memory and what is computed again, on a fake tree."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from fake_tree import FakeTree

from autellix_server.sglang_plugin.loads import LoadHooks
from autellix_server.sglang_plugin.swap_check import SwapCheck
from autellix_server.sglang_plugin.swap_cost import LoadCost

COST = LoadCost(fixed_s=0.5, token_s=0.0)


class FakePool:
    """A host pool, whose pages change when a test says so."""

    def __init__(self, cost: LoadCost | None = COST) -> None:
        self.cost = cost
        self.changed = 0
        self.started: list[tuple[str, SwapCheck]] = []

    def start(self, io_backend: str, check: SwapCheck) -> None:
        """Remember what it was told."""
        self.started.append((io_backend, check))

    def load_cost(self, io_backend: str) -> LoadCost | None:
        """What a test says."""
        return self.cost

    def changed_pages(self, host_indices: Any) -> int:
        """What a test says."""
        return self.changed

    def to_json(self) -> dict[str, Any]:
        """Some kernel."""
        return {"out": {"kernel": "fast", "why": "it is"}}


class Rank:
    """One rank's hooks on its tree; `others` are numbers of the other ranks, asked for one after another."""

    def __init__(self, pool: FakePool | None, *others: Sequence[int]) -> None:
        self.others = list(others)
        self.asked: list[list[int]] = []
        self.tree = FakeTree(host_tokens=1000)
        self.tree.load_back_threshold = 10
        self.tree.cache_controller.io_backend = "kernel"  # type: ignore[union-attr]
        self.hooks = LoadHooks(0.25, lambda _: pool, self.smallest)
        self.hooks.init_hicache(lambda *_: None, self.tree, "server_args", "params")

    def smallest(self, tree: Any, numbers: Sequence[int]) -> Sequence[int]:
        """What the ranks agree on."""
        assert tree is self.tree
        self.asked.append(list(numbers))
        return list(map(min, numbers, self.others.pop(0))) if self.others else numbers

    def load(self) -> Any:
        """Have something loaded; the engine would return where."""
        return self.hooks.load(lambda *_, **__: "slots", "controller", [1, 2, 3], node_id=5)


def test_a_few_tokens_are_loaded_too_until_it_is_known_what_computing_takes() -> None:
    """HiCache would compute ten again; the pool is told what to check and how lists come."""
    pool = FakePool()
    rank = Rank(pool)
    assert rank.tree.load_back_threshold == 1
    assert pool.started == [("kernel", rank.hooks.check)]
    assert rank.hooks.check.share == 0.25


def test_threshold_follows_the_rates() -> None:
    """At 100 tokens a second half a second of loading is worth 50; steps that compute little change nothing."""
    rank = Rank(FakePool())
    rank.hooks.prefilled(10, 1.0)
    assert rank.tree.load_back_threshold == 1
    rank.hooks.prefilled(200, 2.0)
    assert rank.tree.load_back_threshold == 51
    assert rank.hooks.state() == {
        "swap": {
            "copies": {"out": {"kernel": "fast", "why": "it is"}},
            "check_share": 0.25,
            "load": {"fixed_s": 0.5, "token_s": 0.0},
            "prefill_tokens_s": 100.0,
            "load_threshold_tokens": 51,
        }
    }


@pytest.mark.parametrize("pool", [None, FakePool(cost=None)])
def test_without_a_cost_everything_is_loaded(pool: FakePool | None) -> None:
    """SGLang's pool, or one that is too small to tell."""
    rank = Rank(pool)
    rank.hooks.prefilled(200, 2.0)
    assert rank.tree.load_back_threshold == 1
    assert rank.load() == "slots"


def test_ranks_take_over_the_cost_of_the_slowest() -> None:
    """Of each part; and none of them if one could not tell."""
    rank = Rank(FakePool(), (1, -int(0.25e12), -int(0.001e12)))
    assert rank.asked == [[1, -int(0.5e12), 0]]
    assert rank.hooks.state()["swap"]["load"] == {"fixed_s": 0.5, "token_s": 0.001}
    assert Rank(FakePool(), (0, 0, 0)).hooks.state()["swap"]["load"] is None
    assert Rank(FakePool(cost=None), (1, -1, -1)).hooks.state()["swap"]["load"] is None


def test_damaged_kv_is_not_loaded(caplog: pytest.LogCaptureFixture) -> None:
    """The tree is told that there is no room, and it is said in the log; what was not checked is loaded."""
    caplog.set_level(logging.WARNING)
    pool = FakePool()
    rank = Rank(pool)
    for changed, loaded in ((0, "slots"), (2, None)):
        pool.changed = changed
        assert rank.load() == loaded
    assert caplog.messages == ["2 pages of KV changed in host memory; 3 tokens are computed again"]
    assert rank.asked[1:] == [[0], [-2]]


def test_what_one_rank_found_damaged_none_loads() -> None:
    """They would part otherwise; this one, which has nothing to check, asks the others all the same."""
    rank = Rank(FakePool(), (1, 0, 0), (-1,))
    assert rank.load() is None


def test_totals_are_those_of_the_check() -> None:
    """Nothing without HiCache."""
    rank = Rank(FakePool())
    rank.hooks.check.expect(lambda: ([1, 2], [10, 20]))
    rank.hooks.check.compare(dict.fromkeys(rank.hooks.check.known([1, 2]), 10))
    assert rank.hooks.to_json() == {"swap_pages_checked": 2, "swap_pages_failed": 1}
    without = LoadHooks(1.0, lambda _: None, lambda _, numbers: numbers)
    without.prefilled(100, 1.0)
    assert (without.to_json(), without.state()) == ({}, {})
    assert without.load(lambda *_, **__: "slots", SimpleNamespace(), [1]) == "slots"
