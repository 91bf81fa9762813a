"""Nothing that a client can send, and nothing in the default configuration, is without a bound."""

import io
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from msgspec import inspect

from rejoin_adapters.jetstream.setup import StreamSettings
from rejoin_gateway.api.mcp.chat_tool import ToolArguments
from rejoin_gateway.api.sessions import send_body
from rejoin_gateway.app import ROUTES
from rejoin_gateway.core.message_input import ClientMessage, MessageOptions
from rejoin_gateway.listener.connections import ConnectionLimits
from rejoin_gateway.settings import GatewaySettings
from rejoin_protocol.limits import (
    BODY_TEXT_BYTES_MAX,
    DATA_BYTES_MAX,
    EVENT_BYTES_MAX,
    ID_CHARS_MAX,
    METADATA_BYTES_MAX,
    PAGE_CHARS_MAX,
    REASON_CHARS_MAX,
    TEXT_BYTES_MAX,
    TITLE_CHARS_MAX,
    TOOL_INPUT_BYTES_MAX,
    TOOL_RESULT_BYTES_MAX,
)
from rejoin_runner.settings import RunnerSettings
from rejoin_runner.worker.configuration import WorkerLimits
from tests.support.clients.problems import assert_problem, post_bytes
from tests.support.system.local_system import LocalSystem

# ----------------------------------------------------------------------------------- fields of requests

BYTES_MAX: dict[str, int] = {
    "ClientMessage.metadata": METADATA_BYTES_MAX,
    "SessionUpdate.metadata": METADATA_BYTES_MAX,
    "ToolOutputBody.output": TOOL_RESULT_BYTES_MAX,
    "ResumeEntry.payload": TOOL_INPUT_BYTES_MAX,  # changed arguments, and a reason with a bound of its own
    "RunAgentInput.forwardedProps": BODY_TEXT_BYTES_MAX,  # only `context` is read, with a bound of its own
    "ChatMessage.function_call": 0,  # only empty values are taken
    "ChatMessage.tool_calls[]": 0,
}
"""Fields that may hold any JSON, and how many bytes of it."""


def bodies() -> Iterator[Any]:
    """The types of all bodies."""
    yield from (ClientMessage, MessageOptions, ToolArguments)  # of bodies that are told apart by their shape
    for route in ROUTES:
        kinds = route.doc.body if isinstance(route.doc.body, list | tuple) else [route.doc.body]
        yield from (kind for kind in kinds if kind is not None and not isinstance(kind, dict))


def unbounded(kind: inspect.Type, path: str) -> Iterator[str]:
    """The places in a type that have no bound. What is in a bounded object or list of parts has that of the
    part's kind, and of the body.
    """
    match kind:
        case inspect.StructType():
            for field in kind.fields:
                yield from unbounded(field.type, f"{kind.cls.__name__}.{field.encode_name}")
        case inspect.StrType(max_length=None) | inspect.BytesType(max_length=None):
            yield path
        case inspect.ListType():
            if kind.max_length is None:
                yield path
            yield from unbounded(kind.item_type, f"{path}[]")
        case inspect.DictType():
            if kind.max_length is None:
                yield path
            if not isinstance(kind.value_type, inspect.AnyType):
                yield from unbounded(kind.value_type, f"{path}{{}}")
        case inspect.UnionType():
            for one in kind.types:
                yield from unbounded(one, path)
        case inspect.AnyType():
            if path not in BYTES_MAX:
                yield path
        case inspect.Metadata():
            yield from unbounded(kind.type, path)
        case _:
            return


def test_every_field_of_every_request_has_a_bound() -> None:
    kinds = list(bodies())
    assert len(kinds) > 15
    found = {place for kind in kinds for place in unbounded(inspect.type_info(kind), str(kind))}
    assert found == set()


def test_the_walk_finds_what_has_no_bound() -> None:
    class Loose(msgspec.Struct):
        text: str
        items: list[int]
        more: dict[str, Any]
        any: Any

    found = set(unbounded(inspect.type_info(Loose), "Loose"))
    assert found == {"Loose.text", "Loose.items", "Loose.more", "Loose.any"}


