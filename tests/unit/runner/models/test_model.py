"""The types between the run and a model: usage, settings, errors."""

from collections.abc import AsyncGenerator
from typing import Any

import msgspec
import pytest

from rejoin_protocol.events.chunks import (
    ReasoningDelta,
    ReasoningEnd,
    ReasoningStart,
    TextDelta,
    TextEnd,
    TextStart,
)
from rejoin_runner.models.model import (
    Done,
    ModelChunk,
    ModelRequest,
    ModelSettings,
    Usage,
    build_question,
    collect_answer,
)


class Thinks(msgspec.Struct):
    """Thinks, then answers in two pieces."""

    asked: list[ModelRequest] = []

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk | Done]:
        self.asked.append(request)
        yield ReasoningStart("r")
        yield ReasoningDelta("r", "hm")
        yield ReasoningEnd("r")
        yield TextStart("t")
        yield TextDelta("t", "Par")
        yield TextDelta("t", "is")
        yield TextEnd("t")
        yield Done("stop", Usage(3, 2, 1, 1))


def test_usages_add_up() -> None:
    assert Usage(1, 2, 3, 4) + Usage(10, 20, 30, 40) == Usage(11, 22, 33, 44)
    assert sum([Usage(1, 2), Usage(3, 4)], Usage()) == Usage(4, 6)


def test_a_usage_is_reported_in_the_words_of_the_ai_sdk_and_read_again() -> None:
    usage = Usage(10, 20, 4, 6)
    assert usage.to_metadata() == {
        "inputTokens": 10,
        "outputTokens": 20,
        "cachedInputTokens": 4,
        "reasoningTokens": 6,
        "totalTokens": 30,
    }
    assert Usage.parse(usage.to_metadata()) == usage


@pytest.mark.parametrize("odd", [None, {}, [], {"inputTokens": "many"}, "x"])
def test_what_is_no_usage_counts_as_none(odd: Any) -> None:
    assert Usage.parse(odd) == Usage()


async def test_a_question_is_answered_with_the_text_alone() -> None:
    """And with what it cost."""
    model = Thinks()
    settings = ModelSettings(max_tokens=9)
    request = build_question("Be brief.", "Capital of France?", tenant="t", settings=settings)
    assert await collect_answer(model, request) == ("Paris", Usage(3, 2, 1, 1))
    (asked,) = model.asked
    assert (asked.instructions, asked.tools, asked.step, asked.tenant) == ("Be brief.", [], 0, "t")
    assert asked.settings == settings
    assert [part["text"] for part in asked.history[0]["parts"]] == ["Capital of France?"]
    assert asked.answer["parts"] == []
