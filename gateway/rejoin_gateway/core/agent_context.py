"""The request context: values that a client sends beside the message, for the agent's tools.

Reads a context from headers, checks it against the agent's JSON Schema (from the agent's registry entry) and
encrypts it. Errors name the field and never quote the value: a context holds credentials.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from rejoin_adapters.process import redaction
from rejoin_adapters.session_keys import sealing_name
from rejoin_gateway.core import context_names
from rejoin_protocol.errors import Invalid, Unavailable
from rejoin_protocol.ids import SessionId, TenantId
from rejoin_protocol.limits import CONTEXT_BYTES_MAX
from rejoin_protocol.security.sealing import Sealer, UnsealError

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError

type Check = Callable[..., Awaitable[Any]]
BOOLEANS = {"true": True, "false": False}
QUOTABLE_RULES = (
    "type",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "pattern",
    "format",
    "minItems",
    "maxItems",
)
"""JSON Schema keywords that an error quotes. Others could quote a secret, for example a `const`."""

CONTEXT_RETRY_AFTER_S = 60
"""For a missing encryption key: only an operator can add it."""


class SealingUnavailable(Unavailable):
    """The agent wants a context, and this gateway has no key to encrypt it with. Clients get a 503."""


class ContextInput(msgspec.Struct, frozen=True):
    """Where a request's context is read from: its headers, or the field `context` of a body.

    A context in the body is for the request's run only; one in headers also for later runs of the session.
    """

    headers: Mapping[str, str] = {}
    body: Any = None


class SealedContext(msgspec.Struct, frozen=True):
    """An encrypted context. `sealed` is None if the run needs none, or uses the one that its session keeps.
    `remember`: the session keeps this one for later runs.
    """

    sealed: bytes | None = None
    remember: bool = False


async def seal_context(
    received: ContextInput,
    schema: dict[str, Any] | None,
    sealer: Sealer | None,
    tenant: TenantId,
    session: SessionId,
    remembered: bytes | None,
    check: Check,
) -> SealedContext:
    """The context to store with a run. Header values override the remembered ones, field by field.

    `schema` is the agent's; None: it takes no context. `remembered` is the session's sealed context.
    `check`: as `Backend.check`. Raises `Invalid` and `SealingUnavailable`.
    """
    if schema is None:
        return SealedContext()
    if sealer is None:
        raise SealingUnavailable(
            "the agent needs a context, which this gateway cannot encrypt: "
            "set REJOIN_CONTEXT_ENCRYPTION_KEYS, the same for gateways and runners",
            CONTEXT_RETRY_AFTER_S,
        )
    redaction.hide(received.body)
    name = sealing_name(session)
    if received.body is not None:
        return SealedContext(
            sealer.seal(await check(tenant, validate_context, received.body, schema), tenant, name)
        )
    from_headers = context_from_headers(received.headers, schema)
    redaction.hide(from_headers)
    remembered_context = _open_remembered(remembered, sealer, tenant, name)
    if from_headers is None and remembered_context is not None:
        return SealedContext()  # the session's context is used as it is
    merged = {**(remembered_context or {}), **(from_headers or {})}
    value = await check(tenant, validate_context, merged, schema)
    return SealedContext(sealer.seal(value, tenant, name), remember=True)


def _open_remembered(
    remembered: bytes | None, sealer: Sealer, tenant: TenantId, session: SessionId
) -> dict[str, Any] | None:
    """The session's context. None if there is none, or if it can no longer be decrypted; the client must then
    send it again.
    """
    try:
        value = None if remembered is None else sealer.open(remembered, tenant, session)
    except UnsealError:
        return None
    return value if isinstance(value, dict) else None


def context_from_headers(headers: Mapping[str, str], schema: dict[str, Any]) -> dict[str, Any] | None:
    """The schema's properties that are headers, named as `context_names.read_headers` says.

    Strings become numbers and booleans where the schema wants these. None if no header matches.
    """
    fields = schema.get("properties", {})
    values = context_names.read_headers(headers, fields)
    return {field: _convert_header(text, fields[field]) for field, text in values.items()} or None


def _convert_header(text: str, schema: Any) -> Any:
    kinds = _types_of(schema)
    if not kinds or "string" in kinds:
        return text
    if "boolean" in kinds and text.casefold() in BOOLEANS:
        return BOOLEANS[text.casefold()]
    if kinds & {"integer", "number", "array", "object"}:
        try:
            value = msgspec.json.decode(text)
        except msgspec.DecodeError:
            return text
        return value if not isinstance(value, str | bool) and value is not None else text
    return text


def _types_of(schema: Any) -> set[str]:
    if not isinstance(schema, dict):
        return set()
    kind = schema.get("type", [])
    kinds = {kind} if isinstance(kind, str) else set(kind)
    return kinds.union(*(_types_of(option) for option in schema.get("anyOf", [])))


def validate_context(value: Any, schema: dict[str, Any]) -> dict[str, Any]:
    """The value with the schema's names, if it satisfies the schema. Fields may be in camelCase. Takes a
    second at the most.

    Raises `Invalid` for the most relevant violation.
    """
    if not isinstance(value, dict):
        raise Invalid("context: expected an object", "/context")
    size = len(msgspec.json.encode(value))
    if size > CONTEXT_BYTES_MAX:
        raise Invalid(f"context: at most {CONTEXT_BYTES_MAX} bytes as JSON, not {size}", "/context")
    from rejoin_adapters.process import schema_check  # loads with the first agent that takes a context

    context: dict[str, Any] = context_names.with_schema_names(value, schema, schema)
    try:
        fault = schema_check.find_mismatch(context, schema)
    except schema_check.CheckTimeout:
        most = f"{schema_check.CHECK_S:g} s"
        raise Invalid(f"context: checking it takes more than {most}: send less", "/context") from None
    if fault is not None:
        raise Invalid(*_describe_fault(fault, value))
    return context


def _describe_fault(fault: "ValidationError", sent: dict[str, Any]) -> tuple[str, str]:
    path = context_names.as_sent([str(step) for step in fault.absolute_path], sent)
    rule, expected = str(fault.validator), fault.validator_value
    if rule == "required" and isinstance(expected, list) and isinstance(fault.instance, dict):
        name = next(name for name in expected if name not in fault.instance)
        path.append(name)
        # Most clients send headers: the error says how the field is called there.
        header = f" (header `{context_names.header_name(name)}`)" if len(path) == 1 else ""
        problem = f"is required{header}"
    else:
        problem = "does not fit" + (f" ({rule}: {expected})" if rule in QUOTABLE_RULES else "")
    return f"{'.'.join(['context', *path])} {problem}", "/" + "/".join(["context", *path])
