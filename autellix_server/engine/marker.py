"""The marker by which our plugin shows that it is at work inside an engine. Pure.

SGLang starts unpatched when a plugin fails to load, so nobody trusts an engine to be ours before seeing the marker,
``"autellix": {"version": ..., "policy": ..., "name": ...}``, in its ``GET /server_info``.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

MARKER = "autellix"
_MAX_DEPTH = 4


def find_marker(server_info: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the plugin's marker, wherever SGLang puts what a scheduler reports, or `None`.

    Args:
        server_info: reply of the engine's ``GET /server_info``.
    """
    return _search(server_info, _MAX_DEPTH)


def marker_complaint(server_info: Mapping[str, Any], policy: str) -> str | None:
    """Return why an engine is not the one we started, or `None` when its marker shows that it is.

    Args:
        server_info: reply of the engine's ``GET /server_info``.
        policy: the policy the engine was told to run.
    """
    marker = find_marker(server_info)
    if marker is None:
        return "the Autellix plugin is not loaded in the engine; run `autellix engine install`"
    ours = version("autellix")
    if marker.get("version") != ours:
        return f"the engine has Autellix {marker.get('version')}, this is {ours}; run `autellix engine install`"
    if marker.get("policy") != policy:
        return f"the engine runs policy {marker.get('policy')!r}, not {policy!r}"
    return None


def _search(value: Any, depth: int) -> Mapping[str, Any] | None:
    if depth == 0:
        return None
    if isinstance(value, Mapping):
        marker = value.get(MARKER)
        if isinstance(marker, Mapping):
            return marker
        inner: list[Any] = list(value.values())
    elif isinstance(value, list):
        inner = value
    else:
        return None
    return next((found for item in inner if (found := _search(item, depth - 1)) is not None), None)
