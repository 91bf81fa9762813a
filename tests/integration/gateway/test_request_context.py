"""The context of a request on its way from a header to a tool, and the places where it must not appear."""

from base64 import b64encode
from collections.abc import AsyncGenerator
from typing import Any

import asyncpg
import msgspec
import pytest
from structlog.testing import capture_logs

from rejoin.cli.api_keys import KeyCommands, NewKey
from rejoin_adapters.postgres.api_keys import PostgresApiKeys
from rejoin_adapters.postgres.runs import run_store
from rejoin_adapters.session_keys import mark_of
from rejoin_gateway.auth.scope import Scope
from rejoin_protocol.events import chunks
from rejoin_protocol.ids import TenantId, UserId
from rejoin_runner.agent.agent import Agent
from rejoin_runner.models.model import Done, ModelChunk, ModelRequest
from rejoin_runner.tools.tool_context import RunContext, ToolContext
from rejoin_runner.tools.tool_decorator import tool
from tests.support.models.scripted_models import SingleCallModel
from tests.support.system.local_system import Answer, LocalSystem

SECRET = "hunter2-hunter2"  # noqa: S105 - that is what is looked for
KEYS = f"k1:{b64encode(b'1' * 32).decode()}"
NEWER = f"k2:{b64encode(b'2' * 32).decode()},{KEYS}"
OTHER = f"k3:{b64encode(b'3' * 32).decode()}"


class Tenant(msgspec.Struct):
    tenant_id: str
    auth_token: str = ""
    seats: int = 1


@tool
async def whoami(ctx: ToolContext[Tenant]) -> str:
    """Return the user of the context."""
    assert ctx.context.auth_token in {"", SECRET}
    return f"{ctx.context.tenant_id} {ctx.context.seats}"


class Reads(msgspec.Struct):
    """Emits its instructions."""

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk | Done]:
        """See `port.Model`."""
        yield chunks.TextStart(id="t")
        yield chunks.TextDelta(id="t", delta=request.instructions)
        yield chunks.TextEnd(id="t")
        yield Done("stop")


