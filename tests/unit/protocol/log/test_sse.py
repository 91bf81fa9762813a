"""The reader of server-sent events finds the same frames, however the bytes are split."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from rejoin_protocol.log import record, sse
from rejoin_protocol.log.sse import SseFrame, SseParser

chunks = st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=20), max_size=3), max_size=8)


def split(stream: bytes, places: Sequence[int]) -> list[bytes]:
    cuts = sorted(place % (len(stream) + 1) for place in places)
    return [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]


def read(parts: Sequence[bytes]) -> list[SseFrame]:
    reader = SseParser()
    return [frame for part in parts for frame in reader.feed(part)]


@given(
    st.lists(st.binary(max_size=30).map(lambda raw: raw.hex().encode()), max_size=8), st.lists(st.integers(0))
)
def test_frames_are_read_back_from_any_split(events: list[bytes], places: list[int]) -> None:
    """With keep-alive comments between them, and the end of the stream behind."""
    stream = sse.KEEP_ALIVE
    for number, event in enumerate(events):
        stream += record.encode_frames([event], prev=9, index=number) + sse.KEEP_ALIVE * (number % 3)
    expected = [SseFrame(f"9-{number}", event) for number, event in enumerate(events)]
    assert read(split(stream + sse.DONE, places)) == [*expected, SseFrame("", b"[DONE]")]


def test_a_frame_that_is_not_complete_is_not_read() -> None:
    reader = SseParser()
    assert list(reader.feed(b'id: 0-0\ndata: {"type":"start"}\n')) == []
    assert list(reader.feed(b"\nid: 0-1\nda")) == [SseFrame("0-0", b'{"type":"start"}')]
    assert list(reader.feed(b"ta: x\n\n")) == [SseFrame("0-1", b"x")]


def test_other_writers_ways_to_say_it() -> None:
    """A frame of several data lines, without the space, with fields that mean nothing here."""
    assert read([b"event: x\nretry: 5\nid:7\ndata:a\ndata: b\ndata\n: comment\n\n"]) == [
        SseFrame("7", b"a\nb\n")
    ]


def test_what_has_no_data_is_no_event() -> None:
    assert read([b"id: 1\n\n", sse.KEEP_ALIVE, b"\n\n"]) == []
