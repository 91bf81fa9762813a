"""What a gateway or a runner tells all gateways about itself every few seconds, for the console. Pure.

Load, version and lag of a process are no data of a tenant: whoever may see the console of any tenant sees
them.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from rejoin_protocol.ids import AgentName
from rejoin_protocol.limits import NAME_CHARS_MAX, Name

type ProcessKind = Literal["gateway", "runner"]

REPORT_INTERVAL_S = 10.0
SILENT_S = 3 * REPORT_INTERVAL_S
"""A process that has told nothing for so long is gone."""
REPORTED_AGENTS_MAX = 100
"""Agents that a report names."""
REPORTED_COUNTS_MAX = 64
REPORT_BYTES_MAX = 16 * 1024

type Milliseconds = Annotated[int, Meta(ge=0, le=2**43)]
"""Since 1970; the bound is in the year 2248."""
type Count = Annotated[int, Meta(ge=0, le=2**53)]
"""Sums of the counts of all processes are floats where they are compared."""


class ProcessReport(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A process. `id` is unique among all processes. `load`: open streams of a gateway, runs in progress of a
    runner; `load_max`: how many a runner takes. `lag_s`: how late its event loop was at the last measurement.
    `overload`: why it takes no new work. `agents`: those that a runner serves. `first_events`: how many
    streams of the last minutes got their first event within each of `metrics_server.SECONDS`, and later, for
    requests that send a message.
    """

    id: Name
    kind: ProcessKind
    version: Name
    started_at_ms: Milliseconds
    load: Count = 0
    load_max: Count | None = None
    lag_s: Annotated[float, Meta(ge=0, le=2**53)] = 0.0
    memory_bytes: Count = 0
    overload: Name | None = None
    is_draining: bool = False
    agents: Annotated[
        Sequence[Annotated[AgentName, Meta(max_length=NAME_CHARS_MAX)]], Meta(max_length=REPORTED_AGENTS_MAX)
    ] = ()
    first_events: Annotated[Sequence[Count], Meta(max_length=REPORTED_COUNTS_MAX)] = ()


encode_report = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(ProcessReport).decode


def decode_report(data: bytes, kind: ProcessKind) -> ProcessReport:
    """A report of a process of this kind. Raises `ValueError` for anything else: nobody speaks for the other
    service, and no report takes much memory.
    """
    if len(data) > REPORT_BYTES_MAX:
        raise ValueError(f"a report has at most {REPORT_BYTES_MAX} bytes")
    report = _decode(data)
    if report.kind != kind:
        raise ValueError(f"not a report of a {kind}")
    return report
