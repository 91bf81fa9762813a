"""Stored messages as the messages of an AG-UI thread. Pure.

An answer is one stored message, and several in AG-UI: one for each text, with the tool calls behind it, one
for each result of a tool, one for each reasoning. Their ids follow from the id of the answer and their
numbers in it (`MessageNumbers`), so that a message has the same id in a stream and in a snapshot.

Data parts, sources and files of an answer are events only: AG-UI has no message for them.
"""

import re
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import UNSET

from rejoin_protocol.events.fold import STEP_START, MessageDict, Part, is_tool, tool_name
from rejoin_protocol.events.typed_output import OUTPUT, STATE_KEY, find_output
from rejoin_protocol.ids import CallId, MessageId

type ThreadMessage = dict[str, Any]
"""A message in AG-UI's form."""

CALL_DENIED = "The call was denied."
_CALL_ID = re.compile(r"(msg_[0-9a-z]{26})\.(.+)", re.DOTALL)
_MEDIA_KINDS = ("image", "audio", "video")


class MessageNumbers(msgspec.Struct):
    """Numbers the messages that an answer is made of, in the order of its parts."""

    answer: str
    messages: int = 0
    reasonings: int = 0
    takes_calls: bool = False
    """Whether the next tool call belongs to the newest message."""

    def begin_step(self) -> None:
        """The calls of a step never belong to a message of the step before."""
        self.takes_calls = False

    def next_text(self) -> str:
        """The id of a new message with text."""
        self.messages += 1
        self.takes_calls = True
        return self.answer if self.messages == 1 else f"{self.answer}.{self.messages}"

    def of_call(self) -> str:
        """The id of the message that a new tool call belongs to."""
        if not self.takes_calls:
            return self.next_text()
        return self.answer if self.messages == 1 else f"{self.answer}.{self.messages}"

    def next_reasoning(self) -> str:
        """The id of a new reasoning message."""
        self.reasonings += 1
        return self._reasoning(self.reasonings)

    def reasonings_since(self, before: "MessageNumbers") -> list[str]:
        """The ids of the reasoning messages behind those of `before`."""
        return [self._reasoning(number) for number in range(before.reasonings + 1, self.reasonings + 1)]

    def _reasoning(self, number: int) -> str:
        return f"{self.answer}.reasoning.{number}"


def wire_call_id(answer: str, call: str) -> str:
    """The id of a tool call for clients, which look calls up in the whole thread: providers give calls of
    different answers the same id.
    """
    return f"{answer}.{call}"


def parse_call_id(id: str) -> tuple[MessageId, CallId] | None:
    """The answer and the call that an id names; None for an id that is not ours."""
    match = _CALL_ID.fullmatch(id)
    return None if match is None else (MessageId(match[1]), CallId(match[2]))


def result_id(call: str) -> str:
    """The id of the message with the result of the call that clients know as `call`."""
    return f"{call}.result"


def result_text(output: Any) -> str:
    """The output of a tool as the text that AG-UI wants: a text as it is, anything else as JSON."""
    return output if isinstance(output, str) else json_text(output)


def denial_text(reason: Any) -> str:
    """The result of a call that a person has denied."""
    return f"{CALL_DENIED} Reason: {reason}" if isinstance(reason, str) and reason else CALL_DENIED


def json_text(value: Any) -> str:
    """A value as JSON."""
    return msgspec.json.encode(value).decode()


def to_thread_messages(message: MessageDict) -> list[ThreadMessage]:
    """The messages that a stored message is in a thread."""
    if message["role"] == "user":
        return [_to_user_message(message["id"], message["parts"])]
    return list(_answer_messages(message)) if message["role"] == "assistant" else []


def _to_user_message(id: str, parts: list[Part]) -> ThreadMessage:
    content = [one for one in map(_to_content, parts) if one is not None]
    if all(one["type"] == "text" for one in content):
        return {"id": id, "role": "user", "content": "\n".join(one["text"] for one in content)}
    return {"id": id, "role": "user", "content": content}


def _to_content(part: Part) -> dict[str, Any] | None:
    match part:
        case {"type": "text", "text": str(text)}:
            return {"type": "text", "text": text}
        case {"type": "file", "url": str(url)}:
            media_type = part.get("mediaType") or ""
            kind = media_type.partition("/")[0]
            source = {"type": "url", "value": url} | ({"mimeType": media_type} if media_type else {})
            return {"type": kind if kind in _MEDIA_KINDS else "document", "source": source}
        case _:
            return None


def _answer_messages(message: MessageDict) -> Iterator[ThreadMessage]:
    metadata = message.get("metadata")
    is_typed = isinstance(metadata, dict) and metadata.get(STATE_KEY) is not None
    numbers = MessageNumbers(message["id"])
    holder: ThreadMessage = {}
    results: list[ThreadMessage] = []
    for part in message["parts"]:
        kind = part["type"]
        if is_tool(part):
            id = numbers.of_call()
            if holder.get("id") != id:
                yield from _close(holder, results)
                holder, results = {"id": id, "role": "assistant"}, []
            holder.setdefault("toolCalls", []).append(_to_call(message["id"], part))
            results += _to_result(message["id"], part)
            continue
        text = part.get("text") if kind == "text" and not is_typed else None
        if kind == OUTPUT and find_output(message) is not UNSET:
            text = json_text(part["data"])
        if kind == STEP_START:
            numbers.begin_step()
        elif text is not None or kind in ("reasoning", "steering-message"):
            yield from _close(holder, results)
            holder, results = {}, []
        if text is not None:
            holder = {"id": numbers.next_text(), "role": "assistant", "content": text}
        elif kind == "reasoning":
            yield {"id": numbers.next_reasoning(), "role": "reasoning", "content": part["text"]}
            numbers.begin_step()
        elif kind == "steering-message":
            texts = [one for one in part["parts"] if one["type"] == "text"]  # a stream has no files of a user
            yield _to_user_message(part["id"], texts)
            numbers.begin_step()
    yield from _close(holder, results)


def _close(holder: ThreadMessage, results: list[ThreadMessage]) -> Iterator[ThreadMessage]:
    if holder:
        yield holder
    yield from results


def _to_call(answer: str, part: Part) -> dict[str, Any]:
    input = part.get("input")
    arguments = "" if input is None and part["state"] == "input-streaming" else json_text(input)
    return {
        "id": wire_call_id(answer, part["toolCallId"]),
        "type": "function",
        "function": {"name": tool_name(part), "arguments": arguments},
    }


def _to_result(answer: str, part: Part) -> list[ThreadMessage]:
    call = wire_call_id(answer, part["toolCallId"])
    result: ThreadMessage = {"id": result_id(call), "role": "tool", "toolCallId": call}
    match part["state"]:
        case "output-available" if not part.get("preliminary"):
            return [result | {"content": result_text(part["output"])}]
        case "output-error":
            return [result | {"content": part["errorText"], "error": part["errorText"]}]
        case "output-denied":
            return [result | {"content": denial_text(part.get("approval", {}).get("reason"))}]
        case _:
            return []
