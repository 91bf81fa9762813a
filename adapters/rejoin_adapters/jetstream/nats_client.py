"""nats-py's `Client`, extended. The only module that uses private parts of nats-py.

Five things are added. Each needs private parts of nats-py; the import of this module checks that they exist.
If a release lacks some, the public API is used instead: `INTERNALS` names them, and `NatsConnection` logs it.

- delivery: `listen` calls its callback from the reader, without a queue and a task for each subscription, and
  hands over the bytes of a message. nats-py parses every header name twice, character by character.
  Public API: `subscribe`, with its queue and its task.
- writes: `write_publish` appends to the send buffer, and all messages of one event-loop iteration leave as
  one write. Unsent messages can be discarded. Public API: `publish`; after a reconnect nats-py may send a
  message whose sender got an exception. Callers must tolerate that anyway: a reply can be lost.
- pings: `ping` tolerates a late PONG; nats-py's `flush` ends the read loop on a PONG that arrives after a
  timeout. Public API: `flush`; `NatsConnection.watch` then replaces the connection whose reader died.
- TLS check: nats-py sends the password in the clear if the server does not offer TLS. The public API cannot
  prevent this, so without the private part a `tls://` connection is refused.
- credentials: a key without a JWT is used without the package `nkeys` (`cryptography` signs), and a user
  whose JWT has expired connects again with the file's present content; nats-py would close the client.
  Without the private parts, credential files are refused.
"""

import asyncio
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, override

import msgspec
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.protocol import parser as nats_parser
from nats.protocol.parser import Parser

from rejoin_protocol.broker import subjects
from rejoin_protocol.errors import Invalid

BUFFERED_BYTES_MAX = 64 * 1024
"""An incomplete message larger than this is left to nats-py's parser, which scans it only once."""
AWAITING_CONTROL_LINE = getattr(nats_parser, "AWAITING_CONTROL_LINE", None)
_CRLF = b"\r\n"
_PING = b"PING\r\n"
_MESSAGES = (b"MSG ", b"HMSG ")
log = structlog.get_logger("rejoin.broker")

_HEADER = re.compile(r"(?<![^\n])([^:\s]++):[ \t]*+([^\r\n]*+)\r\n")
_STATUS = re.compile(rb"NATS/1\.0 (\d+) ?([^\r\n]*)")
_ENDED_AUTHENTICATION = re.compile(r"authentication (expired|revoked)", re.IGNORECASE)
_LINE_BREAK = re.compile(r"[\r\n]")
"""The server reads what follows a line break as the next header, or the next command."""


class Internals(NamedTuple):
    """Which private parts this release of nats-py has; see the module."""

    delivery: bool
    writes: bool
    pings: bool
    tls_check: bool
    credentials: bool

    @property
    def missing(self) -> list[str]:
        """The names of the missing ones."""
        return [name for name, present in self._asdict().items() if not present]


FIELDS_NEEDED: Mapping[str, tuple[str, ...]] = {
    "_ps": ("delivery",),
    "_sid": ("delivery",),
    "_pending": ("writes",),
    "_pending_data_size": ("writes",),
    "_transport": ("writes",),
    "_pongs": ("pings",),
    "_public_nkey": ("credentials",),
}
"""Fields of nats-py's client, and which of our additions need them."""
FIELD_TYPES: Mapping[str, type] = {
    "_ps": Parser,
    "_sid": int,
    "_pending": list,
    "_pending_data_size": int,
    "_pongs": list,
}
METHODS_NEEDED: Mapping[str, tuple[str, ...]] = {
    "_process_msg": ("delivery",),
    "_remove_sub": ("delivery",),
    "_send_command": ("pings",),
    "_flush_pending": ("pings",),
    "_process_info": ("tls_check",),
    "_process_err": ("credentials",),
    "_process_op_err": ("credentials",),
}
"""Methods of nats-py's client, and which of our additions call or override them."""
PARAMETERS: Mapping[str, list[str]] = {
    "_process_msg": ["self", "sid", "subject", "reply", "data", "headers"],
    "_remove_sub": ["self", "sid", "max_msgs"],
    "_send_command": ["self", "cmd", "priority"],
    "_flush_pending": ["self", "force_flush"],
    "_process_info": ["self", "info", "initial_connection"],
    "_process_err": ["self", "err_msg"],
    "_process_op_err": ["self", "e"],
}


