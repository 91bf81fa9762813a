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

from rejoin_protocol.log.model_call import CALL_TEXT_BYTES_MAX, ReceivedAnswer, SentRequest

if TYPE_CHECKING:
    from yarl import URL

type OnAnswer = Callable[[ReceivedAnswer], None]
type OnRequest = Callable[[SentRequest], OnAnswer]

_recorder: ContextVar[OnRequest | None] = ContextVar("model_call_recorder", default=None)


@contextmanager
def recording(on_request: OnRequest | None) -> Iterator[None]:
    """Report the requests of the block, each when it is sent, and its answer once it is over to what the
    first report returns. None: report nothing.
    """
    token = _recorder.set(on_request)
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
        self._on_request = _recorder.get()
        self._on_answer: OnAnswer | None = None
        self._status: int | None = None
        self._answer = bytearray()
        self._answer_bytes = 0
        self._clock_s = time.monotonic()

    def sent(self, url: "URL", body: bytes) -> None:
        """The request leaves. Reports what is recorded of it: not the rest of a large body, not the query and
        the user of the address, which may be keys.
        """
        if self._on_request is None:
            return
        self._on_answer = self._on_request(
            SentRequest(
                url=str(url.with_query(None).with_user(None)),
                started_at_ms=int(time.time() * 1000),
                text=_text(body[:CALL_TEXT_BYTES_MAX]),
                bytes=len(body),
            )
        )

    def answered(self, status: int) -> None:
        """The head of the answer has come."""
        self._status = status

    def received(self, data: bytes) -> None:
        """A piece of the answer has come."""
        if self._on_answer is None:
            return
        self._answer_bytes += len(data)
        self._answer += data[: CALL_TEXT_BYTES_MAX - len(self._answer)]

    def end(self) -> None:
        """The request is over, however it has ended. A second call does nothing."""
        report, self._on_answer = self._on_answer, None
        if report is None:
            return
        report(
            ReceivedAnswer(
                status=self._status,
                duration_ms=int((time.monotonic() - self._clock_s) * 1000),
                text=_text(self._answer),
                bytes=self._answer_bytes,
            )
        )


def _text(data: bytes | bytearray) -> str:
    return data.decode(errors="replace")
