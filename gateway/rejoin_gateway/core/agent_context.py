"""The context of a request: what an application's client says beside the message, for tools to know.

Owns how headers become a context, and what is wrong with one. The schema is the agent's own, from its
registry entry. A fault names the place and never the value: a context holds credentials.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from rejoin_adapters.service import redaction
from rejoin_protocol.errors import Invalid, Unavailable
from rejoin_protocol.ids import SessionId, TenantId
from rejoin_protocol.security.sealing import Sealer, UnsealError

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError

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
"""What of a schema may be quoted when a value does not satisfy it."""

RETRY_AFTER_S = 60
"""For a missing encryption key: only an operator can add it."""


class SealingUnavailable(Unavailable):
    """The agent has a context, and this gateway has no keys to encrypt it with. Clients get a 503."""


class ContextInput(msgspec.Struct, frozen=True):
    """What a request brings: its headers, and a body field where the family has one, for its run only."""

    headers: Mapping[str, str] = {}
    body: Any = None


class SealedContext(msgspec.Struct, frozen=True):
    """A context as it is stored. `remember`: for later runs of the session too."""

    sealed: bytes | None = None
    remember: bool = False


def seal_context(
    brought: ContextInput,
    schema: dict[str, Any] | None,
    sealer: Sealer | None,
    tenant: TenantId,
    session: SessionId,
    remembered: bytes | None,
) -> SealedContext:
    """What to store with a run. Headers complete what the session remembers. Raises `Invalid`,
    `SealingUnavailable`.
    """
    if schema is None:
        return SealedContext()
    if sealer is None:
        raise SealingUnavailable(
            "the agent needs a context, which this gateway cannot encrypt: "
            "set REJOIN_CONTEXT_ENCRYPTION_KEYS, the same for gateways and runners",
            RETRY_AFTER_S,
        )
    redaction.hide(brought.body)
    if brought.body is not None:
        return SealedContext(sealer.seal(validate_context(brought.body, schema), tenant, session))
    given = context_from_headers(brought.headers, schema)
    redaction.hide(given)
    known = _opened(remembered, sealer, tenant, session)
    if given is None and known is not None:
        return SealedContext()
    value = validate_context({**(known or {}), **(given or {})}, schema)
    return SealedContext(sealer.seal(value, tenant, session), remember=True)


def _opened(
    remembered: bytes | None, sealer: Sealer, tenant: TenantId, session: SessionId
) -> dict[str, Any] | None:
    """What the session remembers, if it still opens; else the client has to say it again."""
    try:
        value = None if remembered is None else sealer.open(remembered, tenant, session)
    except UnsealError:
        return None
    return value if isinstance(value, dict) else None


def context_from_headers(headers: Mapping[str, str], schema: dict[str, Any]) -> dict[str, Any] | None:
    """The properties of a schema that stand in headers of their names, `_` and `-` alike, in any case.

    Strings become numbers and booleans where the schema wants these. None: there are none of them.
    """
    named = {_name(name): value for name, value in headers.items()}
    found = {
        field: _converted(named[_name(field)], wanted)
        for field, wanted in schema.get("properties", {}).items()
        if _name(field) in named
    }
    return found or None


def _name(text: str) -> str:
    return text.replace("_", "-").casefold()


def _converted(text: str, wanted: Any) -> Any:
    kinds = _kinds(wanted)
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


def _kinds(wanted: Any) -> set[str]:
    if not isinstance(wanted, dict):
        return set()
    kind = wanted.get("type", [])
    kinds = {kind} if isinstance(kind, str) else set(kind)
    return kinds.union(*(_kinds(one) for one in wanted.get("anyOf", [])))


def validate_context(value: Any, schema: dict[str, Any]) -> dict[str, Any]:
    """The value, if it satisfies the schema. Raises `Invalid` naming the first place that does not."""
    if not isinstance(value, dict):
        raise Invalid("context: expected an object", "/context")
    from jsonschema import Draft202012Validator  # only agents with a context need it
    from jsonschema.exceptions import best_match

    fault = best_match(Draft202012Validator(schema).iter_errors(value))
    if fault is not None:
        raise Invalid(*_said(fault))
    return value


def _said(fault: "ValidationError") -> tuple[str, str]:
    path = [str(step) for step in fault.absolute_path]
    rule, wanted = str(fault.validator), fault.validator_value
    if rule == "required" and isinstance(wanted, list) and isinstance(fault.instance, dict):
        path.append(next(name for name in wanted if name not in fault.instance))
        said = "is required"
    else:
        said = "does not fit" + (f" ({rule}: {wanted})" if rule in QUOTABLE_RULES else "")
    return f"{'.'.join(['context', *path])} {said}", "/" + "/".join(["context", *path])
