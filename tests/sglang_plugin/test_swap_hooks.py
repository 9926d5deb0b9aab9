"""Host locks on a fake tree: who gets one, who loses it for want of budget, and that none is left behind."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from fake_scheduler import FakeReq, FakeScheduler
from fake_tree import FakeTree

from autellix_server.sglang_plugin.requests import call_of, state_of
from autellix_server.sglang_plugin.swap import SwapHooks


class Engine:
    """Requests that leave the batch and come back, on a fake tree, under the hooks."""

    def __init__(self, host_tokens: int | None = 1000, page_size: int = 1, *, backed_up: bool = True) -> None:
        self.scheduler = FakeScheduler(slots=8)
        self.tree = FakeTree(host_tokens, page_size, backed_up=backed_up)
        self.hooks = SwapHooks(self.scheduler.release, self.tree.match)
        self.nodes = 0
        if host_tokens is not None:
            self.hooks.init_hicache(lambda *_: None, self.tree, "server_args", "params")

    def leave(self, name: str, tokens: int, *, place: int = 0) -> FakeReq:
        """Let a request with KV of `tokens` leave the batch and queue again, at a place in line."""
        req = self.scheduler.submit(name)
        call = call_of(req)
        assert call is not None
        call.key = (0, float(place), 0)
        self.nodes += 1
        req.last_node = self.nodes
        req.kv.kv_committed_len = tokens
        self.tree.kept[name] = (self.nodes, tokens)
        self.hooks.release(req, self.tree, checkpoint=True)
        return req

    def admit(self, *reqs: FakeReq) -> Any:
        """Run a scheduling pass that admits some of those who wait."""
        batch = SimpleNamespace(reqs=list(reqs)) if reqs else None
        plan = SimpleNamespace(batch_to_run=batch)

        def inner(original: str, scheduler: FakeScheduler, running_batch: Any) -> Any:
            assert original == "original"
            for req in reqs:
                scheduler.waiting_queue.remove(req)
            return plan

        assert self.hooks.new_batch(inner, "original", self.scheduler, self.scheduler.running_batch) is plan

    def counts(self) -> tuple[int, int, int]:
        """Locks, tokens that they hold, and locks refused."""
        counts = self.hooks.to_json()
        return counts["host_locks"], counts["host_locked_tokens"], counts["host_locks_refused"]


def test_call_that_leaves_is_locked_until_it_goes_on() -> None:
    """However many passes it waits; what was loaded for it is booked to it."""
    engine = Engine()
    req = engine.leave("victim", 70)
    assert engine.scheduler.released == ["victim"]
    assert (engine.counts(), engine.tree.locks) == ((1, 70, 0), {1})
    engine.admit()
    engine.admit()
    assert engine.counts() == (1, 70, 0)
    req.host_hit_tokens = 64
    engine.admit(req)
    assert (engine.counts(), engine.tree.locks) == ((0, 0, 0), set())
    state = state_of(req)
    assert state is not None
    assert state.meter.swapped_tokens == 64


def test_lock_of_a_call_that_is_gone_is_dropped_at_the_next_pass() -> None:
    """Nobody tells of calls that are aborted while they wait."""
    engine = Engine()
    gone, stays = engine.leave("gone", 10), engine.leave("stays", 20)
    engine.scheduler.waiting_queue.remove(gone)
    engine.admit()
    assert (engine.counts(), engine.tree.locks) == ((1, 20, 0), {stays.last_node})


def test_call_that_leaves_again_is_locked_again() -> None:
    """At the node where its KV ends then, and only there; loads of both times are booked."""
    engine = Engine()
    req = engine.leave("victim", 10)
    for _ in range(2):
        req.host_hit_tokens = 10
        engine.admit(req)
        engine.nodes += 1
        req.last_node = engine.nodes
        req.kv.kv_committed_len = 30
        engine.scheduler.waiting_queue.append(req)
        engine.hooks.release(req, engine.tree, checkpoint=True)
        assert (engine.counts(), engine.tree.locks) == ((1, 30, 0), {engine.nodes})
    state = state_of(req)
    assert state is not None
    assert state.meter.swapped_tokens == 20


def test_only_whole_pages_are_in_the_tree() -> None:
    """The rest is computed again; it takes no budget."""
    engine = Engine(page_size=16)
    engine.leave("victim", 47)
    engine.leave("tiny", 15)
    assert engine.counts() == (1, 32, 0)


@pytest.mark.parametrize(
    ("places", "locked", "refused"),
    [
        ((1, 2, 3), {1, 2}, 1),
        ((3, 2, 1), {2, 3}, 1),
        ((2, 3, 1), {1, 3}, 1),
        ((2, 1, 3), {1, 2}, 1),
    ],
)
def test_those_last_in_line_do_without_when_the_budget_is_short(
    places: tuple[int, ...], locked: set[int], refused: int
) -> None:
    """Whether they come last or had a lock already."""
    engine = Engine(host_tokens=100)
    for number, place in enumerate(places):
        engine.leave(f"call-{number}", 50, place=place)
    assert (engine.tree.locks, engine.counts()) == (locked, (2, 100, refused))


def test_no_lock_is_dropped_for_a_call_that_would_not_fit_all_the_same() -> None:
    """The best call is larger than what the worse ones hold together."""
    engine = Engine(host_tokens=100)
    engine.leave("small", 30, place=5)
    engine.leave("huge", 101, place=1)
    assert (engine.tree.locks, engine.counts()) == ({1}, (1, 30, 1))


def test_several_worse_calls_make_room_for_one() -> None:
    """As many as it takes, and no more."""
    engine = Engine(host_tokens=100)
    for number in range(3):
        engine.leave(f"small-{number}", 30, place=5 + number)
    engine.leave("large", 60, place=1)
    assert (engine.tree.locks, engine.counts()) == ({1, 4}, (2, 90, 2))


def crowded(*leaving: tuple[str, int, int]) -> tuple[Engine, FakeReq]:
    """An engine whose budget of 100 tokens one call holds alone; others left after it: name, tokens, place."""
    engine = Engine(host_tokens=100)
    first = engine.leave("first", 90, place=0)
    for name, tokens, place in leaving:
        engine.leave(name, tokens, place=place)
    return engine, first


def test_room_of_a_call_that_goes_on_is_for_those_who_had_to_do_without() -> None:
    """The first in line first, as far as it goes; later ones that still fit are not left out."""
    engine, first = crowded(("last", 30, 4), ("third", 30, 3), ("huge", 80, 2), ("second", 40, 1))
    assert (engine.tree.locks, engine.counts()) == ({1}, (1, 90, 4))
    engine.admit(first)
    assert (engine.tree.locks, engine.counts()) == ({5, 3, 2}, (3, 100, 4))
    assert engine.tree.matched == ["second", "third", "last"]


def test_call_that_made_room_is_locked_again_when_there_is_room() -> None:
    """It lost its lock to a better one, which is gone."""
    engine = Engine(host_tokens=100)
    engine.leave("worse", 60, place=5)
    better = engine.leave("better", 60, place=1)
    assert (engine.tree.locks, engine.counts()) == ({2}, (1, 60, 1))
    engine.scheduler.waiting_queue.remove(better)
    engine.admit()
    assert (engine.tree.locks, engine.counts()) == ({1}, (1, 60, 1))


def test_only_what_the_tree_still_has_of_a_call_is_locked_again() -> None:
    """It ends at another node by now; of a second call nothing is left, and for all of a third there is no room."""
    engine, first = crowded(("part", 50, 1), ("nothing", 50, 2), ("more", 60, 3))
    engine.tree.kept |= {"part": (77, 20), "nothing": (0, 0), "more": (78, 81)}
    engine.admit(first)
    assert (engine.tree.locks, engine.counts()) == ({77}, (1, 20, 3))
    assert engine.tree.matched == ["part", "nothing", "more"]


def test_nothing_is_looked_up_while_no_room_comes_back() -> None:
    """Nor when calls go on that had no lock; and of whom nothing is left, nothing is looked up again."""
    engine, first = crowded(("waits", 50, 1), ("goes on", 50, 2), ("lost", 50, 3))
    engine.admit()
    engine.admit(engine.scheduler.waiting_queue[2])
    assert engine.tree.matched == []
    engine.tree.kept["lost"] = (0, 0)
    second = engine.scheduler.waiting_queue[1]
    engine.admit(first)
    assert engine.tree.matched == ["waits", "lost"]
    engine.admit(second)
    assert engine.tree.matched == ["waits", "lost"]


def test_lock_that_locks_nothing_is_not_taken_for_one() -> None:
    """The tree says nothing when there is no copy to lock."""
    engine = Engine(backed_up=False)
    req = engine.leave("victim", 10)
    assert engine.counts() == (0, 0, 1)
    engine.admit(req)
    assert engine.counts() == (0, 0, 1)


def test_without_host_memory_or_without_keeping_kv_there_are_no_locks() -> None:
    """The release itself is SGLang's in any case."""
    engine = Engine(host_tokens=None)
    engine.leave("victim", 10)
    assert (engine.scheduler.released, engine.tree.locks, engine.hooks.to_json()) == (["victim"], set(), {})
    engine = Engine()
    engine.hooks = SwapHooks(lambda *_, checkpoint: None, engine.tree.match)
    engine.hooks.init_hicache(lambda *_: None, engine.tree)
    engine.hooks.release(engine.scheduler.submit("aborted"), engine.tree, checkpoint=False)
    assert engine.tree.locks == set()


