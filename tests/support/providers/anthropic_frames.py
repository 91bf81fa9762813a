"""Frames of Anthropic's Messages stream: `Reply(message(thinking(0, "hm", "sig"), text(1, "Hi")), "eof")`.

A block is a list of frames with its index; `message` puts the opening and the end around the blocks.
"""

import json
from collections.abc import Sequence
from typing import Any

from tests.support.providers.server import ProviderReply

type Block = Sequence[bytes]


def event(kind: str, **fields: object) -> bytes:
    """One server-sent event, named as the API names it."""
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


def opening(*, tokens_in: int = 3, cached: int = 0) -> bytes:
    usage = {"input_tokens": tokens_in, "output_tokens": 1, "cache_read_input_tokens": cached}
    said: dict[str, object] = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-fake",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
    }
    return event("message_start", message=said)


def closing(reason: str = "end_turn", *, tokens_out: int = 5) -> Block:
    return [
        event(
            "message_delta",
            delta={"stop_reason": reason, "stop_sequence": None},
            usage={"output_tokens": tokens_out},
        ),
        event("message_stop"),
    ]


def message(
    *blocks: Block, reason: str = "end_turn", tokens_in: int = 3, cached: int = 0, tokens_out: int = 5
) -> ProviderReply:
    """A whole answer, with a ping in it as the real one has."""
    frames = [opening(tokens_in=tokens_in, cached=cached), event("ping")]
    frames += [frame for block in blocks for frame in block]
    return ProviderReply([*frames, *closing(reason, tokens_out=tokens_out)], "eof")


def _block(index: int, start: dict[str, Any], *deltas: dict[str, Any]) -> Block:
    return [
        event("content_block_start", index=index, content_block=start),
        *(event("content_block_delta", index=index, delta=delta) for delta in deltas),
        event("content_block_stop", index=index),
    ]


def text(index: int, *pieces: str, citations: Sequence[dict[str, Any]] = ()) -> Block:
    return _block(
        index,
        {"type": "text", "text": ""},
        *({"type": "text_delta", "text": piece} for piece in pieces),
        *({"type": "citations_delta", "citation": citation} for citation in citations),
    )


def thinking(index: int, thought: str, signature: str) -> Block:
    half = len(thought) // 2
    return _block(
        index,
        {"type": "thinking", "thinking": "", "signature": ""},
        {"type": "thinking_delta", "thinking": thought[:half]},
        {"type": "thinking_delta", "thinking": thought[half:]},
        {"type": "signature_delta", "signature": signature},
    )


def redacted(index: int, data: str) -> Block:
    return _block(index, {"type": "redacted_thinking", "data": data})


def tool_use(index: int, call_id: str, name: str, *arguments: str) -> Block:
    return _block(
        index,
        {"type": "tool_use", "id": call_id, "name": name, "input": {}},
        *({"type": "input_json_delta", "partial_json": piece} for piece in arguments),
    )


def error(kind: str = "overloaded_error") -> bytes:
    """A failure within the stream."""
    return event("error", error={"type": kind, "message": "secret sk-1234 at 10.0.0.1"})
