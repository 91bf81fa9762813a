"""`GET /api/overview`, which the page `/overview` reads."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from importlib.metadata import version
from typing import Any

import pytest

from rejoin.cli.api_keys import KeyCommands, NewKey
from rejoin_gateway.auth.scope import Scope
from tests.support.clients.api_families import SESSION, ApiClient
from tests.support.system.observation import wait_until


async def keys_of(issuer: KeyCommands, *scopes: Scope, **more: Any) -> dict[str, str]:
    wanted = NewKey(scopes=scopes or tuple(Scope), **more)
    return {"Authorization": f"Bearer {await issuer.create(wanted)}"}


async def overview(locked: ApiClient, key: Mapping[str, str], query: str = "") -> Any:
    answer = await locked.get(f"/api/overview?{query}", **key)
    assert answer.status == 200, answer.raw
    return answer.json


def runs_by_state(found: Any) -> dict[str, int]:
    counts: dict[str, int] = {}
    for one in found["periods"]:
        counts[one["state"]] = counts.get(one["state"], 0) + one["runs"]
    return counts


@pytest.mark.feature("F116")
async def test_it_counts_the_runs_of_the_tenant_alone(locked: ApiClient, issuer: KeyCommands) -> None:
    key, ann = await keys_of(issuer), await keys_of(issuer, user="ann")
    for text in ("count 2", "fail", "delete notes.txt"):
        await locked.say(SESSION, locked.session(), text, **ann)
    found = await overview(locked, key)
    assert runs_by_state(found) == {"completed": 1, "failed": 1, "suspended": 1}
    assert found["counted"] == 3
    [waits] = found["unfinished"]
    assert (waits["agentId"], waits["state"], waits["runs"]) == (locked.system.agent, "suspended", 1)
    assert 0 <= waits["longestS"] < 60
    [failed] = found["errors"]
    assert (failed["code"], failed["runs"]) == ("model_error", 1)
    assert found["errorCodes"] == [{"code": "model_error", "runs": 1, "lastRun": failed["lastRun"]}]
    run = (await locked.get(f"/run/api/executions/{failed['lastRun']}", **key)).json
    assert (run["state"], run["errorCode"]) == ("failed", "model_error")
    assert found["takeovers"] == []
    assert 0 <= found["queueWaitS"]["p50"] <= found["queueWaitS"]["p95"] < 60
    for window, hours in (("1h", 1), ("24h", 24), ("7d", 168)):
        wide = await overview(locked, key, f"window={window}")
        at, since = (datetime.fromisoformat(wide[name]) for name in ("at", "since"))
        assert at - since == timedelta(hours=hours)
        assert wide["counted"] == 3
    assert (await overview(locked, ann))["counted"] == 3
    assert (await overview(locked, await keys_of(issuer, user="bob")))["counted"] == 0
    assert (await overview(locked, await keys_of(issuer, agent="another")))["counted"] == 0


async def test_it_names_the_processes_that_serve_all_tenants(locked: ApiClient, issuer: KeyCommands) -> None:
    """Their load is no tenant's. A key of one agent sees no other agent's name."""
    key, agent = await keys_of(issuer), locked.system.agent

    async def are_known() -> bool:
        processes = (await overview(locked, key))["processes"]  # those of other tests, too
        serves = any(agent in one.get("agents", ()) for one in processes)
        return serves and any(one["kind"] == "gateway" for one in processes)

    await wait_until(are_known, "a gateway and a runner", 30.0)
    processes = (await overview(locked, key))["processes"]
    assert {one["version"] for one in processes} == {version("rejoin")}
    mine = [one for one in processes if agent in one.get("agents", ())]
    assert [one["kind"] for one in mine] == ["runner"]
    assert mine[0]["loadMax"] >= mine[0]["load"] >= 0
    assert all(one["memoryBytes"] > 0 and one["lagS"] >= 0 for one in processes)
    bound = (await overview(locked, await keys_of(issuer, agent="another")))["processes"]
    assert mine[0]["id"] in {one["id"] for one in bound}
    assert not any(one.get("agents") for one in bound)


async def test_who_may_not_learns_nothing(locked: ApiClient, issuer: KeyCommands) -> None:
    refused = await locked.get("/api/overview?window=1y", **await keys_of(issuer))
    assert refused.status == 400
    assert b"window is one of 1h, 24h, 7d" in refused.raw
    assert (await locked.get("/api/overview", **await keys_of(issuer, Scope.CHAT))).status == 403
    assert (await locked.get("/api/overview")).status == 401
