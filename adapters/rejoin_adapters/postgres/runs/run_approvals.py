"""The part of `RunStore` in PostgreSQL about calls that wait for a person or a client."""

from collections.abc import Sequence
from typing import Any

import msgspec

from rejoin_adapters.console_types import ALL_CALLS, CallFilter, UnansweredCall
from rejoin_adapters.ports.run_store import CALLS_MAX
from rejoin_adapters.postgres.conditions import given_conditions
from rejoin_adapters.postgres.pool import Database, json_or_null, json_text
from rejoin_adapters.postgres.runs.owner_columns import owner_columns
from rejoin_adapters.session_keys import named_run
from rejoin_adapters.store_types import (
    Approval,
    ApprovalRequest,
    AskedCall,
    Decided,
    Decision,
    Owner,
)
from rejoin_protocol.ids import ApprovalId, CallId, RunId, SessionId
from rejoin_protocol.run_request import RunRequest

EXPIRED_MAX = 100
"""Approvals that one sweep expires. It locks their sessions for that time."""


class PostgresRunApprovals:
    """The methods of `RunStore` that ask for approvals and outputs, decide and find them."""

    def __init__(self, database: Database) -> None:
        self.database = database

    async def request_approvals(self, run: RunId, attempt: int, requests: Sequence[ApprovalRequest]) -> None:
        """See `RunStore`."""
        await self.database.fetch_text(
            "select request_approvals($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)::text",
            run,
            attempt,
            [request.id for request in requests],
            [request.call for request in requests],
            [request.tool for request in requests],
            [json_text(request.input) for request in requests],
            [request.expires_at for request in requests],
            [request.kind for request in requests],
            [json_or_null(request.output_schema) for request in requests],
            [json_or_null(request.edit_schema) for request in requests],
        )

    async def decide(self, owner: Owner, session: SessionId, decisions: Sequence[Decision]) -> Decided:
        """See `RunStore`."""
        decided = await self.database.fetch_text_as_actor(
            "select decide_run($1, $2, session_key($1, $2, $3), $4, $5, $6, $7, $8, $9, $10)",
            *owner_columns(owner),
            session,
            [decision.approval for decision in decisions],
            [decision.approved for decision in decisions],
            [json_or_null(decision.reason) for decision in decisions],
            [decision.kind for decision in decisions],
            [json_or_null(decision.output) for decision in decisions],
            [json_or_null(decision.input) for decision in decisions],
            json_or_null(next((decision.by for decision in decisions), None)),
        )
        found = msgspec.json.decode(decided or "null", type=Decided)
        return msgspec.structs.replace(found, run=named_run(owner, found.run))

    async def pending_approvals(
        self, owner: Owner, session: SessionId, ids: Sequence[ApprovalId] | None = None
    ) -> Sequence[Approval]:
        """See `RunStore`."""
        query = """
            select coalesce(json_agg(approval_json(a) order by number), '[]')
            from approvals a join sessions s on s.tenant_id = a.tenant_id and s.id = a.session_id
            where a.tenant_id = $1 and ($2::text is null or s.user_id = $2)
              and session_id = session_key($1, $2, $3)
              and case when $4::text[] is null then state = 'pending' else a.id = any ($4) end
        """
        return await self.database.fetch_json(list[Approval], query, *owner_columns(owner), session, ids)

    async def find_approval(self, owner: Owner, run: RunId, call: CallId) -> Approval | None:
        """See `RunStore`."""
        query = """
            select approval_json(a) from approvals a join runs r on r.id = a.run_id
            where a.tenant_id = $1 and ($2::text is null or r.user_id = $2) and run_id = $3 and call_id = $4
            order by a.number desc limit 1
        """
        return await self.database.find_json(Approval, query, *owner_columns(owner), run, call)

    async def find_calls(
        self, owner: Owner, call: CallId, session: SessionId | None = None
    ) -> Sequence[AskedCall]:
        """See `RunStore`."""
        query = """
            select coalesce(
              json_agg(asked_call_json(a, r) order by ((a).state = 'pending') desc, (a).number desc), '[]')
            from (
              select a, r from approvals a join runs r on r.id = a.run_id
              where a.tenant_id = $1 and ($2::text is null or r.user_id = $2) and a.call_id = $3
                and ($4::text is null or a.session_id = session_key($1, $2, $4))
              order by (a.state = 'pending') desc, a.number desc limit $5) calls
        """
        arguments = *owner_columns(owner), call, session, CALLS_MAX
        calls = await self.database.fetch_json(list[AskedCall], query, *arguments)
        return [msgspec.structs.replace(one, run=named_run(owner, one.run)) for one in calls]

    async def answered_calls(self, owner: Owner, session: SessionId) -> Sequence[AskedCall]:
        """See `RunStore`."""
        # The last answer of a turn begins the next one, at whose end the stored message has all of them.
        query = """
            select coalesce(json_agg(asked_call_json(a, r) order by a.number), '[]')
            from runs r join approvals a on a.run_id = r.id
            where r.tenant_id = $1 and ($2::text is null or r.user_id = $2)
              and r.session_id = session_key($1, $2, $3) and r.ended_at is null
              and a.state in ('approved', 'denied', 'expired') and a.turn >= r.turn - 1
        """
        calls = await self.database.fetch_json(list[AskedCall], query, *owner_columns(owner), session)
        return [msgspec.structs.replace(one, run=named_run(owner, one.run)) for one in calls]

    async def waiting_calls(
        self, owner: Owner, wanted: CallFilter = ALL_CALLS, limit: int = 20
    ) -> Sequence[UnansweredCall]:
        """See `RunStore`."""
        values: list[Any] = [owner.tenant, wanted.after, limit]
        filters = (
            ("r.user_id =", owner.user),
            ("r.user_id =", wanted.user),
            ("r.agent =", wanted.agent),
            ("a.kind =", wanted.kind),
            ("a.run_id =", wanted.run),
        )
        asked = ["a.tenant_id = $1", "a.state = 'pending'", "a.number > $2"]
        conditions = asked + given_conditions(values, filters)
        query = f"""
            select coalesce(json_agg(json_build_object(
              'approval', approval_json(a), 'run', run_json(r), 'number', (a).number, 'since', (a).created_at)
              order by (a).number), '[]')
            from (
              select a, r from approvals a join runs r on r.id = a.run_id
              where {" and ".join(conditions)} order by a.number limit $3) calls
        """  # noqa: S608 - all parts are constants
        calls = await self.database.fetch_json(list[UnansweredCall], query, *values)
        return [msgspec.structs.replace(one, run=named_run(owner, one.run)) for one in calls]

    async def expire_approvals(self) -> Sequence[RunRequest]:
        """See `RunStore`."""
        return await self.database.fetch_json(list[RunRequest], "select expire_approvals($1)", EXPIRED_MAX)
