"""Signatures of webhooks by the specification Standard Webhooks (https://www.standardwebhooks.com). Pure.

A secret is `whsec_` and base64. A signature is `v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`;
several, separated by spaces, while a secret is being replaced.
"""

import hashlib
import hmac
from base64 import b64decode, b64encode
from collections.abc import Sequence

from rejoin_protocol.ids import SessionId

SECRET_PREFIX = "whsec_"  # noqa: S105 - no secret
WEBHOOK_SECRET_BYTES = 32


def sealing_place(endpoint: str) -> SessionId:
    """What a secret is sealed for, beside the tenant: it opens for no other endpoint."""
    return SessionId(f"webhook {endpoint}")


def format_secret(random_bytes: bytes) -> str:
    """A secret as receivers configure it. `random_bytes`: `WEBHOOK_SECRET_BYTES` of them."""
    return SECRET_PREFIX + b64encode(random_bytes).decode()


def message_id(endpoint: str, number: int) -> str:
    """The id of a delivery, the same in all attempts: by it a receiver knows a repetition. It tells nothing
    about other deliveries.
    """
    return f"msg_{hashlib.sha256(f'{endpoint} {number}'.encode()).hexdigest()[:26]}"


def sign(secrets: Sequence[str], id: str, timestamp_s: int, body: bytes) -> dict[str, str]:
    """The headers of a delivery, signed with each secret. The same event keeps its id in all attempts."""
    content = f"{id}.{timestamp_s}.".encode() + body
    return {
        "webhook-id": id,
        "webhook-timestamp": str(timestamp_s),
        "webhook-signature": " ".join(_signature(secret, content) for secret in secrets),
    }


def _signature(secret: str, content: bytes) -> str:
    key = b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    return "v1," + b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
