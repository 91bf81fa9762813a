"""Steering messages: what a user sends to a run that works, as an event of the run's log and a part of its
answer. Pure.

The AI SDK's `steering-message` has texts and files; it stands before the step whose model reads it, so a step
that is reset keeps it.
"""

from typing import Any

import msgspec

from rejoin_protocol.events import chunks
from rejoin_protocol.events.chunks import SteeringFile, SteeringMessage, SteeringText
from rejoin_protocol.events.fold import MessageDict
from rejoin_protocol.ids import MessageId
from rejoin_protocol.limits import STEERING_BYTES_MAX

STEERING_PART = "steering-message"


def to_chunk(message: MessageDict) -> SteeringMessage:
    """A user's message as an event. Parts that are no text and no file, and its metadata, are left out."""
    parts = [_to_content(part) for part in message["parts"] if part["type"] in ("text", "file")]
    return SteeringMessage(message["id"], parts)


def _to_content(part: dict[str, Any]) -> SteeringText | SteeringFile:
    kind: type[SteeringText | SteeringFile] = SteeringText if part["type"] == "text" else SteeringFile
    return msgspec.convert(part, kind)


def steering_ids(message: MessageDict | None) -> list[MessageId]:
    """The ids of the user's messages that an answer has as parts."""
    parts = () if message is None else message.get("parts", ())
    return [MessageId(part["id"]) for part in parts if part["type"] == STEERING_PART]


def steering_fault(message: MessageDict) -> tuple[str, str] | None:
    """Why a stored user's message cannot steer a run, and the JSON pointer in it. None: it can."""
    for number, part in enumerate(message["parts"]):
        if part["type"] not in ("text", "file"):
            return f"a message that steers has texts and files, no {part['type']}", f"/parts/{number}"
    size = len(chunks.encode(to_chunk(message)))
    if size > STEERING_BYTES_MAX:
        return f"a message that steers has at most {STEERING_BYTES_MAX} bytes as JSON, not {size}", "/parts"
    return None
