"""A run as OpenAI's chat completion (OpenAI API reference), streamed or whole. Pure.

The agent's tools run here, so their calls are not shown, but for those of client tools: they are
`tool_calls`. A run that waits for an approval ends its response with `finish_reason: "stop"`; the extension
object `rejoin` lists the calls that wait. A run that waits for the client's tools ends it with `tool_calls`;
its next turn is the next completion.
"""

from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import UNSET

from rejoin_adapters.usage_types import RunUsage
from rejoin_gateway.api.openai.tool_calls import wire_call_id
from rejoin_protocol.events import chunks
from rejoin_protocol.events.chunks import Chunk
from rejoin_protocol.events.own_metadata import runs_in_client
from rejoin_protocol.events.typed_output import OutputAsText
from rejoin_protocol.ids import RUN_PREFIX, AgentName, CallId, RunId, SessionId, run_created_ms

COMPLETION_FINISH_REASONS = {"content-filter": "content_filter", "length": "length", "tool-calls": "length"}
"""Our reasons → OpenAI's, where they differ. A run that ends with `tool-calls` has used up its steps."""


class CompletionMetadata(msgspec.Struct, frozen=True):
    """The fields that are the same in every chunk of a run. `turn`: the run's turn with which the answer
    begins; `earlier`: what the run had used before it.
    """

    run: RunId
    session: SessionId
    agent: AgentName
    turn: int = 0
    earlier: RunUsage = RunUsage()

    @property
    def ulid(self) -> str:
        """The run's id without its prefix; behind it the turn, if it is a later one."""
        ulid = self.run.removeprefix(RUN_PREFIX)
        return f"{ulid}_{self.turn}" if self.turn else ulid

    @property
    def created_s(self) -> int:
        """When the run was created, in seconds since 1970."""
        return run_created_ms(self.run) // 1000


class PendingCall(msgspec.Struct, frozen=True):
    """A tool call that waits for an approval."""

    approval_id: str
    tool_call_id: str
    tool_name: str
    input: Any


class ClientCall(msgspec.Struct, frozen=True):
    """A tool call that waits for the client's output."""

    call: CallId
    tool: str
    input: Any

    @property
    def arguments(self) -> str:
        """The input as JSON."""
        return msgspec.json.encode(self.input).decode()


def client_call_of(chunk: Chunk) -> ClientCall | None:
    """The call that an event hands to the client; None if it is another event."""
    match chunk:
        case chunks.ToolInputAvailable(
            tool_call_id=call, tool_name=name, input=input, provider_metadata=metadata
        ) if runs_in_client(metadata):
            return ClientCall(CallId(call), name, input)
        case _:
            return None


class PendingCalls:
    """Which tool calls of a run wait for an approval or for the client. Feed it the run's events in order."""

    def __init__(self) -> None:
        self._calls: dict[str, tuple[str, Any]] = {}
        self._pending: dict[str, PendingCall] = {}
        self._client: dict[str, ClientCall] = {}

    @property
    def client(self) -> list[ClientCall]:
        """The calls that wait for the client's output, in the model's order."""
        return list(self._client.values())

    @property
    def pending(self) -> list[PendingCall]:
        """In the order of their approval requests."""
        return list(self._pending.values())

    def feed(self, chunk: Chunk) -> None:
        """Take the next event."""
        match chunk:
            case chunks.ToolInputAvailable(tool_call_id=call, tool_name=name, input=input):
                self._calls[call] = (name, input)
                if (for_client := client_call_of(chunk)) is not None:
                    self._client[call] = for_client
            case chunks.ToolApprovalRequest(approval_id=id, tool_call_id=call, is_automatic=automatic):
                if automatic is not True and call in self._calls:
                    self._pending[call] = PendingCall(id, call, *self._calls[call])
            case chunks.ToolApprovalResponse(approval_id=id):
                self._pending = {
                    call: pending for call, pending in self._pending.items() if pending.approval_id != id
                }
            case (
                chunks.ToolOutputAvailable(tool_call_id=call)
                | chunks.ToolOutputError(tool_call_id=call)
                | chunks.ToolOutputDenied(tool_call_id=call)
            ):
                self._pending.pop(call, None)
                self._client.pop(call, None)
            case chunks.ResetStep():
                self._client.clear()  # a step begins after the calls of the step before are answered
            case _:
                pass


def pending_calls_in(events: Iterable[Chunk]) -> PendingCalls:
    """The calls that wait after these events."""
    calls = PendingCalls()
    for chunk in events:
        calls.feed(chunk)
    return calls


def rejoin_extension(run: CompletionMetadata, calls: PendingCalls, metadata: Any) -> dict[str, Any]:
    """The object `rejoin`: the ids under which the other APIs know the run and its session, what it waits
    for, in words the limit at which it ended, and whether its usage is an estimate.
    """
    extension: dict[str, Any] = {
        "run_id": run.run,
        "conversation_id": run.session,
        "pending_approvals": msgspec.to_builtins(calls.pending),
    }
    said = metadata if isinstance(metadata, dict) else {}
    if (detail := said.get("finishDetail")) is not None:
        extension["finish_detail"] = detail
    if isinstance(usage := said.get("usage"), dict) and usage.get("estimated"):
        extension["usage_estimated"] = True
    return extension


