"""Reports of processes as messages."""

import msgspec
import pytest

from rejoin_protocol.ids import AgentName
from rejoin_protocol.process_report import ProcessReport, decode_report, encode_report


def test_a_report_is_read_as_it_was_written() -> None:
    report = ProcessReport(
        "host-1", "runner", "1.2", 5, 3, 64, 0.25, 1024, "memory", True, [AgentName("a")], [1]
    )
    assert decode_report(encode_report(report)) == report


def test_a_report_may_have_fields_of_a_newer_version_and_lack_all_that_have_a_default() -> None:
    data = b'{"id": "host-1", "kind": "gateway", "version": "9", "startedAtMs": 5, "weather": "fair"}'
    assert decode_report(data) == ProcessReport("host-1", "gateway", "9", 5)


@pytest.mark.parametrize("data", [b"", b"[]", b'{"id": "host-1"}', b'{"id": 1, "kind": "gateway"}'])
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_report(data)
