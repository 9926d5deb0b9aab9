"""The marker by which our plugin shows that it is at work inside an engine. Pure.

SGLang starts unpatched when a plugin fails to load, so nobody trusts an engine to be ours before seeing the marker in
its ``GET /server_info``. Its scheduler process writes the marker once its hooks are in place; its HTTP process adds
``"http": true`` to it once its own are.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

MARKER_KEY = "autellix"


def marker_complaint(server_info: Mapping[str, Any], policy: str) -> str | None:
    """Return why an engine is not the one we started, or `None` when its marker shows that it is.

    Args:
        server_info: reply of the engine's ``GET /server_info``.
        policy: the policy the engine was told to run.
    """
    marker = server_info.get(MARKER_KEY)
    if not isinstance(marker, Mapping) or marker.get("http") is not True:
        return "the Autellix plugin is not at work in the engine; run `autellix engine install`"
    ours = version("autellix")
    if marker.get("version") != ours:
        return f"the engine has Autellix {marker.get('version')}, this is {ours}; run `autellix engine install`"
    if marker.get("policy") != policy:
        return f"the engine runs policy {marker.get('policy')!r}, not {policy!r}"
    return None
