"""The file of keys: what it says, what is refused and how, and that it is followed as it changes."""

from __future__ import annotations

import json
import logging
import re
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import pytest

from autellix_sdk.errors import ConfigurationError
from autellix_server.cli import main
from autellix_server.gateway.tenants.keys import KeyRefused, KeyRing, Tenant, digest_of, new_key
from autellix_server.gateway.tenants.keys_file import KeysFile, parse_keys_file, parse_keys_variable
from autellix_server.gateway.tenants.limits import Limits

NOW = datetime(2027, 1, 1, tzinfo=UTC)
KEY = new_key()
DIGEST = digest_of(KEY).hex()
ENTRY = f'[[keys]]\ntenant = "acme"\nsha256 = "{DIGEST}"\n'


def written(path: Path, text: str, mode: int = 0o600) -> Path:
    """A file of keys."""
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_tenant_is_what_its_entry_says() -> None:
    """Weight, limits and expiry."""
    text = (
        "[tenants.acme]\nweight = 2.5\ncalls_per_minute = 600\ntokens_per_minute = 200_000\nconcurrent_calls = 64\n"
        f"programs = 200\n{ENTRY}expires = 2027-01-01T00:00:01Z\n"
    )
    ring = parse_keys_file(text, "keys.toml")
    assert ring.tenant_of(KEY, NOW) == Tenant("acme", 2.5, Limits(600, 200_000, 64, 200))
    with pytest.raises(KeyRefused):
        ring.tenant_of(KEY, datetime(2027, 1, 1, 0, 0, 1, tzinfo=UTC))


def test_a_tenant_without_an_entry_weighs_one_and_has_no_limits() -> None:
    """A key is enough."""
    assert parse_keys_file(ENTRY, "keys.toml").tenant_of(KEY, NOW) == Tenant("acme")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "keys.toml has no keys: make one with `autellix key new --tenant NAME`"),
        ("[tenants.acme]\n", "has no keys"),
        ("keys = {", "keys.toml is not TOML"),
        (ENTRY + ENTRY, "lists a key twice"),
        (ENTRY + "[tenants.acme]\nwieght = 2\n", "tenants.acme.wieght: there is no such setting"),
        (ENTRY + "[tenants.acme]\nweight = 0\n", "tenants.acme.weight: input should be greater than or equal to 0.001"),
        (ENTRY + "[tenants.acme]\nprograms = 0\n", "tenants.acme.programs: input should be greater than or equal to 1"),
        (ENTRY + "[tenants.acme]\nprograms = true\n", "tenants.acme.programs: input should be a valid integer"),
        (
            ENTRY + "expires = 2027-01-01T00:00:00\n",
            "keys.0.expires: should be a time with its zone, such as 2027-01-31T00:00:00Z",
        ),
        (ENTRY + "expires = 2027-01-01\n", "keys.0.expires: should be a time with its zone"),
        (ENTRY + "[tenants.Acme]\n", "tenants.Acme.[key]: a tenant's name is 1 to 24 characters of a-z 0-9 _ -"),
        (ENTRY.replace("acme", "Acme"), "keys.0.tenant: a tenant's name is 1 to 24 characters of a-z 0-9 _ -"),
        (ENTRY.replace(DIGEST, KEY), "keys.0.sha256: should be the 64 hexadecimal digits"),
    ],
)
def test_what_is_wrong_is_named_with_the_remedy_and_no_value(text: str, message: str) -> None:
    """Somebody may have written the key itself where its digest belongs."""
    with pytest.raises(ConfigurationError, match=re.escape(message)) as caught:
        parse_keys_file(text, "keys.toml")
    assert KEY not in str(caught.value)
    assert DIGEST not in str(caught.value)


def test_the_environment_takes_keys_without_a_file() -> None:
    """Hashed as well."""
    other = new_key()
    ring = parse_keys_variable(f"acme:{DIGEST}, beta:{digest_of(other).hex()}")
    assert (ring.tenant_of(KEY, NOW), ring.tenant_of(other, NOW)) == (Tenant("acme"), Tenant("beta"))


