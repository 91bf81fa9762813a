"""The agents that share one run, as its log shows them. Pure.

An agent hands off the conversation by calling `transfer_to_<name>`: the next step is the target's. An agent
delegates by calling `delegate_to_<name>`: the steps that follow are the target's until one of them makes no
call; then the delegate call gets its output. The active agents therefore form a stack of frames. The frame of
the conversation is at the bottom, and above it is a frame for each open delegate call whose caller waits.
Several delegate calls of one step run one after another, in the model's order.

Owns the names of these tools, the form of a delegated agent's parts in the message, and the way back: frames
from events, and one agent's view of the message. It does not decide what comes next; `decide` does.

A delegated agent's text is in the message as reasoning, so that no client takes it for the answer. Each of
its parts names its agent and call under `rejoin` in the provider metadata, so that a reader of the stored
message knows the part's agent without the order of events.
"""

from collections.abc import Collection, Iterable, Iterator
from typing import Any

import msgspec
from msgspec import UNSET

from rejoin_protocol.events import chunks
from rejoin_protocol.events.chunks import Chunk, Metadata
from rejoin_protocol.events.fold import STEP_START, MessageDict, Part, is_tool, tool_name
from rejoin_protocol.events.own_metadata import add_own
from rejoin_protocol.ids import CallId

TRANSFER = "transfer_to_"
DELEGATE = "delegate_to_"
ORIGIN_METADATA_KEY = "rejoin"


class ToolCall(msgspec.Struct, frozen=True):
    """A complete tool call of a model."""

    id: CallId
    tool: str
    input: Any


class PartOrigin(msgspec.Struct, frozen=True, omit_defaults=True):
    """The agent that wrote a part, and the delegate call it works on; in the part's provider metadata."""

    agent: str
    call: CallId
    text: bool = False
    """The part is text that the message shows as reasoning."""


def handoff_target(tool: str) -> str | None:
    """The agent that a tool hands off to; None for any other tool."""
    return tool.removeprefix(TRANSFER) if tool.startswith(TRANSFER) else None


def delegate_target(tool: str) -> str | None:
    """The agent that a tool delegates to; None for any other tool."""
    return tool.removeprefix(DELEGATE) if tool.startswith(DELEGATE) else None


# ------------------------------------------------------------------------------- frames, from the events


class AgentFrame:
    """One agent at work: on the conversation (`call` is None), or on another agent's delegate call."""

    def __init__(self, call: ToolCall | None) -> None:
        self.call = call
        self.agent: str | None = None if call is None else delegate_target(call.tool)
        """The agent of the last step. None: the agent that the run started with."""
        self.successor: str | None = None
        """The agent of the next step, if the last step handed off."""
        self.steps = 0
        self.steps_since_handoff = 0
        """Steps of the present agent."""
        self.calls: dict[CallId, ToolCall] = {}
        """The calls of the last step, in the model's order."""
        self._before = self._progress

    @property
    def _progress(self) -> tuple[str | None, str | None, int, int, dict[CallId, ToolCall]]:
        return self.agent, self.successor, self.steps, self.steps_since_handoff, self.calls

    @property
    def is_delegated(self) -> bool:
        """Whether the agent works on a delegate call of another agent."""
        return self.call is not None

    def begin_step(self) -> None:
        """Count a step, and make the successor the agent."""
        self._before = self._progress
        if self.successor is not None:
            self.agent, self.successor, self.steps_since_handoff = self.successor, None, 0
        self.steps += 1
        self.steps_since_handoff += 1
        self.calls = {}

    def take_step_back(self) -> None:
        """The step that has just begun is another frame's."""
        self.agent, self.successor, self.steps, self.steps_since_handoff, self.calls = self._before


