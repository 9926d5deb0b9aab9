"""The file of tenants and their hashed keys, and the environment variable for those who want no file.

The file is TOML; it is read again when it changes::

    [tenants.acme]              # all of it is optional
    weight = 3                  # three times the share of a tenant of weight 1
    calls_per_minute = 600
    tokens_per_minute = 200_000
    concurrent_calls = 64
    programs = 200

    [[keys]]                    # as `autellix key new --tenant acme` prints it
    tenant = "acme"
    sha256 = "9f86d0..."
    expires = 2027-01-31T00:00:00Z
"""

from __future__ import annotations

import logging
import os
import re
import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from autellix_sdk.errors import ConfigurationError
from autellix_server.gateway.tenants.keys import HashedKey, KeyRing, Tenant
from autellix_server.gateway.tenants.limits import Limits
from autellix_server.scheduling.shares import TENANT_NAME

_log = logging.getLogger(__name__)

KEYS_VARIABLE = "AUTELLIX_KEYS"
"""Environment variable with keys, as ``tenant:sha256`` separated by commas; all weigh 1 and none is limited."""

_OTHERS_WRITE = 0o022
_OTHERS_READ = 0o044

_Name = Annotated[str, StringConstraints(pattern=rf"^{TENANT_NAME}$")]
_Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
_Count = Annotated[int, Field(ge=1, strict=True)]
_NAME = re.compile(TENANT_NAME)
_HEX = re.compile(r"[0-9a-f]{64}")


class _TenantEntry(BaseModel):
    model_config = ConfigDict(extra="forbid")

    weight: Annotated[float, Field(ge=0.001, le=1e6, allow_inf_nan=False)] = 1.0
    calls_per_minute: _Count | None = None
    tokens_per_minute: _Count | None = None
    concurrent_calls: _Count | None = None
    programs: _Count | None = None

    def tenant(self, name: str) -> Tenant:
        return Tenant(name, self.weight, Limits(**self.model_dump(exclude={"weight"})))


class _KeyEntry(BaseModel):
    model_config = ConfigDict(extra="forbid")

    tenant: _Name
    sha256: _Digest
    expires: AwareDatetime | None = None


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    tenants: dict[_Name, _TenantEntry] = Field(default_factory=dict)
    keys: list[_KeyEntry] = Field(default_factory=list)


def parse_keys_file(text: str, name: str) -> KeyRing:
    """Return the keys that a file lists.

    Args:
        text: of the file.
        name: of the file, for messages.

    Raises:
        ConfigurationError: it is not TOML, an entry is wrong, a key is there twice, or there is none, which would let
            everybody in; names the entry, and never shows a value that may be secret.
    """
    try:
        file = _File.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{name} is not TOML: {error}") from None
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigurationError(f"{name}: {where}: {_in_our_words(first['type'], where, first['msg'])}") from None
    tenants = {key.tenant: file.tenants.get(key.tenant, _TenantEntry()).tenant(key.tenant) for key in file.keys}
    keys = [HashedKey(bytes.fromhex(key.sha256), tenants[key.tenant], key.expires) for key in file.keys]
    return _ring(keys, name)


def parse_keys_variable(text: str) -> KeyRing:
    """Return the keys that `KEYS_VARIABLE` lists.

    Raises:
        ConfigurationError: it is malformed; says which entry by its number.
    """
    keys = []
    for number, entry in enumerate(text.split(","), 1):
        tenant, _, digest = entry.strip().partition(":")
        if not _NAME.fullmatch(tenant) or not _HEX.fullmatch(digest):
            raise ConfigurationError(
                f"entry {number} of {KEYS_VARIABLE} is not TENANT:SHA256, as `autellix key new --tenant NAME` prints it"
            )
        keys.append(HashedKey(bytes.fromhex(digest), Tenant(tenant)))
    return _ring(keys, KEYS_VARIABLE)


class KeysFile:
    """The keys of a file, as it is now.

    Args:
        path: of the file.

    Raises:
        ConfigurationError: it cannot be read, others may write it, or its content is wrong.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, ...] | None = None
        self._complaint = ""
        self.ring = self._read()

    def refresh(self) -> bool:
        """Read the file again if it changed, and return whether the keys are other ones; for about once a second.

        A file that has become wrong changes nothing: the keys stay, and one line in the log says what is wrong with it.
        """
        try:
            if self._seen == _state(os.stat(self._path)):
                return False
            self.ring = self._read()
        except (ConfigurationError, OSError) as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                _log.error("the API keys stay as they were: %s", error)
            return False
        self._complaint = ""
        _log.info("%s was read again: %d API keys", self._path, len(self.ring))
        return True

    def _read(self) -> KeyRing:
        try:
            with self._path.open(encoding="utf-8") as file:
                status = os.fstat(file.fileno())
                text = file.read()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"the file of API keys {self._path} cannot be read: {error}") from None
        self._seen = _state(status)
        if status.st_mode & _OTHERS_WRITE:
            raise ConfigurationError(
                f"others can write {self._path} and so let themselves in; make it yours: chmod 600 {self._path}"
            )
        if status.st_mode & _OTHERS_READ:
            _log.warning("others can read who the tenants are in %s; if that is not meant: chmod 600", self._path)
        return parse_keys_file(text, str(self._path))


def _ring(keys: list[HashedKey], name: str) -> KeyRing:
    if not keys:
        raise ConfigurationError(
            f"{name} has no keys: make one with `autellix key new --tenant NAME`, or start without it to let all in"
        )
    ring = KeyRing(keys)
    if len(ring) < len(keys):
        raise ConfigurationError(f"{name} lists a key twice; every key belongs to one tenant, once")
    return ring


def _in_our_words(kind: str, where: str, message: str) -> str:
    """Return what is wrong and what to write instead."""
    if kind == "extra_forbidden":
        return "there is no such setting"
    if where.endswith(".expires"):
        return "should be a time with its zone, such as 2027-01-31T00:00:00Z"
    if where.endswith(".sha256"):
        return "should be the 64 hexadecimal digits that `autellix key new` prints, not the key itself"
    if kind == "string_pattern_mismatch":
        return "a tenant's name is 1 to 24 characters of a-z 0-9 _ - and begins with a letter or digit"
    return message[0].lower() + message[1:]


def _state(status: os.stat_result) -> tuple[int, ...]:
    """Return what differs when a file is written or replaced."""
    return (status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)
