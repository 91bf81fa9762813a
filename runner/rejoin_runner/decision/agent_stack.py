"""Whose step is whose: the agents that share one run, as its log has them. Pure.

An agent hands the conversation over by calling `transfer_to_<name>`: from the next step on the target speaks.
It delegates by calling `delegate_to_<name>`: the steps that follow are the target's, until one of them makes
no call; then the call gets its output. So agents at work form a stack of frames, the conversation at its
bottom and an open delegate call above it for each agent that waits for another. Open delegate calls of one
step are taken one after the other, in the model's order.

Owns the names of these tools, what a delegated agent's parts look like in the message, and the way back: the
frames from the events, and what one agent is to see of the message. Never what is to be done next.

A delegated agent's text stands in the message as reasoning, so that nobody takes it for the answer, and each
of its parts names its frame under `rejoin` in the provider metadata: whoever reads the stored message knows
whose it is, also where the order of events is lost.
"""

from collections.abc import Collection, Iterable, Iterator
from typing import Any

import msgspec
from msgspec import UNSET
from rejoin_protocol.events import chunks
from rejoin_protocol.events.chunks import Chunk, Metadata
from rejoin_protocol.events.fold import STEP_START, Part, UIMessage, is_tool, tool_name
from rejoin_protocol.ids import CallId

TRANSFER = "transfer_to_"
DELEGATE = "delegate_to_"
KEY = "rejoin"


class ToolCall(msgspec.Struct, frozen=True):
    """A tool call of the model, complete."""

    id: CallId
    tool: str
    input: Any


