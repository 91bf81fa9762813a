"""The parser of event streams follows the WHATWG's rules, wherever the bytes are split."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rejoin_runner.models.chat_completions import event_stream
from rejoin_runner.models.chat_completions.event_stream import EventStreamParser, EventTooLong

STREAMS = {
    "one line": (b"data: a\n\n", [b"a"]),
    "no space behind the colon": (b"data:a\n\n", [b"a"]),
    "only the first space is left out": (b"data:  a\n\n", [b" a"]),
    "two lines are one event": (b"data: a\ndata: b\n\n", [b"a\nb"]),
    "data alone": (b"data\n\n", [b""]),
    "a field without data": (b"retry: 10\n\nid: 7\n\nevent: ping\n\ndata: a\n\n", [b"a"]),
    "names and numbers beside the data": (b"event: x\nid: 7\nretry: 1\ndata: a\n\n", [b"a"]),
    "comments": (b": wait\n\ndata: a\n: in between\ndata: b\n\n", [b"a\nb"]),
    "a byte order mark": (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
    "a second byte order mark is a field": (b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\ndata: b\n\n", [b"b"]),
    "carriage returns": (b"data: a\rdata: b\r\rdata: c\r\r", [b"a\nb", b"c"]),
    "both": (b"data: a\r\ndata: b\r\n\r\ndata: c\r\n\r\n", [b"a\nb", b"c"]),
    "mixed": (b"data: a\r\n\ndata: b\n\rdata: c\r\r\n", [b"a", b"b", b"c"]),
    "an unknown field": (b"date: a\ndata : b\ndata: c\n\n", [b"c"]),
    "many blank lines": (b"\n\n\ndata: a\n\n\n\n\ndata: b\n\n", [b"a", b"b"]),
    "no end": (b"data: a\n\ndata: b\n", [b"a"]),
    "characters of several bytes": ("data: wörld ✓ 😀\n\n".encode(), ["wörld ✓ 😀".encode()]),
    "nothing": (b"", []),
}


def parse(*pieces: bytes) -> list[bytes]:
    parser = EventStreamParser()
    return [event for piece in pieces for event in parser.feed(piece)]


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_has_these_events_however_it_is_split(name: str) -> None:
    stream, events = STREAMS[name]
    assert parse(stream) == events
    assert parse(*(stream[at : at + 1] for at in range(len(stream)))) == events
    for cut in range(len(stream)):
        assert parse(stream[:cut], b"", stream[cut:]) == events


def by_the_letter(stream: bytes) -> list[bytes]:
    """The WHATWG's algorithm, line by line."""
    text = stream.decode().removeprefix("\ufeff")
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")[:-1]
    events, data = list[bytes](), list[str]()
    for line in lines:
        if not line and data:
            events.append("\n".join(data).encode())
            data = []
        elif not line.startswith(":"):
            field, _, value = line.partition(":")
            if field == "data":
                data.append(value.removeprefix(" "))
    return events


_PIECES = ["data", ": ", ":", " ", "a", "ü", "\n", "\r", "\r\n", "\n\n", "id", "data: x", "\ufeff"]


@given(st.lists(st.sampled_from(_PIECES), max_size=30), st.lists(st.integers(0, 60), max_size=6))
def test_any_stream_has_the_events_of_the_standard(pieces: list[str], cuts: list[int]) -> None:
    stream = "".join(pieces).encode()
    edges = [0, *sorted(cut for cut in cuts if cut <= len(stream)), len(stream)]
    assert parse(*(stream[a:b] for a, b in pairwise(edges))) == by_the_letter(stream)


def test_an_event_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "PROVIDER_EVENT_BYTES_MAX", 20)
    parser = EventStreamParser()
    assert parser.feed(b"data: 0123456789\n\ndata: 0123456789") == [b"0123456789"]
    with pytest.raises(EventTooLong):
        parser.feed(b"0123456789")
