"""Policies: where a call starts, and what its completion does to its program."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from autellix_sdk.errors import ConfigurationError
from autellix_server.scheduling.levels import Levels


class Policy(Protocol):
    """Decides priority from attained service. Stateless and deterministic; safe to share between threads."""

    @property
    def name(self) -> str:
        """Name on the command line."""

    def start_level(self, base_service_s: float) -> int:
        """Return the level of a call whose program had attained `base_service_s` seconds when it arrived."""

    def completed(self, service_s: float, base_service_s: float, call_service_s: float) -> float:
        """Return the program's attained service after one of its calls completed, in seconds.

        Args:
            service_s: the program's attained service now.
            base_service_s: what it was when the completed call arrived.
            call_service_s: time the call spent on the model executor.
        """


@dataclass(frozen=True, slots=True)
class Fcfs:
    """First come, first served: one level for every call. The baseline; the account is kept all the same."""

    levels: Levels
    name: str = "fcfs"

    def start_level(self, base_service_s: float) -> int:
        """Every call starts in level 0."""
        return 0

    def completed(self, service_s: float, base_service_s: float, call_service_s: float) -> float:
        """Sum up service, so that the table shows who used what."""
        return service_s + call_service_s


@dataclass(frozen=True, slots=True)
class Plas:
    """Program-level attained service: a call starts where its program's summed service puts it.

    Choose it for single-threaded programs of unlike sizes. It delays programs that have had much service even when
    they are about to finish, which hurts where all programs are alike in size.

    Source: Autellix section 4.2, PLAS: p(c_j) is the sum of t_k over completed calls k < j.
    """

    levels: Levels
    name: str = "plas"

    def start_level(self, base_service_s: float) -> int:
        """Return the level whose bin holds the program's attained service."""
        return self.levels.level_of(base_service_s)

    def completed(self, service_s: float, base_service_s: float, call_service_s: float) -> float:
        """Add the call's service to its program's."""
        return service_s + call_service_s


POLICIES: dict[str, Callable[[Levels], Policy]] = {"fcfs": Fcfs, "plas": Plas}
"""Every policy by its name on the command line."""


def make_policy(name: str, levels: Levels) -> Policy:
    """Build the policy called `name`.

    Raises:
        ConfigurationError: there is no such policy; the message lists those there are.
    """
    try:
        return POLICIES[name](levels)
    except KeyError:
        raise ConfigurationError(f"unknown policy {name!r}; choose one of: {', '.join(sorted(POLICIES))}") from None
