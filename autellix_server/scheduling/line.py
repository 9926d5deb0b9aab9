"""Calls, and whatever else has a place in line, in order of priority."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import chain
from operator import attrgetter
from typing import Generic, Protocol, TypeVar

from autellix_server.scheduling.call import Key

_CHUNK = 1024
_HALF = _CHUNK // 2


class Standing(Protocol):
    """Whatever has a place in line."""

    @property
    def key(self) -> Key:
        """Level, rank and sequence: the smaller goes first, and no two in a line have the same."""


Member = TypeVar("Member", bound=Standing)


class Line(Generic[Member]):
    """Calls or the like, sorted by key, best first.

    A key must not change while its owner is in a line, unless `resort` follows before anything else.
    Adding and removing take two binary searches and a short move of memory: about a microsecond, in a long line too.
    """

    def __init__(self) -> None:
        self._length = 0
        # Keys and members, side by side, in chunks, and for each chunk a key that none of its own is below.
        self._keys: list[list[Key]] = [[]]
        self._members: list[list[Member]] = [[]]
        self._least: list[Key | tuple[()]] = [()]

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Member]:
        return chain.from_iterable(self._members)

    def __reversed__(self) -> Iterator[Member]:
        return chain.from_iterable(map(reversed, reversed(self._members)))

    def add(self, member: Member) -> None:
        """Put `member` at its place."""
        key = member.key
        chunk = bisect_right(self._least, key) - 1
        keys, members = self._keys[chunk], self._members[chunk]
        place = bisect_left(keys, key)
        keys.insert(place, key)
        members.insert(place, member)
        self._length += 1
        if len(keys) > _CHUNK:
            self._split(chunk)

    def remove(self, member: Member) -> None:
        """Take `member` out.

        Raises:
            ValueError: it is not in this line.
        """
        key = member.key
        chunk = bisect_right(self._least, key) - 1
        keys, members = self._keys[chunk], self._members[chunk]
        place = bisect_left(keys, key)
        if place == len(keys) or members[place] is not member:
            raise ValueError(f"{member} is not in line")
        del keys[place], members[place]
        self._length -= 1
        if not keys and chunk:
            del self._keys[chunk], self._members[chunk], self._least[chunk]

    def resort(self) -> None:
        """Put everybody where the keys say now: a fraction of a microsecond each, where stretches stay in order."""
        members = sorted(self, key=attrgetter("key"))
        self._members = [members[at : at + _HALF] for at in range(0, len(members), _HALF)] or [[]]
        self._keys = [[member.key for member in chunk] for chunk in self._members]
        self._least = [(), *(keys[0] for keys in self._keys[1:])]

    def _split(self, chunk: int) -> None:
        """Move the worse half of a chunk to one of its own."""
        keys, members = self._keys[chunk], self._members[chunk]
        half = len(keys) // 2
        self._keys.insert(chunk + 1, keys[half:])
        self._members.insert(chunk + 1, members[half:])
        self._least.insert(chunk + 1, keys[half])
        del keys[half:], members[half:]
