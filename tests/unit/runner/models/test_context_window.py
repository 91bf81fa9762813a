"""`ContextWindow`: which messages the model receives, and what replaces the others."""

from collections.abc import AsyncGenerator
from typing import Any

import msgspec
import pytest

from rejoin_protocol.events.chunks import TextDelta, TextEnd, TextStart
from rejoin_runner.models.compaction import (
    OUTPUT_CHARS_MAX,
    QUESTION,
    Compaction,
    apply_compaction,
    compact_history,
)
from rejoin_runner.models.context_window import ContextWindow, fit_history
from rejoin_runner.models.model import Done, ModelChunk, ModelError, ModelRequest, Usage

CALL = {
    "type": "tool-weather",
    "toolCallId": "c1",
    "state": "output-available",
    "input": {"city": "Oslo"},
    "output": {"t": 1},
}


def said(id: str, role: str, *parts: dict[str, Any] | str) -> dict[str, Any]:
    made = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    return {"id": id, "role": role, "parts": made}


def talk(turns: int, text: str = "four") -> list[dict[str, Any]]:
    """So many questions and answers: u0 a0 u1 a1 …, each of one estimated token."""
    return [
        said(f"{role[0]}{turn}", role, text if role == "user" else {"type": "text", "text": text})
        for turn in range(turns)
        for role in ("user", "assistant")
    ]


def ids(history: list[dict[str, Any]]) -> str:
    return " ".join(message["id"] for message in history)


class Summarises(msgspec.Struct):
    """Answers `text`, and records its requests."""

    text: str = "They spoke."
    asked: list[ModelRequest] = []

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk | Done]:
        self.asked.append(request)
        yield TextStart("t")
        yield TextDelta("t", self.text)
        yield TextEnd("t")
        yield Done("stop", Usage(7, 3))


@pytest.mark.parametrize(
    ("window", "kept"),
    [
        (ContextWindow(), "u0 a0 u1 a1 u2 a2 u3"),
        (ContextWindow(messages_max=7), "u0 a0 u1 a1 u2 a2 u3"),
        (ContextWindow(messages_max=6), "u1 a1 u2 a2 u3"),
        (ContextWindow(messages_max=4), "u2 a2 u3"),
        (ContextWindow(messages_max=1), "u3"),
        (ContextWindow(messages_max=0), "u3"),
        (ContextWindow(tokens_max=5), "u1 a1 u2 a2 u3"),
        (ContextWindow(tokens_max=4), "u2 a2 u3"),
        (ContextWindow(tokens_max=0), "u3"),
        (ContextWindow(messages_max=5, keep_first=1), "u0 a0 u2 a2 u3"),
        (ContextWindow(tokens_max=1, keep_first=2), "u0 a0 u1 a1 u3"),
        (ContextWindow(tokens_max=1, keep_first=9), "u0 a0 u1 a1 u2 a2 u3"),
    ],
)
def test_the_oldest_turns_go_first_and_whole(window: ContextWindow, kept: str) -> None:
    history = talk(4)[:-1]
    found, dropped = fit_history(history, window)
    assert ids(found) == kept
    assert dropped == len(history) - len(found)


def test_nothing_is_a_history_too() -> None:
    assert fit_history([], ContextWindow(messages_max=1)) == ([], 0)


def test_a_call_and_its_result_stay_together() -> None:
    """They are one message; several answers to one question are one turn."""
    history = [
        said("u0", "user", "go"),
        said("a0", "assistant", CALL),
        said("a1", "assistant", "done"),
        *talk(1),
    ]
    assert ids(fit_history(history, ContextWindow(messages_max=4))[0]) == "u0 a0"
    assert [message["parts"] for message in fit_history(history, ContextWindow(messages_max=4))[0]] == [
        history[3]["parts"],
        history[4]["parts"],
    ]


def test_a_system_message_is_never_dropped() -> None:
    history = [said("s", "system", "be kind"), *talk(3)]
    assert (
        ids(fit_history(history, ContextWindow(messages_max=3))[0]),
        fit_history(history, ContextWindow(messages_max=3))[1],
    ) == (
        "s u2 a2",
        4,
    )


def test_questions_in_a_row_are_one_turn() -> None:
    history = [said("u0", "user", "a"), said("u1", "user", "b"), said("a1", "assistant", "c"), *talk(1)]
    assert fit_history(history, ContextWindow(messages_max=4))[1] == 3