class PartOrigin(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a delegated agent's part says of itself: who wrote it, working on which call, and as what."""

    agent: str
    call: CallId
    text: bool = False
    """It was said, and is shown as reasoning."""


def transfer_target(tool: str) -> str | None:
    """The agent that a tool hands over to."""
    return tool.removeprefix(TRANSFER) if tool.startswith(TRANSFER) else None


def delegate_target(tool: str) -> str | None:
    """The agent that a tool delegates to."""
    return tool.removeprefix(DELEGATE) if tool.startswith(DELEGATE) else None


# ------------------------------------------------------------------------------------------ the events


class AgentFrame:
    """One agent at work: on the conversation itself, or on a call of another agent."""

    def __init__(self, call: ToolCall | None) -> None:
        self.call = call
        self.agent: str | None = None if call is None else delegate_target(call.tool)
        """Whose the last step is. None is the agent that the run began with."""
        self.successor: str | None = None
        """Whose the next step is, where the last one handed over."""
        self.steps = 0
        self.stint = 0
        """Steps since the agent took over."""
        self.calls: dict[CallId, ToolCall] = {}
        """Of the last step."""

    def begin(self) -> None:
        """The next step."""
        if self.successor is not None:
            self.agent, self.successor, self.stint = self.successor, None, 0
        self.steps += 1
        self.stint += 1
        self.calls = {}


class AgentStack:
    """All of a run's frames. Fed by `RunState` with the events that matter."""

    def __init__(self) -> None:
        self.transfers = 0
        self.past: set[CallId] = set()
        """The calls of earlier steps."""
        self._root = AgentFrame(None)
        self._delegated: dict[CallId, AgentFrame] = {}
        self._current = self._root  # whose the last step is
        self._resolved: set[CallId] = set()

    @property
    def stack(self) -> list[AgentFrame]:
        """The frames that are not over, the conversation first. The last one works, the others wait."""
        stack = [self._root]
        while (call := self._waited_for(stack[-1])) is not None and call.id in self._delegated:
            stack.append(self._delegated[call.id])
        return stack

    @property
    def top(self) -> AgentFrame:
        """The frame that works."""
        return self.stack[-1]

    @property
    def next_call(self) -> ToolCall | None:
        """The delegate call whose frame the next step opens."""
        return self._waited_for(self.top)

    def open_calls(self, frame: AgentFrame) -> list[ToolCall]:
        """The calls of its last step that have no result, in the model's order."""
        return [call for id, call in frame.calls.items() if id not in self._resolved]

    def begin(self) -> None:
        """A step begins. It belongs to the frame that works, or opens one for the call that waits for it."""
        self.past.update(self._current.calls)
        frame, call = self.top, self.next_call
        if call is not None:
            frame = self._delegated[call.id] = AgentFrame(call)
        frame.begin()
        self._current = frame

    def reset(self) -> None:
        """What the step has said is void."""
        self._current.calls = {}

    def called(self, call: ToolCall, metadata: Metadata) -> None:
        """The step makes a call."""
        self.attribute(metadata)
        self._current.calls[call.id] = call
        self._resolved.discard(call.id)
        self._delegated.pop(call.id, None)  # an earlier call may have had this id

    def resolved(self, id: CallId, *, done: bool) -> None:
        """A call has its result; `done` if it succeeded."""
        self._resolved.add(id)
        call = self._current.calls.get(id)
        target = None if call is None else transfer_target(call.tool)
        if done and target is not None:
            self._current.successor = target
            self.transfers += 1

    def attribute(self, metadata: Metadata) -> None:
        """What a part says of its frame. Only where a stored message is written again, and calls have their
        output ahead of the steps that made it, is it not what the order says.
        """
        owner = owner_of(metadata)
        at = self._current.call
        if owner is None or (at is not None and at.id == owner.call):
            return
        self._current.steps -= 1
        self._current.stint -= 1
        if owner.call not in self._delegated:
            self._delegated[owner.call] = AgentFrame(ToolCall(owner.call, DELEGATE + owner.agent, None))
        self._current = self._delegated[owner.call]
        self._current.begin()

    def _waited_for(self, frame: AgentFrame) -> ToolCall | None:
        calls = self.open_calls(frame)
        return next((call for call in calls if delegate_target(call.tool) is not None), None)


# ------------------------------------------------------------------------------------------- the parts


def owned(chunk: Chunk, owner: PartOrigin) -> Chunk:
    """A delegated agent's chunk as it stands in the message."""
    text = msgspec.structs.replace(owner, text=True)
    match chunk:
        case chunks.TextStart(id=id, provider_metadata=metadata):
            return chunks.ReasoningStart(_text_id(id), _named(metadata, text))
        case chunks.TextDelta(id=id, delta=delta, provider_metadata=metadata):
            return chunks.ReasoningDelta(_text_id(id), delta, _renamed(metadata, text))
        case chunks.TextEnd(id=id, provider_metadata=metadata):
            return chunks.ReasoningEnd(_text_id(id), _renamed(metadata, text))
        case (
            chunks.ReasoningDelta(provider_metadata=metadata)
            | chunks.ReasoningEnd(provider_metadata=metadata)
        ):
            return msgspec.structs.replace(chunk, provider_metadata=_renamed(metadata, owner))
        case (
            chunks.ReasoningStart(provider_metadata=metadata)
            | chunks.ReasoningFile(provider_metadata=metadata)
            | chunks.File(provider_metadata=metadata)
            | chunks.SourceUrl(provider_metadata=metadata)
            | chunks.SourceDocument(provider_metadata=metadata)
            | chunks.Custom(provider_metadata=metadata)
            | chunks.ToolInputStart(provider_metadata=metadata)
            | chunks.ToolInputAvailable(provider_metadata=metadata)
            | chunks.ToolInputError(provider_metadata=metadata)
        ):
            return msgspec.structs.replace(chunk, provider_metadata=_named(metadata, owner))
        case _:
            return chunk


def owner_of(metadata: Metadata | None) -> PartOrigin | None:
    """Whose a part is. None: it belongs to the conversation."""
    try:
        return msgspec.convert(metadata.get(KEY) if isinstance(metadata, dict) else None, PartOrigin)
    except msgspec.ValidationError:
        return None


def view(message: UIMessage, call: CallId | None) -> UIMessage:
    """The message as the agents of one frame see it: their own parts only, said as they said them.

    A delegate call and its output are its caller's; what was done for it is not. None: the conversation.
    """
    return {**message, "parts": list(_own(message["parts"], call))}


def task(call: ToolCall) -> UIMessage:
    """What a delegated agent is asked."""
    text = call.input["task"] if isinstance(call.input, dict) else ""
    return {"id": call.id, "role": "user", "parts": [{"type": "text", "text": text}]}


def outcome(message: UIMessage, call: CallId) -> str:
    """What a delegated agent said in its last step."""
    said: list[str] = []
    for part in view(message, call)["parts"]:
        if part["type"] == STEP_START:
            said.clear()
        elif part["type"] == "text":
            said.append(part["text"])
    return "".join(said)


def speaker(history: Iterable[UIMessage], agent: str, reachable: Collection[str]) -> str:
    """Who begins the next answer of `agent`'s conversation: whom its last answer ended with."""
    current = agent
    for message in history:
        if message["role"] != "assistant":
            continue
        if _begun_by(message) not in {None, agent}:
            current = agent
            continue
        for part in message["parts"]:
            target = _handed_to(part)
            current = target if target is not None and target in reachable else current
    return current


def _own(parts: Iterable[Part], call: CallId | None) -> Iterator[Part]:
    start: Part | None = None  # of a step that nobody has said anything in yet
    for part in parts:
        if part["type"] == STEP_START:
            start = part
            continue
        owner = _owner(part)
        if call != (None if owner is None else owner.call):
            continue
        if start is not None:
            yield start
            start = None
        yield part if owner is None or not owner.text else _said(part)


def _said(part: Part) -> Part:
    metadata = {name: value for name, value in part["providerMetadata"].items() if name != KEY}
    said = {"type": "text", "text": part["text"], "state": part["state"]}
    return {**said, "providerMetadata": metadata} if metadata else said


def _owner(part: Part) -> PartOrigin | None:
    if is_tool(part):
        return owner_of(part.get("callProviderMetadata")) or owner_of(part.get("resultProviderMetadata"))
    return owner_of(part.get("providerMetadata"))


def _handed_to(part: Part) -> str | None:
    """Whom this part hands the conversation over to."""
    done = is_tool(part) and part["state"] == "output-available" and not part.get("providerExecuted")
    return transfer_target(tool_name(part)) if done and _owner(part) is None else None


def _begun_by(message: UIMessage) -> str | None:
    for part in message["parts"]:
        if part["type"] == "data-operation" and part["data"].get("type") == "agent_initializing":
            name: str | None = part["data"].get("details", {}).get("agentId")
            return name
    return None


def _named(metadata: Metadata, owner: PartOrigin) -> Metadata:
    return {**(metadata or {}), KEY: msgspec.to_builtins(owner)}


def _renamed(metadata: Metadata, owner: PartOrigin) -> Metadata:
    """What replaces a part's metadata must name the owner again; what says nothing replaces nothing."""
    return UNSET if metadata is UNSET else _named(metadata, owner)


def _text_id(id: str) -> str:
    return f"{id}.text"  # text and reasoning may have one id