class AgentStack:
    """All frames of a run. `RunState` applies the events that concern them."""

    def __init__(self) -> None:
        self.handoffs = 0
        self.earlier_calls: set[CallId] = set()
        """The calls of earlier steps."""
        self._root = AgentFrame(None)
        self._delegated: dict[CallId, AgentFrame] = {}
        self._last_step = self._root
        """The frame of the last step. After the step is closed, another frame may be on top."""
        self._resolved: set[CallId] = set()

    @property
    def stack(self) -> list[AgentFrame]:
        """The frames that have work left, the conversation first. The last one is active, the others wait."""
        stack = [self._root]
        if not self._delegated:  # as in most runs, and each event asks
            return stack
        while (call := self._first_delegate_call(stack[-1])) is not None and call.id in self._delegated:
            stack.append(self._delegated[call.id])
        return stack

    @property
    def top(self) -> AgentFrame:
        """The active frame."""
        return self.stack[-1]

    @property
    def next_call(self) -> ToolCall | None:
        """The delegate call whose frame the next step opens; None if the next step is the active frame's."""
        return self._first_delegate_call(self.top)

    def open_calls(self, frame: AgentFrame) -> list[ToolCall]:
        """The calls of the frame's last step that have no result, in the model's order."""
        return [call for id, call in frame.calls.items() if id not in self._resolved]

    def begin_step(self) -> None:
        """A step begins: in a new frame if a delegate call waits for one, else in the active frame."""
        self.earlier_calls.update(self._last_step.calls)
        frame, call = self.top, self.next_call
        if call is not None:
            frame = self._delegated[call.id] = AgentFrame(call)
        frame.begin_step()
        self._last_step = frame

    def void_step(self) -> None:
        """Forget the calls of the last step."""
        self._last_step.calls = {}

    def add_call(self, call: ToolCall, metadata: Metadata) -> None:
        """The last step makes a call. `metadata` is the provider metadata of the call's part."""
        self.attribute_part(metadata)
        self._last_step.calls[call.id] = call
        # A call of an earlier step may have had the same id: providers number calls in each response.
        self._resolved.discard(call.id)
        self._delegated.pop(call.id, None)

    def resolve_call(self, id: CallId, *, succeeded: bool) -> None:
        """A call has its final result."""
        self._resolved.add(id)
        call = self._last_step.calls.get(id)
        target = None if call is None else handoff_target(call.tool)
        if succeeded and target is not None:
            self._last_step.successor = target
            self.handoffs += 1

    def attribute_part(self, metadata: Metadata) -> None:
        """Move the last step to the frame that the metadata of one of its parts names.

        In a live log this changes nothing: the order of events names the same frame. In a restored log it
        does: there a delegate call has its output before the steps that made it.
        """
        origin = origin_of(metadata)
        current = self._last_step.call
        if origin is None or (current is not None and current.id == origin.call):
            return
        self._last_step.take_step_back()
        if origin.call not in self._delegated:
            self._delegated[origin.call] = AgentFrame(ToolCall(origin.call, DELEGATE + origin.agent, None))
        self._last_step = self._delegated[origin.call]
        self._last_step.begin_step()

    def _first_delegate_call(self, frame: AgentFrame) -> ToolCall | None:
        calls = self.open_calls(frame)
        return next((call for call in calls if delegate_target(call.tool) is not None), None)


# --------------------------------------------------------------------------------- parts, in the message


def with_origin(chunk: Chunk, origin: PartOrigin) -> Chunk:
    """A delegated agent's chunk in the form that the message has it: text as reasoning, parts with origin."""
    text_origin = msgspec.structs.replace(origin, text=True)
    match chunk:
        case chunks.TextStart(id=id, provider_metadata=metadata):
            return chunks.ReasoningStart(_reasoning_id(id), _add_origin(metadata, text_origin))
        case chunks.TextDelta(id=id, delta=delta, provider_metadata=metadata):
            return chunks.ReasoningDelta(_reasoning_id(id), delta, _keep_origin(metadata, text_origin))
        case chunks.TextEnd(id=id, provider_metadata=metadata):
            return chunks.ReasoningEnd(_reasoning_id(id), _keep_origin(metadata, text_origin))
        case (
            chunks.ReasoningDelta(provider_metadata=metadata)
            | chunks.ReasoningEnd(provider_metadata=metadata)
        ):
            return msgspec.structs.replace(chunk, provider_metadata=_keep_origin(metadata, origin))
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
            return msgspec.structs.replace(chunk, provider_metadata=_add_origin(metadata, origin))
        case _:
            return chunk


