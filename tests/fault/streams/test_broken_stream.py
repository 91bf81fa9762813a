"""A stream that cannot continue is aborted. Nothing else is ever written into a response that has begun."""

import asyncio
from contextlib import suppress
from typing import Any, NoReturn
from urllib.parse import urlsplit

import msgspec
import pytest

from rejoin_adapters.jetstream.log_tail import LogTail
from rejoin_gateway.http.gateway_service import SERVICE
from rejoin_protocol.errors import Unavailable
from tests.support.system.local_system import LocalSystem


async def raw(base: str, body: Any) -> bytes:
    """Every byte that a POST gets."""
    url = urlsplit(base)
    sent = msgspec.json.encode(body)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    writer.write(
        b"POST /api/chat HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(sent), sent)
    )
    received = b""
    with suppress(ConnectionError):
        while more := await reader.read(65_536):
            received += more
    writer.close()
    return received


@pytest.mark.feature("F91")
@pytest.mark.parametrize(
    ("fault", "status"), [(Unavailable("the broker is away"), 503), (ValueError("a fault of ours"), 500)]
)
async def test_a_log_that_cannot_be_followed_is_reported_by_the_http_status(
    system: LocalSystem, monkeypatch: pytest.MonkeyPatch, fault: Exception, status: int
) -> None:
    """Nothing is sent before it is known that there is something to send."""

    def follow(_: str) -> NoReturn:
        raise fault

    base = await system.gateway()
    await system.runner()
    monkeypatch.setattr(system.apps[0][SERVICE].backend.log, "follow", follow)
    assert (await system.post(base, system.chat(system.fresh("s"), "count 3"))).status == status


async def test_a_fault_within_a_stream_breaks_it(
    system: LocalSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The headers are sent by then; a second response behind them would be read as part of the first."""

    async def next_records(*_: Any) -> NoReturn:
        raise ValueError("a fault of ours")

    base = await system.gateway()
    await system.runner()
    monkeypatch.setattr(LogTail, "next", next_records)
    async with asyncio.timeout(10):
        received = await raw(base, system.chat(system.fresh("s"), "count 3"))
    assert received.startswith(b"HTTP/1.1 200 ")
    assert received.count(b"HTTP/1.1") == 1
    assert not received.endswith(b"0\r\n\r\n")