def test_locks_go_with_the_tree() -> None:
    """A flushed tree has none of the nodes that were locked: they are not unlocked there, then or later."""
    engine = Engine()
    req = engine.leave("victim", 10)
    seen = []
    engine.hooks.reset(lambda tree: seen.append((tree, engine.counts())), engine.tree)
    assert seen == [(engine.tree, (0, 0, 0))]
    engine.admit(req)
    assert engine.tree.locks == {1}


def crowded_tree() -> tuple[Engine, list[tuple[int, str, set[int]]]]:
    """An engine with three locked nodes, the second below the first, and what its tree was asked to drop so far."""
    engine = Engine()
    for number in range(3):
        engine.leave(f"call-{number}", 10)
    engine.tree.parents = {2: 1}
    return engine, []


def test_engine_that_needs_the_room_of_a_locked_node_gets_it() -> None:
    """The tree declines; locks at the node and below it are dropped, others are not."""
    engine, asked = crowded_tree()

    def original(tree: FakeTree, node: int, tracker: str) -> bool:
        asked.append((node, tracker, set(tree.locks)))
        return not tree.locks & {1, 2}

    assert engine.hooks.drop_subtree(original, engine.tree, 1, "tracker")
    assert asked == [(1, "tracker", {1, 2, 3}), (1, "tracker", {3})]
    assert engine.counts() == (1, 10, 2)


