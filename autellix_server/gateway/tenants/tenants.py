"""Who may call, how much, and with what share: keys, limits and shares as one account of each tenant."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from autellix_sdk.wire import ProgramId
from autellix_server.gateway.refusal import Refused
from autellix_server.gateway.tenants.keys import EVERYBODY, KeyRefused, KeyRing, Tenant, presented_key
from autellix_server.gateway.tenants.keys_file import KEYS_VARIABLE, KeysFile, parse_keys_variable
from autellix_server.gateway.tenants.limits import NO_LIMITS, Limiter, OverLimit
from autellix_server.gateway.tenants.scope import tenant_of
from autellix_server.scheduling.shares import Shares, TenantStanding


class Tenants:
    """The tenants of one gateway. One event loop. Without keys everybody is one tenant without limits.

    Args:
        keys: file of keys; `None`: `KEYS_VARIABLE` has them, or there are none.
        environ: the environment.
        clock: seconds, never going back.
        wall: the time of day, for keys that expire.

    Raises:
        ConfigurationError: the keys cannot be read or are wrong.
    """

    def __init__(
        self,
        keys: Path | None,
        environ: Mapping[str, str],
        clock: Callable[[], float],
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._file = None if keys is None else KeysFile(keys)
        text = environ.get(KEYS_VARIABLE)
        self._fixed = parse_keys_variable(text) if text else KeyRing()
        self._clock = clock
        self._wall = wall
        self._limiter = Limiter()
        self._shares = Shares()

    @property
    def keyed(self) -> bool:
        """Whether callers need a key."""
        return len(self._ring) > 0

    @property
    def _ring(self) -> KeyRing:
        return self._fixed if self._file is None else self._file.ring

    def refresh(self) -> None:
        """Read the file of keys again if it changed; for about once a second."""
        if self._file is not None:
            self._file.refresh()

    def who(self, headers: Mapping[str, str]) -> Tenant:
        """Return whose request it is.

        Args:
            headers: of the request, in a mapping that ignores case.

        Raises:
            Refused: 401, it has no key that is good.
        """
        if not self.keyed:
            return EVERYBODY
        try:
            return self._ring.tenant_of(presented_key(headers), self._wall())
        except KeyRefused as error:
            raise Refused(401, str(error), "invalid_api_key", kind="authentication_error") from None

    def admit(self, tenant: Tenant, *, new_program: bool) -> None:
        """Count a call in; `release` must follow.

        Raises:
            Refused: 429, the tenant is over a limit.
        """
        _check(self._limiter.admit(tenant.name, tenant.limits, self._clock(), new_program=new_program))

    def stand(self, tenant: Tenant) -> TenantStanding:
        """Count a call in among the shares, and return where its tenant stands; `charge` must follow."""
        return self._shares.arrive(tenant.name, tenant.weight)

    def charge(self, tenant: Tenant, service_s: float | None) -> None:
        """Count a call out among the shares, see `Shares.complete`."""
        self._shares.complete(tenant.name, service_s)

    def release(self, tenant: Tenant, tokens: int) -> None:
        """Count a call out, with its prompt and output tokens."""
        self._limiter.release(tenant.name, tenant.limits, tokens, self._clock())

    def open_program(self, tenant: Tenant) -> None:
        """Count a program in that is opened without a call.

        Raises:
            Refused: 429, the tenant has as many as it may.
        """
        _check(self._limiter.open_program(tenant.name, tenant.limits, self._clock()))

    def count_program(self, program: ProgramId) -> None:
        """Count a program in, whatever the limits: it lived before a restart, or an operator opens it."""
        self._limiter.open_program(self.owner_of(program), NO_LIMITS, self._clock())

    def program_ended(self, program: ProgramId) -> None:
        """Count a program out, whatever ended it."""
        self._limiter.program_ended(self.owner_of(program))

    def owner_of(self, program: ProgramId) -> str:
        """Return the name of the tenant whose program it is."""
        return tenant_of(program) if self.keyed else ""


def _check(over: OverLimit | None) -> None:
    if over is not None:
        code = f"over_{over.limit}"
        raise Refused(429, str(over), code, kind="rate_limit_error", retry_after_s=over.retry_after_s)
