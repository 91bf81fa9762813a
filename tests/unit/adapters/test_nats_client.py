"""`NatsClient` parses the same messages as nats-py, however the bytes are split."""

import pytest
from nats.aio.client import Client
from nats.protocol.parser import Parser

from rejoin_adapters.jetstream import nats_client
from rejoin_adapters.jetstream.nats_client import NatsClient, RawMessage

WIRE = (
    b"+OK\r\nMSG a.b 1 5\r\nhello\r\nPING\r\nHMSG live.x 12 in.box 22 27\r\n"
    b"NATS/1.0\r\nA: MSG b\r\n\r\nMSG 1\r\n"
    b"MSG a.b 1 re.ply 0\r\n\r\nPONG\r\nHMSG s 3 16 16\r\nNATS/1.0 404\r\n\r\n\r\nMSG a 2 4\r\n\r\n\r\n\r\n"
)
FIELDS = (
    b"",
    b"NATS/1.0\r\n\r\n",
    b"NATS/1.0\r\nA: b\r\nLast-A:c d\r\nB:\r\n\r\n",
    b"NATS/1.0 404\r\n\r\n",
    b"NATS/1.0 404 Message Not Found\r\n\r\n",
    b"NATS/1.0 204 EOB\r\nNats-Num-Pending: 0\r\nA: 404\r\n\r\n",
)


class Heard(NatsClient):
    """Records the messages that it receives."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[object] = []

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        self.told.append((sid, bytes(subject), bytes(reply), data, headers or b""))

    async def _process_ping(self) -> None:
        self.told.append("ping")

    async def _process_pong(self) -> None:
        self.told.append("pong")


async def told(pieces: list[bytes], *, plainly: bool = False) -> list[object]:
    client = Heard()
    parser = Parser(client) if plainly else client._ps
    for piece in pieces:
        await parser.parse(piece)
    assert not parser.buf
    return client.told


async def listened(pieces: list[bytes]) -> list[RawMessage]:
    client = NatsClient()
    heard: list[RawMessage] = []
    client.direct = dict.fromkeys((1, 2, 3, 12), heard.append)
    for piece in pieces:
        await client._ps.parse(piece)
    return heard


@pytest.mark.parametrize("held_bytes_max", [64 * 1024, 8])
async def test_messages_are_those_that_nats_py_reads(
    monkeypatch: pytest.MonkeyPatch, held_bytes_max: int
) -> None:
    """Also where one is so large that it is left to nats-py."""
    monkeypatch.setattr(nats_client, "BUFFERED_BYTES_MAX", held_bytes_max)
    expected = await told([WIRE], plainly=True)
    assert len(expected) == 7
    for cut in range(len(WIRE)):
        assert await told([WIRE[:cut], WIRE[cut:]]) == expected, cut
    for size in (1, 2, 3, 7):
        assert await told([WIRE[at : at + size] for at in range(0, len(WIRE), size)]) == expected, size


@pytest.mark.parametrize("held_bytes_max", [64 * 1024, 8])
async def test_who_listens_hears_the_same_wherever_the_reads_are_cut(
    monkeypatch: pytest.MonkeyPatch, held_bytes_max: int
) -> None:
    monkeypatch.setattr(nats_client, "BUFFERED_BYTES_MAX", held_bytes_max)
    messages = WIRE.replace(b"PING\r\n", b"").replace(b"PONG\r\n", b"")  # they are answered by a connection
    plain = [one for one in await told([messages], plainly=True) if isinstance(one, tuple)]
    expected = [RawMessage(subject, headers, data) for _, subject, _, data, headers in plain]
    assert len(expected) == 5
    for cut in range(len(messages)):
        assert await listened([messages[:cut], messages[cut:]]) == expected, cut


@pytest.mark.parametrize("fields", FIELDS)
async def test_headers_are_those_that_nats_py_reads(fields: bytes) -> None:
    message = RawMessage(b"a.b", fields, b"")
    plain = await Client()._process_headers(fields) or {}
    if "Status" in plain:
        plain.setdefault("Description", "")
    assert message.headers == plain
    assert message.subject == "a.b"
    assert message.status == plain.get("Status")
    for name in ("A", "B", "Last-A", "Nats-Num-Pending", "C"):
        assert message.header(name) == message.headers.get(name)
