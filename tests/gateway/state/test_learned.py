"""What an engine that starts anew is told: enough to judge programs as the one before it did."""

from __future__ import annotations

import itertools
import random

import pytest
from state_world import World

from autellix_sdk.wire import CallContext, CallId, ProgramId
from autellix_server.gateway.state.learned import MAX_CLASSES, MAX_PER_CLASS, EndedHistory
from autellix_server.scheduling.call import Call
from autellix_server.scheduling.levels import geometric_levels
from autellix_server.scheduling.policies.gittins import Gittins
from autellix_server.scheduling.table import Program
from autellix_server.stamp import MAX_ENDED, EndedProgram, EndedPrograms, decode_ended, encode_ended

SECRET = b"0123456789abcdef"


def ended(name: str | None, service_us: int) -> Program:
    """A program that ended."""
    return Program(ProgramId("p"), name, 0.0, 0.0, service_us=service_us)


def told(history: EndedHistory) -> tuple[EndedProgram, ...]:
    """What a new engine is told."""
    numbers = itertools.count()
    return history.programs(lambda: f"new-{next(numbers)}")


def stored(history: EndedHistory) -> EndedHistory:
    """The history as it is after a restart."""
    again = EndedHistory()
    for name, value in history.changes():
        if value is not None:
            again.restore(name, value)
    return again


def levels(policy: Gittins, program_class: str) -> list[int]:
    """Where programs of a class would start, by what they attained."""
    found = []
    for number in range(40):
        context = CallContext(ProgramId(f"probe-{program_class}-{number}"), "s", 0, CallId("0.0"))
        call = Call(context, 0.0, 1, base_service_s=0.05 * 1.3**number, program_class=program_class)
        found.append(policy.start(call).level)
    return found


async def test_a_new_engine_judges_programs_as_the_one_before(world: World) -> None:
    """Told through the signed header, a few with each call, after a restart of the gateway."""
    dice, before, after = random.Random(3), Gittins(geometric_levels()), Gittins(geometric_levels())
    for number in range(300):
        name = dice.choice(["short", "long"])
        service_us = round(1e6 * (dice.uniform(1, 2) if name == "short" else dice.choice([3, 90])))
        before.ended(ProgramId(f"p{number}"), name, service_us / 1e6)
        world.state.history.add(ended(name, service_us))
    await world.state.commit()
    world.restart()
    queue = EndedPrograms()
    queue.extend(told(world.state.history))
    while news := queue.take():
        for program in decode_ended(encode_ended(news, SECRET), SECRET):
            after.ended(program.id, program.program_class, program.service_us / 1e6)
    for name in ("short", "long"):
        assert levels(after, name) == levels(before, name)
        assert levels(after, name) != levels(after, "unheard of")


def test_the_last_of_every_class_are_told_first() -> None:
    """An engine knows something of each after a few calls; IDs are new ones."""
    history = EndedHistory()
    for name, service_us in (("a", 1), ("a", 2), ("b", 7), (None, 9), ("a", 3), ("b", 0)):
        history.add(ended(name, service_us))
    assert told(history) == (
        ("new-0", "a", 3),
        ("new-1", "", 9),
        ("new-2", "b", 7),
        ("new-3", "a", 2),
        ("new-4", "a", 1),
    )


def test_history_is_bounded_by_class_and_in_all() -> None:
    """Names come from clients; the classes used last stay, in the file too."""
    history = EndedHistory()
    for number in range(MAX_CLASSES + 10):
        history.add(ended(f"class {number}", 5))
    for number in range(MAX_PER_CLASS + 100):
        history.add(ended("busy", number + 1))
    changes = dict(history.changes())
    assert [name for name, value in changes.items() if value is None] == [f"class {number}" for number in range(11)]
    assert dict(history.changes()) == {}
    services_us = [program.service_us for program in told(history) if program.program_class == "busy"]
    assert services_us == list(range(MAX_PER_CLASS + 100, 100, -1))
    for number in range(MAX_ENDED):
        history.add(ended(f"class {MAX_CLASSES - number % 50}", 6))
    assert len(told(history)) == MAX_ENDED


def test_a_history_is_the_same_after_a_restart_and_goes_on() -> None:
    """Which class was used last is known as well."""
    history = EndedHistory()
    for number in range(1000):
        history.add(ended("größe" if number % 3 else None, number))
    again = stored(history)
    assert told(again) == told(history)
    assert told(again)[0] == ("new-0", "", 999)
    again.add(ended("größe", 77))
    assert told(again)[0] == ("new-0", "größe", 77)


@pytest.mark.parametrize("value", ["", "[]", '{"version":2,"services_us":[]}', '{"version":1,"services_us":[-1]}'])
def test_what_is_damaged_or_of_another_version_is_refused(value: str) -> None:
    """Nothing of it counts."""
    history = EndedHistory()
    with pytest.raises(ValueError):  # noqa: PT011 - any kind of it
        history.restore("a", value)
    assert told(history) == ()
