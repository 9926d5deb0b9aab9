"""What goes wrong in a fleet of real processes: nothing is lost, and nothing is made up."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import aiohttp
import httpx
import pytest
from fault_world import CHAT, Fleet, engines_of, fleet, identity, program

from autellix_server.engine_bench.usage import memory_of

COMPLETIONS = "/v1/chat/completions"
LONG = {**CHAT, "max_tokens": 20_000, "stream": True}


def until(condition: Callable[[], object], limit_s: float = 20.0) -> None:
    """Poll until `condition` holds: what happens in other processes cannot be awaited."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)


def all_ready(client: httpx.Client) -> bool:
    """Return whether every engine is there."""
    return all(engine["state"] == "ready" for engine in engines_of(client).values())


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[Fleet, httpx.Client]]:
    """Two engines, and a gateway that gives up on one that hangs after a second."""
    with fleet(tmp_path, 2, 20.0, "--hang-limit-s", "1") as running, running.serving() as client:
        until(lambda: all_ready(client))
        yield running, client


def busy(client: httpx.Client) -> dict[str, int]:
    """Return how many calls the gateway has at each engine."""
    return {name: engine["calls"] for name, engine in engines_of(client).items()}


def begun(client: httpx.Client, name: str, body: dict[str, object]) -> httpx.Response:
    """Begin a streamed call and return its response once the first piece is there."""
    request = client.build_request("POST", COMPLETIONS, json=body, headers=identity(name, "0.0"))
    response = client.send(request, stream=True)
    assert response.status_code == 200
    return response


def test_a_call_whose_engine_is_killed_before_the_first_byte_is_answered_by_another(
    two: tuple[Fleet, httpx.Client],
) -> None:
    """Once, and charged once."""
    running, client = two
    httpx.post(f"{running.engines[0].url}/mock/faults", json={"kind": "hang", "count": 1})
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(client.post, COMPLETIONS, json=CHAT, headers=identity("p", "0.0"))
        until(lambda: busy(client)["e0"] == 1)
        running.engines[0].kill()
        response = call.result()
    assert response.status_code == 200
    assert response.json()["usage"]["completion_tokens"] == 8
    row = program(client, "p")
    assert (row["calls_completed"], row["calls_active"], row["bill"]["output_tokens"]) == (1, 0, 8)
    assert client.get("/health").json()["counters"]["engine_failures"] == 1


