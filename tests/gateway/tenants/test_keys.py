"""API keys: fresh ones cannot be guessed, stored ones cannot be used, and who has none is told what to do."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from multidict import CIMultiDict

from autellix_sdk.errors import AutellixError
from autellix_server.gateway.tenants.keys import (
    EVERYBODY,
    LEAST_KEY_CHARACTERS,
    HashedKey,
    KeyRefused,
    KeyRing,
    Tenant,
    digest_of,
    new_key,
    presented_key,
)

NOW = datetime(2027, 1, 1, tzinfo=UTC)
ACME = Tenant("acme", 3.0)
KEY = new_key()


def ring(key: str = KEY, expires: datetime | None = None) -> KeyRing:
    """A ring with one key of acme's, and another tenant's."""
    return KeyRing([HashedKey(digest_of(key), ACME, expires), HashedKey(digest_of(new_key()), Tenant("other"))])


def test_without_keys_everybody_is_one_tenant_of_weight_one_without_limits() -> None:
    """Whatever they present."""
    assert KeyRing().tenant_of(None, NOW) == KeyRing().tenant_of("anything", NOW) == EVERYBODY == Tenant("", 1.0)


def test_a_key_leads_to_its_tenant() -> None:
    """The digest alone is kept."""
    assert ring().tenant_of(KEY, NOW) is ACME
    assert KEY not in repr(vars(ring()))


@pytest.mark.parametrize("key", [new_key(), KEY[:-1], KEY + "x", KEY.upper(), digest_of(KEY).hex(), "", "x" * 10**6])
def test_another_key_is_refused_unseen(key: str) -> None:
    """Also its digest, which others may have read in the file; and the message does not repeat what was presented."""
    with pytest.raises(KeyRefused) as caught:
        ring().tenant_of(key, NOW)
    assert str(caught.value) == "this API key is not known here"


def test_a_key_whose_digest_begins_alike_is_refused() -> None:
    """The whole of it is compared."""
    digest = digest_of(KEY)
    alike = KeyRing([HashedKey(digest[:-1] + bytes([digest[-1] ^ 1]), ACME)])
    with pytest.raises(KeyRefused, match="not known"):
        alike.tenant_of(KEY, NOW)


def test_a_short_key_is_refused_though_its_digest_is_listed() -> None:
    """One pass of SHA-256 protects nothing that can be guessed."""
    short, long = "k" * (LEAST_KEY_CHARACTERS - 1), "k" * LEAST_KEY_CHARACTERS
    assert ring(long).tenant_of(long, NOW) is ACME
    with pytest.raises(KeyRefused, match="not known"):
        ring(short).tenant_of(short, NOW)


def test_no_key_where_one_is_needed_says_how_to_send_it() -> None:
    """It is an error of ours, so that one handler catches it."""
    with pytest.raises(AutellixError, match="Authorization: Bearer KEY"):
        ring().tenant_of(None, NOW)


def test_a_key_is_good_until_it_expires() -> None:
    """To the moment; then the client is told when that was."""
    expiring = ring(expires=NOW)
    assert expiring.tenant_of(KEY, NOW - timedelta(microseconds=1)) is ACME
    with pytest.raises(KeyRefused, match="expired on 2027-01-01"):
        expiring.tenant_of(KEY, NOW)


def test_fresh_keys_are_long_and_never_alike() -> None:
    """They fit a header, a URL and a shell as they are."""
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(len(key) == 46 and key.replace("-", "").replace("_", "").isalnum() for key in keys)


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ({"Authorization": "Bearer k1"}, "k1"),
        ({"Authorization": "bearer  k1 "}, "k1"),
        ({"X-API-Key": "k2"}, "k2"),
        ({"Api-Key": "k3"}, "k3"),
        ({"Authorization": "Basic abc", "X-API-Key": "k2"}, "k2"),
        ({"Authorization": "Bearer "}, None),
        ({"X-API-Key": ""}, None),
        ({}, None),
    ],
)
def test_the_key_is_found_where_the_apis_have_it(headers: dict[str, str], key: str | None) -> None:
    """OpenAI's, Anthropic's and Azure's clients."""
    assert presented_key(CIMultiDict(headers)) == key
