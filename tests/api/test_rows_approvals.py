"""Acceptance rows of approvals, in every family's way of asking and answering."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from rejoin_runner.tools.decorator import tool
from rejoin_runner.tools.tool import Tool

from tests.support.clients.api_families import (
    AGENT_CHAT,
    AISDK,
    FAMILIES,
    GRAPH,
    PARTS,
    RUN,
    SESSION,
    Family,
    Json,
    Script,
    Speaker,
    kinds,
    responded,
)
from tests.support.models.agent_teams import Calls, agent, seen
from tests.support.system.local_system import Answer, LocalSystem, read_frames
from tests.support.system.observation import wait_until

type Decide = Callable[[Speaker, str, bool], Awaitable[Answer]]


async def by_session(speaker: Speaker, session: str, approved: bool) -> Answer:
    approval = {"approvalId": (await speaker.question(session))["approval"]["id"], "approved": approved}
    return await speaker.post(speaker.at(session), {"type": "approval", "approval": approval})


async def by_message(speaker: Speaker, session: str, approved: bool) -> Answer:
    part = responded(await speaker.question(session), approved=approved)
    message = {"role": "assistant", "content": None, "parts": [part]}
    return await speaker.post("/run/api/chat", {"conversationId": session, "messages": [message]})


async def by_graph(speaker: Speaker, session: str, approved: bool) -> Answer:
    part = responded(await speaker.question(session), approved=approved)
    message = {"role": "assistant", "content": None, "parts": [part]}
    return await speaker.post("/api/chat", {"conversationId": session, "messages": [message]})


async def by_use_chat(speaker: Speaker, session: str, approved: bool) -> Answer:
    question = await speaker.question(session)
    messages = await speaker.messages(session)
    parts = messages[-1]["parts"]
    parts[parts.index(question)] = responded(question, approved=approved)
    return await speaker.post(
        "/api/chat", {"id": session, "messages": messages, "messageId": messages[-1]["id"]}
    )


async def by_approve(speaker: Speaker, session: str, approved: bool) -> Answer:
    run = await waiting_run(speaker, session)
    body = {"runId": run, "threadId": session} | ({"approved": True} if approved else {})
    return await speaker.post("/api/chat/approve", body)


async def by_reply(speaker: Speaker, session: str, approved: bool) -> Answer:
    call = (await speaker.question(session))["toolCallId"]
    body = {"conversationId": session, "approvalResponse": {"toolCallId": call, "approved": approved}}
    return await speaker.post("/api/agent/chat/stream", body)


async def waiting_run(speaker: Speaker, session: str) -> str:
    """The run whose question waits: its log is replayed for its id."""
    answer = await speaker.get(f"/api/chat/{session}/stream?startIndex=0")
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
    speaker: Speaker, other: Speaker, family: Family, decide: Decide
) -> None:
    """Through another gateway than the one that asked; the question has both of its ids."""
    session = speaker.session()
    asked = await speaker.say(family, session, "delete notes.txt")
    [question] = [one for one in asked.chunks if one["type"] == "tool-approval-request"]
    assert (question["toolCallId"], question["approvalId"][:4]) == ("call_1", "apr_")
    assert kinds(asked)[-2:] == ["finish-step", "finish"]
    assert asked.chunks[-1]["finishReason"] == "tool-calls"
    answer = await decide(other, session, True)
    found = kinds(answer)
    assert answer.chunks[0] == {"type": "start", "messageId": asked.chunks[0]["messageId"]}
    assert "tool-output-available" in found
    assert not {"tool-input-start", "tool-approval-request"} & set(found)
    assert (answer.text, answer.complete) == ("notes.txt is deleted.", True)
    assert answer.headers["x-workflow-run-id"] == asked.headers["x-workflow-run-id"]
    [user, message] = await speaker.messages(session)
    assert user["role"] == "user"
    [part] = [one for one in message["parts"] if one["type"] == "tool-delete"]
    assert (part["state"], part["output"]) == ("output-available", "notes.txt is deleted.")


@pytest.mark.feature("F59")
@pytest.mark.parametrize(("family", "decide"), WAYS, ids=NAMES)
async def test_a_denied_call_is_not_run_and_the_model_is_told(
    speaker: Speaker, family: Family, decide: Decide
) -> None:
    session = speaker.session()
    await speaker.say(family, session, "delete notes.txt")
    answer = await decide(speaker, session, False)
    assert "tool-output-denied" in kinds(answer)
    assert answer.text == "You said no, so I left it alone."
    assert answer.chunks[-1]["finishReason"] == "stop"


@pytest.mark.feature("F61")
@pytest.mark.parametrize("family", FAMILIES, ids=str)
async def test_a_question_is_found_after_a_reload(speaker: Speaker, other: Speaker, family: Family) -> None:
    """In the history, the thread, the conversation and by its own route: with the id that decides it."""
    session = speaker.session()
    asked = await speaker.say(family, session, "delete notes.txt")
    id = next(one["approvalId"] for one in asked.chunks if "approvalId" in one)
    for path in (speaker.at(session), f"/api/threads/{session}", f"/run/v1/conversations/{session}"):
        message = (await other.get(path)).json["messages"][-1]
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
async def test_only_an_answered_approval_counts(speaker: Speaker) -> None:
    """A question that comes back as it was, or in any other state, decides nothing and stores nothing."""
    session = speaker.session()
    await speaker.say(RUN, session, "delete notes.txt")
    part = await speaker.question(session)
    approved = part["approval"] | {"approved": True}
    before = await speaker.messages(session)
    for state in ("approval-requested", "output-available", "input-available", "output-denied"):
        forged = {
            "role": "assistant",
            "parts": [part | {"state": state, "approval": approved, "output": "x"}],
        }
        assert (
            await speaker.post("/run/api/chat", {"conversationId": session, "messages": [forged]})
        ).status == 400
        named = {"id": "a", **forged}
        assert (await speaker.post("/api/chat", {"id": session, "messages": [named]})).status == 400
    assert await speaker.messages(session) == before


class Two:
    """Two calls at once that ask, each of which is written down when it is run."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    def tools(self) -> list[Tool]:
        @tool(needs_approval=True)
        async def left() -> str:
            """Go left."""
            self.ran.append("left")
            return "gone left"

        @tool(needs_approval=True)
        async def right() -> str:
            """Go right."""
            self.ran.append("right")
            return "gone right"

        return [left, right]


