"""Headers become a context. Errors name the field and hide its value."""

from base64 import b64encode
from typing import Any

import msgspec
import pytest

from rejoin_gateway.core.agent_context import (
    ContextInput,
    SealedContext,
    SealingUnavailable,
    context_from_headers,
    seal_context,
    validate_context,
)
from rejoin_gateway.core.context_names import header_name
from rejoin_protocol.errors import Invalid
from rejoin_protocol.ids import SessionId, TenantId
from rejoin_protocol.security.sealing import KEY_BYTES, Sealer
from rejoin_runner.tools.argument_schema import object_schema


class Limits(msgspec.Struct):
    cents: int


class Tenant(msgspec.Struct):
    tenant_id: str
    seats: int = 1
    trial: bool = False
    ratio: float | None = None
    limits: Limits | None = None


SCHEMA = object_schema(Tenant)
SEALER = Sealer(f"k:{b64encode(b'k' * KEY_BYTES).decode()}", lambda count: b"n" * count)
WHERE = (TenantId("t"), SessionId("s"))


def opened(one: SealedContext) -> Any:
    assert one.sealed is not None
    return SEALER.open(one.sealed, *WHERE)


def test_headers_are_read_by_the_fields_names_in_any_case() -> None:
    headers = {"Tenant-ID": "acme", "SEATS": "12", "trial": "True", "Ratio": "0.5", "accept": "*/*"}
    assert context_from_headers(headers, SCHEMA) == {
        "tenant_id": "acme",
        "seats": 12,
        "trial": True,
        "ratio": 0.5,
    }
    assert context_from_headers({"tenant_id": "007"}, SCHEMA) == {"tenant_id": "007"}
    assert context_from_headers({"tenantId": "a"}, SCHEMA) == {"tenant_id": "a"}
    assert context_from_headers({"accept": "*/*"}, SCHEMA) is None


def test_a_field_in_camel_case_has_the_same_headers() -> None:
    schema = {"properties": {"tenantId": {"type": "string"}, "user_id": {}, "userid": {}}}
    for name in ("tenant-id", "tenantid", "Tenant_Id", "TenantId"):
        assert context_from_headers({name: "a"}, schema) == {"tenantId": "a"}
    assert context_from_headers({"userId": "a"}, schema) == {"userid": "a"}
    assert [header_name(field) for field in ("tenant_id", "tenantId", "userID", "x")] == [
        "tenant-id",
        "tenant-id",
        "user-id",
        "x",
    ]


class Place(msgspec.Struct):
    zip_code: str


class Order(msgspec.Struct):
    order_id: int
    ship_to: Place | None = None
    sent_from: list[Place] = []


def test_names_in_camel_case_are_the_schemas_at_all_depths() -> None:
    schema = object_schema(Order)
    sent = {
        "orderId": 1,
        "shipTo": {"zipCode": "1", "zip_town": "x"},
        "sent_from": [{"zipCode": "2"}, {"zip_code": "3"}],
    }
    assert validate_context(sent, schema) == {
        "order_id": 1,
        "ship_to": {"zip_code": "1", "zip_town": "x"},
        "sent_from": [{"zip_code": "2"}, {"zip_code": "3"}],
    }
    assert validate_context({"tenantId": "a"}, SCHEMA) == {"tenant_id": "a"}


def test_a_name_of_the_schema_is_not_renamed() -> None:
    schema = {"type": "object", "properties": {"tenant_id": {}, "tenantId": {"type": "string"}}}
    assert validate_context({"tenantId": "a", "tenant_id": 1}, schema) == {"tenantId": "a", "tenant_id": 1}


@pytest.mark.parametrize(
    ("value", "pointer"),
    [
        ({"orderId": "x"}, "/context/orderId"),
        ({"order_id": "x"}, "/context/order_id"),
        ({"orderId": 1, "sentFrom": [{"zipCode": 5}]}, "/context/sentFrom/0/zipCode"),
        ({"orderId": 1, "sentFrom": [{}]}, "/context/sentFrom/0/zip_code"),
        ({"orderId": 1, "order_id": 2}, "/context"),
    ],
)
def test_a_fault_points_to_what_the_client_wrote(value: Any, pointer: str) -> None:
    with pytest.raises(Invalid) as told:
        validate_context(value, object_schema(Order))
    assert told.value.pointer == pointer


@pytest.mark.parametrize(
    ("value", "pointer", "said"),
    [
        ({}, "/context/tenant_id", r"context.tenant_id is required \(header `tenant-id`\)"),
        ({"tenant_id": 1}, "/context/tenant_id", "type: string"),
        ({"tenant_id": "a", "seats": "many"}, "/context/seats", "type: integer"),
        ([], "/context", "expected an object"),
    ],
)
def test_a_fault_names_the_place(value: Any, pointer: str, said: str) -> None:
    with pytest.raises(Invalid, match=said) as told:
        validate_context(value, SCHEMA)
    assert told.value.pointer == pointer


def test_a_huge_number_is_a_fault_like_others() -> None:
    """A float of it does not exist: `jsonschema` fails where it divides it."""
    schema = {"type": "object", "properties": {"price": {"multipleOf": 0.03}}}
    with pytest.raises(Invalid) as told:
        validate_context({"price": 10**400}, schema)
    assert told.value.pointer == "/context/price"


def test_a_fault_does_not_name_the_value() -> None:
    with pytest.raises(Invalid) as told:
        validate_context({"tenant_id": "a", "seats": "hunter2"}, SCHEMA)
    assert "hunter2" not in str(told.value)


async def at_once(_: TenantId, function: Any, *given: Any) -> Any:
    return function(*given)


async def seal(
    received: ContextInput,
    remembered: bytes | None,
    schema: dict[str, Any] | None = SCHEMA,
    sealer: Sealer | None = SEALER,
) -> SealedContext:
    return await seal_context(received, schema, sealer, *WHERE, remembered, at_once)


async def test_an_agent_that_wants_none_gets_none() -> None:
    given = ContextInput({"tenant-id": "a"}, {"b": 1})
    assert await seal(given, None, schema=None, sealer=None) == SealedContext()


async def test_headers_are_remembered_and_a_body_is_not() -> None:
    by_headers = await seal(ContextInput({"tenant-id": "a"}), None)
    assert (opened(by_headers), by_headers.remember) == ({"tenant_id": "a"}, True)
    by_body = await seal(ContextInput({"tenant-id": "a"}, {"tenant_id": "b"}), None)
    assert (opened(by_body), by_body.remember) == ({"tenant_id": "b"}, False)


async def test_a_later_turn_needs_no_headers_and_may_change_some() -> None:
    first = await seal(ContextInput({"tenant-id": "a", "seats": "2"}), None)
    assert await seal(ContextInput(), first.sealed) == SealedContext()
    later = await seal(ContextInput({"seats": "3"}), first.sealed)
    assert opened(later) == {"tenant_id": "a", "seats": 3}


async def test_what_does_not_open_any_more_is_asked_for_again() -> None:
    with pytest.raises(Invalid, match="tenant_id is required"):
        await seal(ContextInput(), b"\x01\x03oldxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx")


async def test_without_keys_no_context_is_taken() -> None:
    with pytest.raises(SealingUnavailable):
        await seal(ContextInput({"tenant-id": "a"}), None, sealer=None)
