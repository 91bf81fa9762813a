"""Reports of processes as messages."""

import pytest

from rejoin_protocol.ids import AgentName
from rejoin_protocol.process_report import REPORT_BYTES_MAX, ProcessReport, decode_report, encode_report


def test_a_report_is_read_as_it_was_written() -> None:
    report = ProcessReport(
        "host-1", "runner", "1.2", 5, 3, 64, 0.25, 1024, "memory", True, [AgentName("a")], [1]
    )
    assert decode_report(encode_report(report), "runner") == report


def test_a_report_may_have_fields_of_a_newer_version_and_lack_all_that_have_a_default() -> None:
    data = b'{"id": "host-1", "kind": "gateway", "version": "9", "startedAtMs": 5, "weather": "fair"}'
    assert decode_report(data, "gateway") == ProcessReport("host-1", "gateway", "9", 5)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b'{"id": "host-1"}',
        b'{"id": 1, "kind": "gateway"}',
        b"\xff",
        encode_report(ProcessReport("host-1", "runner", "9", 5)),  # it speaks for the other service
        encode_report(ProcessReport("host-1", "gateway", "9", 10**18)),
        encode_report(ProcessReport("host-1", "gateway", "9" * REPORT_BYTES_MAX, 5)),
    ],
    ids=range(8),
)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        decode_report(data, "gateway")
