"""Signatures of webhooks: the reference library accepts them."""

import time

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from rejoin_protocol.security.webhook_signature import (
    WEBHOOK_SECRET_BYTES,
    format_secret,
    sealing_place,
    sign,
)

OLD, NEW, OTHER = (format_secret(bytes([number]) * WEBHOOK_SECRET_BYTES) for number in range(3))
BODY = '{"type":"run.completed","data":{"user":"Zoë"}}'.encode()


@pytest.mark.parametrize("secret", [OLD, NEW])
def test_each_secret_verifies_while_both_sign(secret: str) -> None:
    headers = sign([NEW, OLD], "msg_1", int(time.time()), BODY)
    assert Webhook(secret).verify(BODY, headers)["data"] == {"user": "Zoë"}


def test_another_secret_another_id_and_another_body_do_not_verify() -> None:
    headers = sign([NEW], "msg_1", int(time.time()), BODY)
    for secret, changed, body in (
        (OTHER, headers, BODY),
        (NEW, {**headers, "webhook-id": "msg_2"}, BODY),
        (NEW, headers, BODY + b" "),
    ):
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(body, changed)


def test_a_signature_is_that_of_the_specification() -> None:
    """The example of the specification's libraries."""
    headers = sign(
        ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"],
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1614265330,
        b'{"test": 2432232314}',
    )
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_secrets_of_endpoints_are_sealed_for_them_alone() -> None:
    assert sealing_place("we_1") != sealing_place("we_2")
