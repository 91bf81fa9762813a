"""JSON that is small on the wire and large in memory is refused before it is decoded."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

import msgspec
import pytest

from rejoin_adapters.process.background import run_alongside
from rejoin_gateway.http.body_shape import check_shape, needs_check
from rejoin_protocol.errors import Invalid
from rejoin_protocol.limits import (
    BODY_BYTES_MAX,
    BODY_CONTAINERS_MAX,
    BODY_LONG_EXPONENTS_MAX,
    BODY_SKELETON_BYTES_MAX,
    BODY_TEXT_BYTES_MAX,
    FILE_BYTES_MAX,
    MIB,
)
from tests.support.clients.problems import post_bytes
from tests.support.system.local_system import LocalSystem

FILE = b'"data:image/png;base64,' + b"iVBORw0KGgo/" * (FILE_BYTES_MAX // 9) + b'"'
"""The largest file as a data URL: base64 takes a third more."""

SLOW_NUMBER = b"1.22222222e300"
"""Its digits do not decide between two floats at once, so the decoder computes with large integers."""

REFUSED = {
    "objects": b"[" + b"{}," * (BODY_CONTAINERS_MAX + 1) + b"0]",
    "arrays, nested": b"[" * (BODY_CONTAINERS_MAX + 1),
    "numbers": b"[" + b"1," * BODY_SKELETON_BYTES_MAX + b"1]",
    "short strings": b"[" + b'"ab",' * (BODY_SKELETON_BYTES_MAX // 3 + 1) + b'""]',
    "spaces": b"[" + b" " * BODY_SKELETON_BYTES_MAX + b"]",
    "long exponents": b"[" + (SLOW_NUMBER + b",") * (BODY_LONG_EXPONENTS_MAX + 1) + b"0]",
    "long exponents between strings": b"{" + b'"a":3E+0300,' * (BODY_LONG_EXPONENTS_MAX + 1) + b'"b":0}',
    "escaped quotes": b'["' + rb"\"" * (BODY_SKELETON_BYTES_MAX + 1) + b'"]',
    "text": b'["' + b"x" * (BODY_TEXT_BYTES_MAX + 1) + b'"]',
    "text with one emoji": '["😀'.encode() + b"x" * BODY_TEXT_BYTES_MAX + b'"]',
    "text that looks like a file": '["data:😀'.encode() + b"x" * BODY_TEXT_BYTES_MAX + b'"]',
    "text that escapes an emoji": rb'["data:\ud83d\ude00' + b"x" * BODY_TEXT_BYTES_MAX + b'"]',
}
TAKEN = {
    "three of the largest files": b"[" + b",".join([FILE] * 3) + b"]",
    "a file whose slashes are escaped": b"[" + FILE.replace(b"/", rb"\/") + b"]",
    "code": msgspec.json.encode(["\n".join(['print("{}[]{}\\\\")'] * 40_000)]),
    "a long conversation": msgspec.json.encode(
        [
            {"id": f"m{n}", "role": "user", "parts": [{"type": "text", "text": "word " * 100}]}
            for n in range(9_000)
        ]
    ),
    "a hex dump": msgspec.json.encode("1e234" * 200_000),
    "small numbers": b"[" + b"1.2345678e-12," * 70_000 + b"0]",
    "an unterminated string": b'["' + b"x" * MIB,
    "nothing": b"",
    "only a backslash": b'["' + b"\\",
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_body_that_would_be_large_in_memory_is_refused(name: str) -> None:
    assert len(REFUSED[name]) < BODY_BYTES_MAX
    with pytest.raises(Invalid, match="a body has at most"):
        check_shape(REFUSED[name])


@pytest.mark.parametrize("name", TAKEN)
def test_a_body_with_large_files_or_ordinary_text_is_taken(name: str) -> None:
    check_shape(TAKEN[name])


@pytest.mark.parametrize("piece", [b"{}", b'"ab",', rb"\"", b"\\" * 64, b'"', b'""', b"x", b"\xff", rb'\\"'])
def test_the_look_takes_linear_time(piece: bytes) -> None:
    """Eight times the size takes about eight times the time, and not 64 times; what is refused at a bound
    takes no more at all.
    """

    def seconds(size: int) -> float:
        body = b'["' + piece * (size // len(piece))
        times = []
        for _ in range(3):
            started_s = time.process_time()
            with suppress(Invalid):
                check_shape(body)
            times.append(time.process_time() - started_s)
        return min(times)

    assert seconds(MIB // 4) < 16 * seconds(MIB // 32) + 0.01


COSTLIEST = {
    "objects": b"[" + b'{"a":1},' * (BODY_CONTAINERS_MAX - 1) + b"0]",
    "numbers": b"[" + b"1," * (BODY_SKELETON_BYTES_MAX // 2 - 4) + b"1]",
    "long exponents": b"[" + (SLOW_NUMBER + b",") * BODY_LONG_EXPONENTS_MAX + b"1]",
    "short strings": b"[" + b'"ab",' * (BODY_SKELETON_BYTES_MAX // 3 - 2) + b'""]',
    "text": '["😀'.encode() + b"x" * (BODY_TEXT_BYTES_MAX - 4) + b'"]',
    "escaped text": b'["' + rb"\u00e9" * (BODY_TEXT_BYTES_MAX // 6) + b'"]',
    "files": b"[" + b",".join([FILE] * 3) + b"]",
    "escaped files": b"[" + b",".join([b'"data:;base64,' + rb"\/" * (7 * MIB) + b'"'] * 3) + b"]",
}
"""What takes longest to decode of each kind, as large as it may be."""
COPIES_MAX = 8
"""How often the largest body may be copied in the time of any decoding. A copy takes 10 to 30 ms."""


def shortest_s(work: Callable[[], object]) -> float:
    times = []
    for _ in range(3):
        started_s = time.thread_time()
        work()
        times.append(time.thread_time() - started_s)
    return min(times)


@pytest.mark.slow
@pytest.mark.parametrize("name", COSTLIEST)
def test_nothing_that_is_taken_holds_the_loop_much_longer_than_a_copy_of_it(name: str) -> None:
    """A decoder holds the interpreter's lock, in whichever thread it is. So the time is bounded by what it is
    given, relative to what this machine can do.
    """
    body, largest = COSTLIEST[name], b"x" * BODY_BYTES_MAX
    check_shape(body)
    copy_s = shortest_s(lambda: bytearray(largest))
    assert shortest_s(lambda: msgspec.json.decode(body)) < COPIES_MAX * copy_s


def test_a_small_body_is_checked_too_if_it_may_take_long() -> None:
    assert needs_check(b"[" + (SLOW_NUMBER + b",") * (BODY_LONG_EXPONENTS_MAX + 1) + b"0]")
    assert not needs_check(b"[" + (SLOW_NUMBER + b",") * BODY_LONG_EXPONENTS_MAX + b"0]")


async def test_the_attack_gets_a_400_and_the_loop_goes_on(system: LocalSystem) -> None:
    """48 MB of `{}` in one request. The gateway runs in this process, so its pauses are this loop's."""
    base = await system.gateway()
    body = b'{"id":"s","messages":[' + b"{}," * (BODY_BYTES_MAX // 3 - 100) + b"{}]}"
    loop, late_s = asyncio.get_running_loop(), [0.0]

    async def watch() -> None:
        while True:
            began_s = loop.time()
            await asyncio.sleep(0.005)
            late_s.append(loop.time() - began_s - 0.005)

    async with run_alongside(watch()):
        answer = await post_bytes(system, base, body)
    assert answer.status == 400
    assert "a body has at most" in answer.json["detail"]
    assert sorted(late_s)[-3] < 0.5, "1.5 to 6.2 s before; how late a busy machine makes it is not ours"


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "identity, gzip"])
@pytest.mark.parametrize("path", ["/api/chat", "/api/auth/login", "/v1/mcp", "/run/v1/chat/completions"])
async def test_a_compressed_body_is_refused(system: LocalSystem, path: str, encoding: str) -> None:
    base = await system.gateway()
    headers = {"Content-Type": "application/json", "Content-Encoding": encoding}
    async with system.http.post(
        base + path, data=b"{}", headers=headers, skip_auto_headers=("Content-Encoding",)
    ) as response:
        assert response.status == 400
        named = path == "/api/auth/login" or "Content-Encoding" in await response.text()
        assert named, "a login has one error for everything that is no password"
