"""A run as OpenAI's chat completion, streamed or whole, and what its responses say beyond that API. Pure.

The law is OpenAI's API reference. The agent's tools run here, so no call of theirs is shown; a run that
waits for a person's word ends its response with `finish_reason: "stop"`, and the extension object `rejoin`
says what it waits for.
"""

from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import UNSET
from rejoin_protocol.events import chunks
from rejoin_protocol.events.chunks import Chunk
from rejoin_protocol.ids import RUN_PREFIX, AgentName, RunId, SessionId, run_created_ms

FINISH_REASONS = {"content-filter": "content_filter", "length": "length", "tool-calls": "length"}
"""A run that ends with calls that nobody answers has run out of steps."""


class CompletionMetadata(msgspec.Struct, frozen=True):
    """What of a run never changes."""

    run: RunId
    session: SessionId
    agent: AgentName

    @property
    def ulid(self) -> str:
        """The run's id without its prefix."""
        return self.run.removeprefix(RUN_PREFIX)

    @property
    def created_s(self) -> int:
        """When it was made."""
        return run_created_ms(self.run) // 1000


class PendingCall(msgspec.Struct, frozen=True):
    """A call that waits for a person's word."""

    approval_id: str
    tool_call_id: str
    tool_name: str
    input: Any


class PendingCalls:
    """Which calls of a run wait for a person: fed with its events, in order."""

    def __init__(self) -> None:
        self._calls: dict[str, tuple[str, Any]] = {}
        self._asked: dict[str, PendingCall] = {}

    @property
    def pending(self) -> list[PendingCall]:
        """In the order in which they were asked about."""
        return list(self._asked.values())

    def feed(self, chunk: Chunk) -> None:
        """The next event."""
        match chunk:
            case chunks.ToolInputAvailable(tool_call_id=call, tool_name=name, input=input):
                self._calls[call] = (name, input)
            case chunks.ToolApprovalRequest(approval_id=id, tool_call_id=call, is_automatic=automatic):
                if automatic is not True and call in self._calls:
                    self._asked[call] = PendingCall(id, call, *self._calls[call])
            case chunks.ToolApprovalResponse(approval_id=id):
                self._asked = {call: one for call, one in self._asked.items() if one.approval_id != id}
            case (
                chunks.ToolOutputAvailable(tool_call_id=call)
                | chunks.ToolOutputError(tool_call_id=call)
                | chunks.ToolOutputDenied(tool_call_id=call)
            ):
                self._asked.pop(call, None)
            case _:
                pass


def pending_calls_in(events: Iterable[Chunk]) -> PendingCalls:
    """What a run waits for after these events."""
    waiting = PendingCalls()
    for chunk in events:
        waiting.feed(chunk)
    return waiting


def rejoin_extension(facts: CompletionMetadata, waiting: PendingCalls) -> dict[str, Any]:
    """The object `rejoin`: where the run and its conversation are found in the rest of the API."""
    return {
        "run_id": facts.run,
        "conversation_id": facts.session,
        "pending_approvals": msgspec.to_builtins(waiting.pending),
    }


def stream_error(message: str, code: str) -> dict[str, Any]:
    """An error within a stream that has begun: a client of OpenAI's raises it."""
    return {"error": {"message": message, "type": "server_error", "param": None, "code": code}}


def metadata_of(chunk: Chunk) -> dict[str, Any]:
    """What an event adds to the message's metadata; a usage replaces the one before."""
    match chunk:
        case (
            chunks.Start(message_metadata=dict(said))
            | chunks.MessageMetadata(message_metadata=dict(said))
            | chunks.Finish(message_metadata=dict(said))
        ):
            return said
        case _:
            return {}


def token_count(metadata: Any, name: str) -> int:
    """A count in a message's usage; 0 if it says none."""
    usage = metadata.get("usage") if isinstance(metadata, dict) else None
    count = usage.get(name) if isinstance(usage, dict) else None
    return count if isinstance(count, int) else 0


def completion_usage(metadata: Any) -> dict[str, Any]:
    """What a message has cost, as chat completions say it."""
    prompt, output = token_count(metadata, "inputTokens"), token_count(metadata, "outputTokens")
    return {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
        "prompt_tokens_details": {"cached_tokens": token_count(metadata, "cachedInputTokens")},
        "completion_tokens_details": {"reasoning_tokens": token_count(metadata, "reasoningTokens")},
    }


def finish_reason(reason: str, waiting: PendingCalls) -> str:
    """Ours as theirs."""
    return "stop" if waiting.pending else FINISH_REASONS.get(reason, "stop")


def build_completion(
    facts: CompletionMetadata, text: str, reason: str, waiting: PendingCalls, metadata: Any
) -> dict[str, Any]:
    """A whole answer."""
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {
        "index": 0,
        "message": message,
        "finish_reason": finish_reason(reason, waiting),
        "logprobs": None,
    }
    return {
        **_head(facts, "chat.completion"),
        "choices": [choice],
        "usage": completion_usage(metadata),
        "rejoin": rejoin_extension(facts, waiting),
    }


class CompletionStream:
    """A streamed answer: fed with a run's events it gives chunks, the last ones by `end`."""

    def __init__(self, facts: CompletionMetadata, *, include_usage: bool) -> None:
        self._facts = facts
        self._include_usage = include_usage
        self._waiting = PendingCalls()
        self._metadata: dict[str, Any] = {}
        self._reason = "stop"
        self._error: str | None = None
        self._begun = False

    def feed(self, chunk: Chunk) -> list[dict[str, Any]]:
        """The chunks that an event makes."""
        self._waiting.feed(chunk)
        self._metadata |= metadata_of(chunk)
        match chunk:
            case chunks.Start() if not self._begun:
                self._begun = True
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
        """The last chunks, once the stream has ended; the error, if the run has failed."""
        if self._error is not None:
            return [stream_error(self._error, "run_failed")]
        last = self._chunk({}, finish_reason(self._reason, self._waiting))
        last["rejoin"] = rejoin_extension(self._facts, self._waiting)
        if not self._include_usage:
            return [last]
        spent = _head(self._facts, "chat.completion.chunk") | {
            "choices": [],
            "usage": completion_usage(self._metadata),
        }
        return [last, spent]

    def _chunk(self, delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
        chunk = _head(self._facts, "chat.completion.chunk") | {"choices": [choice]}
        return chunk | ({"usage": None} if self._include_usage else {})


def _head(facts: CompletionMetadata, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{facts.ulid}",
        "object": kind,
        "created": facts.created_s,
        "model": facts.agent,
    }