def find_internals(client: type[Client], parser: Any) -> Internals:
    """Look for the private parts in nats-py's client class and its parser module."""
    fields = vars(client())
    lacking = {
        addition
        for name, additions in FIELDS_NEEDED.items()
        if name not in fields or not isinstance(fields[name], FIELD_TYPES.get(name, object))
        for addition in additions
    }
    for name, additions in METHODS_NEEDED.items():
        method = getattr(client, name, None)
        if method is None or list(inspect.signature(method).parameters) != PARAMETERS[name]:
            lacking.update(additions)
    if not hasattr(parser, "AWAITING_CONTROL_LINE"):
        lacking.add("delivery")
    return Internals(*(name not in lacking for name in Internals._fields))


INTERNALS = find_internals(Client, nats_parser)


class RawMessage(msgspec.Struct, frozen=True, gc=False):
    """A received message whose headers are parsed on access."""

    raw_subject: bytes
    raw_headers: bytes
    """The headers as received: empty, or from `NATS/1.0` to the empty line."""
    data: bytes

    @property
    def subject(self) -> str:
        """The subject to which it was published."""
        return self.raw_subject.decode()

    @property
    def status(self) -> str | None:
        """The status code in the first header line, set by the server, or None."""
        match = _STATUS.match(self.raw_headers)
        return match[1].decode() if match is not None else None

    def header(self, name: str) -> str | None:
        """The value of one header, or None."""
        prefix = f"\r\n{name}:".encode()
        position = self.raw_headers.find(prefix)
        if position < 0:
            return None
        start = position + len(prefix)
        return self.raw_headers[start : self.raw_headers.index(_CRLF, start)].decode().strip()

    @property
    def headers(self) -> dict[str, str]:
        """All headers, with the status and its description as nats-py names them."""
        headers = dict(_HEADER.findall(self.raw_headers.decode("utf-8", "replace")))
        if match := _STATUS.match(self.raw_headers):
            status, description = match.groups()
            headers |= {subjects.STATUS_HEADER: status.decode(), subjects.DESCRIPTION: description.decode()}
        return headers


def encode_headers(headers: Mapping[str, str]) -> bytes:
    """Headers as sent to the server; empty without headers. Raises `Invalid` for a value with a line
    break.
    """
    if not headers:
        return b""
    for name, value in headers.items():
        if _LINE_BREAK.search(value):
            raise Invalid(f"the value of the header {name} contains a line break")
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    return f"NATS/1.0\r\n{lines}\r\n".encode()


def to_raw(message: Msg) -> RawMessage:
    """A message of nats-py's as `listen` delivers it."""
    headers = dict(message.headers or {})
    status = headers.pop(subjects.STATUS_HEADER, None)
    description = headers.pop(subjects.DESCRIPTION, "")
    raw_headers = encode_headers(headers)
    if status is not None:
        first_line = f"NATS/1.0 {status} {description}".rstrip().encode()
        raw_headers = first_line + (raw_headers[len(b"NATS/1.0") :] or _CRLF + _CRLF)
    return RawMessage(message.subject.encode(), raw_headers, message.data)


type Deliver = Callable[[RawMessage], None]


