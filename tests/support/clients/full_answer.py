"""One answer as a client receives it, from the message to the last approval."""

from typing import Any

import msgspec

from rejoin_protocol.events import chunks
from rejoin_protocol.events.fold import MessageDict, fold
from tests.support.system.local_system import Answer, LocalSystem


class FullAnswer(msgspec.Struct):
    """The responses that carried the answer, and the stored message."""

    message: MessageDict
    responses: list[Answer]

    def operations(self, *kinds: str) -> list[tuple[str, str, str]]:
        """The delegation operations: (type, from, to)."""
        chunks = [chunk for one in self.responses for chunk in one.chunks]
        data = [chunk["data"] for chunk in chunks if chunk["type"] == "data-operation"]
        found = [(one["type"], one["details"]["data"]) for one in data if one["type"] in kinds]
        return [(kind, one["fromSubAgent"], one["targetSubAgent"]) for kind, one in found]


async def collect_answer(system: LocalSystem, base: str, prompt: str) -> FullAnswer:
    """Post a message and approve every approval. Fails unless the event numbers have no gap and no
    repetition, and the events fold to the stored message.
    """
    session = system.fresh("s")
    responses: list[Answer] = []
    history = f"{base}/api/agents/{system.agent}/{session}"
    message: MessageDict = {"parts": []}
    body: dict[str, Any] | None = system.chat(session, prompt)
    while body is not None:
        headers = {"x-emit-operations": "true"}
        async with system.http.post(f"{base}/api/chat?ui=7", json=body, headers=headers) as response:
            responses.append(await Answer.of(response))
        message = (await system.get(history)).json["messages"][-1]
        waiting = any(part.get("state") == "approval-requested" for part in message["parts"])
        body = await system.decision(base, session, approved=True) if waiting else None
    frames = [frame for response in responses for frame in response.frames if frame.id]
    assert [int(frame.id.split("-")[1]) for frame in frames] == list(range(len(frames)))
    assert all(response.complete for response in responses)
    assert fold(chunks.decode(frame.data) for frame in frames) == message
    return FullAnswer(message, responses)


def without_varying_fields(message: MessageDict) -> str:
    """A message without the fields that differ from run to run, as text."""
    text = msgspec.json.encode(message["parts"]).decode()
    for part in message["parts"]:
        details = part.get("data", {}) if part["type"] == "data-operation" else {}
        text = text.replace(str(details.get("details", {}).get("sessionId")), "SESSION")
        text = text.replace(str(details.get("timestamp")), "TIME")
        text = text.replace(str(part.get("approval", {}).get("id")), "APPROVAL")
    return text
