"""A response of aiohttp as ASGI messages, in whatever pieces it is written."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rejoin_gateway.asgi.response_parser import ResponseParser

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nX-Thread-Id: a: b\r\nDate: now\r\n"
STREAM = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
CHUNKED = STREAM + b"5\r\ndata:\r\nB\r\n\r\n\r\n0\r\n\r\n12\r\n0\r\n\r\n"
BODY = b"data:\r\n\r\n0\r\n\r\n12"


def read(method: str, *pieces: bytes) -> tuple[list[dict[str, Any]], ResponseParser]:
    parser = ResponseParser(method)
    return [message for piece in pieces for message in parser.feed(piece)], parser


def body_of(messages: list[dict[str, Any]]) -> bytes:
    return b"".join(message["body"] for message in messages[1:])


@given(st.lists(st.integers(0, len(CHUNKED)), max_size=8))
def test_chunks_are_joined_however_they_are_cut(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(CHUNKED)]
    pieces = [CHUNKED[start:end] for start, end in pairwise(places)]
    messages, parser = read("POST", *pieces)
    assert messages[0] == {
        "type": "http.response.start",
        "status": 200,
        "headers": [(b"content-type", b"text/event-stream"), (b"x-thread-id", b"a: b")],
    }
    assert (body_of(messages), parser.complete) == (BODY, True)
    assert [message["more_body"] for message in messages[1:]] == [True] * (len(messages) - 2) + [False]


@given(st.integers(0, len(CHUNKED) - 6))
def test_a_response_that_is_cut_is_not_complete(end: int) -> None:
    messages, parser = read("POST", CHUNKED[:end])
    assert not parser.complete
    assert all(message["more_body"] for message in messages[1:])


@pytest.mark.parametrize("cut", range(0, 60, 7))
def test_a_body_with_a_length(cut: int) -> None:
    response = HEAD + b"Content-Length: 4\r\n\r\n{}\r\n"
    messages, parser = read("GET", response[:cut], response[cut:])
    assert (body_of(messages), parser.complete) == (b"{}\r\n", True)
    assert (b"content-length", b"4") in messages[0]["headers"]


@pytest.mark.parametrize(
    ("method", "response"),
    [
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ("HEAD", HEAD + b"Content-Length: 4\r\n\r\n"),
    ],
)
def test_a_response_without_a_body_is_complete_with_its_head(method: str, response: bytes) -> None:
    messages, parser = read(method, response)
    assert parser.complete
    assert messages[1:] == [{"type": "http.response.body", "body": b"", "more_body": False}]
