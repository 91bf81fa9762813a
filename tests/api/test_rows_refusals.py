"""Refusals: each status in the error format of each family, without effect."""

from collections.abc import AsyncIterator

import pytest

from rejoin.cli.api_keys import KeyCommands, NewKey
from rejoin_adapters.postgres.api_keys import PostgresApiKeys
from rejoin_adapters.postgres.runs import run_store
from rejoin_adapters.postgres.runs.run_store import PostgresRunStore
from rejoin_gateway.auth.scope import Scope
from rejoin_protocol.errors import Unavailable
from rejoin_protocol.ids import TenantId
from tests.support.clients.api_families import (
    AGENT_CHAT,
    FAMILIES,
    SESSION,
    ApiClient,
    Family,
    error_text,
)
from tests.support.system.local_system import LocalSystem

PEPPER = "a pepper of some length"
CHAT, ALL = (Scope.CHAT, Scope.APPROVE), (Scope.CHAT, Scope.APPROVE, Scope.ADMIN)


@pytest.fixture
async def locked(system: LocalSystem) -> ApiClient:
    """A gateway that requires credentials."""
    await system.runner()
    return ApiClient(system, await system.gateway(allow_anonymous=False, api_key_pepper=PEPPER))


@pytest.fixture
async def issuer(database_url: str) -> AsyncIterator[KeyCommands]:
    async with await run_store.open_run_store(database_url, pool_max=1) as store:
        yield KeyCommands(PostgresApiKeys(store.database), TenantId("default"), PEPPER.encode())


@pytest.mark.feature("F37", "F38")
@pytest.mark.parametrize("family", FAMILIES, ids=str)
async def test_without_a_credential_nothing_happens(
    locked: ApiClient, issuer: KeyCommands, family: Family
) -> None:
    """None, a short and an unknown one are 401 in the family's shape; with one the id is still free."""
    key = await issuer.create(NewKey(scopes=ALL))
    session = locked.session()
    unknown = key[:-4] + ("AAAA" if key[-4:] != "AAAA" else "BBBB")
    for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": f"Bearer {unknown}"}):
        refused = await locked.say(family, session, "count 1", **headers)
        assert refused.status == 401
        assert refused.headers["www-authenticate"] == "Bearer"
        assert error_text(refused, family)
    authorized = {"Authorization": f"Bearer {key}"}
    assert (await locked.get(locked.at(session), **authorized)).status == 404
    assert (await locked.say(family, session, "count 2", **authorized)).text == "1 2"


@pytest.mark.feature("F39")
async def test_the_agent_chat_is_for_administrators(locked: ApiClient, issuer: KeyCommands) -> None:
    """All four of its routes; what a person may not do is not done."""
    key = {"Authorization": f"Bearer {await issuer.create(NewKey(scopes=CHAT))}"}
    session = locked.session()
    assert (await locked.say(AGENT_CHAT, session, "count 1", **key)).status == 403
    for path in ("/api/agent/chat", "/api/agent/chat/sync"):
        refused = await locked.post(path, {"message": "count 1", "conversationId": session}, **key)
        assert refused.status == 403
        assert "admin" in error_text(refused, AGENT_CHAT)
    assert (await locked.get("/api/agent/chat/run_1", **key)).status == 403
    assert (await locked.get(locked.at(session), **key)).status == 404


