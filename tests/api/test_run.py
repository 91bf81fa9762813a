"""The run family: chats, executions, conversations."""

from typing import Any

import pytest

from rejoin_protocol.limits import TEXT_BYTES_MAX
from tests.support.clients.api_families import RUN, ApiClient, with_decision
from tests.support.clients.transcripts import Transcript

CHAT = "/run/api/chat"
ODD = {"type": "text"}
GOOD = {"type": "text", "text": "a"}


async def test_the_transcript_of_the_run_family_is_the_golden_one(client: ApiClient) -> None:
    """A whole conversation, byte for byte but for ids and times."""
    talk, session = Transcript(client), client.session()
    await talk.ask("POST", CHAT, {"messages": [{"role": "user", "content": "count 3"}]})
    body = {"conversationId": session, "messages": [{"role": "user", "content": "weather Paris", "id": "m1"}]}
    await talk.ask("POST", "/run/api/executions", body, x_emit_operations="true")
    body = {"conversationId": session, "messages": [{"role": "user", "content": "delete notes.txt"}]}
    asked = await talk.ask("POST", CHAT, body)
    run = asked.headers["x-workflow-run-id"]
    await talk.ask("GET", f"/run/api/executions/{run}")
    await talk.ask("GET", f"/run/v1/conversations/{session}/pending-approvals")
    part = with_decision(await client.question(session), approved=False)
    body = {"conversationId": session, "messages": [{"role": "assistant", "parts": [part]}]}
    await talk.ask("POST", CHAT, body)
    await talk.ask("POST", f"/run/api/executions/{run}/approvals/call_1", {"approved": False})
    await talk.ask("POST", f"/run/api/executions/{run}/approvals/call_1", {"approved": True})
    await talk.ask("GET", f"/run/api/executions/{run}")
    await talk.ask("POST", f"/run/api/executions/{run}/interrupt")
    await talk.ask("GET", f"/run/v1/conversations/{session}?limit=2")
    await talk.ask("GET", f"/run/v1/conversations/{session}/stream")
    await talk.ask("POST", CHAT, {"messages": [{"role": "user", "content": "count 2"}], "stream": False})
    await talk.ask("POST", CHAT, {"messages": []})
    await talk.ask("GET", "/run/api/executions/run_unknown")
    talk.check("run")


@pytest.mark.parametrize(
    ("message", "pointer"),
    [
        ({"content": [GOOD, ODD]}, "content/1"),
        ({"content": [GOOD, {"type": "image", "image": "data:;base64,AAAA"}]}, "content/1"),
        ({"content": [GOOD], "parts": [GOOD, ODD]}, "parts/1"),
        ({"content": "b", "parts": [GOOD, ODD]}, "parts/1"),
        ({"content": "a", "parts": [GOOD, ODD]}, "parts/1"),
        ({"content": "x" * (TEXT_BYTES_MAX + 1)}, "content"),
    ],
)
async def test_a_bad_part_is_named_where_the_client_wrote_it(
    client: ApiClient, message: Any, pointer: str
) -> None:
    """In `content` or in `parts`, and nothing is stored."""
    session = client.session()
    body = {
        "conversationId": session,
        "messages": [{"role": "user", "content": "hi"}, {"role": "user"} | message],
    }
    refused = await client.post(CHAT, body)
    assert refused.status == 400
    assert refused.json["errors"][0]["pointer"] == f"/messages/1/{pointer}"
    assert (await client.get(client.at(session))).status == 404


@pytest.mark.feature("F5")
async def test_content_and_parts_are_one_message(client: ApiClient) -> None:
    """A string that a part repeats is stored once; another one comes before the parts."""
    for content, stored in (("a", ["a"]), ("b", ["b", "a"]), (None, ["a"]), ([GOOD], ["a", "a"])):
        session = client.session()
        message = {"role": "user", "content": content, "parts": [GOOD]}
        await client.post(CHAT, {"conversationId": session, "messages": [message]})
        [user, _] = await client.messages(session)
        assert user["parts"] == [{"type": "text", "text": text} for text in stored]


@pytest.mark.feature("F15")
async def test_without_a_stream_the_answer_is_one_completion(client: ApiClient) -> None:
    body = {"messages": [{"role": "user", "content": "count 3"}], "stream": False}
    answer = await client.post(CHAT, body)
    assert answer.headers["content-type"].startswith("application/json")
    assert answer.json["object"] == "chat.completion"
    [choice] = answer.json["choices"]
    assert choice["message"] == {"role": "assistant", "content": "1 2 3"}
    assert choice["finish_reason"] == "stop"
    usage = answer.json["usage"]
    assert usage["prompt_tokens"] > 0
    assert usage["completion_tokens"] > 0
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


@pytest.mark.feature("F15")
async def test_a_completion_names_a_failure_or_a_pending_approval(client: ApiClient) -> None:
    for text, reason in (("fail", "error"), ("delete notes.txt", "tool_calls")):
        body = {"messages": [{"role": "user", "content": text}], "stream": False}
        answer = (await client.post(CHAT, body)).json
        assert answer["choices"][0]["finish_reason"] == reason
        assert ("error" in answer) == (text == "fail")


@pytest.mark.feature("F63")
async def test_durable_or_classic_every_run_has_an_id(client: ApiClient) -> None:
    for mode in ("durable", "classic"):
        body = {"messages": [{"role": "user", "content": "count 1"}], "executionMode": mode}
        answer = await client.post(CHAT, body)
        run = answer.headers["x-workflow-run-id"]
        assert run.startswith("run_")
        assert (await client.get(f"/run/api/executions/{run}/stream")).raw == answer.raw
    assert (await client.post(CHAT, body | {"executionMode": "odd"})).status == 400


@pytest.mark.feature("F78")
async def test_conversations_are_listed_page_by_page(client: ApiClient) -> None:
    """The one that changed last first, each once."""
    made = [client.session() for _ in range(5)]
    for session in made:
        await client.say(RUN, session, "count 1")
    seen: list[str] = []
    page = (await client.get("/run/v1/conversations?limit=2")).json
    while len(seen) < 5:
        seen += [one["id"] for one in page["data"]]
        page = (await client.get(f"/run/v1/conversations?limit=2&before={page['next']}")).json
    assert seen[:5] == made[::-1]
    for bad in ("limit=0", "limit=201", "limit=x", "limit=0000010000000", f"limit={10**40}", "before=odd"):
        assert (await client.get(f"/run/v1/conversations?{bad}")).status == 400