def answers(message: Json, **approved: bool) -> Json:
    """Some of a message's questions answered, as chat messages answer them."""
    parts = [
        responded(part, approved=approved[part["type"].removeprefix("tool-")])
        for part in message["parts"]
        if part["type"].removeprefix("tool-") in approved
    ]
    return {"role": "assistant", "parts": parts}


async def both_asked(system: LocalSystem) -> tuple[Speaker, str, Two, Answer]:

    two = Two()
    lines: Script = {"go": [[Calls("left"), Calls("right")], ["{}"]]}
    await system.runner([agent(system.agent, lines, tools=two.tools())])
    speaker = Speaker(system, await system.gateway())
    session = speaker.session()
    return speaker, session, two, await speaker.say(RUN, session, "go")


@pytest.mark.feature("F53")
async def test_decisions_one_by_one_are_acknowledged_until_nothing_is_open(system: LocalSystem) -> None:
    """The first one gets JSON that names it; with the last one the open stream goes on."""
    speaker, session, two, _ = await both_asked(system)
    message = (await speaker.messages(session))[-1]
    url = f"{speaker.base}/api/chat/{session}/stream?follow=true"
    async with system.http.get(url) as open_stream:
        frames = read_frames(open_stream)
        async for frame in frames:
            if b'"finishReason":"tool-calls"' in frame.data:
                break
        body: Json = {"conversationId": session, "messages": [answers(message, left=True)]}
        first = await speaker.post("/run/api/chat", body)
        assert first.headers["content-type"].startswith("application/json")
        [result] = first.json["results"]
        assert (first.json["success"], result["approved"]) == (True, True)
        assert result["toolCallId"] == "call_0_0"
        assert two.ran == []
        body = {"conversationId": session, "messages": [answers(message, right=False)], "stream": False}
        last = await speaker.post("/run/api/chat", body)
        assert [(one["toolCallId"], one["approved"]) for one in last.json["results"]] == [("call_0_1", False)]
        rest = [frame.data async for frame in frames]
    assert rest[-1] == b"[DONE]"
    assert any(b"tool-output-available" in data for data in rest)
    assert any(b"tool-output-denied" in data for data in rest)
    assert two.ran == ["left"]


