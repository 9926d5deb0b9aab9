"""Scheduling policies, one family a module. A module in this folder whose class is `registered` is found by itself.

| choose | when |
|---|---|
| `auto` | by default |
| `gittins` | programs come in kinds that repeat, or nothing is known about them |
| `atlas`, `atlas-dag` | programs fork, are of unlike sizes, and every one is new |
| `plas` | programs are single chains of unlike sizes |
| `mlfq` | calls do not belong to programs |
| `program-fcfs` | programs are alike in size and order of arrival matters |
| `lpm` | memory for the prefix cache is what is short |
| `round-robin` | seeing what preemption alone is worth |
| `fcfs` | comparing with an engine without program awareness |
| `srpt` | in the simulator, to see how much is left to gain |

All but `fcfs`, `lpm`, `mlfq` and `round-robin` go by programs: the planner holds a program's KV between its calls.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pkgutil import iter_modules

from autellix_sdk.errors import ConfigurationError
from autellix_server.scheduling.levels import Levels
from autellix_server.scheduling.policies.base import REGISTRY
from autellix_server.scheduling.policy import Policy

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

POLICIES: Mapping[str, Callable[[Levels], Policy]] = {name: REGISTRY[name] for name in sorted(REGISTRY)}
"""Every policy by its name on the command line."""

SERVABLE = tuple(name for name in POLICIES if not REGISTRY[name].clairvoyant)
"""Names of the policies that need no knowledge of the future: those that an engine can run."""

DEFAULT_POLICY = "auto"
"""What serves where nobody names a policy."""


def make_policy(name: str, levels: Levels) -> Policy:
    """Build the policy called `name`.

    Args:
        name: one of `POLICIES`.
        levels: bins of attained service.

    Raises:
        ConfigurationError: there is no such policy; the message lists those there are.
    """
    try:
        return POLICIES[name](levels)
    except KeyError:
        raise ConfigurationError(f"unknown policy {name!r}; choose one of: {', '.join(POLICIES)}") from None
