"""`GET /api/approvals`, which the page `/approvals` reads."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import pytest

from rejoin.cli.api_keys import KeyCommands, NewKey
from rejoin_gateway.auth.scope import Scope
from tests.support.clients.api_families import SESSION, ApiClient


async def keys_of(issuer: KeyCommands, *scopes: Scope, **more: Any) -> dict[str, str]:
    wanted = NewKey(scopes=scopes or tuple(Scope), **more)
    return {"Authorization": f"Bearer {await issuer.create(wanted)}"}


async def listed(locked: ApiClient, key: Mapping[str, str], query: str = "") -> list[Any]:
    answer = await locked.get(f"/api/approvals?{query}", **key)
    assert answer.status == 200, answer.raw
    calls: list[Any] = answer.json["calls"]
    return calls


@pytest.mark.feature("F116")
async def test_what_waits_is_found_over_all_sessions_and_decided(
    locked: ApiClient, issuer: KeyCommands
) -> None:
    key, ann = await keys_of(issuer), await keys_of(issuer, user="ann")
    watcher = await keys_of(issuer, Scope.ADMIN)
    sessions = [locked.session() for _ in range(3)]
    for session in sessions:
        await locked.say(SESSION, session, f"delete {session}.txt", **ann)
    calls = await listed(locked, key)
    assert [one["sessionId"] for one in calls] == sessions
    first = calls[0]
    assert (first["toolName"], first["input"]) == ("delete", {"file": f"{sessions[0]}.txt"})
    assert (first["kind"], first["agentId"], first["userId"]) == ("approval", locked.system.agent, "ann")
    assert first["deciders"] == {"scope": "approve", "you": True, "userId": "ann"}
    assert datetime.fromisoformat(first["since"]).tzinfo is not None
    assert [one["deciders"]["you"] for one in await listed(locked, watcher)] == [False] * 3
    assert await listed(locked, ann) == calls
    assert await listed(locked, key, f"run={first['runId']}&user=ann&kind=approval") == [first]
    assert await listed(locked, key, "kind=tool-output") == []
    assert await listed(locked, key, "user=bob") == []
    assert await listed(locked, await keys_of(issuer, user="bob")) == []
    assert await listed(locked, await keys_of(issuer, agent="another")) == []
    assert await listed(locked, await keys_of(issuer, agent="another"), f"agent={first['agentId']}") == []
    path = f"/run/api/executions/{first['runId']}/approvals/{first['toolCallId']}"
    assert (await locked.post(path, {"approved": False, "reason": "no"}, **key)).status == 200
    assert await listed(locked, key) == calls[1:]


async def test_the_pages_of_the_inbox_have_each_call_once(locked: ApiClient, issuer: KeyCommands) -> None:
    key = await keys_of(issuer)
    for _ in range(5):
        await locked.say(SESSION, locked.session(), "delete notes.txt", **key)
    whole = await listed(locked, key)
    seen, before = [], ""
    while True:
        page = (await locked.get(f"/api/approvals?limit=2&before={before}", **key)).json
        seen += page["calls"]
        if "next" not in page:
            break
        before = page["next"]
    assert seen == whole
    assert len(seen) == 5


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("kind=person", "kind is one of approval, tool-output"),
        ("before=1", "not a page token"),
        ("limit=0", "limit is a number"),
        ("user=" + "u" * 5_000, "user has more than"),
    ],
)
async def test_a_query_that_cannot_be_read_is_refused(
    locked: ApiClient, issuer: KeyCommands, query: str, named: str
) -> None:
    refused = await locked.get(f"/api/approvals?{query}", **await keys_of(issuer))
    assert refused.status == 400
    assert named in refused.raw.decode()


async def test_the_inbox_is_for_administrators(locked: ApiClient, issuer: KeyCommands) -> None:
    assert (await locked.get("/api/approvals", **await keys_of(issuer, Scope.APPROVE))).status == 403
    assert (await locked.get("/api/approvals")).status == 401
