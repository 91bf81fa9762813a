"""Every error class has an HTTP status."""

import pytest

from rejoin_gateway.http import errors
from rejoin_protocol.errors import Conflict, Gone, Invalid, NotFound, RejoinError, Unavailable


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (Invalid("no", "/id"), 400),
        (NotFound("no"), 404),
        (Conflict("no"), 409),
        (Gone("no"), 410),
        (Unavailable("no", retry_after_s=7), 503),
    ],
)
def test_status(fault: RejoinError, status: int) -> None:
    response = errors.error_response(fault)
    assert response.status == status
    assert response.content_type == "application/problem+json"
    assert (response.headers.get("Retry-After") == "7") == (status == 503)


def test_an_invalid_input_is_pointed_at() -> None:
    body = errors.error_response(Invalid("no", "/messages/0/id")).body
    assert isinstance(body, bytes)
    assert b'"pointer":"/messages/0/id"' in body
