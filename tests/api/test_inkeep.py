"""The run API as its own clients use it: the requests of the widget `@inkeep/agents-ui` 0.17.8, and what it
and the API's documentation read from the responses.

The shapes below were read in the widget's and the API's sources; `tests/browser/test_inkeep_widget.py` runs
the widget itself.
"""

import asyncio
import secrets
from typing import Any

import pytest

from tests.support.clients.api_families import ApiClient, with_decision
from tests.support.models.agent_teams import Breaks, Calls, Lines, scripted_agent
from tests.support.models.scripted_models import ShellTools
from tests.support.system.local_system import LocalSystem

CHAT = "/run/api/chat"
LIST = "/run/v1/conversations"
WIDGET = {
    "x_inkeep_client_timezone": "Europe/Berlin",
    "x_inkeep_client_timestamp": "2026-01-02T03:04:05.678Z",
    "x_inkeep_invocation_type": "chat_widget",
    "x_inkeep_app_id": "app",
}
"""Headers of each chat request. All other requests have `x-inkeep-app-id` alone."""
LISTED = {"id", "agentId", "title", "createdAt", "updatedAt"}
PAGED = {"page", "limit", "total", "pages"}
MESSAGE = {"id", "role", "content", "parts", "createdAt"}
FEEDBACK = {"id", "conversationId", "messageId", "type", "details", "createdAt", "updatedAt"}
EVENT = {
    "id",
    "type",
    "agentId",
    "conversationId",
    "messageId",
    "properties",
    "userProperties",
    "metadata",
    "createdAt",
    "updatedAt",
}


def conversation() -> str:
    """An id as the widget makes it."""
    return f"conv_{secrets.token_hex(8)}"


def sent(session: str, text: str, *files: dict[str, Any]) -> dict[str, Any]:
    """The body of a new message: the last message alone, and the widget's own id of its chat."""
    parts = [{"type": "text", "text": text}, *files]
    message = {"id": secrets.token_hex(10), "role": "user", "parts": parts}
    body = {"conversationId": session, "id": secrets.token_hex(8), "trigger": "submit-message"}
    return body | {"messages": [message]}


def decided(session: str, message: dict[str, Any], *, approved: bool) -> dict[str, Any]:
    """The body after a click: the last message, with its part decided."""
    parts = [
        with_decision(part, approved=approved) if part.get("state") == "approval-requested" else part
        for part in message["parts"]
    ]
    body = {"conversationId": session, "id": secrets.token_hex(8), "trigger": "submit-message"}
    return body | {"messages": [message | {"parts": parts}], "messageId": message["id"]}


@pytest.mark.feature("F95")
@pytest.mark.parametrize("approved", [True, False])
async def test_the_widgets_requests_send_and_decide(client: ApiClient, approved: bool) -> None:
    session = conversation()
    answer = await client.post(CHAT, sent(session, "count 3"), **WIDGET)
    assert (answer.text, answer.complete) == ("1 2 3", True)
    await client.post(CHAT, sent(session, "delete notes.txt"), **WIDGET)
    asked = (await client.messages(session))[-1]
    answer = await client.post(CHAT, decided(session, asked, approved=approved), **WIDGET)
    assert answer.complete
    assert answer.chunks[0] == {"type": "start", "messageId": asked["id"]}
    assert answer.text == ("notes.txt is deleted." if approved else "You said no, so I left it alone.")