def stream_error(message: str, code: str) -> dict[str, Any]:
    """An error inside a stream that has begun. OpenAI's clients raise it."""
    return {"error": {"message": message, "type": "server_error", "param": None, "code": code}}


def metadata_of(chunk: Chunk) -> dict[str, Any]:
    """The metadata that an event adds to the message. A newer usage replaces the older one."""
    match chunk:
        case (
            chunks.Start(message_metadata=dict(metadata))
            | chunks.MessageMetadata(message_metadata=dict(metadata))
            | chunks.Finish(message_metadata=dict(metadata))
        ):
            return metadata
        case _:
            return {}


def token_count(metadata: Any, name: str) -> int:
    """A count in the usage of a message's metadata; 0 if it is missing."""
    usage = metadata.get("usage") if isinstance(metadata, dict) else None
    count = usage.get(name) if isinstance(usage, dict) else None
    return count if isinstance(count, int) else 0


def completion_usage(metadata: Any, earlier: RunUsage) -> dict[str, Any]:
    """A message's usage in the form of chat completions, without what was used `earlier`."""
    prompt = max(token_count(metadata, "inputTokens") - earlier.input_tokens, 0)
    output = max(token_count(metadata, "outputTokens") - earlier.output_tokens, 0)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
        "prompt_tokens_details": {"cached_tokens": token_count(metadata, "cachedInputTokens")},
        "completion_tokens_details": {"reasoning_tokens": token_count(metadata, "reasoningTokens")},
    }


def finish_reason(reason: str, calls: PendingCalls) -> str:
    """OpenAI's finish reason for ours."""
    if calls.client:
        return "tool_calls"
    return "stop" if calls.pending else COMPLETION_FINISH_REASONS.get(reason, "stop")


def to_tool_call(run: CompletionMetadata, call: ClientCall) -> dict[str, Any]:
    """A call as OpenAI's clients read it."""
    function = {"name": call.tool, "arguments": call.arguments}
    return {"id": wire_call_id(run.run, call.call), "type": "function", "function": function}


def build_completion(
    run: CompletionMetadata, text: str, reason: str, calls: PendingCalls, metadata: Any
) -> dict[str, Any]:
    """A whole answer."""
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
    if calls.client:
        wanted = [to_tool_call(run, call) for call in calls.client]
        message |= {"content": text or None, "tool_calls": wanted}
    choice = {
        "index": 0,
        "message": message,
        "finish_reason": finish_reason(reason, calls),
        "logprobs": None,
    }
    return {
        **_chunk_fields(run, "chat.completion"),
        "choices": [choice],
        "usage": completion_usage(metadata, run.earlier),
        "rejoin": rejoin_extension(run, calls, metadata),
    }


class CompletionStream:
    """A streamed answer. Feed it the run's events in order; call `end` after the last one."""

    def __init__(self, run: CompletionMetadata, *, include_usage: bool) -> None:
        self._run = run
        self._include_usage = include_usage
        self._calls_pending = PendingCalls()
        self._metadata: dict[str, Any] = {}
        self._reason = "stop"
        self._error: str | None = None
        self._texts = OutputAsText()
        self._has_begun = False
        self._calls_shown = 0

    def feed(self, event: Chunk) -> list[dict[str, Any]]:
        """The chunks for the next event."""
        return [part for chunk in self._texts.feed(event) for part in self._feed_shown(chunk)]

    def _feed_shown(self, chunk: Chunk) -> list[dict[str, Any]]:
        self._calls_pending.feed(chunk)
        self._metadata |= metadata_of(chunk)
        if (call := client_call_of(chunk)) is not None:
            delta = {"index": self._calls_shown, **to_tool_call(self._run, call)}
            self._calls_shown += 1
            return [self._chunk({"tool_calls": [delta]})]
        match chunk:
            case chunks.Start() if not self._has_begun:
                self._has_begun = True
                return [self._chunk({"role": "assistant", "content": ""})]
            case chunks.TextDelta(delta=text):
                return [self._chunk({"content": text})]
            case chunks.Finish(finish_reason=reason):
                self._reason = "stop" if reason is UNSET else reason
            case chunks.Error(error_text=text):
                self._error = text
            case _:
                pass
        return []

    def end(self) -> list[dict[str, Any]]:
        """The last chunks, or the error if the run has failed."""
        if self._error is not None:
            return [stream_error(self._error, "run_failed")]
        last = self._chunk({}, finish_reason(self._reason, self._calls_pending))
        last["rejoin"] = rejoin_extension(self._run, self._calls_pending, self._metadata)
        if not self._include_usage:
            return [last]
        usage = _chunk_fields(self._run, "chat.completion.chunk") | {
            "choices": [],
            "usage": completion_usage(self._metadata, self._run.earlier),
        }
        return [last, usage]

    def _chunk(self, delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
        chunk = _chunk_fields(self._run, "chat.completion.chunk") | {"choices": [choice]}
        return chunk | ({"usage": None} if self._include_usage else {})


def _chunk_fields(run: CompletionMetadata, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{run.ulid}",
        "object": kind,
        "created": run.created_s,
        "model": run.agent,
    }
