"""What is kept of a request to a model for whoever records it."""

from yarl import URL

from rejoin_protocol.log.model_call import CALL_TEXT_BYTES_MAX, ReceivedAnswer, SentRequest
from rejoin_runner.models.call_recording import OnAnswer, ReportedRequest, recording

ADDRESS = URL("https://user:secret@models.example/v1/chat?key=secret")


def test_a_request_that_nobody_records_is_not_kept() -> None:
    """A run waits minutes for its answer, and its body may have many megabytes."""
    reported, body = ReportedRequest(), b"x" * 100
    reported.sent(ADDRESS, body)
    reported.received(body)
    assert not any(kept for kept in vars(reported).values() if isinstance(kept, bytes | bytearray))


def test_of_a_recorded_request_the_beginning_is_kept_and_no_key() -> None:
    sent: list[SentRequest] = []
    received: list[ReceivedAnswer] = []

    def on_request(request: SentRequest) -> OnAnswer:
        sent.append(request)
        return received.append

    with recording(on_request):
        reported = ReportedRequest()
    reported.sent(ADDRESS, b"x" * (2 * CALL_TEXT_BYTES_MAX))
    [request] = sent
    assert (request.url, len(request.text)) == ("https://models.example/v1/chat", CALL_TEXT_BYTES_MAX)
    assert request.bytes == 2 * CALL_TEXT_BYTES_MAX
    for _ in range(3):
        reported.received(b"y" * CALL_TEXT_BYTES_MAX)
    assert all(
        len(kept) <= CALL_TEXT_BYTES_MAX for kept in vars(reported).values() if isinstance(kept, bytes)
    )
    reported.end()
    reported.end()
    [answer] = received
    assert (answer.status, len(answer.text), answer.bytes) == (
        None,
        CALL_TEXT_BYTES_MAX,
        3 * CALL_TEXT_BYTES_MAX,
    )
