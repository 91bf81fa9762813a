"""A sealed context opens with any known key, for its own tenant and session only."""

from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rejoin_protocol.errors import Invalid
from rejoin_protocol.ids import SessionId, TenantId
from rejoin_protocol.security.sealing import KEY_BYTES, Sealer, UnsealError

TENANT, SESSION = TenantId("t"), SessionId("s")


def key(id: str, byte: int) -> str:
    return f"{id}:{b64encode(bytes([byte]) * KEY_BYTES).decode()}"


def sealer(keys: str) -> Sealer:
    return Sealer(keys, lambda count: b"n" * count)


OLD, NEW = key("old", 1), key("new", 2)


@given(st.dictionaries(st.text(), st.text() | st.integers(-(2**53), 2**53) | st.booleans()))
def test_what_is_sealed_opens(value: dict[str, object]) -> None:
    one = sealer(NEW)
    assert one.open(one.seal(value, TENANT, SESSION), TENANT, SESSION) == value


def test_the_value_cannot_be_read_in_it() -> None:
    assert b"hunter2" not in sealer(NEW).seal({"token": "hunter2"}, TENANT, SESSION)


def test_keys_rotate() -> None:
    """The first seals, all open; one that is gone opens nothing."""
    sealed = sealer(OLD).seal({"a": 1}, TENANT, SESSION)
    both = sealer(f"{NEW}, {OLD}")
    assert both.open(sealed, TENANT, SESSION) == {"a": 1}
    assert sealer(NEW).open(both.seal({"b": 2}, TENANT, SESSION), TENANT, SESSION) == {"b": 2}
    with pytest.raises(UnsealError, match="REJOIN_CONTEXT_ENCRYPTION_KEYS"):
        sealer(NEW).open(sealed, TENANT, SESSION)


@pytest.mark.parametrize(("tenant", "session"), [("u", "s"), ("t", "u"), ("t\0s", "")])
def test_it_does_not_open_elsewhere(tenant: str, session: str) -> None:
    sealed = sealer(NEW).seal({"a": 1}, TENANT, SESSION)
    with pytest.raises(UnsealError):
        sealer(NEW).open(sealed, TenantId(tenant), SessionId(session))


@given(st.integers(0), st.integers(1, 255))
def test_one_changed_byte_is_noticed(place: int, change: int) -> None:
    sealed = bytearray(sealer(NEW).seal({"a": 1}, TENANT, SESSION))
    sealed[place % len(sealed)] ^= change
    with pytest.raises(UnsealError):
        sealer(NEW).open(bytes(sealed), TENANT, SESSION)


@pytest.mark.parametrize("cut", [b"", b"\x01", b"\x01\x03new", b"\x01\x03new" + b"n" * 12])
def test_half_of_it_is_refused(cut: bytes) -> None:
    with pytest.raises(UnsealError):
        sealer(NEW).open(cut, TENANT, SESSION)


@pytest.mark.parametrize("keys", ["", "a", "a:", "a:AAAA", "a:!!", f"{NEW},{NEW}", f":{NEW[4:]}", f"{NEW},"])
def test_keys_that_are_none_are_refused_and_not_shown(keys: str) -> None:
    with pytest.raises(Invalid, match="context key") as told:
        sealer(keys)
    assert NEW[4:] not in str(told.value)


def test_what_is_no_text_is_refused() -> None:
    """A header that is not UTF-8 comes as half surrogates."""
    with pytest.raises(Invalid) as refused:
        sealer(NEW).seal({"token": "\udcff"}, TENANT, SESSION)
    assert refused.value.pointer == "/context"