@pytest.mark.feature("F78", "F95")
async def test_the_list_has_what_the_widget_reads(client: ApiClient) -> None:
    """It reads `data` and compares `pagination.page` with `pagination.pages`; a title is never missing."""
    long = "x" * 150
    texts = ["count 1", long, "count 2"]
    made = [conversation() for _ in texts]
    for session, text in zip(made, texts, strict=True):
        await client.post(CHAT, sent(session, text), **WIDGET)
    await client.ask("PATCH", client.at(made[0]), {"title": "Mine"})
    page = (await client.get(f"{LIST}?page=1&limit=3", x_inkeep_app_id="app")).json
    assert [one["id"] for one in page["data"]] == made[::-1]
    assert [one["title"] for one in page["data"]] == ["count 2", "x" * 100 + "...", "Mine"]
    assert all(one.keys() >= LISTED for one in page["data"])
    assert page["pagination"].keys() == PAGED
    numbers = page["pagination"]
    assert (numbers["page"], numbers["limit"]) == (1, 3)
    assert numbers["pages"] == -(-numbers["total"] // 3)
    second = (await client.get(f"{LIST}?page=2&limit=1")).json
    assert ([one["id"] for one in second["data"]], second["pagination"]["page"]) == ([made[1]], 2)
    assert (await client.get(f"{LIST}?page={second['pagination']['pages'] + 1}&limit=1")).json["data"] == []
    for bad in ("page=0", "page=x", "page=10001&limit=1", "page=1001&limit=10"):
        assert (await client.get(f"{LIST}?{bad}")).status == 400


@pytest.mark.feature("F75", "F95")
async def test_a_conversation_has_what_the_widget_and_the_documentation_read(client: ApiClient) -> None:
    session = conversation()
    for text in ("count 1", "delete notes.txt"):
        await client.post(CHAT, sent(session, text), **WIDGET)
    stored = await client.messages(session)
    whole = (await client.get(f"{LIST}/{session}", x_inkeep_app_id="app")).json
    assert whole["data"].keys() >= LISTED | {"messages"}
    assert whole["data"]["title"] == "count 1"
    assert whole["pagination"] == {"page": 1, "limit": 50, "total": 4, "pages": 1}
    messages = whole["data"]["messages"]
    assert all(one.keys() >= MESSAGE for one in messages)
    assert [one["role"] for one in messages] == ["user", "assistant"] * 2
    assert [one["content"] for one in messages] == ["count 1", "1", "delete notes.txt", ""]
    assert [one["parts"] for one in messages] == [one["parts"] for one in stored]
    assert [one["createdAt"] for one in messages] == sorted(one["createdAt"] for one in messages)
    assert messages[-1]["parts"][-1]["state"] == "approval-requested"
    newest = (await client.get(f"{LIST}/{session}?limit=3&page=1")).json
    older = (await client.get(f"{LIST}/{session}?limit=3&page=2")).json
    assert [*older["data"]["messages"], *newest["data"]["messages"]] == messages
    assert older["pagination"] == {"page": 2, "limit": 3, "total": 4, "pages": 2}


@pytest.mark.feature("F97")
async def test_a_message_of_the_widget_stops_the_answer_that_nobody_reads(client: ApiClient) -> None:
    """Its stop button only closes the connection, and while it reads an answer it sends nothing."""
    session = conversation()
    url = client.base + CHAT
    headers = {name.replace("_", "-"): value for name, value in WIDGET.items()}
    async with client.system.http.post(
        url, json=sent(session, "count 1000 every 50 ms"), headers=headers
    ) as running:
        await running.content.readany()
        run = running.headers["x-workflow-run-id"]
    async with asyncio.timeout(20):
        answer = await client.post(CHAT, sent(session, "count 2"), **WIDGET)
    assert (answer.text, answer.complete) == ("1 2", True)
    assert (await client.get(f"/run/api/executions/{run}")).json["state"] == "cancelled"


async def test_other_clients_wait_for_the_answer_before(client: ApiClient) -> None:
    session = conversation()
    url = client.base + CHAT
    async with client.system.http.post(url, json=sent(session, "count 20 every 20 ms")) as running:
        await running.content.readany()
        run = running.headers["x-workflow-run-id"]
    assert (await client.post(CHAT, sent(session, "count 2"))).text == "1 2"
    assert (await client.get(f"/run/api/executions/{run}")).json["state"] == "completed"


async def test_a_message_of_the_widget_beside_a_question_leaves_it_open(client: ApiClient) -> None:
    session = conversation()
    asked = await client.post(CHAT, sent(session, "delete notes.txt"), **WIDGET)
    assert (await client.post(CHAT, sent(session, "count 2"), **WIDGET)).text == "1 2"
    run = (await client.get(f"/run/api/executions/{asked.headers['x-workflow-run-id']}")).json
    assert (run["state"], len(run["pendingApprovals"])) == ("suspended", 1)


@pytest.mark.feature("F119")
async def test_events_of_the_widget_are_stored_and_read(client: ApiClient) -> None:
    """It logs `user_message_submitted` before the conversation exists."""
    session = conversation()
    body = {
        "type": "user_message_submitted",
        "conversationId": session,
        "messageId": "m-1",
        "properties": {},
        "metadata": {"widgetLibraryVersion": "0.17.8", "componentType": "EmbeddedChat"},
    }
    made = await client.post("/run/v1/events", body, x_inkeep_app_id="app")
    assert made.status == 201
    logged = made.json["data"]
    assert logged.keys() >= EVENT
    assert {name: logged[name] for name in body} == body
    again = await client.post("/run/v1/events", body | {"id": logged["id"], "type": "other"})
    assert (again.status, again.json) == (200, made.json)
    await client.post("/run/v1/events", {"type": "free", "userProperties": {"plan": "pro"}})
    named = await client.post(
        "/run/v1/events", {"type": "shown", "conversationId": session}, x_inkeep_agent_id="helper"
    )
    assert named.json["data"]["agentId"] == "helper"
    found = (await client.get(f"/run/v1/events?conversationId={session}")).json
    assert [one["type"] for one in found["data"]] == ["shown", "user_message_submitted"]
    page = (await client.get(f"/run/v1/events?conversationId={session}&limit=1")).json
    page = (await client.get(f"/run/v1/events?conversationId={session}&before={page['next']}")).json
    assert page == {"data": [logged]}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"type": ""},
        {"type": "x" * 257},
        {"type": "x", "properties": [1]},
        {"type": "x", "properties": {str(key): 1 for key in range(101)}},
        {"type": "x", "metadata": {"long": "x" * 65_536}},
        {"type": "x", "conversationId": "x" * 257},
        {"type": "NUL \u0000"},
        {"type": "x", "agentId": "no agent"},
        {"type": "x", "agentId": "x" * 65},
    ],
    ids=lambda value: repr(value)[:40],
)
async def test_an_event_that_cannot_be_taken_is_refused(client: ApiClient, body: Any) -> None:
    assert (await client.post("/run/v1/events", body)).status == 400


