"""A run as OpenAI's chat completion (OpenAI API reference), streamed or whole. Pure.

The agent's tools run here, so their calls are not shown. A run that waits for an approval ends its response
with `finish_reason: "stop"`; the extension object `rejoin` lists the calls that wait.
"""

from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import UNSET

from rejoin_protocol.events import chunks
from rejoin_protocol.events.chunks import Chunk
from rejoin_protocol.events.typed_output import OutputAsText
from rejoin_protocol.ids import RUN_PREFIX, AgentName, RunId, SessionId, run_created_ms

COMPLETION_FINISH_REASONS = {"content-filter": "content_filter", "length": "length", "tool-calls": "length"}
"""Our reasons → OpenAI's, where they differ. A run that ends with `tool-calls` has used up its steps."""


class CompletionMetadata(msgspec.Struct, frozen=True):
    """The fields that are the same in every chunk of a run."""

    run: RunId
    session: SessionId
    agent: AgentName

    @property
    def ulid(self) -> str:
        """The run's id without its prefix."""
        return self.run.removeprefix(RUN_PREFIX)

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


class PendingCalls:
    """Which tool calls of a run wait for an approval. Feed it the run's events in order."""

    def __init__(self) -> None:
        self._calls: dict[str, tuple[str, Any]] = {}
        self._pending: dict[str, PendingCall] = {}

    @property
    def pending(self) -> list[PendingCall]:
        """In the order of their approval requests."""
        return list(self._pending.values())

    def feed(self, chunk: Chunk) -> None:
        """Take the next event."""
        match chunk:
            case chunks.ToolInputAvailable(tool_call_id=call, tool_name=name, input=input):
                self._calls[call] = (name, input)
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


def completion_usage(metadata: Any) -> dict[str, Any]:
    """A message's usage in the form of chat completions."""
    prompt, output = token_count(metadata, "inputTokens"), token_count(metadata, "outputTokens")
    return {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
        "prompt_tokens_details": {"cached_tokens": token_count(metadata, "cachedInputTokens")},
        "completion_tokens_details": {"reasoning_tokens": token_count(metadata, "reasoningTokens")},
    }


def finish_reason(reason: str, calls: PendingCalls) -> str:
    """OpenAI's finish reason for ours."""
    return "stop" if calls.pending else COMPLETION_FINISH_REASONS.get(reason, "stop")


def build_completion(
    run: CompletionMetadata, text: str, reason: str, calls: PendingCalls, metadata: Any
) -> dict[str, Any]:
    """A whole answer."""
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {
        "index": 0,
        "message": message,
        "finish_reason": finish_reason(reason, calls),
        "logprobs": None,
    }
    return {
        **_chunk_fields(run, "chat.completion"),
        "choices": [choice],
        "usage": completion_usage(metadata),
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

    def feed(self, event: Chunk) -> list[dict[str, Any]]:
        """The chunks for the next event."""
        return [part for chunk in self._texts.feed(event) for part in self._feed_shown(chunk)]

    def _feed_shown(self, chunk: Chunk) -> list[dict[str, Any]]:
        self._calls_pending.feed(chunk)
        self._metadata |= metadata_of(chunk)
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
            "usage": completion_usage(self._metadata),
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
