"""`GET /api/usage`: what a tenant has used, for those who pay."""

from datetime import UTC, datetime

import pytest

from rejoin.cli.api_keys import KeyCommands
from tests.api.console.test_run_list import keys_of
from tests.support.clients.api_families import SESSION, ApiClient


async def test_usage_is_summed_up_for_the_whole_tenant(locked: ApiClient, issuer: KeyCommands) -> None:
    key = await keys_of(issuer)
    assert (await locked.get("/api/usage", **key)).json["usage"] == []
    await locked.say(SESSION, locked.session(), "count 2", **await keys_of(issuer, user="ann"))
    await locked.say(SESSION, locked.session(), "count 2", **await keys_of(issuer, user="bob"))
    report = (await locked.get("/api/usage", **key)).json
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    assert report["until"] == today
    [day] = report["usage"]
    tokens = day["inputTokens"] + day["outputTokens"]
    assert (day["day"], day["unpricedTokens"], day["costUsd"]) == (today, tokens, None)
    assert tokens > 0
    [model] = (await locked.get("/api/usage?by=model", **key)).json["usage"]
    assert model["model"] == ""  # the scripted model has no name
    other = await keys_of(issuer, agent="another")
    assert (await locked.get("/api/usage?by=agent", **other)).json["usage"] == []


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("by=user", "by is one or several of day, agent, model"),
        ("since=yesterday", "since is a day such as 2026-11-30"),
        ("until=0001-01-05", "until is 0001-01-30 or later"),
        ("since=2026-01-02&until=2026-01-01", "since is a day up to 400 days before until"),
        ("since=2020-01-01&until=2026-01-01", "since is a day up to 400 days before until"),
    ],
)
async def test_a_wrong_query_is_named(
    locked: ApiClient, issuer: KeyCommands, query: str, problem: str
) -> None:
    refused = await locked.get(f"/api/usage?{query}", **await keys_of(issuer))
    assert refused.status == 400
    assert problem in refused.json["detail"]


async def test_one_user_does_not_see_what_others_use(locked: ApiClient, issuer: KeyCommands) -> None:
    assert (await locked.get("/api/usage", **await keys_of(issuer, user="ann"))).status == 404
    assert (await locked.get("/api/usage")).status == 401
