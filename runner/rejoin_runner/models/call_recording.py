"""What is sent to a model provider and what it answers, for whoever records it.

The clients of providers report each HTTP request here, those of libraries by the connections that they share.
Nothing is kept unless the code that asks the model records its calls. A request is known by the context (the
`contextvars`) in which it is sent: the libraries between the two pass no argument on.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from rejoin_protocol.log.model_call import CALL_TEXT_BYTES_MAX, Exchange

if TYPE_CHECKING:
    from yarl import URL

type OnExchange = Callable[[Exchange], None]

_recorder: ContextVar[OnExchange | None] = ContextVar("model_call_recorder", default=None)


@contextmanager
def recording(on_exchange: OnExchange | None) -> Iterator[None]:
    """Report the requests of the block, each once it is over. None: report nothing."""
    token = _recorder.set(on_exchange)
    try:
        yield
    finally:
        _recorder.reset(token)


def is_recording() -> bool:
    """Whether requests that are sent now are reported."""
    return _recorder.get() is not None


class ReportedRequest:
    """A request that is being sent and answered."""

    def __init__(self) -> None:
        self._on_exchange = _recorder.get()
        self._url = ""
        self._request = b""
        self._request_bytes = 0
        self._status: int | None = None
        self._answer = bytearray()
        self._answer_bytes = 0
        self._started_s = time.time()
        self._clock_s = time.monotonic()

    def sent(self, url: "URL", body: bytes) -> None:
        """The request leaves. Keeps of it what is recorded: not the rest of a large body, not the query and
        the user of the address, which may be keys.
        """
        if self._on_exchange is None:
            return
        self._url = str(url.with_query(None).with_user(None))
        self._request, self._request_bytes = body[:CALL_TEXT_BYTES_MAX], len(body)

    def answered(self, status: int) -> None:
        """The head of the answer has come."""
        self._status = status

    def received(self, data: bytes) -> None:
        """A piece of the answer has come."""
        if self._on_exchange is None:
            return
        self._answer_bytes += len(data)
        self._answer += data[: CALL_TEXT_BYTES_MAX - len(self._answer)]

    def end(self) -> None:
        """The request is over, however it has ended. A second call does nothing."""
        report, self._on_exchange = self._on_exchange, None
        if report is None or not self._url:
            return
        report(
            Exchange(
                url=self._url,
                status=self._status,
                started_at_ms=int(self._started_s * 1000),
                duration_ms=int((time.monotonic() - self._clock_s) * 1000),
                request=_text(self._request),
                request_bytes=self._request_bytes,
                answer=_text(self._answer),
                answer_bytes=self._answer_bytes,
            )
        )


def _text(data: bytes | bytearray) -> str:
    return data.decode(errors="replace")
