"""A run's log as OpenAI's response and its stream of events (OpenAI API reference, "Responses"). Pure.

One run is one response, also across approvals: `resp_<ulid>` is `run_<ulid>`. Only a call of a client tool
ends the response; the outputs begin another one, `resp_<ulid>_<turn>`. An event's `sequence_number`
follows from its place in the log alone. So every gateway gives the same numbers at any time, and a client can
resume behind a number.

This protocol cannot take back two things that the log takes back. First, what a dead runner has left of a
step, up to a `reset-step`, keeps its numbers and is not shown again: `voided` lists these ranges, and a
stream leaves them out, or breaks if it has shown them. Second, the end of a response that waited for an
approval keeps its number too; it is shown only in a stream that ends with it.

The agent's tools are `mcp_call` items, because they run here and not at the client. Calls of client tools are
`function_call` items. An approval is an
`mcp_approval_request`. Text of delegated agents is in `reasoning` items, as in the stored message. Files that
a model generates and data parts have no counterpart and are left out.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET

from rejoin_gateway.api.openai.completion_format import (
    ClientCall,
    CompletionMetadata,
    PendingCalls,
    client_call_of,
    metadata_of,
    rejoin_extension,
    token_count,
)
from rejoin_gateway.api.openai.tool_calls import wire_call_id
from rejoin_protocol.events import chunks
from rejoin_protocol.events.chunks import Chunk
from rejoin_protocol.events.typed_output import OutputAsText
from rejoin_protocol.ids import RUN_PREFIX, RunId

RESPONSE_ID_PREFIX = "resp_"
_RESPONSE_ID = re.compile(
    rf"{RESPONSE_ID_PREFIX}([0-9A-Za-z]{{26}}(?:-[0-9]{{1,3}})?)(?:_([1-9][0-9]{{0,8}}))?"
)
INCOMPLETE = {"length": "max_output_tokens", "content-filter": "content_filter", "tool-calls": None}
"""Our reasons for an early end → OpenAI's. It has no word for the end of the steps: `rejoin` says it."""
FINAL_EVENTS = frozenset({"response.completed", "response.failed", "response.incomplete"})
CREATED = "response.created"


def parse_response_id(id: str) -> tuple[RunId | None, int]:
    """The run of a response, and the turn with which it begins; no run if the id is not a response's."""
    match = _RESPONSE_ID.fullmatch(id)
    return (None, 0) if match is None else (RunId(RUN_PREFIX + match[1]), int(match[2] or 0))


class SequenceRange(NamedTuple):
    """Sequence numbers from `first` up to, but not including, `end`."""

    first: int
    end: int

    def holds(self, number: int) -> bool:
        """Whether the range contains `number`."""
        return self.first <= number < self.end


class ResponseEvent(NamedTuple):
    """One event of the stream, `{type, sequence_number, …}`."""

    body: dict[str, Any]

    @property
    def number(self) -> int:
        """The event's sequence number."""
        number: int = self.body["sequence_number"]
        return number

    @property
    def type(self) -> str:
        """The event's type."""
        type: str = self.body["type"]
        return type