def test_every_string_of_a_schema_that_is_written_by_hand_has_a_bound() -> None:
    def strings(schema: Any) -> Iterator[Any]:
        if isinstance(schema, dict):
            if schema.get("type") in ("string", "array"):
                yield schema
            for value in schema.values():
                yield from strings(value)
        elif isinstance(schema, list):
            for value in schema:
                yield from strings(value)

    found = [one for one in strings(send_body.SCHEMA) if not one.keys() & {"maxLength", "maxItems", "enum"}]
    assert found == []


# ------------------------------------------------------------------------------------- refused, with 400

LONG_ID = "x" * (ID_CHARS_MAX + 1)
APPROVAL = {"id": "apr_1", "approved": True, "reason": "x" * (REASON_CHARS_MAX + 1)}


def message(**fields: Any) -> dict[str, Any]:
    return {"id": "m", "role": "user", "parts": [{"type": "text", "text": "hi"}], **fields}


def answered(approval: dict[str, Any]) -> dict[str, Any]:
    part = {"type": "tool-rm", "toolCallId": "c", "state": "approval-responded", "approval": approval}
    return {"id": "a", "role": "assistant", "parts": [part]}


OVERSIZED: dict[str, tuple[str, str, Any]] = {
    "the text of a message": (
        "POST",
        "/api/chat",
        {"id": "s", "messages": [message(parts=[{"type": "text", "text": "é" * (TEXT_BYTES_MAX // 2 + 1)}])]},
    ),
    "the data of a message": (
        "POST",
        "/api/chat",
        {"id": "s", "messages": [message(parts=[{"type": "data-x", "data": "x" * DATA_BYTES_MAX}])]},
    ),
    "the metadata of a message": (
        "POST",
        "/api/chat",
        {"id": "s", "messages": [message(metadata="x" * METADATA_BYTES_MAX)]},
    ),
    "the id of a message": ("POST", "/api/chat", {"id": "s", "messages": [message(id=LONG_ID)]}),
    "the id of a session": ("POST", "/api/chat", {"id": LONG_ID, "messages": [message()]}),
    "the reason of a decision, AI SDK": ("POST", "/api/chat", {"id": "s", "messages": [answered(APPROVAL)]}),
    "the reason of a decision, run": (
        "POST",
        "/run/api/executions/run_1/approvals/c",
        {"approved": True, "reason": APPROVAL["reason"]},
    ),
    "the reason of a decision, session": (
        "POST",
        "/api/agents/{agent}/s",
        {"type": "approval", "approval": {**APPROVAL, "approvalId": "apr_1"}},
    ),
    "the reason of a decision, responses": (
        "POST",
        "/run/v1/responses",
        {
            "model": "{agent}",
            "previous_response_id": "resp_1",
            "input": [
                {
                    "type": "mcp_approval_response",
                    "approval_request_id": "apr_1",
                    "approve": True,
                    "reason": APPROVAL["reason"],
                }
            ],
        },
    ),
    "a title": ("PATCH", "/api/agents/{agent}/s", {"title": "x" * (TITLE_CHARS_MAX + 1)}),
    "the part seen last": (
        "POST",
        "/api/agents/{agent}/s/interrupt",
        {"lastPart": {"type": "text", "text": "x" * EVENT_BYTES_MAX}},
    ),
    "the type of an event": ("POST", "/run/v1/events", {"type": "x" * 257}),
    "a page": ("POST", "/api/agent/chat/sync", {"message": "hi", "currentPage": "x" * (PAGE_CHARS_MAX + 1)}),
    "a model": (
        "POST",
        "/run/v1/chat/completions",
        {"model": "x" * 257, "messages": [{"role": "user", "content": "hi"}]},
    ),
}


@pytest.mark.parametrize("name", OVERSIZED)
async def test_a_field_beyond_its_bound_is_a_400_and_does_nothing(system: LocalSystem, name: str) -> None:
    base = await system.gateway()
    method, path, body = OVERSIZED[name]
    data = msgspec.json.encode(body).replace(b"{agent}", system.agent.encode())
    headers = {"Content-Type": "application/json", "x-agent-id": system.agent}
    url = base + path.replace("{agent}", system.agent)
    async with system.http.request(method, url, data=io.BytesIO(data), headers=headers) as response:
        text = await response.text()
    assert response.status == 400, text
    assert any(char.isdigit() for char in text.split('"status"')[-1]), "it names the limit"


async def test_a_new_session_with_too_many_messages_is_refused(system: LocalSystem) -> None:
    await system.runner()
    base = await system.gateway()
    body = system.chat(system.fresh("s"), "count 1")
    text = [{"type": "text", "text": "a"}]
    body["messages"][:0] = [message(id=str(number), parts=text) for number in range(10_001)]
    assert "10000" in assert_problem(await post_bytes(system, base, msgspec.json.encode(body)), 400)["detail"]


# ------------------------------------------------------------------------------ the default configuration

WITHOUT_A_BOUND: dict[str, str] = {
    "tenant_tokens_per_day": "what a token costs depends on the model",
    "prices": "a list",
    "tenant_cost_per_day": "what people pay is theirs to say",
    "session_retention_s": "how long people want their conversations is theirs to say",
    "nats_url": "a name",
    "nats_creds_file": "a path",
    "nats_nkey_file": "a path",
    "nats_prefix": "a name",
    "database_url": "a name",
    "default_agent": "a name",
    "public_url": "a name",
    "cors_origins": "a list of names",
    "jwt_key": "a credential",
    "jwt_jwks_url": "a name",
    "jwt_issuer": "a name",
    "jwt_audience": "a name",
    "jwt_tenant_claim": "a name",
    "api_key_pepper": "a credential",
    "context_encryption_keys": "credentials",
    "health_port": "a port, or none",
    "metrics_port": "a port, or none",
    "otlp_endpoint": "a name",
    "otlp_metrics_endpoint": "a name",
    "model": "a name",
    "model_base_url": "a name",
    "model_api_key": "a credential",
    "deployed_at_ms": "a time",
    "shutdown_delay_s": "0 is no delay",
}
"""Settings whose default is empty, and why that is no missing bound."""


COUNTS = ("_max", "_per_minute", "_s", "_bytes")


@pytest.mark.parametrize("kind", [GatewaySettings, RunnerSettings])
def test_no_limit_is_unlimited_by_default(kind: type[msgspec.Struct]) -> None:
    fields = msgspec.structs.fields(kind)
    empty = {field.name for field in fields if field.default in (None, "", msgspec.NODEFAULT)}
    assert empty - WITHOUT_A_BOUND.keys() == set()
    limits = {field.name: field.default for field in fields if type(field.default) in (int, float)}
    assert len(limits) > 10
    assert {name for name, limit in limits.items() if not 0 < limit < 2**40} <= WITHOUT_A_BOUND.keys()
    assert {field.name for field in fields if field.name.endswith(COUNTS)} <= limits.keys() | empty


@pytest.mark.parametrize("kind", [ConnectionLimits, StreamSettings, WorkerLimits])
def test_no_limit_of_what_a_service_is_made_of_is_unlimited(kind: type[msgspec.Struct]) -> None:
    """These are not all settings."""
    defaults = {field.name: field.default for field in msgspec.structs.fields(kind)}
    unlimited = {name for name, value in defaults.items() if value != () and not 0 < (value or 0) < 2**40}
    assert unlimited <= WITHOUT_A_BOUND.keys()


def test_gateways_and_runners_have_the_same_default_limits() -> None:
    gateway = GatewaySettings(nats_url="", database_url="")
    runner = RunnerSettings(nats_url="", database_url="")
    assert gateway.limits == runner.limits
    assert runner.max_concurrent_runs > gateway.tenant_running_max, "one tenant leaves places to the others"
    assert gateway.tenant_running_max > gateway.user_running_max
