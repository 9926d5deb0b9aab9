"""The marker by which our plugin shows that it is at work inside an engine, and that it is this very code.

SGLang starts unpatched when a plugin fails to load, so nobody trusts an engine to be ours before seeing the marker in
its ``GET /server_info``. Its scheduler process writes the marker once its hooks are in place; its HTTP process adds
``"http": true`` to it once its own are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import autellix_sdk
import autellix_server

MARKER_KEY = "autellix"


@cache
def code_version() -> str:
    """Return the version with a digest of our source files: two checkouts of one version are told apart."""
    digest = hashlib.sha256()
    for package in (autellix_sdk, autellix_server):
        folder = Path(str(package.__file__)).parent
        for file in sorted(folder.rglob("*.py")):
            digest.update(f"{file.relative_to(folder)}\n".encode() + file.read_bytes())
    return f"{version('autellix')}+{digest.hexdigest()[:12]}"


def marker_complaint(server_info: Mapping[str, Any], policy: str) -> str | None:
    """Return why an engine is not the one we started, or `None` when its marker shows that it is.

    Args:
        server_info: reply of the engine's ``GET /server_info``.
        policy: the policy the engine was told to run.
    """
    marker = server_info.get(MARKER_KEY)
    if not isinstance(marker, Mapping) or marker.get("http") is not True:
        return "the Autellix plugin is not at work in the engine; run `autellix engine install`"
    ours = code_version()
    if marker.get("version") != ours:
        return (
            f"the engine runs Autellix {marker.get('version')}, this is {ours}; "
            "run `autellix engine install` and restart `autellix serve`"
        )
    if marker.get("policy") != policy:
        return f"the engine runs policy {marker.get('policy')!r}, not {policy!r}"
    return None
