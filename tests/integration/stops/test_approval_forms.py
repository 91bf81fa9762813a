"""Decisions in every form that clients send, and together with other things."""

import asyncio
from typing import Any

import msgspec
import pytest

from rejoin_runner.demo import build_demo_agent
from rejoin_runner.tools.tool_decorator import tool
from tests.support.clients.api_families import (
    AGENT_CHAT,
    RUN,
    ApiClient,
    Json,
    Script,
    event_types,
    with_decision,
)
from tests.support.models.agent_teams import Calls, scripted_agent
from tests.support.system.local_system import Answer, LocalSystem, read_frames
from tests.support.system.observation import wait_until

CALL = "call_1"


def run_part(approval: Json, **more: Any) -> Json:
    """A decided call as the run API's page shows it."""
    part = {"type": "tool-delete", "toolCallId": CALL, "state": "approval-responded", "approval": approval}
    return part | more


def run_body(session: str, *messages: Json, **more: Any) -> Json:
    return {"conversationId": session, "messages": list(messages)} | more


def assistant(*parts: Json) -> Json:
    return {"role": "assistant", "content": None, "parts": list(parts)}


FORMS: dict[str, Json] = {
    "an id made of the call's": assistant(
        {"type": "step-start"},
        run_part(
            {"id": f"aitxt-{CALL}", "approved": True, "reason": "User confirmed"},
            input={"file": "other.txt"},
            callProviderMetadata={"openai": {"itemId": "fc_test"}},
        ),
    ),
    "the call alone": assistant(run_part({"approved": True})),
    "a part of the user's": {"role": "user", "parts": [run_part({"id": f"aitxt-{CALL}", "approved": True})]},
    "a user's part, the call alone": {"role": "user", "content": "", "parts": [run_part({"approved": True})]},
}


@pytest.fixture
async def clients(system: LocalSystem) -> tuple[ApiClient, ApiClient]:
    await system.runner()
    return ApiClient(system, await system.gateway()), ApiClient(system, await system.gateway())


@pytest.mark.feature("F53", "F55")
@pytest.mark.parametrize("path", ["/run/api/chat", "/api/chat", "/run/api/executions"])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
async def test_a_form_of_the_run_api(clients: tuple[ApiClient, ApiClient], path: str, form: Json) -> None:
    """The stored arguments run; the same decision again is the same answer, the other one a conflict."""
    client, other = clients
    session = client.session()
    await client.say(RUN, session, "delete notes.txt")
    answer = await other.post(path, run_body(session, form))
    assert (answer.text, answer.complete) == ("notes.txt is deleted.", True)
    again = await client.post(path, run_body(session, form))
    assert again.text == "notes.txt is deleted."
    opposite = msgspec.json.decode(msgspec.json.encode(form).replace(b"true", b"false"))
    assert (await client.post(path, run_body(session, opposite))).status == 409


@pytest.mark.feature("F53")
async def test_what_is_no_decision_is_refused(clients: tuple[ApiClient, ApiClient]) -> None:
    client, _ = clients
    session = client.session()
    await client.say(RUN, session, "delete notes.txt")
    for approval in (None, {}, {"approved": "yes"}, {"id": 7, "approved": True}, {"id": f"aitxt-{CALL}"}):
        answer = await client.post("/run/api/chat", run_body(session, assistant(run_part(approval))))
        assert answer.status == 400, approval
    unknown = assistant(run_part({"id": "aitxt-call_77", "approved": True}, toolCallId="call_77"))
    answer = await client.post("/run/api/chat", run_body(session, unknown))
    assert (answer.status, "does not wait" in answer.json["detail"]) == (404, True)


@pytest.mark.feature("F53")
async def test_a_batch_of_both_forms_is_acknowledged(system: LocalSystem) -> None:
    @tool(needs_approval=True)
    async def act() -> str:
        """Does something."""
        return "done"

    lines: Script = {"go": [[Calls("act"), Calls("act")], ["{}"]]}
    await system.runner([scripted_agent(system.agent, lines, tools=[act])])
    client = ApiClient(system, await system.gateway())
    session = client.session()
    await client.say(RUN, session, "go")
    found = (await client.get(f"/run/v1/conversations/{session}/pending-approvals")).json["pendingApprovals"]
    first, second = [one["toolCallId"] for one in found]
    parts = [
        run_part({"id": f"aitxt-{first}", "approved": True}, toolCallId=first),
        run_part({"approved": False, "reason": "not now"}, toolCallId=second),
    ]
    one = await client.post("/run/api/chat", run_body(session, assistant(parts[0]), stream=False))
    assert one.json["results"] == [
        {
            "toolCallId": first,
            "approvalId": found[0]["approvalId"],
            "approved": True,
            "alreadyProcessed": False,
        }
    ]
    both = await client.post("/run/api/chat", run_body(session, assistant(*parts), stream=False))
    assert [(one["approved"], one["alreadyProcessed"]) for one in both.json["results"]] == [
        (True, True),
        (False, False),
    ]


