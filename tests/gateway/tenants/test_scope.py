"""Program IDs by tenant: valid on the wire, one to one, and nobody can name what is another's."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from autellix_sdk.wire import ProgramId, check_program_id
from autellix_server.gateway.tenants.scope import own_id, scoped_id, tenant_of
from autellix_server.scheduling.shares import TENANT_NAME

tenants = st.from_regex(TENANT_NAME, fullmatch=True)
own_ids = st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True).map(ProgramId)
UUID = ProgramId("123e4567-e89b-12d3-a456-426614174000")


@given(tenants, own_ids)
def test_a_scoped_id_is_valid_on_the_wire_and_tells_its_tenant(tenant: str, own: ProgramId) -> None:
    """At any length of either."""
    scoped = scoped_id(tenant, own)
    assert check_program_id(scoped) == scoped
    assert tenant_of(scoped) == tenant


@given(tenants, own_ids, tenants, own_ids)
def test_no_two_programs_meet(tenant: str, own: ProgramId, other_tenant: str, other: ProgramId) -> None:
    """Neither of two tenants, nor two of one."""
    alike = scoped_id(tenant, own) == scoped_id(other_tenant, other)
    assert alike == ((tenant, own) == (other_tenant, other))


@given(tenants, own_ids)
def test_what_a_client_is_shown_leads_back_to_its_program(tenant: str, own: ProgramId) -> None:
    """It is the client's own ID or, where that is too long, a digest that stands for it."""
    scoped = scoped_id(tenant, own)
    shown = own_id(tenant, scoped)
    assert shown is not None
    assert scoped_id(tenant, shown) == scoped
    assert shown == own or len(tenant) + 1 + len(own) > 64


@given(tenants)
def test_usual_ids_stay_as_they_are(tenant: str) -> None:
    """UUIDs, and the SDK's 32 hexadecimal digits, fit beside every name."""
    for own in (UUID, ProgramId(UUID.replace("-", ""))):
        assert own_id(tenant, scoped_id(tenant, own)) == own


@given(tenants, own_ids, tenants)
def test_nobody_is_shown_what_is_anothers(tenant: str, own: ProgramId, other: str) -> None:
    """Not even under a name that begins alike."""
    scoped = scoped_id(tenant, own)
    assert (own_id(other, scoped) is None) == (other != tenant)
    assert own_id(tenant + "x", scoped) is None


@given(own_ids)
def test_without_keys_ids_are_what_clients_send(own: ProgramId) -> None:
    """To the byte, and back."""
    assert scoped_id("", own) == own
    assert own_id("", own) == own


def test_an_id_that_is_nobodys_is_shown_to_nobody() -> None:
    """One from before there were keys."""
    assert own_id("acme", ProgramId("acme")) is None
