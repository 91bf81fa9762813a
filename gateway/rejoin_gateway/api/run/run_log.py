"""A run's log as it is stored, for whoever has to answer why it said that; and the runs behind a session.

Owns two views of what others keep: no rule and no state. Unlike a stream it hides nothing: attempts, marks,
audiences and times stand beside the events.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta
from rejoin_adapters.ports.run_log import LogPage
from rejoin_protocol.errors import Invalid
from rejoin_protocol.ids import MessageId, RunId, SessionId
from rejoin_protocol.lifecycle import State
from rejoin_protocol.log.record import Audience, Mark, Record, split_events

from rejoin_gateway.api.run.conversations import parse_limit
from rejoin_gateway.api.run.executions import find_execution
from rejoin_gateway.api.shared.lookup import summary_in_path
from rejoin_gateway.http.response import json_response
from rejoin_gateway.http.routes import Route, RouteDoc, Scope

RECORDS_MAX = 256
_SEQUENCE_DIGITS_MAX = 18


class LogEvent(msgspec.Struct, frozen=True, rename="camel"):
    """One event: the cursor that a client has of it, and the chunk."""

    cursor: str
    chunk: msgspec.Raw


class LogBatch(msgspec.Struct, frozen=True, rename="camel"):
    """One record: what was appended at once, by which attempt, and when the broker had it (RFC 3339)."""

    sequence: int
    attempt: int
    turn: int
    audience: Audience
    mark: Mark
    time: str
    events: Sequence[LogEvent]


class RunLogPage(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A page of a run's log, oldest first. `after` of the next page is `next`; there is none if that is 0."""

    id: RunId
    state: State
    conversation_id: SessionId
    agent_id: str
    message_id: MessageId
    created_at: datetime
    updated_at: datetime
    records: Sequence[LogBatch]
    next: int = 0


class RunWithMessage(msgspec.Struct, frozen=True, rename="camel"):
    """A run, and the message that it made or makes."""

    id: RunId
    message_id: MessageId
    state: State
    created_at: datetime


class RunList(msgspec.Struct, frozen=True):
    """A session's runs, newest first."""

    executions: Sequence[RunWithMessage]


async def get_log(request: web.Request) -> web.StreamResponse:
    """A run's records behind a sequence."""
    one, session = await find_execution(request)
    after, limit = _after(request), parse_limit(request, RECORDS_MAX, RECORDS_MAX)
    page = await session.backend.runs.read(one.run.id, after=after, records_max=limit)
    return json_response(
        RunLogPage(
            id=one.run.id,
            state=one.run.state,
            conversation_id=one.run.session,
            agent_id=one.run.agent,
            message_id=one.run.answer,
            created_at=one.created_at,
            updated_at=one.updated_at,
            records=_batches(page),
            next=page.records[-1].seq if page.more and page.records else 0,
        )
    )


async def list_runs(request: web.Request) -> web.StreamResponse:
    """Which run made which message of a session."""
    _, session = await summary_in_path(request)
    listed = await session.backend.threads.runs(session.owner, session.id)
    return json_response(
        RunList([RunWithMessage(one.run.id, one.run.answer, one.run.state, one.created_at) for one in listed])
    )


def _batches(page: LogPage) -> Sequence[LogBatch]:
    times = page.times or [""] * len(page.records)
    return [_batch(record, time) for record, time in zip(page.records, times, strict=True)]


def _batch(record: Record, time: str) -> LogBatch:
    head = record.head
    entries = [
        LogEvent(f"{head.prev}-{index}", msgspec.Raw(chunk))
        for index, chunk in enumerate(split_events(record), head.index)
    ]
    return LogBatch(record.seq, head.attempt, head.turn, head.audience, head.mark, time, entries)


def _after(request: web.Request) -> int:
    text = request.query.get("after", "0")
    if not (text.isascii() and text.isdigit() and len(text) <= _SEQUENCE_DIGITS_MAX):
        raise Invalid(f"after is not a whole number: {text[:64]!r}")
    return int(text)


ROUTES = (
    Route(
        "GET",
        "/run/api/executions/{run}/log",
        get_log,
        Scope.CHAT,
        RouteDoc(
            "A run's log, record by record",
            None,
            {200: RunLogPage},
            {
                "after": (
                    "The `next` of the page before.",
                    Annotated[int, Meta(ge=0, lt=10**_SEQUENCE_DIGITS_MAX)],
                ),
                "limit": ("How many records.", Annotated[int, Meta(ge=1, le=RECORDS_MAX)]),
            },
            tag="run",
        ),
    ),
    Route(
        "GET",
        "/run/v1/conversations/{id}/executions",
        list_runs,
        Scope.CHAT,
        RouteDoc("Which run made which message", None, {200: RunList}, tag="run"),
    ),
)