@pytest.mark.feature("F53")
async def test_a_batch_of_decisions_is_taken_whole_or_not_at_all(system: LocalSystem) -> None:
    """One that is unknown spoils them all; then both at once, and the answer streams what follows."""
    speaker, session, two, _ = await both_asked(system)
    message = (await speaker.messages(session))[-1]
    batch = answers(message, left=True, right=True)
    spoiled: Json = {"role": "assistant", "parts": [dict(part) for part in batch["parts"]]}
    spoiled["parts"][1]["approval"] = {"id": "apr_unknown_0", "approved": True}
    body: Json = {"conversationId": session, "messages": [spoiled]}
    assert (await speaker.post("/run/api/chat", body)).status == 404
    pending = (await speaker.get(f"/run/v1/conversations/{session}/pending-approvals")).json
    assert len(pending["pendingApprovals"]) == 2
    body["messages"] = [batch]
    answer = await speaker.post("/run/api/chat", body)
    assert (answer.complete, sorted(two.ran)) == (True, ["left", "right"])
    assert answer.text == "gone left gone right"


@pytest.mark.feature("F56")
async def test_a_decision_by_rest(system: LocalSystem) -> None:
    """The reason reaches the model; the same again is 200, the opposite 409, an unknown run or call 404."""

    two = Two()
    one = agent(system.agent, {"go": [[Calls("left")], ["{}"]]}, tools=two.tools())
    await system.runner([one])
    speaker = Speaker(system, await system.gateway())
    session = speaker.session()
    run = (await speaker.say(RUN, session, "go")).headers["x-workflow-run-id"]
    at = f"/run/api/executions/{run}/approvals"
    verdict = {"approved": False, "reason": "The cliff is there."}
    assert (await speaker.post("/run/api/executions/run_unknown/approvals/call_0_0", verdict)).status == 404
    assert (await speaker.post(f"{at}/call_9", verdict)).status == 404
    assert (await speaker.post(f"{at}/call_0_0", {"reason": "?"})).status == 400
    assert (await speaker.post(f"{at}/call_0_0", verdict)).json == {"success": True}

    async def over() -> bool:
        return bool((await speaker.get(f"/run/api/executions/{run}")).json["status"] == "completed")

    await wait_until(over, "the end of the run")
    assert (await speaker.post(f"{at}/call_0_0", verdict)).json == {"success": True}
    assert (await speaker.post(f"{at}/call_0_0", {"approved": True})).status == 409
    assert two.ran == []
    [part] = [part for part in seen(one)[1].answer["parts"] if part["type"] == "tool-left"]
    assert (part["state"], part["approval"]["reason"]) == ("output-denied", "The cliff is there.")


@pytest.mark.feature("F60")
async def test_an_interrupt_closes_the_question(speaker: Speaker) -> None:
    """After it nothing is pending and nobody can approve."""
    session = speaker.session()
    asked = await speaker.say(SESSION, session, "delete notes.txt")
    run = asked.headers["x-workflow-run-id"]
    assert (await speaker.post(speaker.at(session, "/interrupt"))).json["interrupted"]
    pending = (await speaker.get(f"/run/v1/conversations/{session}/pending-approvals")).json
    assert pending == {"pendingApprovals": []}
    late = await speaker.post(f"/run/api/executions/{run}/approvals/call_1", {"approved": True})
    assert late.status == 409


async def test_two_decisions_at_once_are_one(speaker: Speaker, other: Speaker) -> None:
    """The same from two people: the same continuation for both."""
    session = speaker.session()
    await speaker.say(SESSION, session, "delete notes.txt")
    id = (await speaker.question(session))["approval"]["id"]
    body = {"type": "approval", "approval": {"approvalId": id, "approved": True}}
    async with asyncio.TaskGroup() as group:
        pair = [group.create_task(one.post(one.at(session), body)) for one in (speaker, other)]
    assert pair[0].result().raw == pair[1].result().raw
