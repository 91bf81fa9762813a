"""`Fallback` tries its models in order until one begins to answer."""

from collections.abc import AsyncGenerator

import msgspec
import pytest

from rejoin_protocol.errors import Invalid
from rejoin_protocol.events.chunks import TextDelta, TextEnd, TextStart
from rejoin_runner.models.fallback import Fallback
from rejoin_runner.models.model import Done, ModelChunk, ModelError, ModelRequest, build_question

ASKED = build_question("", "hi")


class Says(msgspec.Struct):
    """Yields a word, and fails before or after it as configured. Counts its calls and closed streams."""

    word: str
    fails: str = ""
    retryable: bool = True
    asked: int = 0
    left: int = 0

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk | Done]:
        assert request is ASKED
        self.asked += 1
        try:
            if self.fails == "before":
                raise ModelError(f"{self.word} is busy", retryable=self.retryable)
            yield TextStart("t")
            yield TextDelta("t", self.word)
            if self.fails == "after":
                raise ModelError(f"{self.word} broke off", retryable=self.retryable)
            yield TextEnd("t")
            yield Done("stop")
        finally:
            self.left += 1


async def words(model: Fallback) -> list[str]:
    return [item.delta async for item in model.stream(ASKED) if isinstance(item, TextDelta)]


async def test_the_first_that_answers_is_taken_and_no_other_asked() -> None:
    first, second = Says("a"), Says("b")
    assert await words(Fallback([first, second])) == ["a"]
    assert (first.asked, second.asked) == (1, 0)


async def test_the_next_one_is_asked_when_one_cannot_begin() -> None:
    models = [Says("a", "before"), Says("b", "before"), Says("c")]
    assert await words(Fallback(models)) == ["c"]
    assert [model.left for model in models] == [1, 1, 1]


async def test_what_the_last_one_raised_is_the_error() -> None:
    with pytest.raises(ModelError, match="b is busy") as caught:
        await words(Fallback([Says("a", "before"), Says("b", "before")]))
    assert caught.value.retryable


async def test_a_model_that_has_spoken_is_not_left() -> None:
    second = Says("b")
    with pytest.raises(ModelError, match="a broke off"):
        await words(Fallback([Says("a", "after"), second]))
    assert second.asked == 0


async def test_what_another_model_would_refuse_as_well_is_an_error_at_once() -> None:
    second = Says("b")
    with pytest.raises(ModelError, match="a is busy"):
        await words(Fallback([Says("a", "before", retryable=False), second]))
    assert second.asked == 0


async def test_closing_it_closes_the_model_that_speaks() -> None:
    first = Says("a")
    stream = Fallback([first, Says("b")]).stream(ASKED)
    assert await anext(stream) == TextStart("t")
    await stream.aclose()
    assert first.left == 1


def test_no_model_at_all_is_refused() -> None:
    with pytest.raises(Invalid, match="needs a model"):
        Fallback([])
