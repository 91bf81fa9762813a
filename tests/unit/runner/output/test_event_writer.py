"""`EventWriter`: which events it emits, in which order. The journal is a double that records chunks."""

import pytest
from msgspec import UNSET

from rejoin_protocol.errors import Invalid
from rejoin_protocol.events import chunks
from rejoin_protocol.events.chunks import Chunk, Data
from rejoin_protocol.limits import EVENT_BYTES_MAX
from rejoin_protocol.log.record import Audience
from rejoin_runner.output.event_writer import QUEUED_OPERATIONS_MAX, EventWriter
from rejoin_runner.output.journal import EventTooLarge


class RecordingJournal:
    """The two methods of a journal that the writer calls."""

    def __init__(self) -> None:
        self.emitted: list[Chunk] = []

    def encode(self, chunk: Chunk) -> bytes:
        """Refuse a data part with the value "huge"."""
        if isinstance(chunk, Data) and chunk.data == "huge":
            raise EventTooLarge("huge")
        return b""

    async def emit(self, chunk: Chunk, audience: Audience = Audience.ALL) -> None:
        """Record the chunk."""
        assert audience
        self.encode(chunk)
        self.emitted.append(chunk)


def event_writer(interval_s: float = 60.0) -> tuple[EventWriter, RecordingJournal]:
    journal = RecordingJournal()
    return EventWriter(journal, interval_s), journal  # type: ignore[arg-type]


def operation(data: object) -> Data:
    return Data(type="data-operation", data=data)


START, END = chunks.TextStart(id="t"), chunks.TextEnd(id="t")


def delta(text: str) -> chunks.TextDelta:
    return chunks.TextDelta(id="t", delta=text)


async def test_an_operation_waits_for_the_end_of_the_open_text_and_for_nothing_else() -> None:
    writer, journal = event_writer(0)
    await writer.write_between_texts(operation(1))
    for chunk in (START, delta("a")):
        await writer.write(chunk)
    await writer.write_between_texts(operation(2))
    await writer.write_between_texts(operation(3))
    await writer.write(delta("b"))
    await writer.write(END)
    assert journal.emitted == [operation(1), START, delta("a"), delta("b"), END, operation(2), operation(3)]


async def test_the_queue_of_operations_is_bounded() -> None:
    writer, journal = event_writer(0)
    await writer.write(START)
    for number in range(QUEUED_OPERATIONS_MAX + 1):
        await writer.write_between_texts(operation(number))
    assert journal.emitted == [START, *(operation(number) for number in range(QUEUED_OPERATIONS_MAX + 1))]


async def test_a_chunk_that_is_too_large_raises_in_its_caller_and_changes_nothing_else() -> None:
    writer, journal = event_writer(0)
    await writer.write(START)
    with pytest.raises(EventTooLarge):
        await writer.write_between_texts(operation("huge"))
    await writer.write(END)
    assert journal.emitted == [START, END]


async def test_a_flush_writes_all_that_is_buffered_text_first() -> None:
    """An interrupt or a failure flushes before it ends the open parts."""
    writer, journal = event_writer()
    for chunk in (START, delta("one "), delta("two thr")):
        await writer.write(chunk)
    await writer.write_between_texts(operation(1))
    assert journal.emitted == [START, delta("one ")]
    await writer.flush()
    await writer.write(END)
    assert journal.emitted == [START, delta("one "), delta("two thr"), operation(1), END]


async def test_a_text_and_a_reasoning_of_one_id_are_two_parts() -> None:
    writer, journal = event_writer()
    start = chunks.ReasoningStart(id="t")
    for chunk in (START, start, delta("text")):
        await writer.write(chunk)
    await writer.write(chunks.ReasoningDelta(id="t", delta="thought"))
    await writer.flush()
    assert journal.emitted == [START, start, delta("text"), chunks.ReasoningDelta(id="t", delta="thought")]


async def test_provider_metadata_of_a_delta_is_kept() -> None:
    """Also of a buffered delta, and of a delta without text."""
    writer, journal = event_writer()
    marked = {"p": {"x": 1}}
    await writer.write(START)
    await writer.write(chunks.TextDelta(id="t", delta="wo", provider_metadata=marked))
    await writer.write(delta("rd"))
    await writer.write(END)
    await writer.write(chunks.TextStart(id="u"))
    await writer.write(chunks.TextDelta(id="u", delta="", provider_metadata=marked))
    await writer.write(chunks.TextEnd(id="u"))
    assert journal.emitted == [
        START,
        chunks.TextDelta(id="t", delta="word", provider_metadata=marked),
        END,
        chunks.TextStart(id="u"),
        chunks.TextDelta(id="u", delta="", provider_metadata=marked),
        chunks.TextEnd(id="u"),
    ]


async def test_a_delta_of_no_open_part_is_refused_at_once_and_not_by_the_timer() -> None:
    writer, journal = event_writer()
    for chunk in (START, delta("a"), END):
        await writer.write(chunk)
    for stranger in (delta("b"), chunks.ReasoningDelta(id="t", delta="b")):
        with pytest.raises(Invalid, match="no part is open under the id 't'"):
            await writer.write(stranger)
    assert journal.emitted == [START, delta("a"), END]


@pytest.mark.parametrize("interval_s", [0.0, 60.0])
@pytest.mark.parametrize("text", ["x" * 2_000_000, "\x01" * 900_000, "😀" * 300_000])
async def test_a_delta_larger_than_an_event_is_several(interval_s: float, text: str) -> None:
    writer, journal = event_writer(interval_s)
    metadata = {"openai": {"id": "1"}}
    await writer.write(chunks.ReasoningStart(id="t"))
    await writer.write(chunks.ReasoningDelta(id="t", delta=text, provider_metadata=metadata))
    await writer.write(chunks.ReasoningEnd(id="t"))
    pieces = [chunk for chunk in journal.emitted if isinstance(chunk, chunks.ReasoningDelta)]
    assert "".join(piece.delta for piece in pieces) == text
    assert max(len(chunks.encode(piece)) for piece in pieces) <= EVENT_BYTES_MAX
    assert [piece.provider_metadata for piece in pieces] == [metadata] + [UNSET] * (len(pieces) - 1)


async def test_arguments_larger_than_an_event_are_several() -> None:
    writer, journal = event_writer()
    await writer.write(chunks.ToolInputDelta("c1", "x" * 1_000_000))
    pieces = [chunk.input_text_delta for chunk in journal.emitted if isinstance(chunk, chunks.ToolInputDelta)]
    assert len(pieces) > 1
    assert "".join(pieces) == "x" * 1_000_000
