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
from rejoin_adapters.postgres import message_pages
from rejoin_adapters.postgres.batch_loader import BatchLoader
from rejoin_adapters.postgres.pool import Database, json_or_null, json_text, open_database
from rejoin_adapters.postgres.runs.owner_columns import owner_columns
from rejoin_adapters.postgres.runs.run_approvals import PostgresRunApprovals
from rejoin_adapters.postgres.runs.run_lists import PostgresRunLists
from rejoin_adapters.postgres.runs.run_recovery import PostgresRunRecovery
from rejoin_adapters.session_keys import named_run
from rejoin_adapters.store_types import (
    Admission,
    Admitted,
    Claim,
    EarlierMessages,
    History,
    Interrupted,
    Limits,
    MessageWithNext,
    Owner,
    Regenerate,
    Run,
    Submit,
)
from rejoin_adapters.usage_types import RunUsage, parse_model_usage, parse_usage
from rejoin_protocol.errors import NotFound
from rejoin_protocol.events.fold import MessageDict
from rejoin_protocol.events.steering import steering_ids
from rejoin_protocol.ids import AgentName, MessageId, RunId, SessionId
from rejoin_protocol.lifecycle import TERMINAL, State
from rejoin_protocol.limits import PAGE_BYTES_MAX
from rejoin_protocol.request_options import RequestOptions
from rejoin_protocol.run_request import RunRequest


