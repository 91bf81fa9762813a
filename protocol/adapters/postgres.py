"""The store in PostgreSQL.

Each method is one statement, so one transaction and one round trip. Every statement answers with the JSON of
a struct of `ports`, which msgspec reads, so no row leaves here, and bodies travel as the text they were. What
several statements must decide together is a function in `migrations`, which raises our words by SQLSTATE.
"""

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import msgspec

from protocol.adapters.database import PING, Database, open_database
from protocol.adapters.ports import (
    Admission,
    Admitted,
    Approval,
    Claim,
    Decided,
    Decision,
    History,
    Interrupted,
    Listed,
    Question,
    Regenerate,
    Run,
    Submit,
)
from protocol.commands import RunRequest
from protocol.fold import UIMessage
from protocol.ids import CallId, RunId, SessionId, TenantId
from protocol.lifecycle import TERMINAL, State

STRANDED_MAX = 100
"""How many stranded runs one sweep is told of."""
EXPIRED_MAX = 100
"""How many questions one sweep answers. It holds their sessions for as long as that takes."""


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _json_or_null(value: Any) -> str | None:
    return None if value is None else _json(value)


class PostgresStore:
    """`ports.Store`. At the end of its context its connections are closed."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._database.close()

    async def _find[T](self, kind: type[T], query: str, *args: Any) -> T | None:
        text = await self._database.value(query, *args)
        return None if text is None else msgspec.json.decode(text, type=kind)

    async def _get[T](self, kind: type[T], query: str, *args: Any) -> T:
        return msgspec.json.decode(await self._database.value(query, *args) or "null", type=kind)

    async def admit(self, admission: Admission) -> Admitted:
        """See `ports.Store`."""
        match admission.ask:
            case Submit() as submit:
                return await self._submit(admission, submit)
            case Regenerate(target):
                return await self._get(
                    Admitted,
                    "select regenerate_run($1, $2, $3, $4, $5, $6, $7, $8)",
                    *_subject(admission),
                    target,
                )

    async def _submit(self, admission: Admission, submit: Submit) -> Admitted:
        message = submit.turn.message
        return await self._get(
            Admitted,
            "select submit_run($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
            *_subject(admission),
            message["id"],
            _json(message),
            submit.turn.digest,
            submit.edit,
            [turn["id"] for turn in submit.imports],
            [turn["role"] for turn in submit.imports],
            [_json(turn) for turn in submit.imports],
        )

    async def interrupt(self, tenant: TenantId, session: SessionId, run: RunId | None = None) -> Interrupted:
        """See `ports.Store`."""
        return await self._get(Interrupted, "select interrupt_run($1, $2, $3)", tenant, session, run)

    async def run(self, tenant: TenantId, run: RunId) -> Run | None:
        """See `ports.Store`."""
        return await self._find(
            Run, "select run_json(r) from runs r where tenant_id = $1 and id = $2", tenant, run
        )

    async def current(self, tenant: TenantId, session: SessionId) -> Run | None:
        """See `ports.Store`."""
        query = """
            select run_json(r) from runs r where id = coalesce(
              (select id from runs
               where tenant_id = $1 and session_id = $2 and ready and state in ('queued', 'running')),
              (select id from runs where tenant_id = $1 and session_id = $2 order by position desc limit 1))
        """
        return await self._find(Run, query, tenant, session)

    async def history(self, tenant: TenantId, session: SessionId) -> History | None:
        """See `ports.Store`."""
        query = """
            select json_build_object(
              'agent', agent,
              'messages', (
                select coalesce(json_agg(body order by position), '[]') from messages
                where tenant_id = $1 and session_id = $2 and body is not null
                  and (role <> 'assistant' or run_id is null or run_id <> all (array(
                    select id from runs
                    where tenant_id = $1 and session_id = $2 and state in ('queued', 'running'))))),
              'busy', (
                select run_json(r) from runs r
                where tenant_id = $1 and session_id = $2 and ready and state in ('queued', 'running')),
              'created_at', created_at,
              'updated_at', updated_at)
            from sessions where tenant_id = $1 and id = $2
        """
        return await self._find(History, query, tenant, session)

    async def claim(self, request: RunRequest, runner: str) -> Claim | None:
        """See `ports.Store`."""
        return await self._find(Claim, "select claim_run($1, $2, $3)", request.run, request.turn, runner)

    async def ask(self, run: RunId, attempt: int, questions: Sequence[Question]) -> None:
        """See `ports.Store`."""
        await self._database.value(
            "select ask_run($1, $2, $3, $4, $5, $6, $7)::text",
            run,
            attempt,
            [question.id for question in questions],
            [question.call for question in questions],
            [question.tool for question in questions],
            [_json(question.input) for question in questions],
            [question.expires_at for question in questions],
        )

    async def decide(self, tenant: TenantId, session: SessionId, decisions: Sequence[Decision]) -> Decided:
        """See `ports.Store`."""
        return await self._get(
            Decided,
            "select decide_run($1, $2, $3, $4, $5)",
            tenant,
            session,
            [decision.approval for decision in decisions],
            [decision.approved for decision in decisions],
            [_json_or_null(decision.reason) for decision in decisions],
        )

    async def suspend(self, run: RunId, attempt: int, answer: UIMessage) -> Sequence[RunRequest]:
        """See `ports.Store`."""
        following = await self._find(
            RunRequest, "select suspend_run($1, $2, $3)", run, attempt, _json(answer)
        )
        return [] if following is None else [following]

    async def end(
        self, run: RunId, attempt: int, state: State, answer: UIMessage | None, error: str | None
    ) -> RunRequest | None:
        """See `ports.Store`."""
        if state not in TERMINAL:
            raise ValueError(f"a run does not end {state}")
        return await self._find(
            RunRequest,
            "select end_run($1, $2, $3, $4, $5)",
            run,
            attempt,
            state,
            _json_or_null(answer),
            _json_or_null(error),
        )

    async def pending(self, tenant: TenantId, session: SessionId) -> Sequence[Approval]:
        """See `ports.Store`."""
        query = """
            select coalesce(json_agg(approval_json(a) order by number), '[]') from approvals a
            where tenant_id = $1 and session_id = $2 and state = 'pending'
        """
        return await self._get(list[Approval], query, tenant, session)

    async def approval(self, tenant: TenantId, run: RunId, call: CallId) -> Approval | None:
        """See `ports.Store`."""
        query = """
            select approval_json(a) from approvals a
            where tenant_id = $1 and run_id = $2 and call_id = $3 order by number desc limit 1
        """
        return await self._find(Approval, query, tenant, run, call)

    async def expire(self) -> Sequence[RunRequest]:
        """See `ports.Store`."""
        return await self._get(list[RunRequest], "select expire_approvals($1)", EXPIRED_MAX)

    async def listed(self, tenant: TenantId, state: State | None = None, limit: int = 20) -> Sequence[Listed]:
        """See `ports.Store`."""
        query = """
            select coalesce(json_agg(json_build_object(
                'run', run_json(r), 'created_at', created_at, 'updated_at', updated_at, 'runner', runner)
              order by id desc), '[]')
            from (
              select * from runs where tenant_id = $1 and ($2::text is null or state = $2)
              order by id desc limit $3) r
        """
        return await self._get(list[Listed], query, tenant, state, limit)

    async def interrupted(self, runs: Sequence[RunId]) -> Sequence[RunId]:
        """See `ports.Store`."""
        query = """
            select coalesce(json_agg(id), '[]') from runs where id = any ($1) and interrupted_at is not null
        """
        return await self._get(list[RunId], query, list(runs))

    async def stranded(self, age_s: float, *, held_s: float = 60.0) -> Sequence[RunRequest]:
        """See `ports.Store`."""
        query = """
            with held as (
              update runs set updated_at = clock_timestamp() where id in (
                select id from runs
                where state = 'running' and due_at is null
                  and updated_at < statement_timestamp() - $2 * interval '1 second'
                order by updated_at limit $3 for update skip locked)
              returning *),
            due as (
              select * from runs where due_at < statement_timestamp() - $1 * interval '1 second'
              order by due_at limit $3)
            select coalesce(json_agg(request_json(r::runs) order by due_at), '[]')
            from (select * from due union all select * from held) r
        """
        return await self._get(list[RunRequest], query, age_s, held_s, STRANDED_MAX)

    async def ping(self) -> None:
        """See `ports.Store`."""
        await self._database.value(PING)


def _subject(admission: Admission) -> tuple[str | None, ...]:
    return (
        admission.tenant,
        admission.session,
        admission.agent,
        admission.run,
        admission.answer,
        admission.key,
        admission.when_busy,
    )


async def connect(
    database_url: str,
    *,
    pool_max: int = 10,
    acquire_timeout_s: float = 5.0,
    connect_timeout_s: float = 5.0,
    command_timeout_s: float = 10.0,
) -> PostgresStore:
    """A store on a migrated database. Waits for the database, for as long as nobody cancels it."""
    database = await open_database(
        database_url,
        pool_max=pool_max,
        acquire_timeout_s=acquire_timeout_s,
        connect_timeout_s=connect_timeout_s,
        command_timeout_s=command_timeout_s,
    )
    return PostgresStore(database)
