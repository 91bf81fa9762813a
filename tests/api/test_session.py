"""The session family: the routes below the path of a session."""

import asyncio
from typing import Any

import pytest

from rejoin_protocol.limits import TEXT_BYTES_MAX
from rejoin_runner.tools.tool_context import ToolContext
from rejoin_runner.tools.tool_decorator import tool
from tests.support.clients.api_families import SESSION, ApiClient, Script
from tests.support.clients.transcripts import Transcript
from tests.support.models.agent_teams import Calls, scripted_agent
from tests.support.system.local_system import LocalSystem
from tests.support.system.observation import wait_until

PARTS = [{"type": "text", "text": "count 2"}]


async def test_the_transcript_of_the_session_family_is_the_golden_one(client: ApiClient) -> None:
    """A whole conversation, byte for byte but for ids and times."""
    talk, session = Transcript(client), client.session()
    at = client.at(session)
    await talk.ask("GET", at)
    await talk.ask("POST", at, {"message": {"id": "m1", "role": "user", "parts": PARTS}})
    asked = await talk.ask("POST", at, {"message": "delete notes.txt"})
    id = next(chunk["approvalId"] for chunk in asked.chunks if "approvalId" in chunk)
    await talk.ask("GET", f"{at}/reconnect")
    decision = {"approvalId": id, "approved": True}
    await talk.ask("POST", at, {"type": "approval", "approval": decision})
    await talk.ask("GET", at)
    await talk.ask("GET", f"{at}/usage")
    await talk.ask("PATCH", at, {"title": "Files", "metadata": {"a": 1}, "lastMessageId": "m1"})
    await talk.ask("POST", f"{at}/interrupt")
    await talk.ask("POST", at, {"message": []})
    await talk.ask("POST", at, {"message": "hello"}, x_agent_id="nobody")
    await talk.ask("POST", f"/api/agents/nobody/{session}", {"message": "hello"})
    await talk.ask("DELETE", at)
    await talk.ask("DELETE", at)
    talk.check("session")


@pytest.mark.feature("F4")
async def test_five_forms_and_lists_of_them_store_the_same_message(client: ApiClient) -> None:
    """A string, a UI message, parts, a typed message and an array."""
    forms: dict[str, Any] = {
        "a string": {"message": "count 2"},
        "a UI message": {"message": {"id": "m1", "role": "user", "parts": PARTS}},
        "parts": {"message": {"parts": PARTS}},
        "bare parts": PARTS,
        "a typed message": {"type": "message", "message": "count 2"},
        "an array": [{"type": "message", "message": {"parts": PARTS}}],
        "the client's messages": {"messages": [{"id": "m1", "role": "user", "parts": PARTS}]},
    }
    for form, body in forms.items():
        session = client.session()
        assert (await client.post(client.at(session), body)).text == "1 2", form
        [user, _] = await client.messages(session)
        assert (user["role"], user["parts"]) == ("user", PARTS), form


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"message": "x" * (TEXT_BYTES_MAX + 1)}, "/message"),
        ([{"type": "text", "text": "a"}, {"type": "text"}], "/1"),
        ({"message": {"parts": [{"type": "text", "text": "a"}, {"type": "odd"}]}}, "/message/parts/1"),
        ([{"message": [{"type": "image", "image": "data:image/png,x"}]}], "/0/message/0"),
        ({"type": "approval", "approval": {"approved": True}}, "/approval"),
    ],
    ids=["text", "bare part", "part", "image", "approval"],
)
async def test_a_fault_is_named_where_the_client_wrote_it(client: ApiClient, body: Any, pointer: str) -> None:
    session = client.session()
    refused = await client.post(client.at(session), body)
    assert refused.status == 400
    assert refused.json["errors"][0]["pointer"] == pointer
    assert (await client.get(client.at(session))).status == 404


@pytest.mark.feature("F77")
async def test_going_back_to_a_message_drops_the_later_ones(client: ApiClient) -> None:
    """The next turn follows that message. The title stays unless the request has one."""
    session = client.session()
    for number in (1, 2, 3):
        await client.say(SESSION, session, f"count {number}", id=f"m{number}")
    kept = (await client.messages(session))[1]["id"]
    at = client.at(session)
    changed = await client.ask("PATCH", at, {"lastMessageId": kept, "title": "Numbers"})
    assert (changed.status, changed.json["lastMessageId"], changed.json["title"]) == (200, kept, "Numbers")
    assert await client.texts(session) == ["user: count 1", "assistant: 1"]
    changed = await client.ask("PATCH", at, {"metadata": {"a": [1]}})
    assert (changed.json["title"], changed.json["metadata"]) == ("Numbers", {"a": [1]})
    assert (await client.say(SESSION, session, "count 2", id="m4")).text == "1 2"
    assert len(await client.messages(session)) == 4


@pytest.mark.feature("F77")
async def test_the_usage_of_a_session_is_the_sum_of_its_runs(client: ApiClient) -> None:
    session, spent = client.session(), []
    for text in ("count 3", "hello there"):
        answer = await client.say(SESSION, session, text)
        run = await client.get(f"/run/api/executions/{answer.headers['x-workflow-run-id']}")
        spent.append(run.json["usage"])
    usage = (await client.get(client.at(session, "/usage"))).json
    assert usage["runs"] == 2
    assert usage["inputTokens"] == sum(one["inputTokens"] for one in spent) > 0
    assert usage["outputTokens"] == sum(one["outputTokens"] for one in spent) > 0
    assert usage["totalTokens"] == usage["inputTokens"] + usage["outputTokens"]


