"""nats-py's client with what does not do for us mended; its policy is `broker`'s.

It speaks in the clear, password included, to a server that does not ask for TLS. It keeps a queue and a task
for each subscription, which cost more than what is done with a message: who `listen`s is called at once. And
it looks at each letter of a header's name, twice at each message, and builds what nobody asks for: who
`listen`s is handed the bytes.
"""

import asyncio
import re
from collections.abc import Callable
from typing import Any, override

import msgspec
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.protocol.parser import AWAITING_CONTROL_LINE, Parser
from rejoin_protocol.broker import subjects

HELD_BYTES_MAX = 64 * 1024
"""More of a message that is not complete yet is left to nats-py, which looks at it once."""
_CRLF = b"\r\n"
_MESSAGES = (b"MSG ", b"HMSG ")
log = structlog.get_logger("rejoin.broker")

_FIELD = re.compile(r"([^:\s]+):[ \t]*([^\r\n]*)\r\n")
_STATUS = re.compile(rb"NATS/1\.0 (\d+) ?([^\r\n]*)")


class RawMessage(msgspec.Struct, frozen=True, gc=False):
    """A message for one who `listen`s. Of its headers nothing is read that is not asked for."""

    raw_subject: bytes
    fields: bytes
    """Its headers as they came, empty or from `NATS/1.0` to the empty line."""
    data: bytes

    @property
    def subject(self) -> str:
        """Where it was sent."""
        return self.raw_subject.decode()

    @property
    def status(self) -> str | None:
        """The server's own word in its first line, if there is one."""
        found = _STATUS.match(self.fields)
        return found[1].decode() if found is not None else None

    def header(self, name: str) -> str | None:
        """One of them."""
        before = f"\r\n{name}:".encode()
        found = self.fields.find(before)
        if found < 0:
            return None
        begin = found + len(before)
        return self.fields[begin : self.fields.index(_CRLF, begin)].decode().strip()

    @property
    def headers(self) -> dict[str, str]:
        """All of it, status and description too."""
        fields = dict(_FIELD.findall(self.fields.decode("utf-8", "replace")))
        if found := _STATUS.match(self.fields):
            status, description = found.groups()
            fields |= {subjects.STATUS: status.decode(), subjects.DESCRIPTION: description.decode()}
        return fields


type Deliver = Callable[[RawMessage], None]


class _Parser(Parser):
    """Takes whole messages out of what was read, without the copies and patterns that nats-py needs for it.
    Everything else that a server says is its business.
    """

    def __init__(self, client: "NatsClient") -> None:
        super().__init__(client)
        self._client = client

    @override
    async def parse(self, data: bytes = b"") -> None:
        if self.state != AWAITING_CONTROL_LINE:
            await super().parse(data)  # it is in the middle of a message
            return
        if self.buf:
            data = bytes(self.buf) + data
            self.buf.clear()
        start = 0
        while data.startswith(_MESSAGES, start):
            line = data.find(_CRLF, start)
            if line < 0:
                break
            word, subject, sid, *reply, size = data[start:line].split()
            begin = line + len(_CRLF)
            end = begin + int(size)
            if end + len(_CRLF) > len(data):
                break
            payload = begin + int(reply.pop()) if word == b"HMSG" else begin
            if deliver := self._client.direct.get(int(sid)):
                _hand_over(deliver, RawMessage(subject, data[begin:payload], data[payload:end]))
            else:
                await self._client._process_msg(  # noqa: SLF001
                    int(sid), subject, reply[0] if reply else b"", data[payload:end], data[begin:payload]
                )
            start = end + len(_CRLF)
        if data.startswith(_MESSAGES, start) and len(data) - start < HELD_BYTES_MAX:
            self.buf += data[start:]  # the rest of it is still to come
        elif start < len(data):
            await super().parse(data[start:])


def _hand_over(deliver: Deliver, message: RawMessage) -> None:
    try:
        deliver(message)
    except Exception:
        log.exception("message_handler_failed", subject=message.subject)


class NatsClient(Client):
    """The connection under `broker.NatsConnection`."""

    tls_only = False

    def __init__(self) -> None:
        super().__init__()
        self._ps = _Parser(self)
        self.direct: dict[int, Deliver] = {}
        self._never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._no_queue: asyncio.Queue[Msg] = asyncio.Queue()

    @override
    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        if self.tls_only and initial_connection and not info.get("tls_required"):
            raise ConnectionAbortedError("the server offers no TLS")
        await super()._process_info(info, initial_connection)

    @override
    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        if (deliver := self.direct.get(sid)) is None:
            await super()._process_msg(sid, subject, reply, data, headers)
        else:  # one that the parser has left to nats-py's
            _hand_over(deliver, RawMessage(bytes(subject), bytes(headers or b""), data))

    @override
    def _remove_sub(self, sid: int, max_msgs: int = 0) -> None:
        self.direct.pop(sid, None)
        super()._remove_sub(sid, max_msgs)

    @staticmethod
    @override
    def _parse_header_lines(raw: bytes) -> dict[str, str]:
        return dict(_FIELD.findall(raw.decode("utf-8", "replace")))

    async def listen(self, subject: str, deliver: Deliver) -> Subscription:
        """`subscribe`, but `deliver` is called at once, and before anything else is read."""
        sid = self._sid + 1  # the one that it will have: nothing is awaited before it is taken
        self.direct[sid] = deliver
        try:
            subscription = await self.subscribe(subject, future=self._never)
        except BaseException:
            self.direct.pop(sid, None)
            raise
        subscription._pending_queue = self._no_queue  # noqa: SLF001  # an own one would be 3 KB for nothing
        return subscription
