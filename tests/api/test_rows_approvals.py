"""Approvals in every route family: how each asks for and takes decisions."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tests.support.clients.api_families import (
    AGENT_CHAT,
    AISDK,
    FAMILIES,
    GRAPH,
    PARTS,
    RUN,
    SESSION,
    ApiClient,
    Family,
    Json,
    Script,
    event_types,
    with_decision,
)
from tests.support.models.agent_teams import Calls, model_requests, scripted_agent
from tests.support.models.approval_tools import ApprovalTools
from tests.support.system.local_system import Answer, LocalSystem, read_frames
from tests.support.system.observation import wait_until

type Decide = Callable[[ApiClient, str, bool], Awaitable[Answer]]


async def by_session(client: ApiClient, session: str, approved: bool) -> Answer:
    approval = {"approvalId": (await client.question(session))["approval"]["id"], "approved": approved}
    return await client.post(client.at(session), {"type": "approval", "approval": approval})


async def by_message(client: ApiClient, session: str, approved: bool) -> Answer:
    part = with_decision(await client.question(session), approved=approved)
    message = {"role": "assistant", "content": None, "parts": [part]}
    return await client.post("/run/api/chat", {"conversationId": session, "messages": [message]})


async def by_graph(client: ApiClient, session: str, approved: bool) -> Answer:
    part = with_decision(await client.question(session), approved=approved)
    message = {"role": "assistant", "content": None, "parts": [part]}
    return await client.post("/api/chat", {"conversationId": session, "messages": [message]})


async def by_use_chat(client: ApiClient, session: str, approved: bool) -> Answer:
    question = await client.question(session)
    messages = await client.messages(session)
    parts = messages[-1]["parts"]
    parts[parts.index(question)] = with_decision(question, approved=approved)
    return await client.post(
        "/api/chat", {"id": session, "messages": messages, "messageId": messages[-1]["id"]}
    )


async def by_approve(client: ApiClient, session: str, approved: bool) -> Answer:
    run = await waiting_run(client, session)
    body = {"runId": run, "threadId": session} | ({"approved": True} if approved else {})
    return await client.post("/api/chat/approve", body)


async def by_reply(client: ApiClient, session: str, approved: bool) -> Answer:
    call = (await client.question(session))["toolCallId"]
    body = {"conversationId": session, "approvalResponse": {"toolCallId": call, "approved": approved}}
    return await client.post("/api/agent/chat/stream", body)


async def waiting_run(client: ApiClient, session: str) -> str:
    """The run whose question waits: its log is replayed for its id."""
    answer = await client.get(f"/api/chat/{session}/stream?startIndex=0")
    return answer.headers["x-workflow-run-id"]


WAYS: list[tuple[Family, Decide]] = [
    (SESSION, by_session),
    (RUN, by_message),
    (GRAPH, by_graph),
    (PARTS, by_approve),
    (AGENT_CHAT, by_reply),
    (AISDK, by_use_chat),
]
NAMES = [family.name for family, _ in WAYS]


@pytest.mark.feature("F50", "F52", "F55", "F82")
@pytest.mark.parametrize(("family", "decide"), WAYS, ids=NAMES)
async def test_an_approved_call_is_run_and_the_answer_streams_the_rest(
    client: ApiClient, other: ApiClient, family: Family, decide: Decide
) -> None:
    """Through another gateway than the one that asked; the question has both of its ids."""
    session = client.session()
    asked = await client.say(family, session, "delete notes.txt")
    [question] = [one for one in asked.chunks if one["type"] == "tool-approval-request"]
    assert (question["toolCallId"], question["approvalId"][:4]) == ("call_1", "apr_")
    assert event_types(asked)[-2:] == ["finish-step", "finish"]
    assert asked.chunks[-1]["finishReason"] == "tool-calls"
    answer = await decide(other, session, True)
    found = event_types(answer)
    assert answer.chunks[0] == {"type": "start", "messageId": asked.chunks[0]["messageId"]}
    assert "tool-output-available" in found
    assert not {"tool-input-start", "tool-approval-request"} & set(found)
    assert (answer.text, answer.complete) == ("notes.txt is deleted.", True)
    assert answer.headers["x-workflow-run-id"] == f"{asked.headers['x-workflow-run-id']}.1"
    [user, message] = await client.messages(session)
    assert user["role"] == "user"
    [part] = [one for one in message["parts"] if one["type"] == "tool-delete"]
    assert (part["state"], part["output"]) == ("output-available", "notes.txt is deleted.")


@pytest.mark.feature("F59")
@pytest.mark.parametrize(("family", "decide"), WAYS, ids=NAMES)
async def test_a_denied_call_does_not_run_and_the_model_learns_of_it(
    client: ApiClient, family: Family, decide: Decide
) -> None:
    session = client.session()
    await client.say(family, session, "delete notes.txt")
    answer = await decide(client, session, False)
    assert "tool-output-denied" in event_types(answer)
    assert answer.text == "You said no, so I left it alone."
    assert answer.chunks[-1]["finishReason"] == "stop"


@pytest.mark.feature("F61")
@pytest.mark.parametrize("family", FAMILIES, ids=str)
async def test_a_question_is_found_after_a_reload(
    client: ApiClient, other: ApiClient, family: Family
) -> None:
    """In the history, the thread, the conversation and by its own route: with the id that decides it."""
    session = client.session()
    asked = await client.say(family, session, "delete notes.txt")
    id = next(one["approvalId"] for one in asked.chunks if "approvalId" in one)
    for path in (client.at(session), f"/api/threads/{session}", f"/run/v1/conversations/{session}"):
        found = (await other.get(path)).json
        message = found.get("data", found)["messages"][-1]
        [part] = [one for one in message["parts"] if one.get("state") == "approval-requested"]
        assert (part["toolCallId"], part["approval"], part["input"]) == (
            "call_1",
            {"id": id},
            {"file": "notes.txt"},
        )
    known = {"approvalId": id, "toolCallId": "call_1", "toolName": "delete", "input": {"file": "notes.txt"}}
    pending = await other.get(f"/run/v1/conversations/{session}/pending-approvals")
    assert pending.json == {"pendingApprovals": [known]}
    execution = await other.get(f"/run/api/executions/{asked.headers['x-workflow-run-id']}")
    assert execution.json["pendingApprovals"] == [known]
    answer = await other.post("/api/chat/approve", {"runId": id, "threadId": session, "approved": True})
    assert answer.text == "notes.txt is deleted."


@pytest.mark.feature("F54")
async def test_only_an_answered_approval_counts(client: ApiClient) -> None:
    """An approval that is sent back unanswered decides nothing and stores nothing."""
    session = client.session()
    await client.say(RUN, session, "delete notes.txt")
    part = await client.question(session)
    approved = part["approval"] | {"approved": True}
    before = await client.messages(session)
    for state in ("approval-requested", "output-available", "input-available", "output-denied"):
        forged = {
            "role": "assistant",
            "parts": [part | {"state": state, "approval": approved, "output": "x"}],
        }
        assert (
            await client.post("/run/api/chat", {"conversationId": session, "messages": [forged]})
        ).status == 400
        named = {"id": "a", **forged}
        assert (await client.post("/api/chat", {"id": session, "messages": [named]})).status == 400
    assert await client.messages(session) == before


def answers(message: Json, **approved: bool) -> Json:
    """Some of a message's questions answered, as chat messages answer them."""
    parts = [
        with_decision(part, approved=approved[part["type"].removeprefix("tool-")])
        for part in message["parts"]
        if part["type"].removeprefix("tool-") in approved
    ]
    return {"role": "assistant", "parts": parts}