async def test_a_conversation_that_fits_is_shown_as_it_is_and_nobody_is_asked() -> None:
    model = Summarises()
    assert await compact_history(model, talk(2), ContextWindow(messages_max=4)) == (talk(2), None)
    assert model.asked == []


async def test_what_is_left_out_is_summed_up_in_a_note_in_front() -> None:
    model = Summarises()
    history = talk(6)[:-1]
    found, compaction = await compact_history(model, history, ContextWindow(messages_max=8), tenant="t1")
    assert compaction == Compaction(text="They spoke.", after="", upto="a4", messages=10, usage=Usage(7, 3))
    assert ids(found) == "compaction-user compaction-assistant u5"
    assert [message["parts"][0]["text"] for message in found[:2]] == [QUESTION, "They spoke."]
    (asked,) = model.asked
    assert asked.tenant == "t1"
    assert asked.tools == []
    assert asked.history[0]["parts"][0]["text"].startswith("User: four\n\nAssistant: four\n\n")


async def test_a_stored_compaction_shows_the_same_again_without_asking() -> None:
    """Also in the next turn, and after the way through JSON."""
    model = Summarises()
    history = talk(6)
    found, compaction = await compact_history(model, history[:-1], ContextWindow(messages_max=8))
    stored = msgspec.json.decode(msgspec.json.encode(compaction), type=Compaction)
    assert apply_compaction(history[:-1], stored) == found
    assert await compact_history(model, history[:-1], ContextWindow(messages_max=8), earlier=stored) == (
        found,
        None,
    )
    later = [*history, said("u6", "user", "and?")]
    again, new = await compact_history(model, later, ContextWindow(messages_max=8), earlier=stored)
    assert (ids(again), new) == ("compaction-user compaction-assistant u5 a5 u6", None)
    assert len(model.asked) == 1


async def test_a_note_that_no_longer_suffices_is_summed_up_with_the_rest() -> None:
    model = Summarises()
    _, earlier = await compact_history(model, talk(6)[:-1], ContextWindow(messages_max=8))
    model.text = "They spoke on."
    found, new = await compact_history(model, talk(10)[:-1], ContextWindow(messages_max=8), earlier=earlier)
    assert new == Compaction(text="They spoke on.", after="", upto="a8", messages=18, usage=Usage(7, 3))
    assert ids(found) == "compaction-user compaction-assistant u9"
    told = model.asked[1].history[0]["parts"][0]["text"]
    assert told.startswith("Earlier: They spoke.\n\nUser: four")
    assert told.count("User:") == 4


async def test_the_first_turns_stay_in_front_of_the_note() -> None:
    found, compaction = await compact_history(
        Summarises(), talk(6), ContextWindow(messages_max=8, keep_first=1)
    )
    assert compaction is not None
    assert (compaction.after, compaction.messages) == ("a0", 8)
    assert ids(found) == "u0 a0 compaction-user compaction-assistant u5 a5"
    assert apply_compaction(talk(6), compaction) == found


@pytest.mark.parametrize(
    "compaction",
    [
        Compaction(text="x", after="", upto="gone", messages=2),
        Compaction(text="x", after="gone", upto="a0", messages=2),
        Compaction(text="x", after="a0", upto="u0", messages=2),
        Compaction(text="x", after="", upto="a1", messages=4),
    ],
)
def test_a_note_about_another_past_is_not_used(compaction: Compaction) -> None:
    """The conversation was edited or cut since; its last message is never behind a note."""
    assert apply_compaction(talk(2), compaction) == talk(2)


async def test_the_model_reads_calls_and_not_the_bytes_of_files() -> None:
    model = Summarises()
    image = {"type": "file", "mediaType": "image/png", "url": "data:image/png;base64,AAAA"}
    long = CALL | {"output": "x" * (OUTPUT_CHARS_MAX + 1)}
    history = [said("u0", "user", "look", image), said("a0", "assistant", CALL, long), *talk(1)]
    await compact_history(model, history, ContextWindow(messages_max=2))
    text = model.asked[0].history[0]["parts"][0]["text"]
    assert text == (
        "User: look\n\nUser: [file image/png]\n\n"
        'Assistant: [weather({"city":"Oslo"}) gave {"t":1}]\n\n'
        f'Assistant: [weather({{"city":"Oslo"}}) gave {"x" * OUTPUT_CHARS_MAX}]'
    )


async def test_a_model_without_a_summary_is_an_error() -> None:
    with pytest.raises(ModelError, match="no summary"):
        await compact_history(Summarises(" "), talk(4), ContextWindow(messages_max=2))
