"""The `webhooks` of the OpenAPI document: what receivers get, by Standard Webhooks. Pure."""

from typing import Any

from rejoin_adapters.ports.webhooks import WEBHOOK_EVENTS, WebhookBody

WEBHOOK_TYPES = (WebhookBody,)
MEANINGS = {
    "run.completed": "The run has ended, and history has its answer.",
    "run.failed": "The run has failed.",
    "run.cancelled": "The run was interrupted.",
    "run.waiting": "The run is suspended; `waitingFor` names the calls that need a decision or an output.",
}
HEADERS = {
    "webhook-id": "The same in all attempts: by it you know a repetition.",
    "webhook-timestamp": "Seconds since 1970, of this attempt.",
    "webhook-signature": "`v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`, or two such.",
}


def describe_webhooks(refs: str) -> dict[str, Any]:
    """By event. `refs`: the template of references to schemas."""
    body = {"$ref": refs.format(name=WebhookBody.__name__)}
    return {event: {"post": _operation(event, body)} for event in WEBHOOK_EVENTS}


def _operation(event: str, body: dict[str, Any]) -> dict[str, Any]:
    return {
        "operationId": event.replace(".", "_"),
        "summary": MEANINGS[event],
        "tags": ["webhooks"],
        "parameters": [
            {
                "name": name,
                "in": "header",
                "required": True,
                "description": text,
                "schema": {"type": "string"},
            }
            for name, text in HEADERS.items()
        ],
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {
            "2XX": {"description": "Received. The session's next event is sent."},
            "410": {"description": "Nothing more is sent to this receiver."},
            "default": {
                "description": "Sent again later, for a day; not before `Retry-After`, up to four hours.",
            },
        },
    }
