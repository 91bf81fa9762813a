"""The receivers that a tenant has named: their ids, URLs and secrets. For the API and `rejoin webhooks`.

Owns the form of ids and URLs and the sealing of secrets; `WebhookOutbox` stores them. Sends nothing.
"""

import re
from collections.abc import Callable, Sequence
from datetime import datetime
from urllib.parse import urlsplit

import msgspec

from rejoin_adapters.ports.webhooks import WebhookEndpoint, WebhookOutbox
from rejoin_protocol.errors import Conflict, Invalid, NotFound
from rejoin_protocol.ids import TenantId
from rejoin_protocol.limits import URL_CHARS_MAX
from rejoin_protocol.security.sealing import Sealer
from rejoin_protocol.security.webhook_signature import WEBHOOK_SECRET_BYTES, format_secret, sealing_place

ENDPOINT_ID_BYTES = 12
ENDPOINT_ID = re.compile(rf"we_[0-9a-f]{{{2 * ENDPOINT_ID_BYTES}}}")
NO_URL = frozenset(' "\\')
"""Not in URLs (RFC 3986). The trigger that queues webhooks relies on it."""
ANY_URL = "*"
"""The URL of the endpoint that stands for those that requests name: its secret signs what is sent there."""


class WebhookEndpoints(msgspec.Struct, frozen=True):
    """The endpoints of one tenant. `sealer` None: no secret can be made."""

    outbox: WebhookOutbox
    tenant: TenantId
    sealer: Sealer | None
    random_bytes: Callable[[int], bytes]

    async def add(self, url: str, events: Sequence[str], now: datetime) -> tuple[WebhookEndpoint, str]:
        """Add an endpoint; it, and its secret. Raises `Invalid`, `Limited`, `Conflict` for a second `*`."""
        id = f"we_{self.random_bytes(ENDPOINT_ID_BYTES).hex()}"
        secret, sealed = self._make_secret(id)
        if url != ANY_URL:
            check_url(url)
        elif await self.outbox.takes_urls(self.tenant):
            raise Conflict(f"the tenant has a webhook with the URL {ANY_URL}")
        endpoint = WebhookEndpoint(id, self.tenant, url, tuple(dict.fromkeys(events)), now)
        await self.outbox.add(endpoint, sealed)
        return endpoint, secret

    async def rotate(self, id: str, overlap_s: float) -> str:
        """Replace an endpoint's secret; the new one. Raises `NotFound`, `Invalid`."""
        secret, sealed = self._make_secret(id)
        self.require(id, found=await self.outbox.rotate(self.tenant, id, sealed, overlap_s))
        return secret

    def check_id(self, id: str) -> str:
        """The id. Raises `NotFound` unless it has the form of one."""
        self.require(id, found=ENDPOINT_ID.fullmatch(id) is not None)
        return id

    def require(self, id: str, *, found: bool) -> None:
        """Raises `NotFound` unless the endpoint was found."""
        if not found:
            raise NotFound(f"tenant {self.tenant} has no webhook endpoint {id!r}")

    def _make_secret(self, id: str) -> tuple[str, bytes]:
        if self.sealer is None:
            raise Invalid("set REJOIN_CONTEXT_ENCRYPTION_KEYS, the same as runners have: it encrypts secrets")
        secret = format_secret(self.random_bytes(WEBHOOK_SECRET_BYTES))
        return secret, self.sealer.seal(secret, self.tenant, sealing_place(id))


def check_url(text: str) -> str:
    """A URL to which webhooks can be sent. The sender checks its address. Raises `Invalid`."""
    try:
        url = urlsplit(text)
        is_whole = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        is_whole = False
    is_plain = text.isascii() and text.isprintable() and not set(text) & NO_URL
    if not is_whole or not is_plain or len(text) > URL_CHARS_MAX:
        raise Invalid("a webhook's URL is an http or https URL")
    if "@" in url.netloc:
        raise Invalid("a URL must not hold credentials: receivers check the signature")
    return text
