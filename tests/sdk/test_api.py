"""Switching on and off, `wrap`, `headers`, and what importing does."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import openai
import pytest

import autellix_sdk as autellix
from autellix_sdk import _api, _spawns
from autellix_sdk._runtime import runtime
from autellix_sdk.wire import CALL_HEADER, PROGRAM_HEADER
from tests.sdk.conftest import BASE_URL, Backend


def _run(code: str, **environ: str) -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, env=os.environ | environ)


def test_importing_loads_no_http_client_and_changes_nothing() -> None:
    """Neither httpx nor openai is imported, and nothing is wrapped."""
    _run("""
import asyncio, sys, threading, concurrent.futures
before = (asyncio.BaseEventLoop.create_task, threading.Thread.start, concurrent.futures.ThreadPoolExecutor.submit)
import autellix_sdk
assert not {"httpx", "httpx2", "openai", "aiohttp", "rich", "anyio", "uvloop"} & sys.modules.keys()
assert before == (
    asyncio.BaseEventLoop.create_task, threading.Thread.start, concurrent.futures.ThreadPoolExecutor.submit
)
""")


def test_our_code_uses_no_contextvars() -> None:
    """Identity travels without them."""
    for path in Path(autellix.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {"contextvars", "_contextvars"} & set(names), path


def test_auto_initialises_from_the_environment() -> None:
    """One import is enough, and an `init` with the same settings changes nothing."""
    _run(
        """
import autellix_sdk.auto, autellix_sdk
from autellix_sdk._runtime import runtime
settings, reporter = runtime.settings, runtime.reporter
assert settings.endpoint.origin == "http://127.0.0.1:9"
autellix_sdk.init()
assert runtime.reporter is reporter
autellix_sdk.init("http://127.0.0.1:10/v1")
assert runtime.reporter is not reporter
""",
        AUTELLIX_BASE_URL=BASE_URL,
    )


def test_without_a_base_url_nothing_is_stamped() -> None:
    """No vendor's host is a default, and our headers are not let out either."""
    autellix.init()
    transport = httpx.MockTransport(lambda request: httpx.Response(200, json=dict(request.headers)))
    with httpx.Client(transport=transport) as client, autellix.program():
        for url in ("https://api.openai.com/v1/models", "http://127.0.0.1:9/v1/models"):
            ours = {PROGRAM_HEADER: "p", CALL_HEADER: "v1;s=s;t=0;c=0.0"}
            assert not ours.keys() & client.get(url, headers=ours).json().keys()
        assert autellix.headers() == {}


def test_before_init_calls_pass_untouched() -> None:
    """A scope may be open without the client being on."""
    transport = httpx.MockTransport(lambda request: httpx.Response(200, json=dict(request.headers)))
    with httpx.Client(transport=transport) as client, autellix.program() as p:
        assert CALL_HEADER not in client.get(BASE_URL + "/models").json()
        assert autellix.current() is p
        assert autellix.headers() == {}


def test_headers_are_those_of_one_call_each() -> None:
    """For transports that are not seen: each use is a call in the graph."""
    autellix.init(BASE_URL)
    with autellix.program("socket") as p:
        first, second = autellix.headers(), autellix.headers()
        bill = p.bill()
    assert first[PROGRAM_HEADER] == second[PROGRAM_HEADER] == p.id
    assert ";c=0.0;" in first[CALL_HEADER]
    assert second[CALL_HEADER].endswith(";c=0.1;p=0.0;n=socket")
    assert (bill.pending, bill.threads) == (2, 1)