@pytest.mark.parametrize("agent", ["{}", "no agent", "é", "x" * 65])
@pytest.mark.parametrize("header", ["x-agent-id", "x-inkeep-agent-id", "x-inkeep-graph-id"])
async def test_an_agent_that_cannot_exist_is_refused_wherever_a_header_names_it(
    client: ApiClient, header: str, agent: str
) -> None:
    """Routes that start a run, routes that read, and the route that only stores the name."""
    session = conversation()
    for path, body in (
        ("/run/v1/events", {"type": "shown"}),
        (CHAT, sent(session, "count 1")),
        ("/api/chat", client.system.chat(session, "count 1")),
    ):
        refused = await client.post(path, body, **{header.replace("-", "_"): agent})
        assert (refused.status, refused.json["code"]) == (404, "not_found"), path


@pytest.mark.feature("F119")
async def test_feedback_is_stored_and_read_by_both_apis(client: ApiClient) -> None:
    session = conversation()
    body = {"conversationId": session, "type": "negative", "details": "too short"}
    assert (await client.post("/run/v1/feedback", body)).status == 404
    await client.post(CHAT, sent(session, "count 1"), **WIDGET)
    answer = (await client.messages(session))[-1]["id"]
    made = await client.post("/run/v1/feedback", body | {"messageId": answer}, x_inkeep_app_id="app")
    assert made.status == 201
    given = made.json["data"]
    assert given.keys() >= FEEDBACK
    assert {name: given[name] for name in body} == body
    assert given["messageId"] == answer
    plain = await client.post(client.at(session, "/feedback"), {"type": "positive", "id": "mine"})
    assert (plain.status, plain.json["conversationId"], plain.json["messageId"]) == (201, session, None)
    again = await client.post(client.at(session, "/feedback"), {"type": "negative", "id": "mine"})
    assert (again.status, again.json) == (200, plain.json)
    expected = [plain.json, given]
    assert (await client.get(client.at(session, "/feedback"))).json == {"feedback": expected}
    assert (await client.get(f"/run/v1/feedback?conversationId={session}")).json == {"data": expected}


