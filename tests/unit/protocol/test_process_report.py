"""Reports of processes as messages."""

import pytest

from rejoin_protocol.ids import AgentName
from rejoin_protocol.process_report import (
    REPORT_BYTES_MAX,
    REPORTED_COUNTS_MAX,
    ProcessReport,
    decode_report,
    encode_report,
)


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
        b'{"id": "h", "kind": "gateway", "version": "9", "startedAtMs": 5, "firstEvents": [1%s]}'
        % (b"0" * 400),
        encode_report(ProcessReport("host-1", "gateway", "9", 5, load=-1)),
        encode_report(ProcessReport("host-1", "gateway", "9", 5, memory_bytes=2**60)),
        encode_report(ProcessReport("host-1", "gateway", "9", 5, lag_s=-1.0)),
        encode_report(
            ProcessReport("host-1", "gateway", "9", 5, first_events=[0] * (REPORTED_COUNTS_MAX + 1))
        ),
        encode_report(ProcessReport("host-1", "gateway", "9", 5, agents=[AgentName("a")] * 101)),
        encode_report(ProcessReport("host-1", "gateway", "9", 5, agents=[AgentName("a" * 257)])),
        encode_report(ProcessReport("h" * 257, "gateway", "9", 5)),
    ],
    ids=range(16),
)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        decode_report(data, "gateway")
