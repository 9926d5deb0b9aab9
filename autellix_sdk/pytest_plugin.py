"""A pytest plugin: tests that ask for `autellix_program` are programs. It does nothing for all others.

Switch it on with ``pytest_plugins = ["autellix_sdk.pytest_plugin"]`` in the topmost ``conftest.py``, or with
``pytest -p autellix_sdk.pytest_plugin``, and call `init` where the tests set up their clients.
"""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

import pytest

from autellix_sdk._programs import Program
from autellix_sdk._scope import program
from autellix_sdk.wire import MAX_NAME_BYTES


@pytest.fixture
def autellix_program(request: pytest.FixtureRequest) -> Iterator[Program]:
    """The program of this test, named after it: what the test calls, and what it starts, belongs to it.

    Names that are too long for a header are cut. Fixtures that are set up before this one are not part of it.
    """
    name = str(request.node.name)[:MAX_NAME_BYTES]
    while len(quote(name, safe="", errors="replace")) > MAX_NAME_BYTES:
        name = name[:-1]
    with program(name) as test_program:
        yield test_program
