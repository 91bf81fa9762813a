"""The graph family: `POST /api/chat` with `messages` and no `id`."""

from tests.support.clients.api_families import ApiClient, with_decision
from tests.support.clients.transcripts import Transcript

CHAT = "/api/chat"


async def test_the_transcript_of_the_graph_family_is_the_golden_one(client: ApiClient) -> None:
    """A whole conversation, byte for byte but for ids and times."""
    talk, session = Transcript(client), client.session()
    await talk.ask("POST", CHAT, {"messages": [{"role": "user", "content": "count 3"}]})
    said = {"role": "user", "content": "think", "id": "m1"}
    await talk.ask("POST", CHAT, {"conversationId": session, "messages": [said]}, x_emit_operations="true")
    await talk.ask("POST", CHAT, {"conversationId": session, "messages": [said]})
    await talk.ask("POST", CHAT, {"conversationId": session, "messages": [said | {"content": "other"}]})
    said = {"role": "user", "content": "delete notes.txt"}
    await talk.ask("POST", CHAT, {"conversationId": session, "messages": [said]})
    part = with_decision(await client.question(session), approved=True)
    answered = {"role": "assistant", "content": None, "parts": [part]}
    await talk.ask("POST", CHAT, {"conversationId": session, "messages": [answered]})
    await talk.ask("POST", CHAT, {"messages": [{"role": "assistant", "content": "hello"}]})
    await talk.ask("POST", CHAT, {"messages": [{"role": "user", "content": "hi"}]}, x_agent_id="nobody")
    talk.check("graph")
