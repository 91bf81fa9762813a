"""`ApiKeys`: the adapter and the double pass the same tests."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from rejoin_adapters.ports.api_keys import ApiKeys
from rejoin_adapters.store_types import ApiKeyRow
from rejoin_protocol.errors import Conflict
from rejoin_protocol.ids import AgentName, TenantId, UserId
from tests.support.data.database_ports import DatabasePorts
from tests.support.data.store_session import fresh

pytest_plugins = ("tests.support.data.store_fixtures",)

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


@pytest.fixture
def keys(ports: DatabasePorts) -> ApiKeys:
    return ports.api_keys


def row(tenant: TenantId | None = None) -> ApiKeyRow:
    return ApiKeyRow(
        fresh("key"),
        tenant or TenantId(fresh("ten")),
        bytes(range(256)),
        ["chat", "admin"],
        None,
        None,
        None,
        NOW,
    )


async def test_a_key_comes_back_as_it_was(keys: ApiKeys) -> None:
    plain = row()
    full = ApiKeyRow(
        fresh("key"),
        plain.tenant,
        b"\x00",
        [],
        AgentName("demo"),
        UserId("ann"),
        "of Ann",
        NOW + timedelta(seconds=1),
        NOW + timedelta(days=1),
    )
    for one in (plain, full):
        await keys.create(one)
        assert await keys.find(one.id) == one
    assert await keys.list(plain.tenant) == [full, plain]
    assert await keys.find("none") is None


async def test_a_key_is_created_once(keys: ApiKeys) -> None:
    one = row()
    await keys.create(one)
    await keys.create(one)  # its answer was lost
    with pytest.raises(Conflict):
        await keys.create(msgspec.structs.replace(one, hash=b"other"))
    with pytest.raises(Conflict):
        await keys.create(msgspec.structs.replace(one, tenant=TenantId("other"), hash=b"other"))
    assert await keys.find(one.id) == one


async def test_a_revoked_key_stays_revoked_since_then(keys: ApiKeys) -> None:
    one, other = row(), row()
    await keys.create(one)
    await keys.create(other)
    assert not await keys.revoke(other.tenant, one.id)
    assert not await keys.revoke(one.tenant, "none")
    assert await keys.revoke(one.tenant, one.id)
    found = await keys.find(one.id)
    assert found is not None
    assert found.revoked_at is not None
    assert await keys.revoke(one.tenant, one.id)
    assert await keys.find(one.id) == found
    assert await keys.find(other.id) == other


async def test_uses_are_noted_together(keys: ApiKeys) -> None:
    rows = [row() for _ in range(3)]
    for one in rows:
        await keys.create(one)
    await keys.record_use([rows[0].id, rows[1].id, "none"])
    await keys.record_use([])
    used = [await keys.find(one.id) for one in rows]
    assert [one is not None and one.last_used_at is not None for one in used] == [True, True, False]


async def test_a_tenant_sees_its_own_keys_only(keys: ApiKeys) -> None:
    one = row()
    await keys.create(one)
    assert await keys.list(row().tenant) == []
    assert await keys.list(one.tenant) == [one]