@pytest.mark.feature("F39")
async def test_a_decision_without_the_right_to_it_has_no_effect(
    locked: ApiClient, issuer: KeyCommands
) -> None:
    """By none of the ways to decide."""
    only = {"Authorization": f"Bearer {await issuer.create(NewKey(scopes=(Scope.CHAT, Scope.ADMIN)))}"}
    session = locked.session()
    asked = await locked.say(AGENT_CHAT, session, "delete notes.txt", **only)
    run = asked.headers["x-workflow-run-id"]
    id = next(one["approvalId"] for one in asked.chunks if "approvalId" in one)
    part = {
        "type": "tool-delete",
        "toolCallId": "call_1",
        "state": "approval-responded",
        "approval": {"id": id, "approved": True},
    }
    message = {"id": "a", "role": "assistant", "parts": [part]}
    reply = {"toolCallId": "call_1", "approved": True}
    for path, body in (
        (locked.at(session), {"type": "approval", "approval": {"approvalId": id, "approved": True}}),
        ("/run/api/chat", {"conversationId": session, "messages": [message]}),
        ("/run/api/chat", {"conversationId": session, "messages": [message], "stream": False}),
        ("/api/chat", {"conversationId": session, "messages": [message]}),
        ("/api/chat", {"id": session, "messages": [message]}),
        ("/api/chat/approve", {"runId": run, "threadId": session, "approved": True}),
        (f"/run/api/executions/{run}/approvals/call_1", {"approved": True}),
        ("/api/agent/chat/stream", {"conversationId": session, "approvalResponse": reply}),
    ):
        assert (await locked.post(path, body, **only)).status == 403, path
    found = (await locked.get(f"/run/api/executions/{run}", **only)).json
    assert (found["status"], len(found["pendingApprovals"])) == ("suspended", 1)


@pytest.mark.feature("F37")
async def test_a_key_bound_to_an_agent_does_not_find_the_data_of_another(
    locked: ApiClient, issuer: KeyCommands
) -> None:
    """Reading, rejoining, stopping and deciding, wherever a path names no agent."""
    key = {"Authorization": f"Bearer {await issuer.create(NewKey(scopes=ALL))}"}
    bound = {"Authorization": f"Bearer {await issuer.create(NewKey(scopes=ALL, agent='another'))}"}
    session = locked.session()
    asked = await locked.say(SESSION, session, "delete notes.txt", **key)
    run = asked.headers["x-workflow-run-id"]
    for path in (
        f"/api/chat/{session}/stream",
        f"/api/chat/{session}/stream?startIndex=0",
        f"/api/chat/{run}/stream?startIndex=0",
        f"/api/chat/{run}.1/stream?startIndex=0",
        f"/run/v1/conversations/{session}",
        f"/run/v1/conversations/{session}/stream?startIndex=0",
        f"/run/v1/conversations/{session}/pending-approvals",
        f"/run/api/executions/{run}",
        f"/run/api/executions/{run}/stream",
        f"/run/api/executions/{run}.1/stream",
        f"/api/threads/{session}",
        f"/api/agent/chat/{run}",
    ):
        assert (await locked.get(path, **bound)).status == 404, path
        assert (await locked.get(path, **key)).status in {200, 204}, path
    verdict = {"runId": run, "threadId": session, "approved": True}
    assert (await locked.post("/api/chat/approve", verdict, **bound)).status == 404
    assert (await locked.post(f"/api/chat/{session}/stop", **bound)).status == 404
    assert (await locked.ask("DELETE", f"/api/threads/{session}", **bound)).status == 404
    assert (await locked.get(f"/run/api/executions/{run}", **key)).json["status"] == "suspended"


@pytest.mark.feature("F37")
@pytest.mark.parametrize("family", FAMILIES, ids=str)
async def test_refusals_have_the_error_format_of_their_family(
    system: LocalSystem, monkeypatch: pytest.MonkeyPatch, family: Family
) -> None:
    """400, 404, 409, 500 and 503; a fault of ours has an incident and no detail."""
    await system.runner()
    client = ApiClient(system, await system.gateway())
    session = client.session()
    path = family.path.format(agent=system.agent, session=session)
    odd = await client.post(path, family.body(session, "count 1", "x" * 257))
    assert (odd.status, "a message id has 1 to 256" in error_text(odd, family)) == (400, True)
    await client.say(family, session, "count 1", id="m1")
    taken = await client.say(family, session, "count 2", id="m1")
    assert (taken.status, "taken" in error_text(taken, family)) == (409, True)
    for fault, status in ((RuntimeError("a secret of postgres://host"), 500), (Unavailable("away"), 503)):

        async def broken(*_: object, fault: Exception = fault) -> None:
            raise fault

        monkeypatch.setattr(PostgresRunStore, "admit", broken)
        refused = await client.say(family, session, "count 3")
        said = error_text(refused, family)
        assert refused.status == status
        assert "secret" not in refused.raw.decode()
        assert ("incident" in said) == (status == 500)
        assert ("retry-after" in refused.headers) == (status == 503)
