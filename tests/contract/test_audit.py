"""`AuditLog`, adapter and double: each change writes who did it, when and from where, in its transaction."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import pytest

from rejoin_adapters.actor import Actor, act_as
from rejoin_adapters.store_types import (
    ApiKeyRow,
    AuditEntry,
    Decision,
    Limits,
    Owner,
)
from rejoin_protocol.errors import Conflict
from rejoin_protocol.ids import TenantId, UserId
from tests.support.data.database_ports import DatabasePorts
from tests.support.data.store_session import Chat, fresh

pytest_plugins = ("tests.support.data.store_fixtures",)

ACTOR = Actor("key rk_1", "203.0.113.7")


@pytest.fixture
def owner() -> Iterator[Owner]:
    act_as(ACTOR)
    yield Owner(TenantId(fresh("ten")), UserId("ann"))
    act_as(None)


async def entries(ports: DatabasePorts, owner: Owner) -> Sequence[AuditEntry]:
    return await ports.audit.list(owner.tenant, limit=100)


def actions(found: Sequence[AuditEntry]) -> list[tuple[str, str]]:
    return [(entry.action, entry.target) for entry in reversed(found)]


async def test_what_happens_to_a_key_is_written_once(ports: DatabasePorts, owner: Owner) -> None:
    """Created, revoked, deleted with its user; not its use, and not what changes nothing."""
    id, other = fresh("rk"), fresh("rk")
    now = datetime.now(UTC)
    for one in (id, other):
        row = ApiKeyRow(one, owner.tenant, b"h", ("chat",), None, owner.user, "mine", now)
        await ports.api_keys.create(row)
        await ports.api_keys.create(row)
    await ports.api_keys.record_use([id])
    for _ in range(2):
        assert await ports.api_keys.revoke(owner.tenant, id)
    assert not await ports.api_keys.revoke(owner.tenant, "none")
    assert owner.user is not None
    await ports.session_store.delete_user(owner.tenant, owner.user)
    found = await entries(ports, owner)
    assert actions(found[2:]) == [("key.created", id), ("key.created", other), ("key.revoked", id)]
    assert sorted(actions(found[:2])) == sorted([("key.deleted", id), ("key.deleted", other)])
    assert {(entry.actor, entry.peer) for entry in found} == {("key rk_1", "203.0.113.7")}
    assert found[-1].detail == {"scopes": ["chat"], "agent": None, "user": "ann", "name": "mine"}
    assert abs((found[0].at - now).total_seconds()) < 60


async def test_a_decision_and_a_deletion_are_written(ports: DatabasePorts, owner: Owner) -> None:
    """A repeated decision and a deletion of nothing are not."""
    chat = Chat(ports.run_store, owner)
    run, [approval] = await chat.wait_for_decision("delete it")
    for _ in range(2):
        await ports.run_store.decide(owner, run.session, [Decision(approval, approved=True)])
    with pytest.raises(Conflict):
        await ports.run_store.decide(owner, run.session, [Decision(approval, approved=False)])
    for _ in range(2):
        await ports.session_store.delete(owner, run.session)
    found = await entries(ports, owner)
    assert actions(found) == [("approval.approved", approval), ("sessions.deleted", run.session)]
    assert found[-1].detail["run"] == run.id
    assert found[0].detail == {"sessions": [run.session]}


async def test_limits_are_written_and_the_database_names_who_says_nothing(
    ports: DatabasePorts, owner: Owner
) -> None:
    act_as(None)
    for _ in range(2):
        await ports.tenants.set_limits(owner.tenant, Limits(running_max=3))
    [entry] = await entries(ports, owner)
    assert (entry.action, entry.target, entry.detail) == ("limits.set", owner.tenant, {"running_max": 3})
    assert entry.actor.startswith("database role ")
    assert entry.peer is None


async def test_the_log_is_paged_and_the_last_week_always_stays(ports: DatabasePorts, owner: Owner) -> None:
    for number in range(1, 6):
        await ports.tenants.set_limits(owner.tenant, Limits(running_max=number))
    assert await ports.audit.forget(0) == 0
    first = await ports.audit.list(owner.tenant, limit=2)
    second = await ports.audit.list(owner.tenant, limit=9, before=first[-1].number)
    assert [entry.detail["running_max"] for entry in (*first, *second)] == [5, 4, 3, 2, 1]
    assert await ports.audit.list(TenantId(fresh("ten")), limit=9) == []