async def both_asked(system: LocalSystem) -> tuple[ApiClient, str, ApprovalTools, Answer]:

    two = ApprovalTools()
    lines: Script = {"go": [[Calls("left"), Calls("right")], ["{}"]]}
    await system.runner([scripted_agent(system.agent, lines, tools=two.tools())])
    client = ApiClient(system, await system.gateway())
    session = client.session()
    return client, session, two, await client.say(RUN, session, "go")


@pytest.mark.feature("F53")
async def test_decisions_one_by_one_are_acknowledged_until_nothing_is_open(system: LocalSystem) -> None:
    """The first decision is acknowledged with JSON. After the last one the open stream continues."""
    client, session, two, _ = await both_asked(system)
    message = (await client.messages(session))[-1]
    url = f"{client.base}/api/chat/{session}/stream?follow=true"
    async with system.http.get(url) as open_stream:
        frames = read_frames(open_stream)
        async for frame in frames:
            if b'"finishReason":"tool-calls"' in frame.data:
                break
        body: Json = {"conversationId": session, "messages": [answers(message, left=True)]}
        first = await client.post("/run/api/chat", body)
        assert first.headers["content-type"].startswith("application/json")
        [result] = first.json["results"]
        assert (first.json["success"], result["approved"]) == (True, True)
        assert result["toolCallId"] == "call_0_0"
        assert two.ran == []
        body = {"conversationId": session, "messages": [answers(message, right=False)], "stream": False}
        last = await client.post("/run/api/chat", body)
        assert [(one["toolCallId"], one["approved"]) for one in last.json["results"]] == [("call_0_1", False)]
        rest = [frame.data async for frame in frames]
    assert rest[-1] == b"[DONE]"
    assert any(b"tool-output-available" in data for data in rest)
    assert any(b"tool-output-denied" in data for data in rest)
    assert two.ran == ["left"]