def test_an_init_that_fails_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client is off, and what was wrapped is put back."""
    before = httpx.Client.send
    monkeypatch.setattr(_spawns, "install", lambda *_, **__: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        autellix.init(BASE_URL)
    assert httpx.Client.send is before
    assert (runtime.settings, runtime.reporter) == (None, None)


def test_modules_that_are_not_what_we_expect_are_left_alone(tmp_path: Path) -> None:
    """Blocked ones are absent; foreign ones of the same name break neither `init` nor the user's import."""
    (tmp_path / "httpx2.py").write_text("x = 1")
    _run(f"""
import sys, types
sys.modules["uvloop"] = None
sys.modules["httpx"] = types.ModuleType("httpx")
sys.path.insert(0, {str(tmp_path)!r})
import autellix_sdk
from autellix_sdk._faults import faults
autellix_sdk.init({BASE_URL!r})
import httpx2
assert httpx2.x == 1
assert sorted(faults.counts) == [f"{{name}} is not as expected, and is not followed" for name in ("httpx", "httpx2")]
""")


def test_modules_found_by_other_finders_are_followed() -> None:
    """Whoever finds a module, and even where one loader serves several, it is wrapped once it was executed."""
    _run(f"""
import sys
from importlib.util import spec_from_loader
import autellix_sdk

class Finder:
    sources = {{
        "httpx2": "import httpx2_part\\nclass Client:\\n    def send(self): 'ours'\\nAsyncClient = Client",
        "httpx2_part": "",
    }}

    def find_spec(self, name, path=None, target=None):
        return spec_from_loader(name, self) if name in self.sources else None

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        exec(self.sources[module.__name__], vars(module))

sys.meta_path.insert(0, Finder())
autellix_sdk.init({BASE_URL!r})
import httpx2
assert httpx2.Client.send.__doc__ == "ours"
assert hasattr(httpx2.Client.send, "__wrapped__")
""")


def test_headers_survive_an_error_of_ours(monkeypatch: pytest.MonkeyPatch, lenient: None) -> None:
    """None are better than an exception."""
    autellix.init(BASE_URL)
    monkeypatch.setattr(_api, "begin_call", lambda _: 1 // 0)
    assert autellix.headers() == {}


def test_wrap_returns_the_same_client_and_initialises(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line is enough where the environment names the backend."""
    monkeypatch.setenv("AUTELLIX_BASE_URL", backend.base_url)
    with openai.OpenAI(base_url=backend.base_url, api_key="key") as client:
        assert autellix.wrap(client) is client
        client.models.with_raw_response.list()
    assert [context.call for context in backend.contexts] == ["0.0"]


@pytest.mark.parametrize(
    ("client", "warned"),
    [
        (openai.OpenAI(base_url=BASE_URL, api_key="key"), False),
        (openai.AsyncOpenAI(base_url="http://127.0.0.1:9", api_key="key"), False),
        (openai.OpenAI(base_url="http://127.0.0.1:10/v1", api_key="key"), True),
        (httpx.Client(base_url="http://127.0.0.1:11/v1"), True),
        (httpx.AsyncClient(), False),
        (SimpleNamespace(root_client=SimpleNamespace(base_url="http://127.0.0.1:12/v1")), True),
        (SimpleNamespace(root_client=None, root_async_client=SimpleNamespace(base_url=BASE_URL)), False),
        (SimpleNamespace(base_url="nonsense"), True),
    ],
)
def test_wrap_warns_once_of_clients_outside_the_backend(
    client: Any, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Their calls stay unstamped; that is said once, in the log."""
    autellix.init(BASE_URL)
    _api._warned.clear()
    for _ in range(2):
        assert autellix.wrap(client) is client
    assert len(caplog.records) == int(warned)


def test_wrap_shows_no_password(caplog: pytest.LogCaptureFixture) -> None:
    """A URL may hold one; logs may not."""
    autellix.init(BASE_URL)
    autellix.wrap(httpx.Client(base_url="http://user:secret@127.0.0.1:13/v1"))
    assert "127.0.0.1:13/v1" in caplog.text
    assert "secret" not in caplog.text


def test_wrap_refuses_what_is_no_client() -> None:
    """The message says what it takes and what it got."""
    with pytest.raises(autellix.UsageError, match="not int"):
        autellix.wrap(7)
