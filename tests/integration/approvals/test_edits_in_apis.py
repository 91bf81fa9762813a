"""Changed arguments of an approved call in every API that takes decisions."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from rejoin_runner.tools.tool_context import ToolContext
from rejoin_runner.tools.tool_decorator import tool
from tests.api.test_rows_approvals import waiting_run
from tests.support.clients.api_families import (
    AISDK,
    SESSION,
    ApiClient,
    Json,
    Script,
    event_types,
    with_decision,
)
from tests.support.models.agent_teams import Calls, model_requests, scripted_agent
from tests.support.system.local_system import Answer, LocalSystem
from tests.support.system.observation import wait_until

type Decide = Callable[[ApiClient, str, Json], Awaitable[Answer]]
SHOWN = {"order": "A-17", "cents": 49_900}
EDITED = {"cents": 900, "order": "A-17"}


async def by_session(client: ApiClient, session: str, input: Json) -> Answer:
    id = (await client.question(session))["approval"]["id"]
    approval = {"approvalId": id, "approved": True, "reason": "the fee", "input": input}
    return await client.post(client.at(session), {"type": "approval", "approval": approval})


async def changed_part(client: ApiClient, session: str, input: Json) -> Json:
    """The part as `useChat` has it if the page writes the change into the approval."""
    part = with_decision(await client.question(session), approved=True)
    return part | {"approval": part["approval"] | {"reason": "the fee", "input": input}}


async def by_message(client: ApiClient, session: str, input: Json) -> Answer:
    message = {"role": "assistant", "content": None, "parts": [await changed_part(client, session, input)]}
    return await client.post("/run/api/chat", {"conversationId": session, "messages": [message]})


async def by_graph(client: ApiClient, session: str, input: Json) -> Answer:
    message = {"role": "assistant", "content": None, "parts": [await changed_part(client, session, input)]}
    return await client.post("/api/chat", {"conversationId": session, "messages": [message]})


async def by_use_chat(client: ApiClient, session: str, input: Json) -> Answer:
    messages = await client.messages(session)
    messages[-1]["parts"] = [await changed_part(client, session, input)]
    return await client.post(
        "/api/chat", {"id": session, "messages": messages, "messageId": messages[-1]["id"]}
    )


async def by_approve(client: ApiClient, session: str, input: Json) -> Answer:
    body = {"runId": await waiting_run(client, session), "threadId": session, "approved": True}
    return await client.post("/api/chat/approve", body | {"reason": "the fee", "input": input})


async def by_reply(client: ApiClient, session: str, input: Json) -> Answer:
    call = (await client.question(session))["toolCallId"]
    reply = {"toolCallId": call, "approved": True, "reason": "the fee", "editedInput": input}
    return await client.post("/api/agent/chat/stream", {"conversationId": session, "approvalResponse": reply})


async def by_rest(client: ApiClient, session: str, input: Json) -> Answer:
    run, call = await waiting_run(client, session), (await client.question(session))["toolCallId"]
    decision = {"approved": True, "reason": "the fee", "input": input}
    answer = await client.post(f"/run/api/executions/{run}/approvals/{call}", decision)
    if answer.status != 200:
        return answer

    async def over() -> bool:
        return bool((await client.get(f"/run/api/executions/{run}")).json["status"] == "completed")

    await wait_until(over, "the end of the run")
    return await client.get(f"/run/api/executions/{run}/stream")


WAYS: dict[str, tuple[Decide, str]] = {
    "session": (by_session, "/approval/input/cents"),
    "run": (by_message, "/messages/0/parts/0/approval/input/cents"),
    "graph": (by_graph, "/messages/0/parts/0/approval/input/cents"),
    "AI SDK": (by_use_chat, "/messages/1/parts/0/approval/input/cents"),
    "parts": (by_approve, ""),
    "agent chat": (by_reply, ""),
    "rest": (by_rest, "/input/cents"),
}


@pytest.fixture
async def shop(system: LocalSystem) -> tuple[ApiClient, list[Any]]:
    """A client, and what the tool was called with."""
    seen: list[Any] = []

    @tool(needs_approval=True, approval_edits=True)
    async def refund(ctx: ToolContext[None], order: str, cents: int) -> str:
        """Refund an order."""
        seen.append(((order, cents), ctx.approval))
        return f"Refunded {cents}."

    lines: Script = {"go": [[Calls("refund", SHOWN)], ["Done."]]}
    agent = scripted_agent(system.agent, lines, tools=[refund])
    await system.runner([agent])
    seen.append(agent)
    return ApiClient(system, await system.gateway()), seen


@pytest.mark.feature("F121")
@pytest.mark.parametrize("way", WAYS)
async def test_an_approved_call_runs_with_the_changed_arguments(
    shop: tuple[ApiClient, list[Any]], way: str
) -> None:
    client, [agent, *_] = shop
    decide, pointer = WAYS[way]
    session = client.session()
    await client.say(AISDK, session, "go")
    pending = (await client.get(f"/run/v1/conversations/{session}/pending-approvals")).json
    [shown] = pending["pendingApprovals"]
    assert (shown["toolName"], shown["input"], shown["inputSchema"]["required"]) == (
        "refund",
        SHOWN,
        ["order", "cents"],
    )
    refused = await decide(client, session, EDITED | {"cents": "all"})
    assert (refused.status, "the arguments of refund do not fit" in refused.raw.decode()) == (400, True)
    assert [one["pointer"] for one in refused.json.get("errors", [])] == [pointer] * bool(pointer)
    answer = await decide(client, session, EDITED)
    assert answer.complete
    assert "Done." in answer.text
    [message] = (await client.messages(session))[1:]
    [part] = [part for part in message["parts"] if part["type"] == "tool-refund"]
    assert (part["state"], part["input"], part["output"]) == ("output-available", EDITED, "Refunded 900.")
    edit = part["callProviderMetadata"]["rejoin"]["edit"]
    assert (edit["shownInput"], edit["by"]) == (SHOWN, "anybody")
    [_, (arguments, approval)] = shop[1]
    assert arguments == ("A-17", 900)
    assert (approval.by, approval.reason, approval.shown_input) == ("anybody", "the fee", SHOWN)
    assert part in model_requests(agent)[-1].answer["parts"]


@pytest.mark.feature("F121")
@pytest.mark.parametrize("ui", [5, 6, 7])
async def test_clients_of_all_versions_learn_what_ran(shop: tuple[ApiClient, list[Any]], ui: int) -> None:
    client, _ = shop
    session = client.session()
    await client.say(SESSION, session, "go")
    id = (await client.question(session))["approval"]["id"]
    approval = {"approvalId": id, "approved": True, "input": EDITED}
    path = f"{client.at(session)}?ui={ui}"
    answer = await client.post(path, {"type": "approval", "approval": approval})
    found = [one for one in event_types(answer) if one.startswith("tool-")]
    response = ["tool-approval-response"] if ui == 7 else []
    assert found == ["tool-input-available", *response, "tool-output-available"]
    assert next(one["input"] for one in answer.chunks if one["type"] == "tool-input-available") == EDITED


@pytest.mark.feature("F121", "F87")
async def test_the_input_of_the_part_itself_changes_nothing(shop: tuple[ApiClient, list[Any]]) -> None:
    """Every client sends it back, and JavaScript rounds large numbers."""
    client, seen = shop
    session = client.session()
    await client.say(AISDK, session, "go")
    messages = await client.messages(session)
    part = with_decision(await client.question(session), approved=True) | {"input": EDITED}
    messages[-1]["parts"] = [part]
    await client.post("/api/chat", {"id": session, "messages": messages, "messageId": messages[-1]["id"]})
    assert seen[1][0] == ("A-17", 49_900)
