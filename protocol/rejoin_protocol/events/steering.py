"""Steering messages: what a user sends to a run that works, as an event of the run's log and a part of its
answer. Pure.

The AI SDK's `steering-message` has texts and files; it stands before the step whose model reads it, so a step
that is reset keeps it.
"""

from typing import Any

import msgspec
from msgspec import UNSET

from rejoin_protocol.events import chunks
from rejoin_protocol.events.chunks import SteeringFile, SteeringMessage, SteeringText
from rejoin_protocol.events.fold import MessageDict
from rejoin_protocol.ids import MessageId
from rejoin_protocol.limits import STEERING_BYTES_MAX

STEERING_PART = "steering-message"


def to_chunk(message: MessageDict) -> SteeringMessage:
    """A user's message as an event. Parts that are no text and no file are left out. It has no field for
    metadata: the first part has it, as `providerMetadata.rejoin.metadata`.
    """
    parts = [_to_content(part) for part in message["parts"] if part["type"] in ("text", "file")]
    metadata = message.get("metadata")
    if parts and metadata is not None:
        parts[0] = _with_metadata(parts[0], metadata)
    return SteeringMessage(message["id"], parts)


def _with_metadata(part: SteeringText | SteeringFile, metadata: Any) -> SteeringText | SteeringFile:
    given = {} if part.provider_metadata is UNSET else part.provider_metadata
    own = {**given.get("rejoin", {}), "metadata": metadata}
    return msgspec.structs.replace(part, provider_metadata={**given, "rejoin": own})


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
