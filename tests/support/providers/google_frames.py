"""Frames of Gemini's `streamGenerateContent`: `Reply([frame({"text": "Hi"}, finish="STOP")], "eof")`."""

import json
from typing import Any


def frame(*parts: dict[str, Any], finish: str | None = None, usage: tuple[int, int] | None = None) -> bytes:
    """One event. `usage`: tokens of the prompt and of the answer so far."""
    candidate: dict[str, Any] = {"index": 0, "content": {"role": "model", "parts": list(parts)}}
    if finish is not None:
        candidate["finishReason"] = finish
    said: dict[str, Any] = {"candidates": [candidate], "modelVersion": "gemini-fake", "responseId": "r1"}
    if usage is not None:
        tokens_in, tokens_out = usage
        said["usageMetadata"] = {
            "promptTokenCount": tokens_in,
            "candidatesTokenCount": tokens_out,
            "totalTokenCount": tokens_in + tokens_out,
        }
    return f"data: {json.dumps(said)}\n\n".encode()


def call(name: str, arguments: str) -> dict[str, Any]:
    """A call, which is always whole here, and has no id."""
    return {"functionCall": {"name": name, "args": json.loads(arguments)}}