class _Parser(Parser):
    """Cuts complete messages out of the received bytes without nats-py's copies and regular expressions. All
    other protocol lines, and incomplete large messages, are left to nats-py's parser.
    """

    def __init__(self, client: "NatsClient") -> None:
        super().__init__(client)
        self._client = client

    @override
    async def parse(self, data: bytes = b"") -> None:
        if self.state != AWAITING_CONTROL_LINE:
            await super().parse(data)  # nats-py's parser is inside a message
            return
        if self.buf:
            data = bytes(self.buf) + data
            self.buf.clear()
        start = 0
        while data.startswith(_MESSAGES, start):
            line_end = data.find(_CRLF, start)
            if line_end < 0:
                break
            verb, subject, sid, *reply, size = data[start:line_end].split()
            headers_start = line_end + len(_CRLF)
            end = headers_start + int(size)
            if end + len(_CRLF) > len(data):
                break
            payload_start = headers_start + int(reply.pop()) if verb == b"HMSG" else headers_start
            if deliver := self._client.direct.get(int(sid)):
                _deliver(
                    deliver, RawMessage(subject, data[headers_start:payload_start], data[payload_start:end])
                )
            else:
                await self._client._process_msg(  # noqa: SLF001
                    int(sid),
                    subject,
                    reply[0] if reply else b"",
                    data[payload_start:end],
                    data[headers_start:payload_start],
                )
            start = end + len(_CRLF)
        if data.startswith(_MESSAGES, start) and len(data) - start < BUFFERED_BYTES_MAX:
            self.buf += data[start:]  # the rest of the message has not arrived yet
        elif start < len(data):
            await super().parse(data[start:])


def _deliver(deliver: Deliver, message: RawMessage) -> None:
    """Call `deliver`. An exception is logged: raised here, it would end the connection's read loop."""
    try:
        deliver(message)
    except Exception:
        log.exception("message_handler_failed", subject=message.subject)


class _Pong(asyncio.Future[bool]):
    """The pending answer to a ping. A PONG that arrives after a timeout or a cancellation is ignored; setting
    the result of a finished future would raise in nats-py's read loop and end it.
    """

    def set_result(self, result: bool) -> None:
        if not self.done():
            super().set_result(result)