async def test_feedback_that_cannot_be_taken_is_refused(client: ApiClient) -> None:
    session = conversation()
    await client.post(CHAT, sent(session, "count 1"), **WIDGET)
    good = {"conversationId": session, "type": "positive"}
    for bad in ({"type": "great"}, {"details": "x" * 10_001}, {"conversationId": "a\nb"}, {"id": ""}):
        assert (await client.post("/run/v1/feedback", good | bad)).status == 400
    assert (await client.post("/run/v1/feedback", good | {"messageId": "unknown"})).status == 404
    assert (await client.post(client.at("unknown", "/feedback"), {"type": "positive"})).status == 404
    other = f"/api/agents/other/{session}/feedback"
    assert (await client.post(other, {"type": "positive"})).status == 404
    assert (await client.get(other)).status == 404


@pytest.mark.feature("F42", "F95")
@pytest.mark.parametrize("header", ["x_agent_id", "x_inkeep_agent_id", "x_inkeep_graph_id"])
@pytest.mark.parametrize("path", [CHAT, "/api/chat"])
async def test_the_agent_is_named_by_any_of_its_headers(client: ApiClient, path: str, header: str) -> None:
    body = {"messages": [{"role": "user", "content": "count 1"}]}
    assert (await client.post(path, body, **{header: "nobody"})).status == 404
    assert (await client.post(path, body, **{header: client.system.agent})).text == "1"


async def test_of_two_agents_our_own_header_counts(client: ApiClient) -> None:
    body = {"messages": [{"role": "user", "content": "count 1"}]}
    answer = await client.post(CHAT, body, x_agent_id=client.system.agent, x_inkeep_agent_id="nobody")
    assert answer.text == "1"


@pytest.mark.feature("F5")
@pytest.mark.parametrize("path", [CHAT, "/api/chat"])
async def test_content_may_be_an_object_with_parts(client: ApiClient, path: str) -> None:
    text = {"type": "text", "text": "a"}
    for content, stored in (
        ({"parts": [text]}, ["a"]),
        ({"text": "a", "parts": [text]}, ["a"]),
        ({"text": "b", "parts": [text]}, ["b", "a"]),
        ({"text": "b"}, ["b"]),
    ):
        session = client.session()
        body = {"conversationId": session, "messages": [{"role": "user", "content": content}]}
        assert (await client.post(path, body)).complete
        [user, _] = await client.messages(session)
        assert user["parts"] == [{"type": "text", "text": text} for text in stored]
    bad = {"role": "user", "content": {"parts": [text, {"type": "text"}]}}
    refused = await client.post(path, {"messages": [bad]})
    assert refused.json["errors"][0]["pointer"] == "/messages/0/content/parts/1"


@pytest.mark.feature("F15", "F100")
async def test_without_a_stream_a_failed_run_says_error_and_what_it_used(system: LocalSystem) -> None:
    tools = ShellTools()
    lines: Lines = {"go": [[Calls("run", {"command": "ls"})], ["So far, ", Breaks()]]}
    agent = scripted_agent(system.agent, lines, tools=[tools.tool("run")])
    await system.runner([agent])
    client = ApiClient(system, await system.gateway())
    body = {"messages": [{"role": "user", "content": "go"}], "stream": False}
    answer = await client.post(CHAT, body)
    [choice] = answer.json["choices"]
    assert choice["finish_reason"] == "error"
    assert answer.json["error"]["message"]
    assert answer.json["usage"] == {"prompt_tokens": 1, "completion_tokens": 10, "total_tokens": 11}
    assert tools.ran == ["ls"]
