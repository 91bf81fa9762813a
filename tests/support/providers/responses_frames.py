"""Frames of OpenAI's Responses stream: `response(reasoning("rs_1", "gAAA", "hm"), text("msg_1", "Hi"))`.

An item is a function of its place in the output, because every frame of it names that place.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any

from tests.support.providers.server import ProviderReply

type Event = dict[str, Any]
type Item = Callable[[int], tuple[list[Event], Event]]
"""The events of an item, and the item when it is complete."""


def frames(events: Sequence[Event]) -> list[bytes]:
    serial = count()
    return [
        f"event: {one['type']}\ndata: {json.dumps(one | {'sequence_number': next(serial)})}\n\n".encode()
        for one in events
    ]


def state(kind: str, status: str, output: Sequence[Event] = (), **fields: object) -> Event:
    said: dict[str, object] = {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "model": "gpt-5",
        "status": status,
        "output": list(output),
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        **fields,
    }
    return {"type": f"response.{kind}", "response": said}


def usage(tokens_in: int, tokens_out: int, cached: int = 0, reasoned: int = 0) -> Event:
    return {
        "input_tokens": tokens_in,
        "input_tokens_details": {"cached_tokens": cached},
        "output_tokens": tokens_out,
        "output_tokens_details": {"reasoning_tokens": reasoned},
        "total_tokens": tokens_in + tokens_out,
    }


def response(*items: Item, sums: Event | None = None, incomplete: str | None = None) -> ProviderReply:
    """A whole answer; with `incomplete`, one that ends early for this reason."""
    begun = [state("created", "in_progress"), state("in_progress", "in_progress")]
    made = [item(index) for index, item in enumerate(items)]
    events = [event for item_events, _ in made for event in item_events]
    status = "incomplete" if incomplete else "completed"
    details = {"incomplete_details": {"reason": incomplete}} if incomplete else {}
    done = state(status, status, [item for _, item in made], usage=sums or usage(3, 5), **details)
    return ProviderReply(frames([*begun, *events, done]), "eof")


def _around(index: int, empty: Event, full: Event, inner: Iterator[Event]) -> tuple[list[Event], Event]:
    added = {"type": "response.output_item.added", "output_index": index, "item": empty}
    done = {"type": "response.output_item.done", "output_index": index, "item": full}
    return [added, *inner, done], full


def reasoning(item_id: str, encrypted: str, *summaries: str) -> Item:
    """A reasoning item: its summaries stream, what they sum up comes encrypted at its end."""

    def make(index: int) -> tuple[list[Event], Event]:
        empty = {"type": "reasoning", "id": item_id, "summary": []}
        parts = [{"type": "summary_text", "text": summary} for summary in summaries]
        full = empty | {"summary": parts, "encrypted_content": encrypted}
        where = {"item_id": item_id, "output_index": index}

        def inner() -> Iterator[Event]:
            for number, summary in enumerate(summaries):
                here = where | {"summary_index": number}
                blank = {"type": "summary_text", "text": ""}
                yield {"type": "response.reasoning_summary_part.added", "part": blank, **here}
                for piece in (summary[:2], summary[2:]):
                    yield {"type": "response.reasoning_summary_text.delta", "delta": piece, **here}
                yield {"type": "response.reasoning_summary_text.done", "text": summary, **here}
                yield {"type": "response.reasoning_summary_part.done", "part": parts[number], **here}

        return _around(index, empty, full, inner())

    return make


def text(item_id: str, *pieces: str, annotations: Sequence[Event] = ()) -> Item:
    def make(index: int) -> tuple[list[Event], Event]:
        empty: Event = {"type": "message", "id": item_id, "role": "assistant", "content": []}
        whole = {"type": "output_text", "text": "".join(pieces), "annotations": list(annotations)}
        full = empty | {"status": "completed", "content": [whole]}
        empty["status"] = "in_progress"
        where = {"item_id": item_id, "output_index": index, "content_index": 0}

        def inner() -> Iterator[Event]:
            blank = {"type": "output_text", "text": "", "annotations": []}
            yield {"type": "response.content_part.added", "part": blank, **where}
            for piece in pieces:
                yield {"type": "response.output_text.delta", "delta": piece, "logprobs": [], **where}
            for number, one in enumerate(annotations):
                yield {
                    "type": "response.output_text.annotation.added",
                    "annotation_index": number,
                    "annotation": one,
                    **where,
                }
            yield {"type": "response.output_text.done", "text": whole["text"], "logprobs": [], **where}
            yield {"type": "response.content_part.done", "part": whole, **where}

        return _around(index, empty, full, inner())

    return make


def call(item_id: str, call_id: str, name: str, *arguments: str) -> Item:
    def make(index: int) -> tuple[list[Event], Event]:
        empty = {
            "type": "function_call",
            "id": item_id,
            "call_id": call_id,
            "name": name,
            "arguments": "",
            "status": "in_progress",
        }
        whole = "".join(arguments)
        where = {"item_id": item_id, "output_index": index}

        def inner() -> Iterator[Event]:
            for piece in arguments:
                yield {"type": "response.function_call_arguments.delta", "delta": piece, **where}
            yield {"type": "response.function_call_arguments.done", "arguments": whole, "name": name, **where}

        return _around(index, empty, empty | {"arguments": whole, "status": "completed"}, inner())

    return make


def image(item_id: str, png: str) -> Item:
    """A picture that the model made, base64."""

    def make(index: int) -> tuple[list[Event], Event]:
        empty = {"type": "image_generation_call", "id": item_id, "status": "in_progress", "result": None}
        return _around(
            index, empty, empty | {"status": "completed", "output_format": "png", "result": png}, iter(())
        )

    return make


def error(code: str = "server_error") -> bytes:
    """A failure within the stream."""
    failed = state("failed", "failed", error={"code": code, "message": "secret sk-1234 at 10.0.0.1"})
    return frames([failed])[0]
