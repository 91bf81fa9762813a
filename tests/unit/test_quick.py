"""The quick client takes a stream's chunks as its base does."""

from typing import Any

import httpx2
import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionChunk

from runner.models.quick import QuickOpenAI

TEXT = {"index": 0, "delta": {"content": "hi", "reasoning_content": "hm"}, "finish_reason": None}
CALL = {
    "index": 0,
    "delta": {"tool_calls": [{"index": 0, "id": "c", "type": "function", "function": {"name": "look"}}]},
    "finish_reason": "tool_calls",
}
USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
FRAME = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}


@pytest.mark.parametrize(
    "data",
    [
        FRAME | {"choices": [TEXT]},
        FRAME | {"choices": [CALL], "system_fingerprint": "f"},
        FRAME | {"choices": [], "usage": USAGE | {"cost": 0.1}},
        FRAME | {"choices": [TEXT | {"finish_reason": "because"}]},
        {"choices": [TEXT], "created": "some day"},
        {"choices": None},
        {},
    ],
)
async def test_a_chunk_is_what_the_slow_way_makes_of_it(data: dict[str, Any]) -> None:
    """Also one with words that the protocol does not have, or without those that it has."""
    made = []
    for client in (QuickOpenAI(api_key="k"), AsyncOpenAI(api_key="k")):
        async with client:
            response = httpx2.Response(200)
            chunk = client._process_response_data(data=data, cast_to=ChatCompletionChunk, response=response)
            made.append((chunk, repr(chunk), chunk.model_fields_set, chunk.model_extra))
    assert made[0] == made[1]