@pytest.mark.feature("F53")
async def test_a_batch_of_decisions_is_taken_whole_or_not_at_all(system: LocalSystem) -> None:
    """One that is unknown spoils them all; then both at once, and the answer streams what follows."""
    client, session, two, _ = await both_asked(system)
    message = (await client.messages(session))[-1]
    batch = answers(message, left=True, right=True)
    spoiled: Json = {"role": "assistant", "parts": [dict(part) for part in batch["parts"]]}
    spoiled["parts"][1]["approval"] = {"id": "apr_unknown_0", "approved": True}
    body: Json = {"conversationId": session, "messages": [spoiled]}
    assert (await client.post("/run/api/chat", body)).status == 404
    pending = (await client.get(f"/run/v1/conversations/{session}/pending-approvals")).json
    assert len(pending["pendingApprovals"]) == 2
    body["messages"] = [batch]
    answer = await client.post("/run/api/chat", body)
    assert (answer.complete, sorted(two.ran)) == (True, ["left", "right"])
    assert answer.text == "gone left gone right"


@pytest.mark.feature("F53")
async def test_a_batch_gets_a_result_for_each_call_and_the_open_stream_continues(system: LocalSystem) -> None:
    """In the order of the parts; the same batch again has the same results."""
    client, session, two, _ = await both_asked(system)
    message = (await client.messages(session))[-1]
    url = f"{client.base}/api/chat/{session}/stream?follow=true"
    async with system.http.get(url) as open_stream:
        frames = read_frames(open_stream)
        async for frame in frames:
            if b'"finishReason":"tool-calls"' in frame.data:
                break
        body: Json = {
            "conversationId": session,
            "messages": [answers(message, left=True, right=False)],
            "stream": False,
        }
        for _ in range(2):
            answer = await client.post("/run/api/chat", body)
            assert answer.headers["content-type"].startswith("application/json")
            results = [(one["toolCallId"], one["approved"]) for one in answer.json["results"]]
            assert (answer.json["success"], results) == (True, [("call_0_0", True), ("call_0_1", False)])
        rest = [frame.data async for frame in frames]
    assert rest[-1] == b"[DONE]"
    assert sum(b'"tool-output-available"' in data for data in rest) == 1
    assert sum(b'"tool-output-denied"' in data for data in rest) == 1
    assert two.ran == ["left"]


@pytest.mark.feature("F56")
async def test_a_decision_by_rest(system: LocalSystem) -> None:
    """The reason reaches the model; the same again is 200, the opposite 409, an unknown run or call 404."""

    two = ApprovalTools()
    one = scripted_agent(system.agent, {"go": [[Calls("left")], ["{}"]]}, tools=two.tools())
    await system.runner([one])
    client = ApiClient(system, await system.gateway())
    session = client.session()
    run = (await client.say(RUN, session, "go")).headers["x-workflow-run-id"]
    at = f"/run/api/executions/{run}/approvals"
    verdict = {"approved": False, "reason": "The cliff is there."}
    assert (await client.post("/run/api/executions/run_unknown/approvals/call_0_0", verdict)).status == 404
    assert (await client.post(f"{at}/call_9", verdict)).status == 404
    assert (await client.post(f"{at}/call_0_0", {"reason": "?"})).status == 400
    assert (await client.post(f"{at}/call_0_0", verdict)).json == {"success": True}

    async def over() -> bool:
        return bool((await client.get(f"/run/api/executions/{run}")).json["status"] == "completed")

    await wait_until(over, "the end of the run")
    assert (await client.post(f"{at}/call_0_0", verdict)).json == {"success": True}
    assert (await client.post(f"{at}/call_0_0", {"approved": True})).status == 409
    assert two.ran == []
    [part] = [part for part in model_requests(one)[1].answer["parts"] if part["type"] == "tool-left"]
    assert (part["state"], part["approval"]["reason"]) == ("output-denied", "The cliff is there.")


@pytest.mark.feature("F60")
async def test_an_interrupt_closes_the_question(client: ApiClient) -> None:
    """After the interrupt nothing is pending, and a decision is refused."""
    session = client.session()
    asked = await client.say(SESSION, session, "delete notes.txt")
    run = asked.headers["x-workflow-run-id"]
    assert (await client.post(client.at(session, "/interrupt"))).json["interrupted"]
    pending = (await client.get(f"/run/v1/conversations/{session}/pending-approvals")).json
    assert pending == {"pendingApprovals": []}
    late = await client.post(f"/run/api/executions/{run}/approvals/call_1", {"approved": True})
    assert late.status == 409


async def test_two_decisions_at_once_are_one(client: ApiClient, other: ApiClient) -> None:
    """The same from two people: the same continuation for both."""
    session = client.session()
    await client.say(SESSION, session, "delete notes.txt")
    id = (await client.question(session))["approval"]["id"]
    body = {"type": "approval", "approval": {"approvalId": id, "approved": True}}
    async with asyncio.TaskGroup() as group:
        pair = [group.create_task(one.post(one.at(session), body)) for one in (client, other)]
    assert pair[0].result().raw == pair[1].result().raw
