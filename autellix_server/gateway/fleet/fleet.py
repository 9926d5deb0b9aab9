"""The fleet: its members by name, and those that can take a call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from autellix_server.engine.supervisor import EngineState
from autellix_server.gateway.fleet.member import Member


class Fleet:
    """The engines of one gateway, in the order in which they joined. Written by the event loop alone.

    Args:
        members: those that are there from the beginning.
    """

    def __init__(self, members: Iterable[Member] = ()) -> None:
        self._members = {member.name: member for member in members}

    def __iter__(self) -> Iterator[Member]:
        return iter(tuple(self._members.values()))

    def get(self, name: str) -> Member | None:
        """Return the member called `name`."""
        return self._members.get(name)

    def add(self, member: Member) -> None:
        """Let an engine join."""
        self._members[member.name] = member

    def remove(self, name: str) -> None:
        """Take an engine out; calls in it are left to end."""
        del self._members[name]

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models that its engines serve, as far as they say, each once."""
        return tuple(dict.fromkeys(name for member in self for name in member.status.models))

    @property
    def mixed(self) -> bool:
        """Whether its engines serve different models, so that calls must be told apart by them."""
        return len({member.status.models for member in self if member.status.models}) > 1

    def serving(self, model: str | None, now: float) -> list[Member]:
        """Return the members that accept calls of `model`; `None`: of any.

        An engine that serves one model answers to any name, and clients send what they like: only where engines
        differ does the name decide. Engines that fail calls are left out, unless all do: then a call that fails is no
        worse than one that is refused.

        Args:
            model: name of a model.
            now: seconds, on the clock of the breakers.
        """
        accepting = [member for member in self if member.accepts]
        if model is not None and self.mixed:
            accepting = [member for member in accepting if not member.status.models or model in member.status.models]
        return [member for member in accepting if member.breaker.admits(now)] or accepting

    def knows(self, model: str) -> bool:
        """Return whether calls of `model` have an engine, ready or not."""
        return not self.mixed or any(not member.status.models or model in member.status.models for member in self)

    @property
    def detail(self) -> str:
        """Why there is no engine, in a few words."""
        states = {member.name: member.status for member in self if not member.accepts}
        if not states:
            return "no engine is attached"
        if len(states) == 1:
            (status,) = states.values()
            return "it is drained" if status.state is EngineState.READY else status.detail
        return "; ".join(f"{name} {status.state}: {status.detail}" for name, status in states.items())
