"""The allow-list, and where settings come from."""

from __future__ import annotations

import traceback
from typing import Any

import pytest

from autellix_sdk._settings import Endpoint, Settings, read_settings
from autellix_sdk.errors import ConfigurationError, UsageError
from tests.sdk.conftest import libraries


@libraries
@pytest.mark.parametrize(
    ("base_url", "url", "covered"),
    [
        ("http://host:8700/v1", "http://host:8700/v1/chat/completions", True),
        ("http://host:8700/v1/", "http://HOST:8700/v1", True),
        ("http://host:8700", "http://host:8700/anything", True),
        ("https://host/v1", "https://host:443/v1/models", True),
        ("http://host:80/v1", "http://host/v1/models", True),
        ("http://[::1]:8700/v1", "http://[::1]:8700/v1/models", True),
        ("http://host:8700/v1", "https://host:8700/v1/models", False),
        ("http://host:8700/v1", "http://host:8701/v1/models", False),
        ("http://host:8700/v1", "http://host/v1/models", False),
        ("http://host:8700/v1", "http://host.evil:8700/v1/models", False),
        ("http://host:8700/v1", "http://host:8700@evil/v1/models", False),
        ("http://host:8700/v1", "http://evil:8700/v1/models?http://host:8700/v1", False),
        ("http://host:8700/v1", "http://host:8700/v1x/models", False),
        ("http://host:8700/v1", "http://host:8700/v1/../admin", False),
        ("http://host:8700/v1", "http://host:8700/v1/%2e%2e/admin", False),
        ("http://host:8700/v1", "http://host:8700/v1/%2E%2E%2fadmin", False),
        ("http://host:8700/v1", "http://host:8700/v1/./models", True),
        ("http://host:8700/v1", "http://host:8700/v1/..models", True),
        ("http://host:8700/v1", "http://host:8700/admin", False),
        ("http://host/my%20llm/v1", "http://host/my%20llm/v1/models", True),
        ("http://host/my llm/v1", "http://host/my%20llm/v1/models", True),
        ("http://host/v%31", "http://host/v1/models", True),
        ("http://bücher.example/v1", "http://bücher.example/v1/models", True),
        ("http://bücher.example/v1", "http://xn--bcher-kva.example/v1/models", True),
        ("http://xn--bcher-kva.example/v1", "http://Bücher.example/v1/models", True),
        ("http://xn--bcher-kva.example/v1", "http://bucher.example/v1/models", False),
        ("http://[0:0:0:0:0:0:0:1]:9/v1", "http://[::1]:9/v1/models", True),
        ("http://[::ABCD]:9/v1", "http://[0::abcd]:9/v1/models", True),
        ("http://[::1]:9/v1", "http://[::2]:9/v1/models", False),
    ],
)
def test_the_allow_list_compares_parsed_urls(library: Any, base_url: str, url: str, covered: bool) -> None:
    """Scheme, host, effective port and path prefix; look-alikes and paths that climb out do not pass."""
    assert Endpoint.parse(base_url).covers(library.URL(url)) is covered


@pytest.mark.parametrize(
    ("base_url", "may"),
    [
        ("http://host:8700/v1/", True),
        ("http://host:8700", True),
        ("http://host:8700/v1/beta", True),
        ("http://host:8700/v2", False),
        ("http://other:8700/v1", False),
    ],
)
def test_a_clients_base_url_may_be_above_or_below(base_url: str, may: bool) -> None:
    """Some clients keep the version out of their base URL."""
    assert Endpoint.parse("http://host:8700/v1").may_serve(Endpoint.parse(base_url)) is may


def test_the_programs_api_is_at_the_origin() -> None:
    """Without the path, with brackets where the host needs them."""
    assert Endpoint.parse("http://127.0.0.1:8700/v1").origin == "http://127.0.0.1:8700"
    assert Endpoint.parse("https://[0::1]/v1").origin == "https://[::1]:443"
    assert Endpoint.parse("http://user:secret@Bücher.example/v1").origin == "http://xn--bcher-kva.example:80"


LOCAL = Endpoint("http", b"local", 80, "/v1")


@pytest.mark.parametrize(
    ("base_url", "api_key", "environ", "endpoint", "key"),
    [
        (None, None, {}, None, None),
        (None, None, {"AUTELLIX_BASE_URL": "", "OPENAI_BASE_URL": ""}, None, None),
        ("http://local/v1", "mine", {"AUTELLIX_BASE_URL": "http://x", "AUTELLIX_API_KEY": "y"}, LOCAL, "mine"),
        (None, None, {"AUTELLIX_BASE_URL": "http://local/v1", "OPENAI_BASE_URL": "http://x"}, LOCAL, None),
        (None, None, {"OPENAI_BASE_URL": "http://local/v1", "OPENAI_API_KEY": "openai"}, LOCAL, "openai"),
        (
            None,
            None,
            {"OPENAI_BASE_URL": "http://local/v1", "OPENAI_API_KEY": "o", "AUTELLIX_API_KEY": "a"},
            LOCAL,
            "a",
        ),
        (None, None, {"AUTELLIX_BASE_URL": "http://local/v1", "OPENAI_API_KEY": "openai"}, LOCAL, None),
        ("http://local/v1", None, {"OPENAI_API_KEY": "openai"}, LOCAL, None),
    ],
)
def test_arguments_come_before_the_environment(
    base_url: str | None, api_key: str | None, environ: dict[str, str], endpoint: Endpoint | None, key: str | None
) -> None:
    """And an OpenAI key goes only where an OpenAI base URL points."""
    assert read_settings(base_url, api_key, True, "root", environ) == Settings(endpoint, key, True, "root")


@pytest.mark.parametrize("base_url", ["", "localhost:8700", "ftp://host/v1", "http://", "http://host:port/v1"])
def test_a_base_url_that_is_none_is_refused(base_url: str) -> None:
    """As an argument it is misuse; in the environment it is configuration. Both messages show it."""
    with pytest.raises(UsageError, match="base_url='"):
        read_settings(base_url, None, True, "root", {})
    if base_url:
        with pytest.raises(ConfigurationError, match=r"AUTELLIX_BASE_URL='.*correct or unset it"):
            read_settings(None, None, True, "root", {"AUTELLIX_BASE_URL": base_url})


@pytest.mark.parametrize(
    "base_url", ["ftp://user:secret@host/v1", "user:secret@host", "http://user:secret/x@host", "http://user:secret@"]
)
def test_a_refused_base_url_is_shown_without_its_password(base_url: str) -> None:
    """Neither in the message nor in the errors behind it."""
    with pytest.raises(UsageError) as caught:
        read_settings(base_url, None, True, "root", {})
    assert "secret" not in "".join(traceback.format_exception(caught.value)).replace(repr(base_url), "")
    with pytest.raises(ConfigurationError) as caught_too:
        read_settings(None, None, True, "root", {"OPENAI_BASE_URL": base_url})
    assert "secret" not in str(caught_too.value)


def test_an_unknown_implicit_mode_is_refused() -> None:
    """The message shows the value."""
    with pytest.raises(UsageError, match="implicit='always'"):
        read_settings(None, None, True, "always", {})  # type: ignore[arg-type]
