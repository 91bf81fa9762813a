"""What is kept of a request to a model for whoever records it."""

from yarl import URL

from rejoin_protocol.log.model_call import CALL_TEXT_BYTES_MAX, Exchange
from rejoin_runner.models.call_recording import ReportedRequest, recording

ADDRESS = URL("https://user:secret@models.example/v1/chat?key=secret")


def test_a_request_that_nobody_records_is_not_kept() -> None:
    """A run waits minutes for its answer, and its body may have many megabytes."""
    reported, body = ReportedRequest(), b"x" * 100
    reported.sent(ADDRESS, body)
    reported.received(body)
    assert not any(kept for kept in vars(reported).values() if isinstance(kept, bytes | bytearray))


def test_of_a_recorded_request_the_beginning_is_kept_and_no_key() -> None:
    seen: list[Exchange] = []
    with recording(seen.append):
        reported = ReportedRequest()
    reported.sent(ADDRESS, b"x" * (2 * CALL_TEXT_BYTES_MAX))
    for _ in range(3):
        reported.received(b"y" * CALL_TEXT_BYTES_MAX)
    assert all(
        len(kept) <= CALL_TEXT_BYTES_MAX for kept in vars(reported).values() if isinstance(kept, bytes)
    )
    reported.end()
    reported.end()
    [one] = seen
    assert (one.url, one.status) == ("https://models.example/v1/chat", None)
    assert (len(one.request), one.request_bytes) == (CALL_TEXT_BYTES_MAX, 2 * CALL_TEXT_BYTES_MAX)
    assert (len(one.answer), one.answer_bytes) == (CALL_TEXT_BYTES_MAX, 3 * CALL_TEXT_BYTES_MAX)