def origin_of(metadata: Metadata | None) -> PartOrigin | None:
    """The origin in a part's provider metadata. None: the part belongs to the conversation."""
    try:
        return msgspec.convert(
            metadata.get(ORIGIN_METADATA_KEY) if isinstance(metadata, dict) else None, PartOrigin
        )
    except msgspec.ValidationError:
        return None


def frame_view(message: MessageDict, call: CallId | None) -> MessageDict:
    """The message as the agents of one frame see it: only their parts, and their text as text.

    `call` names the frame; None is the conversation. A delegate call and its output belong to the caller's
    frame; the work for it does not.
    """
    return {**message, "parts": list(_frame_parts(message["parts"], call))}


def task_message(call: ToolCall) -> MessageDict:
    """The task of a delegate call, as the user message that the delegated agent reads."""
    text = call.input["task"] if isinstance(call.input, dict) else ""
    return {"id": call.id, "role": "user", "parts": [{"type": "text", "text": text}]}


def delegation_output(message: MessageDict, call: CallId) -> str:
    """The text of a delegated agent's last step."""
    texts: list[str] = []
    for part in frame_view(message, call)["parts"]:
        if part["type"] == STEP_START:
            texts.clear()
        elif part["type"] == "text":
            texts.append(part["text"])
    return "".join(texts)


def current_agent(history: Iterable[MessageDict], agent: str, reachable: Collection[str]) -> str:
    """The agent that starts the next answer: the last one that `agent`'s conversation was handed off to.

    A handoff to an agent that is not `reachable` any more does not count.
    """
    current = agent
    for message in history:
        if message["role"] != "assistant":
            continue
        if _head_agent(message) not in {None, agent}:
            current = agent  # another agent's run: its handoffs are not this conversation's
            continue
        for part in message["parts"]:
            target = _handed_off_to(part)
            current = target if target is not None and target in reachable else current
    return current


def has_handoff(history: Iterable[MessageDict]) -> bool:
    """Whether an agent handed a conversation off in these messages."""
    return any(
        _handed_off_to(part) is not None
        for message in history
        if message["role"] == "assistant"
        for part in message["parts"]
    )


def _frame_parts(parts: Iterable[Part], call: CallId | None) -> Iterator[Part]:
    step_start: Part | None = None  # held back until the frame has a part in this step
    for part in parts:
        if part["type"] == STEP_START:
            step_start = part
            continue
        origin = _part_origin(part)
        if call != (None if origin is None else origin.call):
            continue
        if step_start is not None:
            yield step_start
            step_start = None
        yield part if origin is None or not origin.text else _as_text(part)


def _as_text(part: Part) -> Part:
    metadata = {
        name: value for name, value in part["providerMetadata"].items() if name != ORIGIN_METADATA_KEY
    }
    text = {"type": "text", "text": part["text"], "state": part["state"]}
    return {**text, "providerMetadata": metadata} if metadata else text


def _part_origin(part: Part) -> PartOrigin | None:
    if is_tool(part):
        return origin_of(part.get("callProviderMetadata")) or origin_of(part.get("resultProviderMetadata"))
    return origin_of(part.get("providerMetadata"))


def _handed_off_to(part: Part) -> str | None:
    """The agent that this part hands the conversation off to; None if it does not."""
    done = is_tool(part) and part["state"] == "output-available" and not part.get("providerExecuted")
    return handoff_target(tool_name(part)) if done and _part_origin(part) is None else None


def _head_agent(message: MessageDict) -> str | None:
    """The agent whose run wrote the message; None if the message does not say."""
    metadata = message.get("metadata")
    name = metadata.get("agent") if isinstance(metadata, dict) else None
    return name if isinstance(name, str) else None


def _add_origin(metadata: Metadata, origin: PartOrigin) -> Metadata:
    added = metadata or {}
    for key, value in msgspec.to_builtins(origin).items():
        added = add_own(added, key, value)
    return added


def _keep_origin(metadata: Metadata, origin: PartOrigin) -> Metadata:
    """Metadata of a later chunk replaces the part's metadata, so it must name the origin again. A chunk
    without metadata replaces nothing.
    """
    return UNSET if metadata is UNSET else _add_origin(metadata, origin)


def _reasoning_id(id: str) -> str:
    """Text and reasoning of one step may have the same id."""
    return f"{id}.text"