class ResponseStream:
    """A response. Feed it the run's events in order, from the first one; it returns the response's events."""

    def __init__(self, run: CompletionMetadata) -> None:
        self._run = run
        self.number = 0
        """The next event's sequence number."""
        self.voided: list[SequenceRange] = []
        self.suspended_at = -1
        """The number of the last event that ended the response because the run waits; -1: none."""
        self.final: dict[str, Any] | None = None
        """The response as it ended; None before, and after it was continued."""
        self.is_over = False
        """Whether it has ended for good, although its run goes on: the client has calls to answer."""
        self._items: list[dict[str, Any]] = []
        self._open: dict[str, int] = {}
        self._deltas: dict[
            int, list[str]
        ] = {}  # text of open items that `_settle_item` has not put into them yet
        self._calls: dict[str, int] = {}
        self._pending_calls = PendingCalls()
        self._texts = OutputAsText()
        self._metadata: dict[str, Any] = {}
        self._error: str | None = None
        self._aborted = False
        self._step = (0, 0)  # number and items when the last step began

    def feed(self, event: Chunk) -> list[ResponseEvent]:
        """The response's events for the run's next event."""
        if self.is_over:
            return []
        return [made for chunk in self._texts.feed(event) for made in self._feed_shown(chunk)]

    def _feed_shown(self, chunk: Chunk) -> list[ResponseEvent]:
        self._pending_calls.feed(chunk)
        self._metadata |= metadata_of(chunk)
        match chunk:
            case chunks.Start():
                return self._start()
            case chunks.StartStep():
                self._step = (self.number, len(self._items))
            case chunks.ResetStep():
                self._reset()
            case chunks.Error(error_text=text):
                self._error = text
            case chunks.Abort():
                self._aborted = True
            case chunks.Finish(finish_reason=reason):
                return [self._finish("stop" if reason is UNSET else reason)]
            case _:
                return self._content(chunk)
        return []

    def body(self, status: str, *, fault: str | None = None, reason: str | None = None) -> dict[str, Any]:
        """The response object as of now. `fault`: why it failed; `reason`: why it is incomplete."""
        for index in self._open.values():
            self._settle_item(index)
        usage = self._usage()  # left out while it is not known: OpenAI's schema has no null for it
        return {
            "id": RESPONSE_ID_PREFIX + self._run.ulid,
            "object": "response",
            "created_at": self._run.created_s,
            "status": status,
            "error": None if fault is None else {"code": "server_error", "message": fault},
            "incomplete_details": None if reason is None else {"reason": reason},
            "instructions": None,
            "metadata": {},
            "model": self._run.agent,
            "output": [dict(item) for item in self._items],
            "parallel_tool_calls": True,
            "temperature": None,
            "tool_choice": "auto",
            "tools": [],
            "top_p": None,
            "text": {"format": {"type": "text"}},
            "truncation": "disabled",
            "conversation": {"id": self._run.session},
            **({} if usage is None else {"usage": usage}),
            "rejoin": rejoin_extension(self._run, self._pending_calls, self._metadata),
        }

    def _event(self, type: str, **fields: Any) -> ResponseEvent:
        event = ResponseEvent({"type": type, "sequence_number": self.number, **fields})
        self.number += 1
        return event

    # ------------------------------------------------------------------------------ begin and end

    def _start(self) -> list[ResponseEvent]:
        self.final = None
        response = self.body("in_progress")
        return [
            self._event(CREATED, response=response),
            self._event("response.in_progress", response=response),
        ]

    def _finish(self, reason: str) -> ResponseEvent:
        waits = self._pending_calls.pending or self._pending_calls.client
        self.is_over = bool(self._pending_calls.client)
        for item in () if waits else self._items:
            if item.get("status") == "in_progress":
                item["status"] = "incomplete"
        match self._error:
            case str(fault):
                type, self.final = "response.failed", self.body("failed", fault=fault)
            case _ if self._aborted:
                type, self.final = "response.incomplete", self.body("cancelled")
            case _ if self._pending_calls.pending:
                self.suspended_at = self.number
                type, self.final = "response.completed", self.body("completed")
            case _ if self.is_over:
                type, self.final = "response.completed", self.body("completed")
            case _ if reason in INCOMPLETE:
                type, self.final = "response.incomplete", self.body("incomplete", reason=INCOMPLETE[reason])
            case _:
                type, self.final = "response.completed", self.body("completed")
        return self._event(type, response=self.final)

    def _reset(self) -> None:
        number, items = self._step
        self.voided.append(SequenceRange(number, self.number))
        del self._items[items:]
        self._open = {id: index for id, index in self._open.items() if index < items}
        self._deltas = {index: texts for index, texts in self._deltas.items() if index < items}
        self._calls = {id: index for id, index in self._calls.items() if index < items}
        self._step = (self.number, items)

    def _usage(self) -> dict[str, Any] | None:
        if "usage" not in self._metadata:
            return None
        input = max(token_count(self._metadata, "inputTokens") - self._run.earlier.input_tokens, 0)
        output = max(token_count(self._metadata, "outputTokens") - self._run.earlier.output_tokens, 0)
        cached = token_count(self._metadata, "cachedInputTokens")
        return {
            "input_tokens": input,
            "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
            "output_tokens": output,
            "output_tokens_details": {"reasoning_tokens": token_count(self._metadata, "reasoningTokens")},
            "total_tokens": input + output,
        }

    # ------------------------------------------------------------------------------------ the output

    def _content(self, chunk: Chunk) -> list[ResponseEvent]:
        match chunk:
            case chunks.TextStart(id=id):
                return self._open_text(id)
            case chunks.TextDelta(id=id, delta=delta) if id in self._open:
                return [self._append_delta(self._open[id], delta)]
            case chunks.TextEnd(id=id) if id in self._open:
                return self._close_text(self._open.pop(id))
            case chunks.ReasoningStart(id=id):
                return self._open_summary(_reasoning_key(id))
            case chunks.ReasoningDelta(id=id, delta=delta) if _reasoning_key(id) in self._open:
                return [self._append_delta(self._open[_reasoning_key(id)], delta)]
            case chunks.ReasoningEnd(id=id) if _reasoning_key(id) in self._open:
                return self._close_summary(self._open.pop(_reasoning_key(id)))
            case _:
                return self._call_events(chunk)

    def _add(self, prefix: str, item: dict[str, Any]) -> tuple[int, ResponseEvent]:
        """Append an item. Its id follows from its index: after a reset the next item has the same id."""
        index = len(self._items)
        self._items.append({"id": f"{prefix}_{self._run.ulid}_{index}"} | item)
        shown = dict(self._items[index])
        return index, self._event("response.output_item.added", output_index=index, item=shown)

    def _done(self, index: int) -> ResponseEvent:
        shown = dict(self._items[index])
        return self._event("response.output_item.done", output_index=index, item=shown)

    def _at(self, index: int) -> dict[str, Any]:
        """The fields that name the item and the part that an event is about."""
        item = self._items[index]
        inner = "summary_index" if item["type"] == "reasoning" else "content_index"
        return {**self._item_at(index), inner: 0}

    def _item_at(self, index: int) -> dict[str, Any]:
        """The fields that name the item that an event is about."""
        return {"item_id": self._items[index]["id"], "output_index": index}

    def _append_delta(self, index: int, delta: str) -> ResponseEvent:
        self._deltas.setdefault(index, []).append(delta)
        if self._items[index]["type"] == "reasoning":
            return self._event("response.reasoning_summary_text.delta", **self._at(index), delta=delta)
        return self._event("response.output_text.delta", **self._at(index), delta=delta, logprobs=[])

    def _settle_item(self, index: int) -> dict[str, Any]:
        """Put the collected text into the item's part; the part. A new object: earlier events refer to the
        old one.
        """
        item = self._items[index]
        field = "summary" if item["type"] == "reasoning" else "content"
        (old,) = item[field]
        part: dict[str, Any] = old | {"text": old["text"] + "".join(self._deltas.pop(index, ()))}
        item[field] = [part]
        return part

    def _open_text(self, id: str) -> list[ResponseEvent]:
        message = {"type": "message", "role": "assistant", "status": "in_progress", "content": []}
        self._open[id], added = self._add("msg", message)
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        self._items[self._open[id]]["content"] = [part]
        return [added, self._event("response.content_part.added", **self._at(self._open[id]), part=part)]

    def _close_text(self, index: int) -> list[ResponseEvent]:
        self._items[index]["status"] = "completed"
        part, at = self._settle_item(index), self._at(index)
        return [
            self._event("response.output_text.done", **at, text=part["text"], logprobs=[]),
            self._event("response.content_part.done", **at, part=part),
            self._done(index),
        ]

    def _open_summary(self, id: str) -> list[ResponseEvent]:
        self._open[id], added = self._add("rs", {"type": "reasoning", "status": "in_progress", "summary": []})
        part = {"type": "summary_text", "text": ""}
        self._items[self._open[id]]["summary"] = [part]
        return [
            added,
            self._event("response.reasoning_summary_part.added", **self._at(self._open[id]), part=part),
        ]

    def _close_summary(self, index: int) -> list[ResponseEvent]:
        self._items[index]["status"] = "completed"
        part, at = self._settle_item(index), self._at(index)
        return [
            self._event("response.reasoning_summary_text.done", **at, text=part["text"]),
            self._event("response.reasoning_summary_part.done", **at, part=part),
            self._done(index),
        ]

    # -------------------------------------------------------------------------------------- the tools

    def _call_events(self, chunk: Chunk) -> list[ResponseEvent]:
        if (for_client := client_call_of(chunk)) is not None:
            return self._add_function_call(for_client)
        match chunk:
            case chunks.ToolInputAvailable(tool_call_id=call, tool_name=name, input=input) if (
                call not in self._calls
            ):
                return self._open_call(call, name, input)
            case chunks.ToolInputError(tool_call_id=call, tool_name=name, input=input, error_text=text):
                opened = [] if call in self._calls else self._open_call(call, name, input)
                return [*opened, *self._fail_call(call, text)]
            case chunks.ToolApprovalRequest(approval_id=id, tool_call_id=call) if call in self._calls:
                return self._request_approval(id, self._items[self._calls[call]])
            case chunks.ToolOutputAvailable(tool_call_id=call, output=output, preliminary=preliminary) if (
                call in self._calls and preliminary is not True
            ):
                return self._close_call(call, status="completed", output=_text(output))
            case chunks.ToolOutputError(tool_call_id=call, error_text=text) if call in self._calls:
                return self._fail_call(call, text)
            case chunks.ToolOutputDenied(tool_call_id=call) if call in self._calls:
                return self._fail_call(call, "denied")
            case _:
                return []

    def _open_call(self, call: str, name: str, input: Any) -> list[ResponseEvent]:
        item = {"type": "mcp_call", "status": "in_progress", "server_label": self._run.agent, "name": name}
        index, added = self._add("mcp", item | {"arguments": "", "output": None, "error": None})
        self._calls[call], arguments, at = index, _text(input), self._item_at(index)
        self._items[index]["arguments"] = arguments
        return [
            added,
            self._event("response.mcp_call.in_progress", **at),
            self._event("response.mcp_call_arguments.delta", **at, delta=arguments),
            self._event("response.mcp_call_arguments.done", **at, arguments=arguments),
        ]

    def _add_function_call(self, call: ClientCall) -> list[ResponseEvent]:
        item = {"type": "function_call", "status": "in_progress", "name": call.tool, "arguments": ""}
        index, added = self._add("fc", item | {"call_id": wire_call_id(self._run.run, call.call)})
        self._items[index] |= {"status": "completed", "arguments": call.arguments}
        at = self._item_at(index)
        return [
            added,
            self._event("response.function_call_arguments.delta", **at, delta=call.arguments),
            self._event(
                "response.function_call_arguments.done", **at, name=call.tool, arguments=call.arguments
            ),
            self._done(index),
        ]

    def _fail_call(self, call: str, text: str) -> list[ResponseEvent]:
        error = {"type": "mcp_tool_execution_error", "content": [{"type": "text", "text": text}]}
        return self._close_call(call, status="failed", error=error)

    def _close_call(self, call: str, *, status: str, **outcome: Any) -> list[ResponseEvent]:
        index = self._calls[call]
        self._items[index] |= {"status": status, **outcome}
        return [self._event(f"response.mcp_call.{status}", **self._item_at(index)), self._done(index)]

    def _request_approval(self, id: str, call: dict[str, Any]) -> list[ResponseEvent]:
        shown = {field: call[field] for field in ("server_label", "name", "arguments")}
        index, added = self._add("", {"id": id, "type": "mcp_approval_request"} | shown)
        call["approval_request_id"] = id
        return [added, self._done(index)]


def visible_events(
    events: Sequence[ResponseEvent], after: int, void: Sequence[SequenceRange]
) -> list[ResponseEvent]:
    """The events that a stream shows: those behind number `after` that are not in `void`.

    The log begins a new turn after each approval. `response.created` is shown only as a stream's first event.
    """
    return [
        event
        for event in events
        if event.number > after
        and (event.type != CREATED or event.number == after + 1)
        and not any(span.holds(event.number) for span in void)
    ]


def _reasoning_key(id: str) -> str:
    """The key of a reasoning part: text and reasoning may have the same id."""
    return f"reasoning {id}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
