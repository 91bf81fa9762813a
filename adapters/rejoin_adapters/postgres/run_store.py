"""`RunStore` in PostgreSQL.

Each method is one statement: one transaction and one round trip. Every statement returns the JSON of a struct
of `records`, decoded by msgspec, so no database row leaves this module and message bodies are never parsed by
the driver. Operations that need several statements are PL/pgSQL functions in `migrations`; they raise our
errors by SQLSTATE (see `pool`).
"""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import msgspec

from rejoin_adapters.history_bounds import ALL_HISTORY, HistoryBounds
from rejoin_adapters.ports.run_store import CALLS_MAX
from rejoin_adapters.postgres import message_pages
from rejoin_adapters.postgres.batch_loader import BatchLoader
from rejoin_adapters.postgres.pool import PING, Database, json_or_null, json_text, open_database
from rejoin_adapters.store_types import (
    Admission,
    Admitted,
    Approval,
    ApprovalRequest,
    AskedCall,
    Claim,
    Decided,
    Decision,
    EarlierMessages,
    History,
    Interrupted,
    Limits,
    Loss,
    MessageWithNext,
    Owner,
    Regenerate,
    Run,
    RunSummary,
    RunUsage,
    Submit,
    parse_usage,
)
from rejoin_protocol.events.fold import MessageDict
from rejoin_protocol.ids import AgentName, CallId, MessageId, RunId, SessionId
from rejoin_protocol.lifecycle import TERMINAL, State
from rejoin_protocol.limits import PAGE_BYTES_MAX
from rejoin_protocol.run_request import RunRequest

STRANDED_MAX = 100
"""Stranded runs returned to one sweep."""
EXPIRED_MAX = 100
"""Approvals that one sweep expires. It locks their sessions for that time."""
PURGED_AGAIN_S = 600.0
"""By then every runner has found out that its run was deleted, and has stopped appending."""


