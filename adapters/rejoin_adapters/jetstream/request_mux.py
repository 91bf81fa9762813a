"""Questions on a NATS connection: a number for each, one inbox for all answers, one clock for all who wait.

Owns who waits for which answer, and how a question is written. nats-py's own `request` costs more than all
else of an append: two timers, two random tokens, and a task between the reader and who waits. What may be
asked, and what a failure is called, is `broker`'s.
"""

import asyncio
import re
from collections.abc import Mapping

from rejoin_protocol.errors import Invalid

from rejoin_adapters.jetstream.nats_client import NatsClient, RawMessage

SWEEP_S = 0.1
"""How much later than asked a time-out may come."""
_SUBJECT = re.compile(r"\S+")
_BREAK = re.compile(r"[\r\n]")
"""What is behind it would be the next header, or the next command."""


class PendingRequest(asyncio.Future[RawMessage]):
    """Its result is the last message of the answer; those in front of it are `earlier`."""

    __slots__ = ("due_s", "earlier", "many", "subject")

    def __init__(self, subject: str, due_s: float, *, many: bool) -> None:
        super().__init__()
        self.subject = subject
        self.due_s = due_s
        self.many = many
        self.earlier: list[RawMessage] = []

    def fail(self, fault: Exception) -> None:
        """There will be no answer."""
        if not self.done():
            self.set_exception(fault)


class RequestMux:
    """Those of one connection. `open` it once that is up."""

    def __init__(self, client: NatsClient) -> None:
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._inbox = ""
        self._count = 0
        self._waiting: dict[bytes, PendingRequest] = {}
        self._alarm: asyncio.TimerHandle | None = None
        self._leaving = False

    async def open(self) -> None:
        """Listen for answers."""
        self._inbox = f"{self._client.new_inbox()}."
        await self._client.listen(f"{self._inbox}*", self._on_answer)

    async def ask(
        self, subject: str, payload: bytes, headers: bytes, timeout_s: float, *, many: bool = False
    ) -> list[RawMessage]:
        """The answer: one message, or `many` up to the one that has a status. `headers` are `encoded`.

        Raises `TimeoutError`, and whatever all are told by `fail`.
        """
        self._count += 1
        token = b"%d" % self._count
        question = PendingRequest(subject, self._loop.time() + timeout_s, many=many)
        self._waiting[token] = question
        if self._alarm is None:
            self._alarm = self._loop.call_later(SWEEP_S, self._sweep)
        try:
            self.put(subject, payload, headers, reply=f"{self._inbox}{self._count}")
            last = await question
        finally:
            del self._waiting[token]
        return [*question.earlier, last]

    def put(self, subject: str, payload: bytes, headers: bytes = b"", *, reply: str = "") -> None:
        """Say something, behind all that waits to be sent; what is said in one turn of the loop is one write.

        Raises `Invalid`.
        """
        if not _SUBJECT.fullmatch(subject):
            raise Invalid(f"{subject!r} is not a subject")
        size = len(headers) + len(payload)
        if headers:
            command = f"HPUB {subject} {reply} {len(headers)} {size}\r\n".encode()
        else:
            command = f"PUB {subject} {reply} {size}\r\n".encode()
        self._client._pending.append(b"".join((command, headers, payload, b"\r\n")))  # noqa: SLF001
        self._client._pending_data_size += size + len(command) + 2  # noqa: SLF001
        if not self._leaving:
            self._leaving = True
            self._loop.call_soon(self._flush)

    def waiting(self) -> list[PendingRequest]:
        """Those that have no answer yet."""
        return list(self._waiting.values())

    def close(self) -> None:
        """Look at the clock no more."""
        if self._alarm is not None:
            self._alarm.cancel()

    def _on_answer(self, message: RawMessage) -> None:
        question = self._waiting.get(message.raw_subject[len(self._inbox) :])
        if question is None or question.done():
            return  # it came too late
        if question.many and message.status is None:
            question.earlier.append(message)
        else:
            question.set_result(message)

    def _sweep(self) -> None:
        now_s = self._loop.time()
        for question in self._waiting.values():
            if question.due_s <= now_s:
                question.fail(TimeoutError())
        self._alarm = self._loop.call_later(SWEEP_S, self._sweep) if self._waiting else None

    def _flush(self) -> None:
        """Without a turn of nats-py's own flusher, which waits for nothing that we wait for."""
        self._leaving = False
        client = self._client
        if client.is_connected and client._transport is not None:  # noqa: SLF001
            waiting, client._pending = client._pending, []  # noqa: SLF001
            client._pending_data_size = 0  # noqa: SLF001
            client._transport.write(b"".join(waiting))  # noqa: SLF001


def encode_headers(headers: Mapping[str, str]) -> bytes:
    """Headers as they are sent. Raises `Invalid` for a value that is more than a line."""
    if not headers:
        return b""
    for name, value in headers.items():
        if _BREAK.search(value):
            raise Invalid(f"the header {name} has more than a line")
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    return f"NATS/1.0\r\n{lines}\r\n".encode()