@pytest.mark.feature("F53", "F63")
@pytest.mark.parametrize("by_agent", [False, True])
async def test_classic_mode_keeps_the_response_open(system: LocalSystem, by_agent: bool) -> None:
    """The decision, by another gateway, is acknowledged with JSON, and the original stream continues."""
    agent = msgspec.structs.replace(build_demo_agent(), name=system.agent)
    if by_agent:
        agent = msgspec.structs.replace(agent, execution_mode="classic")
    await system.runner([agent])
    client, other = [ApiClient(system, await system.gateway()) for _ in range(2)]
    session = client.session()
    mode = {} if by_agent else {"executionMode": "classic"}
    body = run_body(session, {"role": "user", "content": "delete notes.txt"}, **mode)
    async with system.http.post(f"{client.base}/run/api/chat", json=body) as response:
        async for _ in read_frames(response, lambda frame: b'"finishReason":"tool-calls"' in frame.data):
            pass
        await wait_until(lambda: is_asked(client, session), "the question")
        decided = assistant(run_part({"id": f"aitxt-{CALL}", "approved": True}))
        said = await other.post("/run/api/chat", run_body(session, decided, **mode))
        assert said.headers["content-type"].startswith("application/json")
        assert said.json["success"] is True
        rest = [frame.data async for frame in read_frames(response)]
    assert rest[-1] == b"[DONE]"
    assert any(b"tool-output-available" in data for data in rest)
    durable = run_body(session, {"role": "user", "content": "delete notes.txt"}, executionMode="durable")
    answer = await client.post("/run/api/chat", durable)
    assert (answer.complete, answer.chunks[-1]["finishReason"]) == (True, "tool-calls")


async def is_asked(client: ApiClient, session: str) -> bool:
    answer = await client.get(f"/run/v1/conversations/{session}/pending-approvals")
    return answer.status == 200 and bool(answer.json["pendingApprovals"])


@pytest.mark.feature("F53", "F63", "F96")
async def test_an_interrupt_ends_a_response_that_is_held_open(clients: tuple[ApiClient, ApiClient]) -> None:
    client, other = clients
    session = client.session()
    body = run_body(session, {"role": "user", "content": "delete notes.txt"}, executionMode="classic")
    async with asyncio.TaskGroup() as group:
        held = group.create_task(client.post("/run/api/chat", body))
        await wait_until(lambda: is_asked(other, session), "the question")
        assert (await other.post(f"/api/chat/{session}/stop")).json["interrupted"]
    assert held.result().complete
    assert {"tool-output-denied", "abort"} <= set(event_types(held.result()))


async def by_use_chat(client: ApiClient, session: str, messages: list[Json]) -> Answer:
    return await client.post("/api/chat", {"id": session, "messages": messages})


async def by_run(client: ApiClient, session: str, messages: list[Json]) -> Answer:
    return await client.post("/run/api/chat", run_body(session, *messages))


async def by_graph(client: ApiClient, session: str, messages: list[Json]) -> Answer:
    return await client.post("/api/chat", run_body(session, *messages))


async def by_session(client: ApiClient, session: str, messages: list[Json]) -> Answer:
    return await client.post(client.at(session), {"messages": messages})


async def by_agent_chat(client: ApiClient, session: str, messages: list[Json]) -> Answer:
    return await client.post("/api/agent/chat/stream", run_body(session, *messages))


@pytest.mark.feature("F53", "F58")
@pytest.mark.parametrize("send", [by_use_chat, by_run, by_graph, by_session, by_agent_chat])
async def test_a_decision_and_a_new_message_in_one_body(
    clients: tuple[ApiClient, ApiClient], send: Any
) -> None:
    """Both are taken, the decision first; sent again, they change nothing."""
    client, other = clients
    session = client.session()
    await client.say(RUN, session, "delete notes.txt", id="m1")
    messages = await client.messages(session)
    question = await client.question(session)
    parts = messages[1]["parts"]
    parts[parts.index(question)] = with_decision(question, approved=True)
    messages.append({"id": "m2", "role": "user", "parts": [{"type": "text", "text": "count 2"}]})
    answer = await send(other, session, messages)
    assert answer.text == "1 2"
    assert await client.texts(session) == [
        "user: delete notes.txt",
        "assistant: notes.txt is deleted.",
        "user: count 2",
        "assistant: 1 2",
    ]
    again = await send(client, session, messages)
    assert again.headers["x-workflow-run-id"] == answer.headers["x-workflow-run-id"]
    assert len(await client.messages(session)) == 4


