"""The parts family: messages as parts, sessions as threads, plain errors."""

import pytest

from tests.support.clients.api_families import PARTS, ApiClient
from tests.support.clients.transcripts import Transcript

CHAT = "/api/chat"
NO_PARTS = "parts must be a non-empty array"
NO_RUN = "runId and threadId are required"


async def test_the_transcript_of_the_parts_family_is_the_golden_one(client: ApiClient) -> None:
    """A whole conversation, byte for byte but for ids and times."""
    talk, session = Transcript(client), client.session()
    await talk.ask("POST", CHAT, {"parts": [{"type": "text", "text": "count 3"}]})
    body = {"threadId": session, "parts": [{"type": "text", "text": "weather Paris"}], "messageId": "m1"}
    await talk.ask("POST", CHAT, body)
    body = {"threadId": session, "parts": [{"type": "text", "text": "delete notes.txt"}], "messageId": "m2"}
    asked = await talk.ask("POST", CHAT, body)
    await talk.ask("GET", f"/api/threads/{session}")
    run = asked.headers["x-workflow-run-id"]
    await talk.ask("POST", "/api/chat/approve", {"runId": run, "threadId": session})
    await talk.ask("GET", f"/api/chat/{session}/stream")
    await talk.ask("GET", f"/api/threads/{session}?limit=1")
    into = client.session()
    await talk.ask("POST", f"/api/threads/{session}/fork", {"messageId": "m2", "threadId": into})
    await talk.ask("GET", f"/api/threads/{into}")
    await talk.ask("POST", f"/api/threads/{session}/fork", {})
    await talk.ask("DELETE", f"/api/threads/{into}")
    await talk.ask("GET", f"/api/threads/{into}")
    await talk.ask("POST", CHAT, {"parts": []})
    await talk.ask("POST", "/api/chat/approve", {"runId": run})
    await talk.ask("POST", CHAT, body, x_agent_id="nobody")
    talk.check("parts")


@pytest.mark.feature("F6")
@pytest.mark.parametrize(
    "raw",
    [
        b'{"parts":[]}',
        b'{"parts":{}}',
        b'{"parts":null}',
        b'{"parts":"a"}',
        b'{"parts":[',
        b"{}",
        b'{"threadId":"t"}',
        b'{"threadId":"t","messageId":"m"}',
        b"{",
        b"hello",
        b"",
        b"[]",
        b"null",
        b'"parts"',
        b"\xff",
    ],
)
async def test_a_message_without_parts_is_refused_in_the_promised_words(
    client: ApiClient, raw: bytes
) -> None:
    """The body has no `parts`, `parts` is not an array, or the body is no object or no JSON."""
    refused = await client.send(CHAT, raw)
    assert (refused.status, refused.json) == (400, {"error": NO_PARTS})


@pytest.mark.feature("F57")
@pytest.mark.parametrize(
    "raw", [b"{}", b'{"runId":"run_1"}', b'{"threadId":"t"}', b'{"runId":"","threadId":"t"}', b"{", b"[]"]
)
async def test_a_decision_without_its_run_and_thread_is_refused_in_the_promised_words(
    client: ApiClient, raw: bytes
) -> None:
    refused = await client.send("/api/chat/approve", raw)
    assert (refused.status, refused.json) == (400, {"error": NO_RUN})


@pytest.mark.feature("F57")
async def test_unsaid_is_a_denial_and_the_answer_streams_the_continuation(client: ApiClient) -> None:
    """By the run's id, the call's, or the approval's; said again it is the same answer."""
    for name in ("run", "call", "approval"):
        session = client.session()
        asked = await client.say(PARTS, session, "delete notes.txt")
        [question] = [chunk for chunk in asked.chunks if chunk["type"] == "tool-approval-request"]
        run = asked.headers["x-workflow-run-id"]
        body = {"runId": question["approvalId"] if name == "approval" else run, "threadId": session}
        body |= {"toolCallId": question["toolCallId"]} if name == "call" else {}
        answer = await client.post("/api/chat/approve", body)
        kinds = [chunk["type"] for chunk in answer.chunks]
        assert (answer.status, answer.complete, kinds[0]) == (200, True, "start")
        assert "tool-output-denied" in kinds
        assert "tool-approval-request" not in kinds
        assert answer.text == "You said no, so I left it alone."
        if name != "run":
            assert (await client.post("/api/chat/approve", body)).raw == answer.raw
            assert (await client.post("/api/chat/approve", body | {"approved": True})).status == 409


@pytest.mark.feature("F57")
async def test_a_decision_that_names_another_thread_is_refused(client: ApiClient) -> None:
    session, stranger = client.session(), client.session()
    asked = await client.say(PARTS, session, "delete notes.txt")
    await client.say(PARTS, stranger, "count 1")
    [question] = [chunk for chunk in asked.chunks if chunk["type"] == "tool-approval-request"]
    run = asked.headers["x-workflow-run-id"]
    for body in (
        {"runId": run, "threadId": stranger, "approved": True},
        {"runId": run, "threadId": stranger, "toolCallId": "call_1", "approved": True},
        {"runId": question["approvalId"], "threadId": stranger, "approved": True},
        {"runId": run, "threadId": session, "toolCallId": "call_9", "approved": True},
        {"runId": run, "threadId": client.session(), "approved": True},
    ):
        refused = await client.post("/api/chat/approve", body)
        assert refused.status == 404, body
        assert list(refused.json) == ["error"]
    assert (await client.question(session))["state"] == "approval-requested"


@pytest.mark.feature("F78")
async def test_a_fork_has_exactly_the_earlier_messages(client: ApiClient) -> None:
    """A repeated request returns the same fork. Fork and origin are independent; deleting one keeps the
    other.
    """
    session, into = client.session(), client.session()
    for number in (1, 2, 3):
        await client.say(PARTS, session, f"count {number}", id=f"m{number}")
    wish = {"messageId": "m2", "threadId": into}
    for _ in range(2):
        forked = await client.post(f"/api/threads/{session}/fork", wish)
        assert (forked.json["thread"]["id"], forked.json["clonedMessageCount"]) == (into, 2)
    assert await client.texts(into) == ["user: count 1", "assistant: 1"]
    await client.say(PARTS, into, "count 4")
    assert (await client.ask("DELETE", f"/api/threads/{session}")).json == {"success": True}
    assert (await client.get(f"/api/threads/{session}")).status == 404
    assert len(await client.texts(into)) == 4
    taken = await client.post(f"/api/threads/{into}/fork", wish)
    assert taken.status == 404


@pytest.mark.feature("F78")
async def test_threads_are_listed_and_read_page_by_page(client: ApiClient) -> None:
    session = client.session()
    for number in (1, 2, 3):
        await client.say(PARTS, session, f"count {number}", id=f"m{number}")
    assert (await client.get("/api/threads?limit=1")).json["threads"][0]["id"] == session
    seen: list[str] = []
    page = (await client.get(f"/api/threads/{session}?limit=4")).json
    assert len(page["messages"]) == 4
    older = (await client.get(f"/api/threads/{session}?limit=4&before={page['next']}")).json
    seen = [one["id"] for one in older["messages"] + page["messages"]]
    assert seen == [one["id"] for one in await client.messages(session)]
    assert "next" not in older
    refused = await client.get("/api/threads?limit=x")
    assert (refused.status, list(refused.json)) == (400, ["error"])