@pytest.mark.feature("F77")
@pytest.mark.parametrize(
    ("change", "status", "pointer"),
    [
        ({"lastMessageId": "unknown", "title": "new"}, 404, None),
        ({"lastMessageId": "m1", "title": "\0"}, 400, "/title"),
        ({"lastMessageId": "m1", "title": "x" * 501}, 400, "/title"),
        ({"lastMessageId": "m1", "metadata": "x" * 65_536}, 400, "/metadata"),
        ({"lastMessageId": None}, 400, "/lastMessageId"),
    ],
    ids=["unknown message", "odd title", "long title", "large metadata", "no message"],
)
async def test_a_change_that_is_refused_has_changed_nothing(
    client: ApiClient, change: Any, status: int, pointer: str | None
) -> None:
    session = client.session()
    for number in (1, 2):
        await client.say(SESSION, session, f"count {number}", id=f"m{number}")
    at = client.at(session)
    await client.ask("PATCH", at, {"title": "old"})
    refused = await client.ask("PATCH", at, change)
    assert refused.status == status
    if pointer is not None:
        assert refused.json["errors"][0]["pointer"] == pointer
    assert len(await client.messages(session)) == 4
    assert (await client.ask("PATCH", at, {})).json["title"] == "old"


@pytest.mark.feature("F77")
async def test_a_busy_session_does_not_go_back(shared_system: LocalSystem, client: ApiClient) -> None:
    """A conflict, and nothing is dropped."""
    session = client.session()
    await client.say(SESSION, session, "count 1", id="m1")
    url = client.base + client.at(session)
    async with shared_system.http.post(url, json={"message": "sleep 30"}) as running:
        refused = await client.ask("PATCH", client.at(session), {"lastMessageId": "m1"})
        assert refused.status == 409
        await client.post(client.at(session, "/interrupt"))
        await running.read()
    assert len(await client.messages(session)) == 4


@pytest.mark.feature("F77")
async def test_going_back_behind_a_question_cancels_it(client: ApiClient) -> None:
    session = client.session()
    await client.say(SESSION, session, "count 1", id="m1")
    await client.say(SESSION, session, "delete notes.txt", id="m2")
    approval = (await client.question(session))["approval"]["id"]
    await client.ask("PATCH", client.at(session), {"lastMessageId": "m1"})
    late = {"type": "approval", "approval": {"approvalId": approval, "approved": True}}
    assert (await client.post(client.at(session), late)).status == 409
    assert await client.texts(session) == ["user: count 1"]


async def test_the_sessions_of_one_agent_are_not_anothers(client: ApiClient) -> None:
    """Whatever is asked: also of a session that was forked and has no run yet."""
    session = client.session()
    await client.say(SESSION, session, "count 1", id="m1")
    forked = (await client.post(f"/api/threads/{session}/fork", {"messageId": "m1"})).json["thread"]["id"]
    for one in (session, forked):
        at = f"/api/agents/another/{one}"
        assert (await client.get(at)).status == 404
        assert (await client.get(f"{at}/usage")).status == 404
        assert (await client.ask("PATCH", at, {"title": "mine"})).status == 404
        assert (await client.ask("DELETE", at)).status == 404
        assert (await client.get(client.at(one))).status == 200


@pytest.mark.feature("F75")
async def test_a_message_may_interrupt_the_answer_that_streams(client: ApiClient) -> None:
    session = client.session()
    async with asyncio.TaskGroup() as group:
        first = group.create_task(client.say(SESSION, session, "sleep 30"))
        url = client.at(session)

        async def stored() -> bool:
            return (await client.get(url)).status == 200

        await wait_until(stored, "the first message")
        second = await client.post(url, {"message": "count 2", "interruptIfStreaming": True})
    assert "abort" in [chunk["type"] for chunk in first.result().chunks]
    assert second.text == "1 2"


@pytest.mark.feature("F76")
async def test_the_history_has_every_part_in_its_order(system: LocalSystem) -> None:
    """Users and assistants, text, tools, artifacts and approvals; the same by every route that reads."""

    @tool
    async def report(ctx: ToolContext[None]) -> str:
        """Make a report."""
        data = {"title": "Sales", "rows": [1, 2, 3]}
        return await ctx.emit_artifact(type="report", name="sales", data=data, preview=["title"])

    lines: Script = {"one": [["Let me see.", Calls("report")], ["Here it is."]], "two": [["Welcome."]]}
    await system.runner([scripted_agent(system.agent, lines, tools=[report])])
    client = ApiClient(system, await system.gateway())
    session = client.session()
    for text in ("one", "two"):
        await client.say(SESSION, session, text, id=text)
    messages = await client.messages(session)
    assert [one["role"] for one in messages] == ["user", "assistant"] * 2
    assert messages[0] == {"id": "one", "role": "user", "parts": [{"type": "text", "text": "one"}]}
    parts = [part for part in messages[1]["parts"] if part["type"] != "data-operation"]
    assert [part["type"] for part in parts] == [
        "step-start", "text", "tool-report", "data-artifact", "step-start", "text"
    ]  # fmt: skip
    assert "rows" not in str(parts[3])
    whole = await client.get(f"/run/api/artifacts/{parts[2]['output']}")
    assert whole.json["data"] == {"title": "Sales", "rows": [1, 2, 3]}
    assert (await client.get(f"/api/threads/{session}")).json["messages"] == messages
    shown = (await client.get(f"/run/v1/conversations/{session}")).json["data"]["messages"]
    assert [{name: one[name] for name in message} for one, message in zip(shown, messages, strict=True)] == (
        messages
    )
