"""Messages with files, posted to `POST /api/chat`, and what is stored of them."""

from typing import Any

import msgspec

from rejoin_adapters.jetstream import nats_connection
from rejoin_protocol.broker import subjects
from tests.support.clients.problems import post_bytes
from tests.support.system.local_system import Answer, LocalSystem
from tests.support.system.observation import last_sequence


def chat_with_parts(system: LocalSystem, *parts: dict[str, Any]) -> dict[str, Any]:
    """A body with one new message in a new session: a text and these parts."""
    chat = system.chat(system.fresh("s"), "look")
    chat["messages"][0]["parts"] += parts
    return chat


async def post_chat(system: LocalSystem, base: str, chat: dict[str, Any]) -> Answer:
    """POST /api/chat with a body that may be large."""
    return await post_bytes(system, base, msgspec.json.encode(chat))


async def stored_file_parts(system: LocalSystem, base: str, session: str) -> list[dict[str, Any]]:
    """The parts of the first stored message after its text."""
    history = (await system.get(f"{base}/api/agents/{system.agent}/{session}")).json
    parts: list[dict[str, Any]] = history["messages"][0]["parts"]
    return parts[1:]


async def last_chunk_sequence(system: LocalSystem) -> int:
    """The last sequence number of the FILES stream: it grows with each chunk that is written."""
    async with nats_connection.connect(system.nats_url, "tests") as connection:
        return await last_sequence(connection, subjects.FILES, subjects.DEFAULT.file_subjects)
