"""What the pen lets out, and in which order, over a journal that only writes down."""

import pytest
from rejoin_protocol.events import chunks
from rejoin_protocol.events.chunks import Chunk, Data
from rejoin_protocol.log.record import Audience
from rejoin_runner.output.event_writer import QUEUED_OPERATIONS_MAX, EventWriter
from rejoin_runner.output.journal import EventTooLarge


class Paper:
    """A journal's two methods."""

    def __init__(self) -> None:
        self.said: list[Chunk] = []

    def encode(self, chunk: Chunk) -> bytes:
        """Refuse what a test calls huge."""
        if isinstance(chunk, Data) and chunk.data == "huge":
            raise EventTooLarge("huge")
        return b""

    async def emit(self, chunk: Chunk, audience: Audience = Audience.ALL) -> None:
        """Write it down."""
        assert audience
        self.encode(chunk)
        self.said.append(chunk)


def event_writer(interval_s: float = 60.0) -> tuple[EventWriter, Paper]:
    paper = Paper()
    return EventWriter(paper, interval_s), paper  # type: ignore[arg-type]


def note(data: object) -> Data:
    return Data(type="data-note", data=data)


START, END = chunks.TextStart(id="t"), chunks.TextEnd(id="t")


def delta(text: str) -> chunks.TextDelta:
    return chunks.TextDelta(id="t", delta=text)


async def test_an_aside_waits_for_the_end_of_the_text_and_for_nothing_else() -> None:
    writer, paper = event_writer(0)
    await writer.write_between_texts(note(1))
    for chunk in (START, delta("a")):
        await writer.write(chunk)
    await writer.write_between_texts(note(2))
    await writer.write_between_texts(note(3))
    await writer.write(delta("b"))
    await writer.write(END)
    assert paper.said == [note(1), START, delta("a"), delta("b"), END, note(2), note(3)]


async def test_the_queue_of_asides_is_bounded() -> None:
    writer, paper = event_writer(0)
    await writer.write(START)
    for number in range(QUEUED_OPERATIONS_MAX + 1):
        await writer.write_between_texts(note(number))
    assert paper.said == [START, *(note(number) for number in range(QUEUED_OPERATIONS_MAX + 1))]


async def test_what_is_too_large_is_refused_to_whom_says_it_and_disturbs_nobody_else() -> None:
    writer, paper = event_writer(0)
    await writer.write(START)
    with pytest.raises(EventTooLarge):
        await writer.write_between_texts(note("huge"))
    await writer.write(END)
    assert paper.said == [START, END]


async def test_a_flush_says_all_that_is_held_text_first() -> None:
    """As an interrupt or a failure does, before the open parts are closed."""
    writer, paper = event_writer()
    for chunk in (START, delta("one "), delta("two thr")):
        await writer.write(chunk)
    await writer.write_between_texts(note(1))
    assert paper.said == [START, delta("one ")]
    await writer.flush()
    await writer.write(END)
    assert paper.said == [START, delta("one "), delta("two thr"), note(1), END]


async def test_a_text_and_a_reasoning_of_one_id_are_two_parts() -> None:
    writer, paper = event_writer()
    await writer.write(delta("text"))
    await writer.write(chunks.ReasoningDelta(id="t", delta="thought"))
    await writer.flush()
    assert paper.said == [delta("text"), chunks.ReasoningDelta(id="t", delta="thought")]


async def test_what_a_provider_attached_to_a_delta_is_kept() -> None:
    """Also to one that is held, and to one without text."""
    writer, paper = event_writer()
    marked = {"p": {"x": 1}}
    await writer.write(chunks.TextDelta(id="t", delta="wo", provider_metadata=marked))
    await writer.write(delta("rd"))
    await writer.write(END)
    await writer.write(chunks.TextDelta(id="u", delta="", provider_metadata=marked))
    await writer.write(chunks.TextEnd(id="u"))
    assert paper.said == [
        chunks.TextDelta(id="t", delta="word", provider_metadata=marked),
        END,
        chunks.TextDelta(id="u", delta="", provider_metadata=marked),
        chunks.TextEnd(id="u"),
    ]
