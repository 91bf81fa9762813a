"""A gateway keeps nothing of a request body while it waits for the answer."""

import asyncio
import gc
import io
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from rejoin_gateway.auth.authenticator import ANONYMOUS
from rejoin_gateway.http.gateway_service import SERVICE
from rejoin_protocol import limits
from rejoin_protocol.ids import AgentName
from rejoin_protocol.run_request import AgentEntry
from tests.support.system.local_system import LocalSystem
from tests.support.system.observation import wait_until

TEXT_CHARS = limits.TEXT_BYTES_MAX  # with what is around it, more than `LARGE_BODY_BYTES`
TEXT = "{text}"
SAID = [{"role": "user", "content": TEXT}]
PARTS = [{"type": "text", "text": TEXT}]
ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "AI SDK": ("/api/chat", {"id": "{id}", "messages": [{"id": "{id}", "role": "user", "parts": PARTS}]}),
    "parts": ("/api/chat", {"threadId": "{id}", "parts": PARTS}),
    "graph": ("/api/chat", {"conversationId": "{id}", "messages": SAID}),
    "run": ("/run/api/chat", {"conversationId": "{id}", "messages": SAID}),
    "run, whole": ("/run/api/chat", {"conversationId": "{id}", "messages": SAID, "stream": False}),
    "session": ("/api/agents/{agent}/{id}", {"message": TEXT}),
    "agent chat": ("/api/agent/chat/stream", {"messages": SAID}),
    "agent chat, whole": ("/api/agent/chat/sync", {"message": TEXT}),
    "completions": ("/run/v1/chat/completions", {"model": "{agent}", "messages": SAID, "stream": True}),
    "completions, whole": ("/run/v1/chat/completions", {"model": "{agent}", "messages": SAID}),
    "responses": ("/run/v1/responses", {"model": "{agent}", "input": TEXT, "stream": True}),
    "responses, whole": ("/run/v1/responses", {"model": "{agent}", "input": SAID}),
}


def held() -> bool:
    """Whether any object in this process holds the text. The client sent it as bytes."""
    found = gc.get_referents(*gc.get_objects())
    found += gc.get_referents(
        *(one for one in found if isinstance(one, msgspec.Struct))
    )  # not all are tracked
    return any(isinstance(one, str) and len(one) == TEXT_CHARS for one in found)


@pytest.fixture
def made_now() -> Iterator[None]:
    """`held` examines the objects that are made from now on: all of the gateway, and none of other tests."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("made_now")
@pytest.mark.parametrize("name", ASKED)
async def test_no_body_is_held_for_as_long_as_an_answer_takes(system: LocalSystem, name: str) -> None:
    """No runner executes the run. The large body has returned its share, and is not in memory."""
    base = await system.gateway()
    backend, shares = system.apps[0][SERVICE].backend, system.apps[0][SERVICE].large_bodies
    await backend.agents.announce(
        AgentEntry(AgentName(system.agent), announced_at_ms=int(time.time() * 1000))
    )
    path, asked = ASKED[name]
    names = {"{agent}": system.agent, "{id}": system.fresh("s"), TEXT: "x" * TEXT_CHARS}
    data = msgspec.json.encode(asked)
    for word, meant in names.items():
        path, data = path.replace(word, meant), data.replace(word.encode(), meant.encode())
    names.clear()
    del meant

    async def ask() -> None:
        headers = {"Content-Type": "application/json"}
        async with system.http.post(base + path, data=io.BytesIO(data), headers=headers) as response:
            assert response.status == 200, await response.read()
            await response.read()

    async def admitted() -> bool:
        listed = await backend.store.list_runs(ANONYMOUS.owner)
        return any(one.run.agent == system.agent for one in listed)

    async with asyncio.TaskGroup() as group:
        asking = group.create_task(ask())
        await wait_until(admitted, "the run")
        await wait_until(
            lambda: shares.free == limits.LARGE_BODIES_BYTES_MAX and not held(), "the end of its body"
        )
        assert not asking.done()
        asking.cancel()