class PostgresRunStore(PostgresRunApprovals, PostgresRunLists, PostgresRunRecovery):
    """The adapter of `RunStore`. Leaving its context closes the pool, also for other adapters that use
    `database`.
    """

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._ended = BatchLoader(self._load_ended)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.database.close()

    async def admit(self, admission: Admission) -> Admitted:
        """See `RunStore`."""
        try:
            admitted = await self._admit(admission)
        except NotFound:
            if admission.owner.user is None:
                raise
            # Another user may have taken the session's name at the same moment: now it gets another id.
            admitted = await self._admit(admission)
        owner, interrupted = admission.owner, admitted.interrupted
        return msgspec.structs.replace(
            admitted,
            run=named_run(owner, admitted.run),
            interrupted=interrupted and named_run(owner, interrupted),
        )

    async def _admit(self, admission: Admission) -> Admitted:
        match admission.action:
            case Submit() as submit:
                return await self._submit(admission, submit)
            case Regenerate(target, kept):
                return await self.database.fetch_json(
                    Admitted,
                    "select regenerate_run("
                    "  $1, $2, session_key($1, $2, $3), $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14,"
                    "  $15, $16)",
                    *_arguments(admission),
                    target,
                    json_or_null(kept),
                )

    async def _submit(self, admission: Admission, submit: Submit) -> Admitted:
        message = submit.user_message.message
        query = """
            select submit_run(
              $1, $2, session_key($1, $2, $3), $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17,
              $18, $19, $20, $21)
        """
        return await self.database.fetch_json(
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
        await self.database.fetch_text("select check_limits($1, $2)::text", *owner_columns(owner))

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
        query = "select repeated_run($1, $2, session_key($1, $2, $3), $4, $5, $6, $7)"
        arguments = *owner_columns(owner), session, agent, key, message, digest
        return await self._find_run(owner, query, *arguments)

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
        query = "select interrupt_run($1, $2, session_key($1, $2, $3), $4, $5, $6)"
        arguments = *owner_columns(owner), session, run, message, json_or_null(seen)
        ended = await self.database.fetch_json(Interrupted, query, *arguments)
        return msgspec.structs.replace(ended, run=ended.run and named_run(owner, ended.run))

    async def find_seen(self, run: RunId) -> dict[str, Any] | None:
        """See `RunStore`."""
        query = "select seen from runs where id = $1 and seen is not null"
        return await self.database.find_json(dict[str, Any], query, run)

    async def find_run(self, owner: Owner, run: RunId) -> Run | None:
        """See `RunStore`."""
        query = """
            select run_json(r) from runs r
            where tenant_id = $1 and ($2::text is null or user_id = $2) and id = $3
        """
        return await self._find_run(owner, query, *owner_columns(owner), run)

    async def _find_run(self, owner: Owner, query: str, *arguments: Any) -> Run | None:
        run = await self.database.find_json(Run, query, *arguments)
        return run and named_run(owner, run)

    async def has_ended(self, owner: Owner, run: RunId, turn: int | None = None) -> bool:
        """See `RunStore`."""
        return await self._ended.load((*owner_columns(owner), run, turn))

    async def _load_ended(self, runs: Sequence[tuple[str, str | None, RunId, int | None]]) -> list[bool]:
        query = """
            select json_agg(
              coalesce((
                select r.ended_at is not null or (
                  asked.turn is not null and (r.state not in ('queued', 'running') or r.turn > asked.turn))
                from runs r
                where r.id = asked.id and r.tenant_id = asked.tenant_id
                  and (asked.user_id is null or r.user_id = asked.user_id)), true)
              order by place)
            from unnest($1::text[], $2::text[], $3::text[], $4::integer[])
              with ordinality asked(tenant_id, user_id, id, turn, place)
        """
        return await self.database.fetch_json(list[bool], query, *map(list, zip(*runs, strict=True)))

    async def current_run(self, owner: Owner, session: SessionId) -> Run | None:
        """See `RunStore`."""
        query = """
            select run_json(r) from runs r where id = coalesce(
              (select id from current_run($1, session_key($1, $2, $3))),
              (
                select id from runs where tenant_id = $1 and session_id = session_key($1, $2, $3)
                order by position desc limit 1))
            and ($2::text is null or user_id = $2)
        """
        return await self._find_run(owner, query, *owner_columns(owner), session)

    async def history(
        self, owner: Owner, session: SessionId, *, after: int = -1, bytes_max: int = PAGE_BYTES_MAX
    ) -> History | None:
        """See `RunStore`."""
        query = message_pages.HISTORY
        found = await self.database.find_json(
            History, query, *owner_columns(owner), session, after, bytes_max
        )
        if found is None or found.active_run is None:
            return found
        return msgspec.structs.replace(found, active_run=named_run(owner, found.active_run))

    async def find_message(
        self, owner: Owner, session: SessionId, message: MessageId
    ) -> MessageWithNext | None:
        """See `RunStore`."""
        query = """
            select json_build_object(
              'message', body,
              'next', (
                select id from shown_messages($1, session_key($1, $2, $3))
                where position > m.position order by position limit 1))
            from shown_messages($1, session_key($1, $2, $3)) m
            where id = $4 and exists (
              select from sessions where tenant_id = $1 and ($2::text is null or user_id = $2)
                and id = session_key($1, $2, $3))
        """
        return await self.database.find_json(MessageWithNext, query, *owner_columns(owner), session, message)

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
        arguments = *owner_columns(owner), session, message, after, *bounds
        return await self.database.find_json(EarlierMessages, query, *arguments)

    async def session_context(self, owner: Owner, session: SessionId) -> bytes | None:
        """See `RunStore`."""
        query = """
            select json_build_array(bytes_json(context)) from sessions
            where tenant_id = $1 and ($2::text is null or user_id = $2) and id = session_key($1, $2, $3)
        """
        row = await self.database.find_json(tuple[bytes | None], query, *owner_columns(owner), session)
        return row[0] if row is not None else None

    async def claim(
        self, request: RunRequest, runner: str, bounds: HistoryBounds = ALL_HISTORY
    ) -> Claim | None:
        """See `RunStore`."""
        query = "select claim_run($1, $2, $3, $4, $5, $6)"
        arguments = request.run, request.turn, runner, *msgspec.structs.astuple(bounds)
        return await self.database.find_json(Claim, query, *arguments)

    async def load_history(self, claim: Claim) -> Claim:
        """See `RunStore`."""
        if claim.history_from is None:
            return claim
        query = "select history_from($1, $2)"
        history = await self.database.fetch_json(list[MessageDict], query, claim.run.id, claim.history_from)
        return msgspec.structs.replace(claim, history=history, history_from=None)

    async def find_steering(
        self, run: RunId, attempt: int, logged: Sequence[MessageId]
    ) -> Sequence[MessageDict]:
        """See `RunStore`."""
        query = "select steering_of($1, $2, $3)"
        return await self.database.fetch_json(list[MessageDict], query, run, attempt, list(logged))

    async def suspend(self, run: RunId, attempt: int, answer: MessageDict) -> RunRequest | None:
        """See `RunStore`."""
        query = "select suspend_run($1, $2, $3, $4, $5, $6, $7, $8)"
        arguments = run, attempt, json_text(answer), *_tokens(answer), steering_ids(answer), *_costs(answer)
        return await self.database.find_json(RunRequest, query, *arguments)

    async def end(
        self,
        run: RunId,
        attempt: int,
        state: State,
        answer: MessageDict | None,
        error: str | None,
        error_code: str | None = None,
    ) -> RunRequest | None:
        """See `RunStore`."""
        if state not in TERMINAL:
            raise ValueError(f"{state} is not a terminal state")
        return await self.database.find_json(
            RunRequest,
            "select end_run($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
            run,
            attempt,
            state,
            json_or_null(answer),
            json_or_null(error),
            *_tokens(answer),
            steering_ids(answer),
            *_costs(answer),
            error_code,
        )


def _tokens(answer: MessageDict | None) -> tuple[int, int]:
    usage = parse_usage(answer) if answer is not None else RunUsage()
    return usage.input_tokens, usage.output_tokens


def _costs(answer: MessageDict | None) -> tuple[int | None, str | None]:
    """The cost, and what each model has used, as the column `model_usage` has it."""
    if answer is None:
        return None, None
    models = {
        name: (one.input_tokens, one.output_tokens, one.cost_nano_usd)
        for name, one in parse_model_usage(answer).items()
    }
    return parse_usage(answer).cost_nano_usd, json_text(models)


def _arguments(admission: Admission) -> tuple[Any, ...]:
    return (
        *owner_columns(admission.owner),
        admission.session,
        admission.agent,
        admission.run,
        admission.answer,
        admission.key,
        admission.when_busy,
        admission.context,
        admission.remember,
        admission.operation_set,
        json_text(admission.request_tools) if admission.request_tools else None,
        json_text(admission.request_options) if admission.request_options != RequestOptions() else None,
        admission.trace,
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