def test_a_stream_whose_engine_is_killed_ends_with_an_error_event(two: tuple[Fleet, httpx.Client]) -> None:
    """Its program has nothing in flight any more, and what it was given is charged; later calls go elsewhere."""
    running, client = two
    response = begun(client, "p", LONG)
    lines = response.iter_lines()
    next(lines)
    at = next(name for name, calls in busy(client).items() if calls)
    running.engines[int(at[1:])].kill()
    last = [line for line in lines if line][-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "engine_died"
    assert program(client, "p")["calls_active"] == 0
    until(lambda: engines_of(client)[at]["state"] == "unreachable")
    for number in range(3):
        answer = client.post(COMPLETIONS, json=CHAT, headers=identity("p", f"0.{number + 1}"))
        assert answer.status_code == 200


def test_an_engine_killed_while_it_drains_takes_nothing_but_its_own_calls(two: tuple[Fleet, httpx.Client]) -> None:
    """Others never notice."""
    running, client = two
    response = begun(client, "p", LONG)
    lines = response.iter_lines()
    next(lines)
    at = next(name for name, calls in busy(client).items() if calls)
    assert client.post(f"/autellix/v1/engines/{at}/drain", json={}).json()["draining"] is True
    assert client.post(COMPLETIONS, json=CHAT, headers=identity("q", "0.0")).status_code == 200
    running.engines[int(at[1:])].kill()
    assert "engine_died" in "".join(lines)
    assert client.post(COMPLETIONS, json=CHAT, headers=identity("q", "0.1")).status_code == 200
    assert busy(client) == {"e0": 0, "e1": 0}


def test_calls_of_an_engine_that_hangs_go_to_another(two: tuple[Fleet, httpx.Client]) -> None:
    """It is there and accepts connections; a signal stops it and nothing closes."""
    running, client = two
    running.engines[0].signal(signal.SIGSTOP)
    with ThreadPoolExecutor(4) as pool:
        calls = [
            pool.submit(client.post, COMPLETIONS, json=CHAT, headers=identity(f"p{number}", "0.0"))
            for number in range(4)
        ]
        assert [call.result().status_code for call in calls] == [200] * 4
    assert busy(client) == {"e0": 0, "e1": 0}
    running.engines[0].signal(signal.SIGCONT)
    until(lambda: all_ready(client))


def test_a_slow_engine_is_not_a_dead_one(two: tuple[Fleet, httpx.Client]) -> None:
    """Its calls take their time and none is sent twice."""
    running, client = two
    for engine in running.engines:
        httpx.post(f"{engine.url}/mock/faults", json={"kind": "slow", "factor": 50, "seconds": 40})
    answer = client.post(COMPLETIONS, json=CHAT, headers=identity("p", "0.0"))
    assert (answer.status_code, client.get("/health").json()["counters"]["engine_failures"]) == (200, 0)
    assert program(client, "p")["calls_completed"] == 1


def test_a_client_that_vanishes_is_gone_from_the_engine(two: tuple[Fleet, httpx.Client]) -> None:
    """Streamed or not; in the table as well."""
    running, client = two
    with httpx.Client(base_url=running.gateway.url) as other, ThreadPoolExecutor(1) as pool:
        response = begun(other, "p", LONG)
        until(lambda: running.in_flight() == 1)
        response.close()
        until(lambda: running.in_flight() == 0, 2.0)
        whole = {**LONG, "stream": False}
        call = pool.submit(other.post, COMPLETIONS, json=whole, headers=identity("p", "0.1"), timeout=0.5)
        until(lambda: running.in_flight() == 1)
        assert isinstance(call.exception(), httpx.TimeoutException)
        until(lambda: running.in_flight() == 0, 2.0)
    until(lambda: program(client, "p")["calls_active"] == 0)


def test_a_program_may_end_twice(two: tuple[Fleet, httpx.Client]) -> None:
    """The second end says the same and changes nothing."""
    _, client = two
    client.post(COMPLETIONS, json=CHAT, headers=identity("p", "0.0"))
    ends = [
        client.post("/autellix/v1/programs/end", json={"programs": [{"id": "p"}, {"id": "p"}]}).json()["results"]
        for _ in range(2)
    ]
    assert len({json.dumps(result) for results in ends for result in results}) == 1
    assert ends[0][0]["status"] == 200


@pytest.mark.slow
def test_ten_thousand_abandoned_programs_are_gone_by_lease(tmp_path: Path) -> None:
    """And with them their memory: a second ten thousand takes no more than the first."""
    with fleet(tmp_path, 1, 20.0, "--lease-s", "3") as running, running.serving() as client:
        resident = []
        for crowd in ("a", "b"):
            asyncio.run(abandon(f"{running.gateway.url}/autellix/v1/programs", crowd))
            until(lambda: client.get("/health").json()["programs"] == 0)
            resident.append(memory_of([running.gateway.process.pid]).rss_bytes)
        assert resident[1] < resident[0] + 5e6, "half a kilobyte a program would show"


async def abandon(url: str, crowd: str) -> None:
    """Open ten thousand programs and leave."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=32)) as session:

        async def begin(number: int) -> None:
            async with session.post(url, json={"id": f"{crowd}{number}"}) as reply:
                assert reply.status == 201, await reply.text()

        await asyncio.gather(*map(begin, range(10_000)))


def test_a_gateway_killed_under_load_comes_back_with_its_accounts(tmp_path: Path) -> None:
    """At most the last second is lost, the engines have nothing of its clients any more, and nothing is in flight."""
    with fleet(tmp_path, 2) as running:
        with running.serving() as client:
            until(lambda: all_ready(client))
            with ThreadPoolExecutor(8) as pool:
                for number in range(40):
                    pool.submit(client.post, COMPLETIONS, json=CHAT, headers=identity(f"p{number % 8}", f"0.{number}"))
            before = {f"p{number}": program(client, f"p{number}") for number in range(8)}
            time.sleep(1.1)  # what is promised is a second
            open_ones = [begun(client, f"s{number}", LONG) for number in range(4)]
            running.gateway.kill()
            for response in open_ones:
                with pytest.raises(httpx.HTTPError):
                    response.read()
        until(lambda: running.in_flight() == 0)
        with running.serving() as client:
            for name, row in before.items():
                after = program(client, name)
                assert (after["calls_completed"], after["service_s"]) == (row["calls_completed"], row["service_s"])
                assert after["calls_active"] == 0
            listed = client.get("/autellix/v1/programs").json()["programs"]
            assert {row["id"] for row in listed} <= {*before, *(f"s{number}" for number in range(4))}
            until(lambda: all_ready(client))
            assert client.post(COMPLETIONS, json=CHAT, headers=identity("p0", "1.0")).status_code == 200
            assert program(client, "p0")["calls_completed"] == before["p0"]["calls_completed"] + 1