@pytest.mark.parametrize("dropped", [True, False])
def test_locks_stay_where_they_are_not_in_the_way(dropped: bool) -> None:
    """The tree drops the node at once, or declines for another reason than our locks: it is not asked again."""
    engine, asked = crowded_tree()

    def original(tree: FakeTree, node: int, tracker: str) -> bool:
        asked.append((node, tracker, set(tree.locks)))
        return dropped

    assert engine.hooks.drop_subtree(original, engine.tree, 4, "tracker") is dropped
    assert asked == [(4, "tracker", {1, 2, 3})]
    assert engine.counts() == (3, 30, 0)


def test_tokens_that_move_are_counted() -> None:
    """A copy for which there was no room is none."""
    engine = Engine()
    assert engine.hooks.write(lambda *_, flush: [1, 2, 3], "controller", "indices", flush=False) == [1, 2, 3]
    assert engine.hooks.load(lambda *_: [1, 2], "controller", "indices") == [1, 2]
    assert engine.hooks.write(lambda *_: None, "controller", "indices") is None
    assert engine.hooks.load(lambda *_: None, "controller", "indices") is None
    counts = engine.hooks.to_json()
    assert (counts["swapped_out_tokens"], counts["swapped_in_tokens"]) == (3, 2)


def test_kv_that_is_never_loaded_is_not_locked() -> None:
    """Less than is loaded at all takes no budget and is not refused; once so little is loaded, it is locked."""
    engine = Engine(host_tokens=100)
    engine.tree.load_back_threshold = 20
    engine.leave("few", 19)
    engine.leave("enough", 20)
    for threshold, looked_up, counts in ((20, [], (1, 20, 0)), (19, ["few"], (2, 39, 0))):
        engine.tree.load_back_threshold = threshold
        engine.admit(engine.leave("goes on", 30))
        assert (engine.tree.matched, engine.counts()) == (looked_up, counts)