class NatsClient(Client):
    """The client under `nats_connection.NatsConnection`. `internals`: the private parts that it may use."""

    tls_only = False
    websocket = False

    def __init__(self, internals: Internals = INTERNALS) -> None:
        super().__init__()
        self.internals = internals
        self.direct: dict[int, Deliver] = {}
        self._loop = asyncio.get_running_loop()
        self._unused_future: asyncio.Future[None] = self._loop.create_future()
        self._shared_empty_queue: asyncio.Queue[Msg] = asyncio.Queue()
        self._flush_scheduled = False
        if internals.delivery:
            self._ps = _Parser(self)

    @override
    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        if self.tls_only and initial_connection and not info.get("tls_required"):
            raise ConnectionAbortedError("the server offers no TLS")
        if self.websocket:
            # nats-py would take the other servers' WebSocket ports for those of its own protocol.
            info = {name: value for name, value in info.items() if name != "connect_urls"}
        await super()._process_info(info, initial_connection)

    @override
    async def _process_err(self, err_msg: str) -> None:
        if _ENDED_AUTHENTICATION.search(err_msg):
            await self._process_op_err(ConnectionAbortedError(err_msg.strip("'")))
        else:
            await super()._process_err(err_msg)

    def name_user(self, public_nkey: str) -> None:
        """The public key that the next CONNECT names, if it names no JWT."""
        self._public_nkey = public_nkey

    @override
    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        if (deliver := self.direct.get(sid)) is None:
            await super()._process_msg(sid, subject, reply, data, headers)
        else:  # a message that `_Parser` has left to nats-py's parser
            _deliver(deliver, RawMessage(bytes(subject), bytes(headers or b""), data))

    @override
    def _remove_sub(self, sid: int, max_msgs: int = 0) -> None:
        self.direct.pop(sid, None)
        super()._remove_sub(sid, max_msgs)

    @staticmethod
    @override
    def _parse_header_lines(raw: bytes) -> dict[str, str]:
        return dict(_HEADER.findall(raw.decode("utf-8", "replace")))

    async def listen(self, subject: str, deliver: Deliver) -> Subscription:
        """`subscribe`, except that `deliver` is called before anything else is read from the connection."""
        if not self.internals.delivery:
            return await self._listen_by_queue(subject, deliver)
        sid = self._sid + 1  # the id of this subscription: `subscribe` takes it before its first `await`
        self.direct[sid] = deliver
        try:
            subscription = await self.subscribe(subject, future=self._unused_future)
        except BaseException:
            self.direct.pop(sid, None)
            raise
        # A shared queue instead of one of 3 KB for each subscription, which would stay empty.
        subscription._pending_queue = self._shared_empty_queue  # noqa: SLF001
        return subscription

    async def _listen_by_queue(self, subject: str, deliver: Deliver) -> Subscription:
        async def on_message(message: Msg) -> None:
            _deliver(deliver, to_raw(message))

        # Without limits, nothing is dropped here. Memory is bounded by the callers of `deliver`, as above.
        return await self.subscribe(subject, cb=on_message, pending_msgs_limit=0, pending_bytes_limit=0)

    async def write_publish(
        self, subject: str, reply: str, headers: Mapping[str, str], payload: bytes
    ) -> None:
        """Publish behind everything that waits to be sent. All calls of one event-loop iteration are one
        write. Raises `Invalid` for a header value with a line break.
        """
        if self.internals.writes:
            self.buffer_publish(subject, reply, headers, payload)
        else:
            self._check_size(len(encode_headers(headers)) + len(payload))
            await self.publish(subject, payload, reply, dict(headers) or None)

    def buffer_publish(self, subject: str, reply: str, headers: Mapping[str, str], payload: bytes) -> None:
        """Like `write_publish`, without a coroutine: each append comes here. Needs `internals.writes`."""
        raw_headers = encode_headers(headers)
        size = len(raw_headers) + len(payload)
        self._check_size(size)
        if raw_headers:
            command = f"HPUB {subject} {reply} {len(raw_headers)} {size}\r\n".encode()
        else:
            command = f"PUB {subject} {reply} {size}\r\n".encode()
        self._pending.append(b"".join((command, raw_headers, payload, _CRLF)))
        self._pending_data_size += size + len(command) + len(_CRLF)
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._write_buffer)

    def _check_size(self, size: int) -> None:
        if size > self.max_payload:  # the server would close the connection
            raise Invalid(f"the message is larger than the broker accepts ({self.max_payload} bytes)")

    def _write_buffer(self) -> None:
        """Write the send buffer. nats-py's flusher task would take one more event-loop iteration, and would
        wait for the socket to drain, which no sender here needs: replies are the back-pressure.
        """
        self._flush_scheduled = False
        if self.is_connected and self._transport is not None:
            unsent, self._pending = self._pending, []
            self._pending_data_size = 0
            self._transport.write(b"".join(unsent))

    def discard_unsent(self) -> None:
        """Drop messages that are not written yet, so that a reconnect does not send them."""
        if self.internals.writes:
            self._pending.clear()
            self._pending_data_size = 0

    async def ping(self) -> None:
        """Wait until the server has processed everything sent before. Does not time out by itself."""
        if not self.internals.pings:
            await self.flush()
            return
        pong = _Pong()
        # Behind the send buffer: nats-py's own ping overtakes it, so that its PONG would not prove that the
        # server has seen a subscription made just before.
        self._pongs.append(pong)
        await self._send_command(_PING)
        await self._flush_pending()
        await pong

    def close_failed_transport(self, *, forget: bool) -> None:
        """Close the socket of a failed handshake, which nats-py leaves open. `forget`: remove it from the
        client too. Necessary after a TLS error: nats-py would wait for its end forever, unless it is a
        WebSocket, whose end closes its HTTP session.
        """
        transport = getattr(self, "_transport", None)
        if transport is not None and not self.is_connected:
            transport.close()
            if forget and not self.websocket:
                self._transport = None

    @property
    def server_info(self) -> Mapping[str, Any]:
        """The server's INFO message; empty if this release of nats-py does not keep it."""
        info = getattr(self, "_server_info", {})
        return info if isinstance(info, dict) else {}
