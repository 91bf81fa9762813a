"""What the benchmark's clients see in a stream."""

import asyncio

import pytest

from bench.http_load import StreamReader

HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


def event(body: bytes) -> bytes:
    return b"id: 7-1\ndata: {" + body + b"}\n\n"


def delta(text: bytes) -> bytes:
    return event(b'"type":"text-delta","id":"t","delta":"' + text + b'"')


def test_each_token_counts_however_tokens_were_merged() -> None:
    reader = StreamReader()
    for data in (HEAD, delta(b" 1000000001"), delta(b" 1000000002 1000000003") + delta(b" 10000")):
        reader.data_received(data)
    assert reader.tokens_ns == [1_000_000_001, 1_000_000_002, 1_000_000_003]
    assert len(reader.latencies_s) == 3
    assert reader.events == 3


def test_a_reset_removes_the_tokens_before_it() -> None:
    reader = StreamReader()
    reset = event(b'"type":"reset-step"')
    reader.data_received(HEAD + delta(b" 1000000001") + delta(b" 1000000002"))
    reader.data_received(delta(b" 1000000003") + reset + delta(b" 1000000004"))
    assert reader.tokens_ns == [1_000_000_004]
    assert reader.restarts == 1


async def test_a_refused_request_ends_the_wait() -> None:
    reader = StreamReader()
    reader.data_received(b"HTTP/1.1 204 No Content\r\n\r\n")
    with pytest.raises(ConnectionError, match="status 204"):
        await asyncio.wait_for(reader.read(), 1)