@pytest.mark.parametrize("text", [f"acme:{KEY}", f"acme:{DIGEST},", DIGEST, f"Acme:{DIGEST}"])
def test_a_wrong_entry_of_the_environment_is_named_by_its_number(text: str) -> None:
    """Its value may be a secret."""
    with pytest.raises(ConfigurationError, match=r"entry \d of AUTELLIX_KEYS is not TENANT:SHA256") as caught:
        parse_keys_variable(text)
    assert KEY not in str(caught.value)


def test_the_file_is_followed_as_it_changes(tmp_path: Path) -> None:
    """A new key is good and one that was taken out is refused; without a change nothing is read."""
    file = KeysFile(written(tmp_path / "keys.toml", ENTRY))
    assert not file.refresh()
    other = new_key()
    written(tmp_path / "new.toml", ENTRY.replace(DIGEST, digest_of(other).hex())).replace(tmp_path / "keys.toml")
    assert file.refresh()
    assert file.ring.tenant_of(other, NOW) == Tenant("acme")
    with pytest.raises(KeyRefused):
        file.ring.tenant_of(KEY, NOW)
    assert not file.refresh()


@pytest.mark.parametrize("change", ["broken", "gone", "writable"])
def test_a_file_that_became_wrong_changes_nothing_and_is_complained_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, change: str
) -> None:
    """Calls go on by the keys there were; mended, it is followed again."""
    path = written(tmp_path / "keys.toml", ENTRY)
    file = KeysFile(path)
    if change == "broken":
        written(path, ENTRY + "[[keys]]\n")
    elif change == "writable":
        path.chmod(0o620)
    else:
        path.unlink()
    with caplog.at_level(logging.ERROR):
        assert [file.refresh() for _ in range(3)] == [False] * 3
    assert len(caplog.messages) == 1
    assert "the API keys stay as they were" in caplog.messages[0]
    assert file.ring.tenant_of(KEY, NOW) == Tenant("acme")
    written(path, ENTRY + "# mended\n")
    assert file.refresh()


def test_a_file_that_others_can_write_is_refused(tmp_path: Path) -> None:
    """Who can write it can let themselves in."""
    with pytest.raises(ConfigurationError, match="chmod 600"):
        KeysFile(written(tmp_path / "keys.toml", ENTRY, 0o660))


@pytest.mark.parametrize(("mode", "warned"), [(0o600, 0), (0o644, 1)])
def test_a_file_that_others_can_read_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int, warned: int
) -> None:
    """It holds no key, only names and digests."""
    with caplog.at_level(logging.WARNING):
        KeysFile(written(tmp_path / "keys.toml", ENTRY, mode))
    assert len(caplog.messages) == warned


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """At the start there are no keys to go on with."""
    with pytest.raises(ConfigurationError, match=re.escape(str(tmp_path / "none.toml"))):
        KeysFile(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        KeysFile(tmp_path / "binary.toml")


def test_the_command_prints_a_key_and_the_entry_that_lets_it_in(capsys: pytest.CaptureFixture[str]) -> None:
    """The entry goes into the file as it is."""
    assert main(["key", "new", "--tenant", "acme", "--days", "30"]) == 0
    _, key, _, entry = capsys.readouterr().out.split("\n\n")
    ring: KeyRing = parse_keys_file(entry, "keys.toml")
    assert ring.tenant_of(key, datetime.now(UTC)) == Tenant("acme")
    assert tomllib.loads(entry)["keys"][0]["expires"] > datetime.now(UTC)


def test_the_command_speaks_json(capsys: pytest.CaptureFixture[str]) -> None:
    """One object, with all that is printed."""
    assert main(["key", "new", "--tenant", "acme", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["sha256"] == digest_of(said["key"]).hex()
    assert (said["tenant"], said["expires"]) == ("acme", None)
    assert parse_keys_file(said["entry"], "keys.toml").tenant_of(said["key"], NOW) == Tenant("acme")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--tenant", "Acme Inc"], "--tenant is 'Acme Inc'"), (["--tenant", "a", "--days", "9999999"], "--days")],
)
def test_the_command_names_what_it_refuses(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    """With the flag and what to write."""
    assert main(["key", "new", *arguments]) == 1
    assert message in capsys.readouterr().err
