"""The receiver that a request names for its run, as all families take it: `webhook: {"url": …}`.

Only where the tenant has said so, by an endpoint with the URL `*`. Runners send, through a client that
reaches public addresses only.
"""

import msgspec
from aiohttp import web

from rejoin_adapters.webhook_endpoints import ANY_URL, check_url
from rejoin_gateway.core.message_input import MessageOptions
from rejoin_gateway.core.session import AgentSession
from rejoin_gateway.http.gateway_service import SERVICE
from rejoin_protocol.errors import Invalid

POINTER = "/webhook/url"


async def with_webhook(request: web.Request, session: AgentSession, body: MessageOptions) -> AgentSession:
    """The session, of whose new runs the body's receiver is told, if it names one. A repeated request
    changes nothing. Raises `Invalid`.
    """
    if body.webhook is None:
        return session
    try:
        url = check_url(body.webhook.url)
    except Invalid as fault:
        raise Invalid(fault.detail, POINTER) from fault
    endpoints = request.app[SERVICE].webhooks(session.owner.tenant)
    if not await endpoints.outbox.takes_urls(endpoints.tenant):
        raise Invalid(f"requests may name no receiver: the tenant has no webhook {ANY_URL}", POINTER)
    options = msgspec.structs.replace(session.options, webhook_url=url)
    return msgspec.structs.replace(session, options=options)
