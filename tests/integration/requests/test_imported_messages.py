"""Earlier messages of a first request: all of them are stored, or none and an error that says how many."""

import uuid
from typing import Any

import pytest

from rejoin_protocol import limits
from rejoin_runner.demo import build_demo_agent
from tests.support.system.local_system import Answer, LocalSystem

PATHS = {
    "ai sdk": "/api/chat",
    "run": "/run/api/chat",
    "agent chat": "/api/agent/chat/stream",
    "openai": "/run/v1/chat/completions",
}
families = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)


def conversation(path: str, number: int, ids: str = "m{}") -> list[dict[str, Any]]:
    """So many messages, the last of which is the user's, in the family's form."""
    roles = [("user", "assistant")[at % 2] for at in range(number - 1)] + ["user"]
    texts = [f"text {at}" for at in range(number - 1)] + ["count 1"]
    if path == "/run/v1/chat/completions":
        return [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
    return [
        {"id": ids.format(at), "role": role, "parts": [{"type": "text", "text": text}]}
        for at, (role, text) in enumerate(zip(roles, texts, strict=True))
    ]


async def send(
    system: LocalSystem, base: str, path: str, session: str, messages: list[dict[str, Any]]
) -> Answer:
    body = {"messages": messages, "stream": False, "model": system.agent}
    headers = {"x-agent-id": system.agent}
    if path == "/run/v1/chat/completions":
        headers["x-conversation-id"] = session
    else:
        body = {"messages": messages, "conversationId": session, "id": session}
        if path == "/api/agent/chat/stream":
            del body["id"]
    async with system.http.post(f"{base}{path}", json=body, headers=headers) as response:
        return await Answer.of(response)


async def stored_texts(system: LocalSystem, base: str, session: str) -> list[str]:
    found = await system.get(f"{base}/api/agents/{system.agent}/{session}")
    return [
        "".join(part["text"] for part in message["parts"] if part["type"] == "text")
        for message in found.json["messages"]
    ]


@pytest.fixture
async def base(system: LocalSystem) -> str:
    agent = build_demo_agent()
    await system.runner([type(agent)(name=system.agent, model=agent.model, tools=agent.tools)])
    return await system.gateway(default_agent=system.agent)


@pytest.fixture
def session() -> str:
    return str(uuid.uuid4())


@families
async def test_all_earlier_messages_are_stored(
    system: LocalSystem, base: str, session: str, path: str
) -> None:
    assert (await send(system, base, path, session, conversation(path, 604))).status == 200
    texts = await stored_texts(system, base, session)
    assert texts == [*(f"text {at}" for at in range(603)), "count 1", "1"]


@pytest.mark.parametrize("ids", ["same", "m{}"], ids=["one id", "the new message's id"])
async def test_messages_that_repeat_an_id_are_all_stored(
    system: LocalSystem, base: str, session: str, ids: str
) -> None:
    messages = conversation("/api/chat", 5, ids)
    messages[1]["id"] = messages[-1]["id"]
    assert (await send(system, base, "/api/chat", session, messages)).status == 200
    assert await stored_texts(system, base, session) == [*(f"text {at}" for at in range(4)), "count 1", "1"]


@families
async def test_too_many_for_a_new_session_are_refused_with_their_number(
    system: LocalSystem, base: str, session: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing is stored. A known session takes the new message of a client that repeats them all."""
    monkeypatch.setattr(limits, "IMPORTS_MAX", 3)
    refused = await send(system, base, path, session, conversation(path, 6))
    assert refused.status == 400
    assert "a new session takes over at most 3 earlier messages, not 5" in refused.raw.decode()
    assert (await system.get(f"{base}/api/agents/{system.agent}/{session}")).status == 404

    assert (await send(system, base, path, session, conversation(path, 2))).status == 200
    again = conversation(path, 8)
    again[-1]["id"] = "a new one"
    assert (await send(system, base, path, session, again)).status == 200
    assert await stored_texts(system, base, session) == ["text 0", "count 1", "1", "count 1", "1"]


@pytest.mark.slow
async def test_more_than_ten_thousand_messages_are_no_obstacle_for_a_known_session(
    system: LocalSystem, base: str, session: str
) -> None:
    assert (await send(system, base, "/api/chat", session, conversation("/api/chat", 1))).status == 200
    messages = conversation("/api/chat", 10_003)
    assert (await send(system, base, "/api/chat", session, messages)).status == 200
    assert await stored_texts(system, base, session) == ["count 1", "1", "count 1", "1"]