class PostgresRunStore:
    """The adapter of `RunStore`. Leaving its context closes the pool, also for other adapters that use
    `database`.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self._ended = BatchLoader(self._load_ended)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.database.close()

    async def admit(self, admission: Admission) -> Admitted:
        """See `RunStore`."""
        match admission.action:
            case Submit() as submit:
                return await self._submit(admission, submit)
            case Regenerate(target):
                return await self.database.get(
                    Admitted,
                    "select with_operation_set("
                    "  regenerate_run($2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12), $1)",
                    *_arguments(admission),
                    target,
                )

    async def _submit(self, admission: Admission, submit: Submit) -> Admitted:
        message = submit.user_message.message
        query = """
            select with_operation_set(
              submit_run(
                $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18),
              $1)
        """
        return await self.database.get(
            Admitted,
            query,
            *_arguments(admission),
            message["id"],
            json_text(message),
            submit.user_message.digest,
            submit.edit,
            [turn["id"] for turn in submit.imports],
            [turn["role"] for turn in submit.imports],
            [json_text(turn) for turn in submit.imports],
        )

    async def check_limits(self, owner: Owner) -> None:
        """See `RunStore`."""
        await self.database.value("select check_limits($1, $2)::text", *_columns(owner))

    async def find_duplicate(
        self,
        owner: Owner,
        session: SessionId,
        agent: AgentName,
        message: MessageId,
        digest: bytes,
        key: str | None = None,
    ) -> Run | None:
        """See `RunStore`."""
        query = "select repeated_run($1, $2, $3, $4, $5, $6, $7)"
        return await self.database.find(Run, query, *_columns(owner), session, agent, key, message, digest)

    async def interrupt(
        self,
        owner: Owner,
        session: SessionId,
        run: RunId | None = None,
        *,
        message: MessageId | None = None,
        seen: Mapping[str, Any] | None = None,
    ) -> Interrupted:
        """See `RunStore`."""
        query = "select interrupt_run($1, $2, $3, $4, $5, $6)"
        return await self.database.get(
            Interrupted, query, *_columns(owner), session, run, message, json_or_null(seen)
        )

    async def find_seen(self, run: RunId) -> dict[str, Any] | None:
        """See `RunStore`."""
        query = "select seen from runs where id = $1 and seen is not null"
        return await self.database.find(dict[str, Any], query, run)

    async def find_run(self, owner: Owner, run: RunId) -> Run | None:
        """See `RunStore`."""
        query = """
            select run_json(r) from runs r
            where tenant_id = $1 and ($2::text is null or user_id = $2) and id = $3
        """
        return await self.database.find(Run, query, *_columns(owner), run)

    async def has_ended(self, owner: Owner, run: RunId, turn: int | None = None) -> bool:
        """See `RunStore`."""
        return await self._ended.load((*_columns(owner), run, turn))

    async def _load_ended(self, runs: Sequence[tuple[str, str | None, RunId, int | None]]) -> list[bool]:
        query = """
            select json_agg(
              r.id is null or r.ended_at is not null
              or (asked.turn is not null and (r.state not in ('queued', 'running') or r.turn > asked.turn))
              order by place)
            from unnest($1::text[], $2::text[], $3::text[], $4::integer[])
              with ordinality asked(tenant_id, user_id, id, turn, place)
            left join runs r on r.id = asked.id and r.tenant_id = asked.tenant_id
              and (asked.user_id is null or r.user_id = asked.user_id)
        """
        return await self.database.get(list[bool], query, *map(list, zip(*runs, strict=True)))

    async def current_run(self, owner: Owner, session: SessionId) -> Run | None:
        """See `RunStore`."""
        query = """
            select run_json(r) from runs r where id = coalesce(
              (select id from turn_of($1, $3)),
              (select id from runs where tenant_id = $1 and session_id = $3 order by position desc limit 1))
            and ($2::text is null or user_id = $2)
        """
        return await self.database.find(Run, query, *_columns(owner), session)

    async def history(
        self, owner: Owner, session: SessionId, *, after: int = -1, bytes_max: int = PAGE_BYTES_MAX
    ) -> History | None:
        """See `RunStore`."""
        query = message_pages.HISTORY
        return await self.database.find(History, query, *_columns(owner), session, after, bytes_max)

    async def find_message(
        self, owner: Owner, session: SessionId, message: MessageId
    ) -> MessageWithNext | None:
        """See `RunStore`."""
        query = """
            select json_build_object(
              'message', body,
              'next', (
                select id from shown_messages($1, $3) where position > m.position order by position limit 1))
            from shown_messages($1, $3) m
            where id = $4 and exists (
              select from sessions where tenant_id = $1 and ($2::text is null or user_id = $2) and id = $3)
        """
        return await self.database.find(MessageWithNext, query, *_columns(owner), session, message)

    async def messages_before(
        self,
        owner: Owner,
        session: SessionId,
        message: MessageId,
        *,
        after: MessageId | None = None,
        limit: int = 20,
        oldest_first: bool = False,
    ) -> EarlierMessages | None:
        """See `RunStore`."""
        query = message_pages.EARLIER
        bounds = limit, 1 if oldest_first else -1, PAGE_BYTES_MAX
        arguments = *_columns(owner), session, message, after, *bounds
        return await self.database.find(EarlierMessages, query, *arguments)

    async def session_context(self, owner: Owner, session: SessionId) -> bytes | None:
        """See `RunStore`."""
        query = """
            select json_build_array(bytes_json(context)) from sessions
            where tenant_id = $1 and ($2::text is null or user_id = $2) and id = $3
        """
        row = await self.database.find(tuple[bytes | None], query, *_columns(owner), session)
        return row[0] if row is not None else None

    async def claim(
        self, request: RunRequest, runner: str, bounds: HistoryBounds = ALL_HISTORY
    ) -> Claim | None:
        """See `RunStore`."""
        arguments = request.run, request.turn, runner, *msgspec.structs.astuple(bounds)
        found = await self.database.find(
            tuple[Claim, list[MessageDict], int, int, bool],
            "select claim_recent($1, $2, $3, $4, $5, $6)",
            *arguments,
        )
        if found is None:
            return None
        claim, history, first, size, cut = found
        return msgspec.structs.replace(
            claim,
            history=history,
            history_cut=cut,
            history_bytes=size,
            history_from=first if size > bounds.inline_bytes_max else None,
        )

    async def load_history(self, claim: Claim) -> Claim:
        """See `RunStore`."""
        if claim.history_from is None:
            return claim
        query = "select history_from($1, $2)"
        history = await self.database.get(list[MessageDict], query, claim.run.id, claim.history_from)
        return msgspec.structs.replace(claim, history=history, history_from=None)

    async def release(self, run: RunId, attempt: int) -> bool:
        """See `RunStore`."""
        query = "update runs set released_attempt = attempt where id = $1 and attempt = $2 returning 'true'"
        return await self.database.find(bool, query, run, attempt) is not None

    async def find_losses(self, run: RunId) -> Sequence[Loss]:
        """See `RunStore`."""
        query = """
            select coalesce(json_agg(json_build_object(
              'attempt', attempt, 'cause', cause, 'code', code, 'call', call_id, 'seconds', seconds)
              order by attempt), '[]')
            from run_losses where run_id = $1
        """
        return await self.database.get(list[Loss], query, run)

    async def report_loss(self, run: RunId, attempt: int | None, loss: Loss) -> None:
        """See `RunStore`."""
        query = """
            insert into run_losses (run_id, attempt, cause, code, call_id, seconds)
            select id, attempt, $3, $4, $5, $6 from runs
            where id = $1 and state = 'running' and attempt = coalesce($2::integer, attempt)
            on conflict (run_id, attempt) do update set
              cause = excluded.cause, code = excluded.code, call_id = excluded.call_id,
              seconds = excluded.seconds
            where run_losses.cause = 'silent'
            returning 'true'
        """
        await self.database.value(query, run, attempt, loss.cause, loss.code, loss.call, loss.seconds)

    async def request_approvals(self, run: RunId, attempt: int, requests: Sequence[ApprovalRequest]) -> None:
        """See `RunStore`."""
        await self.database.value(
            "select ask_run($1, $2, $3, $4, $5, $6, $7, $8, $9)::text",
            run,
            attempt,
            [request.id for request in requests],
            [request.call for request in requests],
            [request.tool for request in requests],
            [json_text(request.input) for request in requests],
            [request.expires_at for request in requests],
            [request.kind for request in requests],
            [json_or_null(request.output_schema) for request in requests],
        )

    async def decide(self, owner: Owner, session: SessionId, decisions: Sequence[Decision]) -> Decided:
        """See `RunStore`."""
        decided = await self.database.value_by_actor(
            "select decide_run($1, $2, $3, $4, $5, $6, $7, $8)",
            *_columns(owner),
            session,
            [decision.approval for decision in decisions],
            [decision.approved for decision in decisions],
            [json_or_null(decision.reason) for decision in decisions],
            [decision.kind for decision in decisions],
            [json_or_null(decision.output) for decision in decisions],
        )
        return msgspec.json.decode(decided or "null", type=Decided)

    async def suspend(self, run: RunId, attempt: int, answer: MessageDict) -> RunRequest | None:
        """See `RunStore`."""
        query = "select suspend_run($1, $2, $3, $4, $5)"
        return await self.database.find(RunRequest, query, run, attempt, json_text(answer), *_tokens(answer))

    async def end(
        self, run: RunId, attempt: int, state: State, answer: MessageDict | None, error: str | None
    ) -> RunRequest | None:
        """See `RunStore`."""
        if state not in TERMINAL:
            raise ValueError(f"{state} is not a terminal state")
        return await self.database.find(
            RunRequest,
            "select end_run($1, $2, $3, $4, $5, $6, $7)",
            run,
            attempt,
            state,
            json_or_null(answer),
            json_or_null(error),
            *_tokens(answer),
        )

    async def pending_approvals(self, owner: Owner, session: SessionId) -> Sequence[Approval]:
        """See `RunStore`."""
        query = """
            select coalesce(json_agg(approval_json(a) order by number), '[]')
            from approvals a join sessions s on s.tenant_id = a.tenant_id and s.id = a.session_id
            where a.tenant_id = $1 and ($2::text is null or s.user_id = $2) and session_id = $3
              and state = 'pending'
        """
        return await self.database.get(list[Approval], query, *_columns(owner), session)

    async def find_approval(self, owner: Owner, run: RunId, call: CallId) -> Approval | None:
        """See `RunStore`."""
        query = """
            select approval_json(a) from approvals a join runs r on r.id = a.run_id
            where a.tenant_id = $1 and ($2::text is null or r.user_id = $2) and run_id = $3 and call_id = $4
            order by a.number desc limit 1
        """
        return await self.database.find(Approval, query, *_columns(owner), run, call)

    async def find_calls(
        self, owner: Owner, call: CallId, session: SessionId | None = None
    ) -> Sequence[AskedCall]:
        """See `RunStore`."""
        query = """
            select coalesce(
              json_agg(asked_json(a, r) order by ((a).state = 'pending') desc, (a).number desc), '[]')
            from (
              select a, r from approvals a join runs r on r.id = a.run_id
              where a.tenant_id = $1 and ($2::text is null or r.user_id = $2) and a.call_id = $3
                and ($4::text is null or a.session_id = $4)
              order by (a.state = 'pending') desc, a.number desc limit $5) calls
        """
        return await self.database.get(list[AskedCall], query, *_columns(owner), call, session, CALLS_MAX)

    async def expire_approvals(self) -> Sequence[RunRequest]:
        """See `RunStore`."""
        return await self.database.get(list[RunRequest], "select expire_approvals($1)", EXPIRED_MAX)

    async def list_runs(
        self, owner: Owner, state: State | None = None, limit: int = 20
    ) -> Sequence[RunSummary]:
        """See `RunStore`."""
        query = """
            select coalesce(json_agg(listed_json(r::runs) order by id desc), '[]')
            from (
              select * from runs
              where tenant_id = $1 and ($2::text is null or user_id = $2) and ($3::text is null or state = $3)
              order by id desc limit $4) r
        """
        return await self.database.get(list[RunSummary], query, *_columns(owner), state, limit)

    async def run_summary(self, owner: Owner, run: RunId) -> RunSummary | None:
        """See `RunStore`."""
        query = """
            select listed_json(r) from runs r
            where tenant_id = $1 and ($2::text is null or user_id = $2) and id = $3
        """
        return await self.database.find(RunSummary, query, *_columns(owner), run)

    async def find_interrupted(self, runs: Sequence[RunId]) -> Sequence[RunId]:
        """See `RunStore`."""
        query = """
            select coalesce(json_agg(asked.id), '[]')
            from unnest($1::text[]) as asked (id) left join runs r on r.id = asked.id
            where r.id is null or r.interrupted_at is not null
        """
        return await self.database.get(list[RunId], query, list(runs))

    async def recover_stranded(
        self, age_s: float, *, republish_interval_s: float = 60.0
    ) -> Sequence[RunRequest]:
        """See `RunStore`."""
        query = """
            with republished as (
              update runs set updated_at = clock_timestamp() where id in (
                select id from runs
                where state = 'running' and due_at is null
                  and updated_at < statement_timestamp() - $2 * interval '1 second'
                order by updated_at limit $3 for update skip locked)
              returning *),
            due as (
              select * from runs where due_at < statement_timestamp() - $1 * interval '1 second'
              order by due_at limit $3)
            select coalesce(json_agg(request order by due_at), '[]')
            from (
              select request_json(r::runs) as request, due_at
              from (select * from due union all select * from republished) r
              union all select json_array_elements(promote_waiting($3)), null) requests
        """
        return await self.database.get(list[RunRequest], query, age_s, republish_interval_s, STRANDED_MAX)

    async def logs_to_purge(self, limit: int = 100) -> Sequence[RunId]:
        """See `RunStore`."""
        query = """
            select coalesce(json_agg(run_id), '[]') from (
              select run_id from purges where due_at <= statement_timestamp() order by due_at limit $1) due
        """
        return await self.database.get(list[RunId], query, limit)

    async def mark_purged(self, runs: Sequence[RunId]) -> None:
        """See `RunStore`."""
        query = """
            with over as (
              delete from purges where run_id = any ($1) and again and due_at <= statement_timestamp())
            update purges set again = true, due_at = statement_timestamp() + $2 * interval '1 second'
            where run_id = any ($1) and not again
        """
        await self.database.value(query, list(runs), PURGED_AGAIN_S)

    async def ping(self) -> None:
        """See `RunStore`."""
        await self.database.value(PING)


def _columns(owner: Owner) -> tuple[str, str | None]:
    return owner.tenant, owner.user


def _tokens(answer: MessageDict | None) -> tuple[int, int]:
    usage = parse_usage(answer) if answer is not None else RunUsage()
    return usage.input_tokens, usage.output_tokens


def _arguments(admission: Admission) -> tuple[Any, ...]:
    return (
        admission.operation_set,
        *_columns(admission.owner),
        admission.session,
        admission.agent,
        admission.run,
        admission.answer,
        admission.key,
        admission.when_busy,
        admission.context,
        admission.remember,
    )


async def open_run_store(
    database_url: str,
    *,
    pool_max: int = 10,
    acquire_timeout_s: float = 5.0,
    connect_timeout_s: float = 5.0,
    command_timeout_s: float = 10.0,
    limits: Limits = Limits(),  # noqa: B008 - a frozen struct
) -> PostgresRunStore:
    """A store on a migrated database. Waits until the database is reachable. `limits` are the default limits
    of tenants; gateways and runners must be configured with the same ones.
    """
    database = await open_database(
        database_url,
        pool_max=pool_max,
        acquire_timeout_s=acquire_timeout_s,
        connect_timeout_s=connect_timeout_s,
        command_timeout_s=command_timeout_s,
        settings={f"rejoin.{name}": str(limit) for name, limit in msgspec.to_builtins(limits).items()},
    )
    return PostgresRunStore(database)
