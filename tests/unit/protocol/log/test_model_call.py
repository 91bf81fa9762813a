"""A recorded call is read as it was written, by whoever has the key, and as a call of its own run alone."""

from base64 import b64encode

import pytest

from rejoin_protocol.ids import RunId, TenantId
from rejoin_protocol.log import model_call
from rejoin_protocol.log.model_call import (
    CALL_RECORD_BYTES_MAX,
    CALL_TEXT_BYTES_MAX,
    RecordedAnswer,
    RecordedPart,
    RecordedRequest,
)
from rejoin_protocol.security.sealing import Sealer

TENANT, RUN = TenantId("acme"), RunId("run_1")
CALL = RecordedRequest(
    call="2.1",
    step=1,
    attempt=2,
    agent="demo",
    url="https://provider.example/v1",
    started_at_ms=5,
    text='{"model": "one"}',
    bytes=16,
)
ANSWER = RecordedAnswer(call="2.1", step=1, status=None, duration_ms=6, text="", bytes=0)


def sealer(key: bytes = b"1") -> Sealer:
    return Sealer(f"k{key.decode()}:{b64encode(key * 32).decode()}", lambda count: b"n" * count)


@pytest.mark.parametrize("keys", [None, sealer()], ids=["plain", "encrypted"])
def test_what_was_packed_is_unpacked(keys: Sealer | None) -> None:
    for part in (CALL, ANSWER):
        stored = model_call.pack(part, keys, TENANT, RUN)
        assert model_call.unpack(stored, keys, TENANT, RUN) == part
        assert (b'"call"' in stored) is (keys is None)


@pytest.mark.parametrize("text", ["\0" * CALL_TEXT_BYTES_MAX, "\ufffd" * CALL_TEXT_BYTES_MAX, '"' * 300_000])
def test_a_text_that_json_makes_long_is_cut_to_the_bound_and_its_size_stays(text: str) -> None:
    part: RecordedPart = RecordedAnswer(call="2.1", step=1, status=200, duration_ms=6, text=text, bytes=9**9)
    stored = model_call.pack(part, None, TENANT, RUN)
    assert CALL_RECORD_BYTES_MAX // 3 < len(stored) <= CALL_RECORD_BYTES_MAX
    found = model_call.unpack(stored, None, TENANT, RUN)
    assert found is not None
    assert text.startswith(found.text)
    assert found.bytes == 9**9


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
