"""`GET /api/runs`, which the page `/runs` reads."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from rejoin.cli.api_keys import KeyCommands, NewKey
from rejoin_gateway.auth.scope import Scope
from tests.support.clients.api_families import SESSION, ApiClient

EVERYTHING = (Scope.CHAT, Scope.APPROVE, Scope.ADMIN)


async def keys_of(issuer: KeyCommands, **more: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {await issuer.create(NewKey(scopes=EVERYTHING, **more))}"}


async def test_an_administrator_finds_the_runs_of_the_tenant(locked: ApiClient, issuer: KeyCommands) -> None:
    key = await keys_of(issuer)
    ann = await keys_of(issuer, user="ann")
    sessions = {text: locked.session() for text in ("count 2", "fail", "delete notes.txt")}
    for text, session in sessions.items():
        await locked.say(SESSION, session, text, **ann)

    async def found(query: str = "", headers: dict[str, str] = key) -> list[Any]:
        answer = await locked.get(f"/api/runs?{query}", **headers)
        assert answer.status == 200, answer.raw
        runs: list[Any] = answer.json["runs"]
        return runs

    waiting, failed, completed = await found()
    assert [one["state"] for one in (waiting, failed, completed)] == ["suspended", "failed", "completed"]
    assert {one["userId"] for one in (waiting, failed, completed)} == {"ann"}
    assert failed["error"]
    assert failed["errorCode"] == "model_error"
    assert await found("error=model_error&state=failed") == await found("error=model_error") == [failed]
    assert await found("error=deadline") == await found("error=model_error&state=completed") == []
    assert completed["attempts"] == 1
    assert completed["costUsd"] is None  # its scripted model has no price
    assert completed["createdAt"] <= completed["startedAt"] <= completed["endedAt"]
    assert "endedAt" not in waiting
    assert await found("state=failed") == [failed]
    assert await found("state=&agent=&user=") == [waiting, failed, completed]
    agent = completed["agentId"]
    assert await found(f"user=ann&agent={agent}") == [waiting, failed, completed]
    assert await found("user=bob") == []
    assert await found(f"session={sessions['count 2']}", ann) == [completed]
    hour = timedelta(hours=1)
    assert len(await found(f"since={(datetime.now(UTC) - hour):%Y-%m-%dT%H:%M:%SZ}")) == 3
    assert await found(f"since={(datetime.now(UTC) + hour):%Y-%m-%dT%H:%M:%SZ}") == []
    assert await found("", await keys_of(issuer, user="bob")) == []
    assert await found("", await keys_of(issuer, agent="another")) == []
    assert await found(f"agent={agent}", await keys_of(issuer, agent="another")) == []


async def test_the_pages_of_the_list_have_each_run_once(locked: ApiClient, issuer: KeyCommands) -> None:
    key = await keys_of(issuer)
    for _ in range(5):
        await locked.say(SESSION, locked.session(), "count 1", **key)
    whole = (await locked.get("/api/runs", **key)).json
    assert "next" not in whole
    seen, before = [], ""
    while True:
        page = (await locked.get(f"/api/runs?limit=2&before={before}", **key)).json
        seen += page["runs"]
        if "next" not in page:
            break
        before = page["next"]
    assert seen == whole["runs"]
    assert len(seen) == 5


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("state=lost", "state is one of queued, running"),
        ("since=yesterday", "since is a time"),
        ("before=1", "before is the `next`"),
        ("limit=0", "limit is a number"),
        ("user=" + "u" * 5_000, "user has more than"),
        ("error=" + "e" * 5_000, "error has more than"),
    ],
)
async def test_a_query_that_cannot_be_read_is_refused(
    locked: ApiClient, issuer: KeyCommands, query: str, named: str
) -> None:
    refused = await locked.get(f"/api/runs?{query}", **await keys_of(issuer))
    assert refused.status == 400
    assert named in refused.raw.decode()


async def test_the_list_is_for_administrators(locked: ApiClient, issuer: KeyCommands) -> None:
    chat = {"Authorization": f"Bearer {await issuer.create(NewKey(scopes=(Scope.CHAT,)))}"}
    assert (await locked.get("/api/runs", **chat)).status == 403
    assert (await locked.get("/api/runs")).status == 401
