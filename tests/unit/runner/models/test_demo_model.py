"""The demo model gives the same answer to the same message."""

import pytest

from rejoin_protocol.events import chunks
from rejoin_protocol.events.fold import MessageDict
from rejoin_runner.models.demo_model import DemoModel
from rejoin_runner.models.model import Done, ModelChunk, ModelError, ModelRequest


def request(text: str, *parts: dict[str, object]) -> ModelRequest:
    user: MessageDict = {"id": "u", "role": "user", "parts": [{"type": "text", "text": text}]}
    answer: MessageDict = {"id": "m", "role": "assistant", "parts": list(parts)}
    return ModelRequest("", [user], answer, [], 0)


async def said(asked: ModelRequest) -> list[ModelChunk | Done]:
    return [item async for item in DemoModel().stream(asked)]


def text(items: list[ModelChunk | Done]) -> str:
    return "".join(item.delta for item in items if isinstance(item, chunks.TextDelta))


async def test_count_is_one_segment_one_number_at_a_time() -> None:
    items = await said(request("count 4 every 1 ms"))
    deltas = [item.delta for item in items if isinstance(item, chunks.TextDelta)]
    assert deltas == ["1", " 2", " 3", " 4"]
    assert items[0] == chunks.TextStart(id="t")
    assert isinstance(items[-1], Done)


@pytest.mark.parametrize("words", ["count 3", "weather Oslo", "delete a.txt", "think", "sleep 0", "anything"])
async def test_the_same_words_get_the_same_answer(words: str) -> None:
    assert await said(request(words)) == await said(request(words))


@pytest.mark.parametrize(
    ("words", "input"),
    [
        ("weather São Paulo", {"city": "São Paulo"}),
        ('delete a "b".txt', {"file": 'a "b".txt'}),
        ("sleep 2", {"seconds": 2.0}),
        ("sleep long", {"seconds": "long"}),
    ],
)
async def test_a_tools_arguments_are_streamed_and_then_complete(words: str, input: object) -> None:
    items = await said(request(words))
    [available] = [item for item in items if isinstance(item, chunks.ToolInputAvailable)]
    assert available.input == input


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        ({"type": "tool-weather", "state": "output-available", "output": "It rains."}, "It rains."),
        ({"type": "tool-delete", "state": "output-denied"}, "You said no, so I left it alone."),
        ({"type": "tool-x", "state": "output-error", "errorText": "no"}, "That did not work: no"),
    ],
)
async def test_a_tools_outcome_becomes_a_sentence(part: dict[str, object], sentence: str) -> None:
    assert text(await said(request("weather Oslo", part))) == sentence


async def test_text_is_said_back_whole_whatever_is_in_it() -> None:
    words = "two  spaces\nand a line "
    assert text(await said(request(words))).startswith(f"You said: {words.strip()}\n\n")


async def test_fail_fails_in_the_middle_of_a_sentence() -> None:
    with pytest.raises(ModelError):
        await said(request("fail"))
