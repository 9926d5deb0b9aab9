"""What is measured while an arm runs: which calls are sent, and what their times say."""

from __future__ import annotations

import pytest
from paced_client import SILENT, PacedClient

from autellix_sdk.errors import UsageError
from autellix_server.engine_bench.measure import Load, Speeds, measure_speeds
from autellix_server.errors import EngineFailure

LOAD = Load(concurrency=(1, 4), tokens=16, context=32, prefill=64, repeats=2)


async def measure(client: PacedClient, salt: str = "round 0", load: Load = LOAD) -> Speeds:
    """Measure without a word."""
    return await measure_speeds(client, load, salt, SILENT)


async def test_speeds_are_those_of_all_calls_together() -> None:
    """A step of a tenth of a second gives ten tokens a second to each; 64 tokens in half a second are 128."""
    found = await measure(PacedClient(first_s=0.5, step_s=0.1))
    assert found.tokens_per_s == {
        "decode 1": pytest.approx([10, 10]),
        "decode 4": pytest.approx([40, 40]),
        "prefill 64": pytest.approx([128, 128]),
    }


async def test_every_prompt_is_new_and_has_its_length() -> None:
    """A warm-up and two repetitions, of one, four and one calls each; no prompt comes twice."""
    client = PacedClient()
    await measure(client)
    assert len(client.prompts) == len(set(client.prompts)) == 3 * (1 + 4 + 1)
    assert sorted(map(len, client.prompts)) == [32] * 15 + [64] * 3


async def test_arms_of_a_round_get_the_same_prompts_and_rounds_others() -> None:
    """What is drawn depends on the salt alone."""
    clients = [PacedClient(), PacedClient(), PacedClient()]
    for client, salt in zip(clients, ("round 0", "round 0", "round 1"), strict=True):
        await measure(client, salt)
    one, same, other = (client.prompts for client in clients)
    assert one == same
    assert not set(one) & set(other)


async def test_a_batch_that_never_decodes_together_is_no_batch() -> None:
    """A server with too few slots would otherwise pass for a slow one."""
    with pytest.raises(UsageError, match="4 calls never decoded side by side for long; give the server as many slots"):
        await measure(PacedClient(late_s=1.0))


async def test_a_prompt_from_the_cache_is_no_measure() -> None:
    """A token in common may be chance."""
    await measure(PacedClient(cached_tokens=1))
    with pytest.raises(EngineFailure, match="the server took 20 tokens of a new prompt from its cache"):
        await measure(PacedClient(cached_tokens=20))
