"""The chunks of a streamed chat completion. Pure.

Only what an answer is made of is read: services add fields, and leave out fields, that the API has.
"""

import json
from typing import Any

import msgspec

from rejoin_runner.models.model import Usage


class FunctionDelta(msgspec.Struct):
    """A piece of a called function. Some services send `arguments` as an object."""

    name: str | None = None
    arguments: Any = None


class CallDelta(msgspec.Struct):
    """A piece of a tool call. `index` and `id` may be missing, repeated or wrong: see `tool_calls`."""

    index: Any = None
    id: Any = None
    function: FunctionDelta | None = None
    extra_content: dict[str, Any] | None = None
    """Gemini's signature of a thought, which it needs back with the call."""


class Delta(msgspec.Struct):
    """What a chunk adds. `content` is a list of parts on some services."""

    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    refusal: str | None = None
    tool_calls: list[CallDelta] | None = None
    annotations: Any = None
    reasoning_details: Any = None


class Choice(msgspec.Struct):
    """The only choice. Azure leaves `delta` out, also in the chunk with the finish reason."""

    delta: Delta | None = None
    finish_reason: str | None = None


class ChatChunk(msgspec.Struct):
    """One chunk. Azure leaves `choices` out or empty; Groq's usage is in `x_groq`."""

    choices: list[Choice] | None = None
    usage: Any = None
    x_groq: Any = None
    error: Any = None
    model: Any = None


_decoder = msgspec.json.Decoder(ChatChunk)


def decode_chunk(data: bytes) -> ChatChunk:
    """The chunk of an event's data. Raises `ValueError` if it is none."""
    try:
        return _decoder.decode(data)
    except msgspec.ValidationError:
        raise
    except ValueError:  # half a character in an escape, which JSON allows, or bytes that are not UTF-8
        return msgspec.convert(json.loads(data.decode(errors="replace")), ChatChunk)


class UsageCount:
    """The usage of an answer, however a service reports it: once, in pieces, or growing in every chunk.

    Each count that is reported again replaces the one before; a missing, null or zero one does not.
    """

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def add(self, usage: object) -> None:
        """A chunk's usage."""
        if not isinstance(usage, dict):
            return
        self._keep(usage, "prompt_tokens", "completion_tokens", "total_tokens", "prompt_cache_hit_tokens")
        self._keep(usage.get("prompt_tokens_details"), "cached_tokens")
        self._keep(usage.get("completion_tokens_details"), "reasoning_tokens")

    def _keep(self, counts: object, *names: str) -> None:
        if not isinstance(counts, dict):
            return
        for name in names:
            count = counts.get(name)
            if isinstance(count, int | float) and count > 0:
                self._counts[name] = int(count)

    def sum(self) -> Usage:
        """The true totals: some services count reasoning in the total only."""
        count = self._counts.get
        tokens_in = count("prompt_tokens", 0)
        tokens_out = max(count("completion_tokens", 0), count("total_tokens", 0) - tokens_in)
        if not tokens_in and "completion_tokens" in self._counts:
            tokens_out = count("completion_tokens", 0)
        cached = count("cached_tokens", count("prompt_cache_hit_tokens", 0))
        return Usage(tokens_in, tokens_out, cached, count("reasoning_tokens", 0))
