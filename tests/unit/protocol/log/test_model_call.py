"""A recorded call is read as it was written, by whoever has the key, and as a call of its own run alone."""

from base64 import b64encode

import pytest

from rejoin_protocol.ids import RunId, TenantId
from rejoin_protocol.log import model_call
from rejoin_protocol.log.model_call import RecordedCall
from rejoin_protocol.security.sealing import Sealer

TENANT, RUN = TenantId("acme"), RunId("run_1")
CALL = RecordedCall(
    step=1,
    attempt=2,
    agent="demo",
    url="https://provider.example/v1",
    status=None,
    started_at_ms=5,
    duration_ms=6,
    request='{"model": "one"}',
    request_bytes=16,
    answer="",
    answer_bytes=0,
)


def sealer(key: bytes = b"1") -> Sealer:
    return Sealer(f"k{key.decode()}:{b64encode(key * 32).decode()}", lambda count: b"n" * count)


@pytest.mark.parametrize("keys", [None, sealer()], ids=["plain", "encrypted"])
def test_what_was_packed_is_unpacked(keys: Sealer | None) -> None:
    stored = model_call.pack(CALL, keys, TENANT, RUN)
    assert model_call.unpack(stored, keys, TENANT, RUN) == CALL
    assert (b"provider.example" in stored) is (keys is None)


def test_without_the_key_or_for_another_run_there_is_no_call() -> None:
    stored = model_call.pack(CALL, sealer(), TENANT, RUN)
    assert model_call.unpack(stored, None, TENANT, RUN) is None
    assert model_call.unpack(stored, sealer(b"2"), TENANT, RUN) is None
    assert model_call.unpack(stored, sealer(), TENANT, RunId("run_2")) is None
    assert model_call.unpack(stored, sealer(), TenantId("other"), RUN) is None


def test_plain_calls_from_before_the_encryption_stay_readable() -> None:
    assert model_call.unpack(model_call.pack(CALL, None, TENANT, RUN), sealer(), TENANT, RUN) == CALL


@pytest.mark.parametrize("stored", [b"", b"{", b'{"step": "one"}', b"\x01\x02k1"])
def test_what_is_no_call_is_none(stored: bytes) -> None:
    assert model_call.unpack(stored, sealer(), TENANT, RUN) is None