async def post(system: LocalSystem, url: str, body: Any, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with system.http.post(url, json=body, headers=named) as response:
        return await Answer.of(response)


def output(answer: Answer) -> Any:
    return next(one["output"] for one in answer.chunks if one["type"] == "tool-output-available")


async def started(system: LocalSystem, model: Any = None, **agent: Any) -> str:
    """A gateway's base URL, with a runner behind it."""
    made = Agent(
        name=system.agent,
        model=model or SingleCallModel("whoami", {}),
        tools=[whoami],
        context=Tenant,
        **agent,
    )
    await system.runner([made], context_encryption_keys=NEWER)
    return await system.gateway(context_encryption_keys=KEYS)


@pytest.mark.feature("F43")
async def test_headers_are_the_context_and_are_remembered(system: LocalSystem) -> None:
    """A missing one is a 400 that stores nothing; the second turn needs none; a body field is ignored."""
    base, session = await started(system), system.fresh("s")
    url = f"{base}/api/chat"
    refused = await post(system, url, system.chat(session, "hi", context={"tenant_id": "forged"}))
    assert refused.status == 400
    assert refused.json["errors"] == [
        {"detail": "context.tenant_id is required (header `tenant-id`)", "pointer": "/context/tenant_id"}
    ]
    assert (await system.get(f"{base}/api/agents/{system.agent}/{session}")).status == 404
    first = await post(system, url, system.chat(session, "hi"), Tenant_Id="acme", SEATS="7")
    assert output(first) == "acme 7"
    assert (
        output(await post(system, url, system.chat(session, "again", context={"tenant_id": "x"}))) == "acme 7"
    )
    assert output(await post(system, url, system.chat(session, "more"), seats="8")) == "acme 8"
    wrong = await post(system, url, system.chat(session, "more"), seats="many")
    assert (wrong.status, wrong.json["errors"][0]["pointer"]) == (400, "/context/seats")


@pytest.mark.feature("F44")
async def test_a_context_in_the_body_is_for_one_run(system: LocalSystem) -> None:
    """The session family's; the next turn has to say it again."""
    base, session = await started(system), system.fresh("s")
    url = f"{base}/api/agents/{system.agent}/{session}"
    assert output(await post(system, url, {"message": "hi", "context": {"tenant_id": "acme"}})) == "acme 1"
    assert (await post(system, url, {"message": "again"})).status == 400
    wrong = await post(system, url, {"message": "again", "context": {"tenant_id": 7}})
    assert (wrong.status, wrong.json["errors"][0]["pointer"]) == (400, "/context/tenant_id")


@pytest.mark.feature("F43", "F44")
async def test_a_javascript_client_writes_the_fields_of_python_in_camel_case(system: LocalSystem) -> None:
    """`context.tenantId` is what the document of the session API sends; headers have words with `-`."""
    base = await started(system)
    url = f"{base}/api/agents/{system.agent}/{system.fresh('s')}"
    sent = {"message": "hi", "context": {"tenantId": "acme", "authToken": SECRET, "seats": 3}}
    assert output(await post(system, url, sent)) == "acme 3"
    wrong = await post(system, url, {"message": "again", "context": {"tenantId": 7}})
    assert (wrong.status, wrong.json["errors"][0]["pointer"]) == (400, "/context/tenantId")
    for name in ("tenant-id", "tenantId"):
        async with system.http.post(
            f"{base}/api/chat", json=system.chat(system.fresh("s"), "hi"), headers={name: "acme"}
        ) as response:
            assert output(await Answer.of(response)) == "acme 1"


@pytest.mark.feature("F43", "F44")
async def test_a_value_is_nowhere_in_the_clear(
    system: LocalSystem, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not in the database, not in the log of the run, not in the services' logs; also when it is refused."""
    base = await started(system)
    session = system.fresh("s")
    chat = system.chat(session, "hi")
    answer = await post(system, f"{base}/api/chat", chat, tenant_id="acme", auth_token=SECRET)
    body = {"message": "hi", "context": {"tenant_id": "acme", "auth_token": SECRET}}
    other = await post(system, f"{base}/api/agents/{system.agent}/{system.fresh('s')}", body)
    refused = await post(
        system, f"{base}/api/chat", system.chat(system.fresh("s"), "hi"), tenant_id="a", seats=SECRET
    )
    assert output(answer) == output(other) == "acme 1"
    assert refused.status == 400
    assert SECRET not in answer.raw.decode() + other.raw.decode() + refused.raw.decode()
    connection = await asyncpg.connect(database_url)
    try:
        tables = await connection.fetch("select tablename from pg_tables where schemaname = 'public'")
        dump = ""
        for row in tables:
            rows = await connection.fetch(f'select t::text, row_to_json(t)::text from "{row[0]}" t')  # noqa: S608
            dump += str(rows)
    finally:
        await connection.close()
    assert session in dump
    assert SECRET not in dump
    assert SECRET.encode().hex() not in dump
    printed = capsys.readouterr()
    assert session in printed.out + printed.err
    assert SECRET not in printed.out + printed.err


async def test_a_context_that_does_not_open_ends_the_run_with_a_sentence(system: LocalSystem) -> None:
    """The gateway sealed it with a key that the runner does not have."""
    await system.runner(
        [Agent(name=system.agent, model=SingleCallModel("whoami", {}), tools=[whoami], context=Tenant)],
        context_encryption_keys=OTHER,
    )
    base = await system.gateway(context_encryption_keys=KEYS)
    answer = await post(system, f"{base}/api/chat", system.chat(system.fresh("s"), "hi"), tenant_id="acme")
    assert answer.complete
    [error] = [chunk["errorText"] for chunk in answer.chunks if chunk["type"] == "error"]
    assert error.startswith("The run's context cannot be opened: REJOIN_CONTEXT")


async def test_instructions_may_be_made_of_the_context(system: LocalSystem) -> None:
    async def instruct(ctx: RunContext[Tenant]) -> str:
        return f"You work for {ctx.context.tenant_id} as {ctx.agent}."

    base = await started(system, Reads(), instructions=instruct)
    answer = await post(system, f"{base}/api/chat", system.chat(system.fresh("s"), "hi"), tenant_id="acme")
    assert answer.text == f"You work for acme as {system.agent}."


async def test_instructions_that_fail_end_the_run_with_a_sentence(system: LocalSystem) -> None:
    def instruct(ctx: RunContext[Tenant]) -> str:
        raise KeyError(ctx.context.tenant_id)

    base = await started(system, Reads(), instructions=instruct)
    answer = await post(system, f"{base}/api/chat", system.chat(system.fresh("s"), "hi"), tenant_id="acme")
    [error] = [chunk["errorText"] for chunk in answer.chunks if chunk["type"] == "error"]
    assert error == "The agent's instructions failed (KeyError)."


async def test_a_gateway_without_keys_warns_at_start_and_answers_503(system: LocalSystem) -> None:
    """The warning and the response name the setting. Nothing is stored."""
    agent = Agent(name=system.agent, model=Reads(), instructions="hello", context=Tenant)
    await system.runner([agent], context_encryption_keys=KEYS)
    with capture_logs() as entries:
        base = await system.gateway()
    [warning] = [entry for entry in entries if entry["event"] == "context_keys_missing"]
    assert system.agent in warning["agents"]
    assert "REJOIN_CONTEXT_ENCRYPTION_KEYS" in warning["hint"]
    session = system.fresh("s")
    refused = await post(system, f"{base}/api/agents/{system.agent}/{session}", "hello", tenant_id="acme")
    assert (refused.status, refused.json["code"]) == (503, "unavailable")
    assert "REJOIN_CONTEXT_ENCRYPTION_KEYS" in refused.json["detail"]
    assert int(refused.headers["retry-after"]) > 0
    assert (await system.get(f"{base}/api/agents/{system.agent}/{session}")).status == 404


async def test_a_gateway_with_keys_does_not_warn(system: LocalSystem) -> None:
    agent = Agent(name=system.agent, model=Reads(), instructions="hello", context=Tenant)
    await system.runner([agent], context_encryption_keys=KEYS)
    with capture_logs() as entries:
        await system.gateway(context_encryption_keys=KEYS)
    assert not [entry for entry in entries if entry["event"] == "context_keys_missing"]


async def test_a_replayed_run_has_the_context_of_its_session_or_the_one_it_is_given(
    system: LocalSystem,
) -> None:
    base = await started(system)

    async def replayed(first: Answer, **body: Any) -> Answer:
        url = f"{base}/api/runs/{first.headers['x-workflow-run-id']}/replay"
        made = await post(system, url, body)
        if made.status != 201:
            return made
        return await system.get(f"{base}/run/api/executions/{made.json['runId']}/stream")

    kept = await post(
        system, f"{base}/api/chat", system.chat(system.fresh("s"), "hi"), tenant_id="acme", seats="7"
    )
    assert output(await replayed(kept)) == "acme 7"
    assert output(await replayed(kept, context={"tenant_id": "other"})) == "other 1"
    url = f"{base}/api/agents/{system.agent}/{system.fresh('s')}"
    once = await post(system, url, {"message": "hi", "context": {"tenant_id": "acme"}})
    refused = await replayed(once)
    assert (refused.status, refused.json["errors"][0]["pointer"]) == (400, "/context/tenant_id")
    assert output(await replayed(once, context={"tenant_id": "acme"})) == "acme 1"


async def test_two_users_with_a_session_of_the_same_name_each_have_their_context(
    system: LocalSystem,
) -> None:
    made = Agent(name=system.agent, model=SingleCallModel("whoami", {}), tools=[whoami], context=Tenant)
    await system.runner([made], context_encryption_keys=KEYS)
    base = await system.gateway(
        context_encryption_keys=KEYS, allow_anonymous=False, api_key_pepper="a pepper of some length"
    )
    session = system.fresh("s")
    async with await run_store.open_run_store(system.database_url, pool_max=1) as store:
        issuer = KeyCommands(PostgresApiKeys(store.database), TenantId("default"), b"a pepper of some length")
        keys = [await issuer.create(NewKey(scopes=(Scope.CHAT,), user=user)) for user in ("ann", "ben")]
        admin = f"Bearer {await issuer.create(NewKey(scopes=(Scope.ADMIN, Scope.CHAT)))}"
    for key, name in zip(keys, ("hers", "his"), strict=True):
        credential = f"Bearer {key}"
        for more in ({"tenant_id": name}, {}):
            answer = await post(
                system, f"{base}/api/chat", system.chat(session, "hi"), authorization=credential, **more
            )
            assert output(answer) == f"{name} 1"
        # Whoever sees all sessions calls the second one otherwise. A replay uses the context all the same.
        run = answer.headers["x-workflow-run-id"]
        again = await post(system, f"{base}/api/runs/{run}/replay", {}, authorization=admin)
        assert again.status == 201
        url = f"{base}/run/api/executions/{again.json['runId']}/stream"
        async with system.http.get(url, headers={"authorization": admin}) as response:
            assert output(await Answer.of(response)) == f"{name} 1"
    # What one remembers the other finds: the session is the same, by whichever name.
    stored = session + mark_of(UserId("ben"))
    for credential, id, more, expected in (
        (admin, session, {}, "hers 1"),
        (admin, stored, {}, "his 1"),
        (admin, stored, {"tenant_id": "theirs"}, "theirs 1"),
        (f"Bearer {keys[1]}", session, {}, "theirs 1"),
        (f"Bearer {keys[0]}", session, {}, "hers 1"),
    ):
        answer = await post(
            system, f"{base}/api/chat", system.chat(id, "hi"), authorization=credential, **more
        )
        assert output(answer) == expected
