"""What `useChat` sends with its default settings."""

from tests.support.clients.api_families import AISDK, ApiClient, with_decision
from tests.support.clients.transcripts import Transcript

CHAT = "/api/chat"


async def test_the_transcript_of_the_ai_sdk_is_the_golden_one(client: ApiClient) -> None:
    """A whole conversation, byte for byte but for ids and times."""
    talk, session = Transcript(client), client.session()
    body = AISDK.body(session, "count 3", "m1")
    await talk.ask("POST", CHAT, body)
    await talk.ask(
        "POST", CHAT, {"id": session, "messages": body["messages"], "trigger": "regenerate-message"}
    )
    await talk.ask("GET", f"{CHAT}/{session}/stream")
    await talk.ask("GET", f"{CHAT}/{session}/stream?startIndex=-2")
    await talk.ask("POST", f"{CHAT}/{session}/stop")
    await talk.ask("POST", CHAT, AISDK.body(session, "delete notes.txt", "m2"))
    question = await client.question(session)
    message = (await client.messages(session))[-1]
    message["parts"] = [
        with_decision(part, approved=True) if part == question else part for part in message["parts"]
    ]
    await talk.ask("POST", CHAT, {"id": session, "messages": [message], "messageId": message["id"]})
    await talk.ask("POST", CHAT, AISDK.body(session, "fail", "m3"))
    await talk.ask("POST", CHAT, {"id": session, "messages": [message | {"parts": []}]})
    await talk.ask("POST", CHAT, AISDK.body(session, "hello", "m4"), x_agent_id="nobody")
    talk.check("aisdk")


async def test_a_body_may_name_its_session_in_three_ways(client: ApiClient) -> None:
    """`conversationId` counts before `threadId`, and that before `id`; without any a new one is made."""
    one, two, three = (client.session() for _ in range(3))
    for names, expected in (
        ({"conversationId": one, "threadId": two}, one),
        ({"threadId": two}, two),
        ({}, three),
    ):
        answer = await client.post(CHAT, AISDK.body(three, "count 1", None) | names)
        assert answer.headers["x-thread-id"] == expected
    nameless = AISDK.body(None, "count 1", None)
    first, second = [await client.post(CHAT, nameless) for _ in range(2)]
    assert first.headers["x-thread-id"] != second.headers["x-thread-id"]
