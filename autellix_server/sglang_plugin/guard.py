"""Guards: refuse to start, in one sentence, rather than run hooks on an engine they were not written for.

SGLang logs a plugin that fails and serves without it. So every failure here ends the process (`SystemExit`, which
SGLang does not catch), and each scheduler process proves by a marker that its hooks are in place.
"""

from __future__ import annotations

import hashlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, NoReturn

from autellix_server.engine.marker import MARKER_KEY
from autellix_server.engine.pins import SGLANG_VERSION


@dataclass(frozen=True, slots=True)
class Target:
    """An engine function that a hook replaces or relies on.

    Attributes:
        path: dotted path.
        parameters: names of its parameters, in order.
        source_digest: first 16 hexadecimal digits of the SHA-256 of its source, for functions whose body we rely on.
    """

    path: str
    parameters: tuple[str, ...]
    source_digest: str | None = None


def refuse(reason: str) -> NoReturn:
    """End this process with one sentence on standard error."""
    raise SystemExit(f"autellix: {reason}")


def check_engine(targets: Iterable[Target]) -> None:
    """Refuse an SGLang other than the one the hooks were written for, naming what differs."""
    found = version("sglang")
    if found != SGLANG_VERSION:
        refuse(f"SGLang {found} is installed; this plugin supports {SGLANG_VERSION} only (autellix engine install)")
    for target in targets:
        try:
            function = pkgutil.resolve_name(target.path)
        except (AttributeError, ImportError):
            refuse(f"engine target {target.path} does not exist in this SGLang")
        parameters = tuple(inspect.signature(function).parameters)
        if parameters != target.parameters:
            refuse(f"engine target {target.path} has parameters {parameters}, expected {target.parameters}")
        if target.source_digest is not None and source_digest(function) != target.source_digest:
            refuse(f"engine target {target.path} has a changed body (digest {source_digest(function)})")


def source_digest(function: Callable[..., Any]) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of a function's source."""
    return hashlib.sha256(inspect.getsource(function).encode()).hexdigest()[:16]


def missing(targets: Iterable[Target]) -> list[str]:
    """Return the targets whose hook SGLang failed to apply, which it merely logs."""
    from sglang.srt.plugins.hook_registry import HookRegistry

    return [target.path for target in targets if target.path not in HookRegistry._patched]  # noqa: SLF001


def check_markers(scheduler_infos: Iterable[Mapping[str, Any]], expected: Mapping[str, Any]) -> None:
    """Refuse unless every scheduler process reported `expected` and all of its hooks in place."""
    for rank, info in enumerate(scheduler_infos):
        marker = info.get(MARKER_KEY)
        if marker is None:
            refuse(f"scheduler process {rank} runs without the plugin; is SGLANG_PLUGINS or SGLANG_PLATFORM set?")
        if marker != expected:
            refuse(
                f"scheduler process {rank} reports {marker}, expected {expected}; see its log for the hook that failed"
            )
