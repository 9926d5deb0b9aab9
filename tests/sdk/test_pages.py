"""The SDK's pages in ``docs`` say what is so: the reference, the guide, and the list of what is patched."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import autellix_sdk as autellix
from tests.sdk import api_reference

DOCS = Path(__file__).parents[2] / "docs"


def test_the_reference_is_what_the_docstrings_say() -> None:
    """Every public name is on it, once."""
    assert sorted(name for names in api_reference.TOPICS.values() for name in names) == autellix.__all__
    assert api_reference.PAGE.read_text() == api_reference.render(), "docs/api.md is stale; run `make api`"


def _names_in_code(page: str) -> set[str]:
    """Names that the Python blocks of a page take from our package."""
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    nodes = [node for block in blocks for node in ast.walk(ast.parse(block))]
    attributes = [node for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)]
    return {node.attr for node in attributes if node.value.id == "autellix"}  # type: ignore[attr-defined]


def test_the_guide_shows_every_function_in_use() -> None:
    """Its code is Python, uses what there is, and shows all that a user's code has to name."""
    shown = _names_in_code((DOCS / "sdk.md").read_text())
    of_results = {"Attachment", "Handle", "Program", "ProgramBill", "Scope", "TimeSplit", "Watch", "AutellixError"}
    assert shown == set(autellix.__all__) - of_results


_DIFFERENCE = """
import gc, json, sys
import aiohttp, anyio, anyio._backends._asyncio, asyncio, concurrent.futures, httpx, httpx2, multiprocessing.pool
import openai, threading, uvloop
import autellix_sdk

def attributes():
    owners = [owner for owner in gc.get_objects() if issubclass(type(owner), (type, type(sys)))]  # lazy proxies lie
    return {
        (owner if isinstance(owner, type) else owner.__name__, name): value
        for owner in owners
        if not str(getattr(owner, "__module__", owner.__name__)).startswith(("autellix_sdk", "__main__"))
        for name, value in list(vars(owner).items())
    }

def path(owner, name):
    return ".".join([owner] if isinstance(owner, str) else [owner.__module__, owner.__qualname__]) + "." + name

def difference(before, after):
    changed = [key for key in before | after if before.get(key, key) is not after.get(key, key)]
    return sorted(path(*key) for key in changed)

before = attributes()
for options in json.loads(sys.argv[1]):
    autellix_sdk.init("http://127.0.0.1:9/v1", **options)
    replaced = difference(before, attributes())
    autellix_sdk.shutdown()
    print(json.dumps([replaced, difference(before, attributes())]))
"""


def test_the_list_of_what_is_patched_is_complete() -> None:
    """`init` replaces what the page lists, and nothing else anywhere; `shutdown` puts all of it back."""
    page = (DOCS / "patching.md").read_text()
    rows = re.findall(r"^\| `([\w.]+)` \|.*\| (?:`(\w+)=False`)? *\|$", page, re.MULTILINE)
    options: list[dict[str, bool]] = [{}, {"threads": False}, {"tasks": False}]
    command = [sys.executable, "-c", _DIFFERENCE, json.dumps(options)]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    for switched_off, line in zip(options, result.stdout.splitlines(), strict=True):
        listed = sorted(attribute for attribute, option in rows if option not in switched_off)
        assert json.loads(line) == [listed, []], switched_off
