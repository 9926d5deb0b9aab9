"""Writes ``docs/api.md`` from the docstrings of what `autellix_sdk` exports: ``python -m tests.sdk.api_reference``.

The docstrings are Markdown but for their sections (``Args:`` and the like), which become lists.
"""

from __future__ import annotations

import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_overloads

import autellix_sdk

PAGE = Path(__file__).parents[2] / "docs" / "api.md"

TOPICS = {
    "On and off": ("init", "shutdown", "wrap", "current", "headers"),
    "Programs": ("program", "Scope", "Program"),
    "Time bills": ("ProgramBill", "TimeSplit", "watch", "Watch", "Finished"),
    "Handing identity over": ("capture", "Handle", "Attachment", "bind", "inject", "extract", "task_factory"),
    "Servers and transports": ("asgi", "wsgi", "aiohttp_trace_config"),
    "Errors": ("AutellixError", "UsageError", "ConfigurationError"),
}
MODULES = ("autellix_sdk.auto", "autellix_sdk.pytest_plugin")

_HEAD = """\
# API reference

Everything that `import autellix_sdk as autellix` gives you, from the docstrings (`make api` writes this page). [The
guide](sdk.md) shows how it is used, and [what is patched](patching.md) what it does to other people's classes.
"""
_SECTION = re.compile(r"(Args|Attributes|Returns|Raises):")
_ENTRY = re.compile(r"    (\w[\w, ]*): (.+)")
_WIDTH = 120


def render() -> str:
    """Return the page."""
    parts = [_HEAD]
    for topic, names in TOPICS.items():
        parts.append(f"## {topic}\n")
        parts += [part for name in names for part in _symbol(name, getattr(autellix_sdk, name))]
    parts.append("## Modules\n")
    for name in MODULES:
        parts += [f"### `{name}`\n", _markdown(importlib.import_module(name))]
    return "\n".join(parts)


def _symbol(name: str, symbol: Any) -> Iterator[str]:
    yield f"### `{name}`\n"
    if not inspect.isclass(symbol):
        overloads = get_overloads(symbol) or [symbol]
        yield _code("\n".join(_signature(name, each) for each in overloads))
    yield _markdown(symbol)
    if inspect.isclass(symbol):
        for member_name, member in _members(symbol):
            yield f"#### `{name}.{member_name}`\n"
            if inspect.isfunction(member):
                yield _code(_signature(member_name, member))
            yield _markdown(member)


def _members(owner: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties of a class that are ours, base classes first."""
    for base in reversed(owner.__mro__):
        if base.__module__.startswith("autellix_sdk"):
            for name, member in vars(base).items():
                if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
                    yield name, member


def _signature(name: str, function: Any) -> str:
    """Return a signature as the source has it, on one line or with a line for each parameter."""
    signature = inspect.signature(function)
    shown: list[str] = []
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in shown:
            shown.append("*")
        if parameter.name != "self":
            shown.append(str(parameter.replace(annotation=_Source(parameter.annotation))))
    returns = f" -> {signature.return_annotation}"
    line = f"{name}({', '.join(shown)}){returns}"
    return line if len(line) <= _WIDTH else f"{name}(\n" + "".join(f"    {each},\n" for each in shown) + f"){returns}"


class _Source(str):
    """An annotation that is shown as it was written."""

    def __repr__(self) -> str:
        return str(self)


def _code(text: str) -> str:
    return f"```python\n{text}\n```\n"


def _markdown(documented: Any) -> str:
    """Return a docstring with its sections as lists."""
    lines: list[str] = []
    section = ""
    for line in inspect.cleandoc(documented.__doc__ or "").splitlines():
        heading, entry = _SECTION.fullmatch(line), _ENTRY.fullmatch(line)
        if heading is not None:
            section = heading[1]
            lines += [f"**{section}**", ""]
        elif not line:
            section = ""
            lines.append(line)
        elif section in ("", "Returns"):
            lines.append(line.strip() if section else line)
        elif entry is not None:
            names = ", ".join(f"`{name}`" for name in entry[1].split(", "))
            lines.append(f"- {names}: {entry[2]}")
        else:
            lines[-1] += " " + line.strip()
    return "\n".join(_wrapped(line) for line in lines) + "\n"


def _wrapped(line: str) -> str:
    return textwrap.fill(line, _WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


if __name__ == "__main__":
    PAGE.write_text(render())