@pytest.mark.feature("F4", "F52")
@pytest.mark.parametrize("is_first", [True, False], ids=["decision first", "message first"])
async def test_a_list_of_a_decision_and_a_message_decides_and_then_answers(
    clients: tuple[ApiClient, ApiClient], is_first: bool
) -> None:
    """Sent again it changes nothing; another decision in it is a conflict, and its message is not taken."""
    client, other = clients
    session = client.session()
    await client.say(RUN, session, "delete notes.txt", id="m1")
    id = (await client.question(session))["approval"]["id"]

    def body(message: str, *, approved: bool) -> list[Json]:
        decision = {"type": "approval", "approval": {"approvalId": id, "approved": approved}}
        said = {"id": message, "role": "user", "parts": [{"type": "text", "text": "count 2"}]}
        return [decision, said] if is_first else [said, decision]

    answer = await other.post(client.at(session), body("m2", approved=True))
    assert answer.text == "1 2"
    again = await client.post(client.at(session), body("m2", approved=True))
    assert again.headers["x-workflow-run-id"] == answer.headers["x-workflow-run-id"]
    assert (await client.post(client.at(session), body("m3", approved=False))).status == 409
    assert await client.texts(session) == [
        "user: delete notes.txt",
        "assistant: notes.txt is deleted.",
        "user: count 2",
        "assistant: 1 2",
    ]


@pytest.mark.feature("F4", "F52")
async def test_a_list_whose_decision_or_message_is_wrong_has_no_effect(
    clients: tuple[ApiClient, ApiClient],
) -> None:
    client, _ = clients
    session = client.session()
    await client.say(RUN, session, "delete notes.txt")
    question = await client.question(session)
    decision = {"type": "approval", "approval": {"approvalId": question["approval"]["id"], "approved": True}}
    unknown = {"type": "approval", "approval": {"approvalId": "a1", "approved": True}}
    assert (await client.post(client.at(session), [unknown, "count 2"])).status == 404
    assert (await client.post(client.at(session), [decision, {"message": [{"type": "odd"}]}])).status == 400
    assert await client.question(session) == question
    assert len(await client.messages(session)) == 2


@pytest.mark.feature("F53", "F58")
@pytest.mark.parametrize("send", [by_use_chat, by_run, by_session, by_agent_chat])
async def test_the_answered_message_at_the_end_is_a_decision(
    clients: tuple[ApiClient, ApiClient], send: Any
) -> None:
    """What `useChat` posts after `addToolApprovalResponse`, to each route that it can use as its `api`."""
    client, other = clients
    session = client.session()
    await client.say(RUN, session, "delete notes.txt", id="m1")
    messages = await client.messages(session)
    question = await client.question(session)
    parts = messages[1]["parts"]
    parts[parts.index(question)] = with_decision(question, approved=False)
    answer = await send(other, session, messages)
    assert (answer.complete, "tool-output-denied" in event_types(answer)) == (True, True)
    parts[parts.index(with_decision(question, approved=False))] = with_decision(question, approved=True)
    assert (await send(client, session, messages)).status == 409


@pytest.mark.feature("F58", "F87")
async def test_a_reply_without_a_conversation_finds_its_call(clients: tuple[ApiClient, ApiClient]) -> None:
    """By the call, among the caller's own; where the call waits twice, the messages tell which."""
    client, other = clients
    path = "/api/agent/chat/stream"
    pair = [client.session(), client.session()]
    for session in pair:
        await client.say(AGENT_CHAT, session, "delete notes.txt")
    reply = {"toolCallId": CALL, "approved": True}
    assert (await client.post(path, {"messages": [], "approvalResponse": reply})).status == 409
    for session in pair:
        body = {"messages": [(await client.messages(session))[-1]], "approvalResponse": reply}
        answer = await other.post(path, body)
        assert (answer.text, answer.headers["x-conversation-id"]) == ("notes.txt is deleted.", session)
        assert (await client.post(path, body)).text == "notes.txt is deleted."
    unknown = {"messages": [], "approvalResponse": reply | {"toolCallId": "call_none"}}
    answer = await client.post(path, unknown)
    assert (answer.status, "does not wait" in answer.json["error"]) == (404, True)
