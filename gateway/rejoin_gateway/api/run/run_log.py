"""A run's log as it is stored, and the runs of a session: for the inspector and for debugging.

Unlike a stream it hides nothing: attempts, marks, audiences and times stand beside the events.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta

from rejoin_adapters.ports.run_log import LogPage
from rejoin_adapters.store_types import Approval
from rejoin_gateway.api.run.executions import find_execution
from rejoin_gateway.api.shared.lookup import summary_in_path
from rejoin_gateway.api.shared.paging import ENTRY_NUMBER_DIGITS_MAX, parse_after, parse_limit
from rejoin_gateway.auth.scope import Scope
from rejoin_gateway.http.response import json_response
from rejoin_gateway.http.routes import Route, RouteDoc
from rejoin_protocol.ids import ApprovalId, MessageId, RunId, SessionId
from rejoin_protocol.lifecycle import State
from rejoin_protocol.log.record import Audience, Mark, Record, split_events

RECORDS_MAX = 256
_RESPONSE = b'{"type":"tool-approval-response"'


class _Response(msgspec.Struct, rename="camel"):
    approval_id: ApprovalId


_decode_response = msgspec.json.Decoder(_Response).decode


class LogEvent(msgspec.Struct, frozen=True, rename="camel"):
    """One event: its cursor, as in a stream's `id:`, and the chunk."""

    cursor: str
    chunk: msgspec.Raw


class LogBatch(msgspec.Struct, frozen=True, rename="camel"):
    """One record: events that one attempt appended together. `time`: when the broker stored it (RFC 3339)."""

    sequence: int
    attempt: int
    turn: int
    audience: Audience
    mark: Mark
    time: str
    events: Sequence[LogEvent]


class LogDecision(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Who decided an approval. `by`: the user, or else the credential; absent if nobody did in time."""

    approval_id: ApprovalId
    by: str | None = None
    at: datetime | None = None


class RunLogPage(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A page of a run's log, oldest first. `next`: the `after` of the following page; 0 on the last one.
    `answers`: the events of answers that the run was given while it waits for others. The log has them later.
    `decisions`: of the approvals whose `tool-approval-response` is on the page. `errorCode`: the kind
    of failure of a failed run.
    """

    id: RunId
    state: State
    conversation_id: SessionId
    agent_id: str
    message_id: MessageId
    created_at: datetime
    updated_at: datetime
    records: Sequence[LogBatch]
    next: int = 0
    answers: list[msgspec.Raw] = []
    decisions: list[LogDecision] = []
    error_code: str | None = None


class RunWithMessage(msgspec.Struct, frozen=True, rename="camel"):
    """A run and the assistant message that it writes."""

    id: RunId
    message_id: MessageId
    state: State
    created_at: datetime


class RunList(msgspec.Struct, frozen=True):
    """A session's runs, newest first."""

    executions: Sequence[RunWithMessage]


async def get_log(request: web.Request) -> web.StreamResponse:
    """A page of the run's records behind a sequence."""
    summary, session = await find_execution(request)
    run = summary.run
    after, limit = parse_after(request), parse_limit(request, RECORDS_MAX, RECORDS_MAX)
    page = await session.read_log(run, after=after, records_max=limit)
    answers = await session.backend.given_answers(run)
    decided = await session.backend.approvals(run, _decided_in([*_events_of(page), *answers]))
    return json_response(
        RunLogPage(
            id=run.id,
            state=run.state,
            conversation_id=run.session,
            agent_id=run.agent,
            message_id=run.answer,
            created_at=summary.created_at,
            updated_at=summary.updated_at,
            records=_to_batches(page),
            next=page.records[-1].seq if page.more and page.records else 0,
            answers=list(map(msgspec.Raw, answers)),
            decisions=[_to_decision(approval) for approval in decided],
            error_code=run.error_code,
        )
    )


async def list_runs(request: web.Request) -> web.StreamResponse:
    """The session's runs, each with the id of its message."""
    _, session = await summary_in_path(request)
    runs = await session.runs()
    return json_response(
        RunList(
            [
                RunWithMessage(summary.run.id, summary.run.answer, summary.run.state, summary.created_at)
                for summary in runs
            ]
        )
    )


def _events_of(page: LogPage) -> list[bytes]:
    return [chunk for record in page.records for chunk in split_events(record)]


def _decided_in(events: Sequence[bytes]) -> list[ApprovalId]:
    return [_decode_response(event).approval_id for event in events if event.startswith(_RESPONSE)]


def _to_decision(approval: Approval) -> LogDecision:
    by = None if approval.decision is None else approval.decision.by
    return LogDecision(approval.request.id, by, approval.decided_at)


def _to_batches(page: LogPage) -> Sequence[LogBatch]:
    times = page.times or [""] * len(page.records)
    return [_to_batch(record, time) for record, time in zip(page.records, times, strict=True)]


def _to_batch(record: Record, time: str) -> LogBatch:
    head = record.head
    events = [
        LogEvent(f"{head.prev}-{index}", msgspec.Raw(chunk))
        for index, chunk in enumerate(split_events(record), head.index)
    ]
    return LogBatch(record.seq, head.attempt, head.turn, head.audience, head.mark, time, events)


ROUTES = (
    Route(
        "GET",
        "/run/api/executions/{run}/log",
        get_log,
        Scope.CHAT,
        RouteDoc(
            "Read a run's log",
            description="Use it to find out why a run answered what it did. Returns the stored records, "
            "oldest first: each holds the events that one attempt appended together, with turn, audience, "
            "mark and time. The page `/inspect` shows the same as a timeline.",
            responses={200: RunLogPage},
            query={
                "after": (
                    "The `next` of the page before; without it the log is read from its start.",
                    Annotated[int, Meta(ge=0, lt=10**ENTRY_NUMBER_DIGITS_MAX)],
                ),
                "limit": ("Records on the page, at most.", Annotated[int, Meta(ge=1, le=RECORDS_MAX)]),
            },
            tag="run",
        ),
    ),
    Route(
        "GET",
        "/run/v1/conversations/{id}/executions",
        list_runs,
        Scope.CHAT,
        RouteDoc(
            "List a conversation's runs",
            description="Returns the runs of a conversation, newest first, each with the id of the assistant "
            "message that it writes. Use it to get from a message to its run's log.",
            responses={200: RunList},
            tag="run",
        ),
    ),
)
