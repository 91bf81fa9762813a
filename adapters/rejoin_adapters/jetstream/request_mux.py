"""Request/reply multiplexer of one NATS connection: one inbox, numbered replies, one shared timeout timer.

nats-py's own `request` costs more than everything else in an append: two timers, two random tokens, and a
task between the reader and the caller. `nats_connection` controls access and translates errors.
"""

import asyncio
import re
from collections.abc import Mapping

from rejoin_adapters.jetstream.nats_client import NatsClient, RawMessage
from rejoin_protocol.errors import Invalid

TIMEOUT_CHECK_S = 0.1
"""How often timeouts are checked: a request times out at most this much late."""
_SUBJECT = re.compile(r"\S+")


class PendingRequest(asyncio.Future[RawMessage]):
    """Resolves to the last message of the reply. `earlier`: the messages before it. `deadline_s`: the event
    loop's time at which it times out.
    """

    __slots__ = ("deadline_s", "earlier", "many", "subject")

    def __init__(self, subject: str, deadline_s: float, *, many: bool) -> None:
        super().__init__()
        self.subject = subject
        self.deadline_s = deadline_s
        self.many = many
        self.earlier: list[RawMessage] = []

    def fail(self, error: Exception) -> None:
        """Raise `error` in the caller, unless the reply has arrived."""
        if not self.done():
            self.set_exception(error)


class RequestMux:
    """All pending requests of one connection. Call `open` once the connection is established."""

    def __init__(self, client: NatsClient) -> None:
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._inbox = ""
        self._count = 0
        self._pending: dict[bytes, PendingRequest] = {}
        self._timer: asyncio.TimerHandle | None = None

    async def open(self) -> None:
        """Subscribe to the inbox."""
        self._inbox = f"{self._client.new_inbox()}."
        await self._client.listen(f"{self._inbox}*", self._on_reply)

    async def request(
        self,
        subject: str,
        payload: bytes,
        headers: Mapping[str, str],
        timeout_s: float,
        *,
        many: bool = False,
    ) -> list[RawMessage]:
        """Send a request and return its reply: one message, or with `many` all messages up to one that has a
        status. Raises `Invalid`, `TimeoutError`, and whatever is passed to `PendingRequest.fail`.
        """
        self._count += 1
        token = b"%d" % self._count
        pending = PendingRequest(subject, self._loop.time() + timeout_s, many=many)
        self._pending[token] = pending
        if self._timer is None:
            self._timer = self._loop.call_later(TIMEOUT_CHECK_S, self._check_timeouts)
        try:
            reply = f"{self._inbox}{self._count}"
            if self._client.internals.writes:
                _check_subject(subject)
                self._client.buffer_publish(subject, reply, headers, payload)
            else:
                await self.publish(subject, payload, headers, reply=reply)
            last = await pending
        finally:
            del self._pending[token]
        return [*pending.earlier, last]

    async def publish(
        self, subject: str, payload: bytes, headers: Mapping[str, str] | None = None, *, reply: str = ""
    ) -> None:
        """Publish without waiting for a reply. Raises `Invalid`."""
        _check_subject(subject)
        await self._client.write_publish(subject, reply, headers or {}, payload)

    def list_pending(self) -> list[PendingRequest]:
        """The requests that have no reply yet."""
        return list(self._pending.values())

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def _on_reply(self, message: RawMessage) -> None:
        pending = self._pending.get(message.raw_subject[len(self._inbox) :])
        if pending is None or pending.done():
            return  # the reply is late: the request has timed out or was cancelled
        if pending.many and message.status is None:
            pending.earlier.append(message)
        else:
            pending.set_result(message)

    def _check_timeouts(self) -> None:
        now_s = self._loop.time()
        for pending in self._pending.values():
            if pending.deadline_s <= now_s:
                pending.fail(TimeoutError())
        self._timer = self._loop.call_later(TIMEOUT_CHECK_S, self._check_timeouts) if self._pending else None


def _check_subject(subject: str) -> None:
    if not _SUBJECT.fullmatch(subject):
        raise Invalid(f"{subject!r} is not a NATS subject")
