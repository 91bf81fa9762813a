"""`GET /api/sessions`, which the page `/sessions` reads."""

from collections.abc import Mapping
from typing import Any

import pytest

from rejoin.cli.api_keys import KeyCommands
from rejoin_gateway.auth.scope import Scope
from tests.api.console.test_approval_list import keys_of
from tests.support.clients.api_families import SESSION, ApiClient


async def listed(locked: ApiClient, key: Mapping[str, str], query: str = "") -> list[Any]:
    answer = await locked.get(f"/api/sessions?{query}", **key)
    assert answer.status == 200, answer.raw
    sessions: list[Any] = answer.json["sessions"]
    return sessions


@pytest.mark.feature("F116")
async def test_an_administrator_finds_a_session_by_its_first_words(
    locked: ApiClient, issuer: KeyCommands
) -> None:
    key, ann, bob = [await keys_of(issuer, **more) for more in ({}, {"user": "ann"}, {"user": "bob"})]
    anns, bobs = locked.session(), locked.session()
    await locked.say(SESSION, anns, "count 2", **ann)
    await locked.say(SESSION, bobs, "weather Paris", **bob)
    weather, counting = await listed(locked, key)
    assert (weather["id"], weather["title"], weather["userId"]) == (bobs, "weather Paris", "bob")
    assert (counting["id"], counting["messages"], counting["agentId"]) == (anns, 2, locked.system.agent)
    assert counting["createdAt"] <= counting["updatedAt"]
    assert await listed(locked, key, "text=PARIS") == [weather]
    assert await listed(locked, key, f"text={anns[:13]}") == [counting]
    assert await listed(locked, key, "text=nothing+of+this") == []
    assert await listed(locked, key, "user=ann&text=") == [counting]
    assert await listed(locked, bob) == [weather]
    assert await listed(locked, await keys_of(issuer, agent="another")) == []
    assert await listed(locked, await keys_of(issuer, agent="another"), f"agent={locked.system.agent}") == []
    assert (await locked.ask("PATCH", locked.at(anns), {"title": "Numbers"}, **key)).status == 200
    assert [one["title"] for one in await listed(locked, key, "text=numb")] == ["Numbers"]
    first = (await locked.get("/api/sessions?limit=1", **key)).json
    second = (await locked.get(f"/api/sessions?limit=1&before={first['next']}", **key)).json
    assert [one["id"] for page in (first, second) for one in page["sessions"]] == [bobs, anns]
    assert "next" not in second


@pytest.mark.parametrize(
    ("query", "named"),
    [("before=1", "not a page token"), ("limit=0", "limit is a number"), ("text=" + "u" * 5_000, "text has")],
)
async def test_a_query_that_cannot_be_read_is_refused(
    locked: ApiClient, issuer: KeyCommands, query: str, named: str
) -> None:
    refused = await locked.get(f"/api/sessions?{query}", **await keys_of(issuer))
    assert refused.status == 400
    assert named in refused.raw.decode()
    assert (await locked.get("/api/sessions", **await keys_of(issuer, Scope.CHAT))).status == 403
