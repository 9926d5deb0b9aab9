"""The KV pool: sharing, eviction by last use, parking, and that no token is lost or made."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from autellix_sdk.wire import ProgramId
from autellix_server.simulator.memory import HostPool, KvPool, Parked

A, B = ProgramId("a"), ProgramId("b")


def test_finished_call_leaves_its_history_behind() -> None:
    """The next call of the program finds it, up to what it shares."""
    pool: KvPool[int] = KvPool(100, 0)
    assert pool.pin(A, 0, 10) == 0
    pool.finish(A, 0, 10)
    assert (pool.pinned, pool.cached, pool.history_tokens(A)) == (0, 10, 10)
    assert pool.pin(A, 8, 20) == 8
    assert (pool.pinned, pool.shared, pool.cached) == (20, 8, 2)
    assert pool.pin(B, 8, 20) == 0


def test_calls_of_a_program_share_its_history() -> None:
    """Two branches of 15 tokens over a prefix of 10 pin 20; the prefix stays pinned until both are done."""
    pool: KvPool[int] = KvPool(100, 0)
    pool.finish(A, pool.pin(A, 0, 10), 10)
    hits = [pool.pin(A, 10, 15) for _ in range(2)]
    assert (hits, pool.pinned, pool.shared) == ([10, 10], 20, 10)
    pool.finish(A, 10, 5)
    assert (pool.pinned, pool.shared, pool.cached) == (15, 10, 5)
    pool.finish(A, 10, 5)
    assert (pool.pinned, pool.history_tokens(A)) == (0, 20)


def test_eviction_takes_the_least_recently_used_from_its_end() -> None:
    """What is left of a history is its beginning, which can still be shared."""
    pool: KvPool[int] = KvPool(30, 0)
    for program in (A, B):
        pool.finish(program, pool.pin(program, 0, 10), 10)
    assert pool.evict(15) == []
    assert (pool.history_tokens(A), pool.history_tokens(B)) == (5, 10)
    assert pool.pin(A, 10, 12) == 5


def test_pinned_tokens_are_never_evicted() -> None:
    """Growth pushes out what is cached, and stops there."""
    pool: KvPool[int] = KvPool(20, 0)
    pool.finish(A, pool.pin(A, 0, 10), 10)
    pool.pin(B, 0, 10)
    pool.grow(4)
    assert (pool.pinned, pool.cached) == (14, 6)
    assert pool.evict(0) == []
    assert (pool.pinned, pool.cached) == (14, 0)


def test_parked_call_moves_to_the_host_as_a_whole() -> None:
    """It is evicted like a history, but not lost while the host has room."""
    pool: KvPool[int] = KvPool(30, 10)
    for call, program in enumerate((A, B)):
        pool.pin(program, 0, 12)
        pool.park(call, program, 0, 12, 8)
    assert (pool.pinned, pool.cached, pool.parked) == (0, 16, 16)
    assert pool.evict(10) == [(0, 8)]
    assert pool.evict(0) == []  # the host has room for one of them
    assert (pool.parked, pool.host.calls_tokens) == (0, 8)
    assert pool.unpark(0) == Parked(8, on_host=True)
    assert pool.unpark(1) == Parked(0, on_host=False)
    assert pool.host.calls_tokens == 0


def test_evicted_history_comes_back_from_the_host() -> None:
    """As much of it as the next call shares; the rest stays there."""
    pool: KvPool[int] = KvPool(30, 100)
    pool.finish(A, pool.pin(A, 0, 20), 20)
    pool.evict(5)
    assert pool.history_tokens(A) == 5
    assert pool.bring_back(A, 12) == 7
    assert pool.pin(A, 12, 14) == 12
    assert pool.host.take_history(A, 100) == 8


def test_held_history_is_not_evicted_until_released() -> None:
    """It is neither pinned nor cached; released, it is the last to go."""
    pool: KvPool[int] = KvPool(30, 0)
    for program in (A, B):
        pool.finish(program, pool.pin(program, 0, 10), 10)
    pool.hold(A)
    assert (pool.held, pool.cached, pool.history_tokens(A)) == (10, 10, 10)
    pool.evict(0)
    assert (pool.history_tokens(A), pool.history_tokens(B)) == (10, 0)
    pool.release(A)
    assert (pool.held, pool.cached) == (0, 10)


def test_held_history_is_shared_by_the_next_call() -> None:
    """Pinning ends the hold."""
    pool: KvPool[int] = KvPool(30, 0)
    pool.finish(A, pool.pin(A, 0, 10), 10)
    pool.hold(A)
    assert pool.pin(A, 8, 12) == 8
    assert (pool.held, pool.cached, pool.pinned) == (0, 2, 12)


def test_ended_program_leaves_nothing_behind() -> None:
    """Neither on the device nor on the host, held or not."""
    pool: KvPool[int] = KvPool(30, 100)
    pool.finish(A, pool.pin(A, 0, 20), 20)
    pool.evict(5)
    pool.hold(A)
    pool.forget(A)
    assert (pool.held, pool.cached, pool.host.take_history(A, 100)) == (0, 0, 0)


def test_preempted_calls_push_histories_out_of_the_host() -> None:
    """Somebody waits for a call; a history is for a program that may come back."""
    host: HostPool[int] = HostPool(10)
    host.keep_history(A, 4)
    host.keep_history(B, 4)
    assert host.keep_call(1, 5)
    assert (host.take_history(A, 9), host.take_history(B, 9)) == (1, 4)
    assert not host.keep_call(2, 6)
    assert host.take_call(1) == 5


@given(seed=st.integers(0, 2**32))
def test_tokens_are_conserved(seed: int) -> None:
    """Whatever happens in whatever order, the pool's sums are those of its parts and within its size."""
    random = Random(seed)
    pool: KvPool[int] = KvPool(200, random.choice([0, 50]))
    running: dict[int, tuple[ProgramId, int, int]] = {}
    parked: dict[int, tuple[ProgramId, int]] = {}
    for call in range(60):
        program = ProgramId(random.choice("abc"))
        room = pool.tokens - pool.pinned - pool.held
        if random.random() < 0.5 and room > 30:
            context = random.randint(1, 30)
            hit = pool.pin(program, random.randint(0, context - 1), context)
            running[call] = (program, hit, context - hit)
        elif running:
            leaving = random.choice(sorted(running))
            program, hit, own = running.pop(leaving)
            if random.random() < 0.5:
                pool.finish(program, hit, own)
            else:
                computed = random.randint(0, own)
                pool.park(leaving, program, hit, own, computed)
                parked[leaving] = (program, computed)
        elif parked:
            back = random.choice(sorted(parked))
            assert pool.unpark(back).tokens in (0, parked.pop(back)[1])
        idle = [name for name in map(ProgramId, "abc") if name not in {ran for ran, _, _ in running.values()}]
        for program in random.sample(idle, random.randint(0, len(idle))):
            random.choice([pool.hold, pool.release, pool.forget, lambda name: pool.bring_back(name, 10)])(program)
        pool.evict(random.randint(0, pool.tokens))
        own_pinned = sum(own for _, _, own in running.values())
        shares = {name: [hit for program, hit, _ in running.values() if program == name] for name in "abc"}
        assert pool.shared == sum(max(hits, default=0) for hits in shares.values())
        assert pool.pinned == own_pinned + pool.shared
        assert pool.cached == sum(pool._cached.values())
        assert pool.parked == sum(tokens for key, tokens in pool._cached.items() if not isinstance(key, str))
        assert pool.held == sum(pool._held.values())
        host = pool.host
        assert host.calls_tokens == sum(host._calls.values())
        assert host._history_tokens == sum(host._histories.values())
        assert host.calls_tokens + host._history_tokens <= host.tokens
        assert min(pool._cached.values(), default=1) > 0
