"""The rows that the ports of the database in memory share. All gateways and runners share one object.

No method waits, so each one is a transaction by itself.
"""

import itertools
import math
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import msgspec

from rejoin_adapters.actor import Actor, current_actor
from rejoin_adapters.feedback_types import ClientEvent, Feedback
from rejoin_adapters.memory.clock import now_utc
from rejoin_adapters.memory.database.rows import ApprovalRow, RunRow, SessionRow
from rejoin_adapters.ports.run_store import EARLY_STOPS_MAX
from rejoin_adapters.ports.webhooks import PENDING_MAX, WEBHOOK_WAITING_MAX, WebhookEndpoint, WebhookState
from rejoin_adapters.session_keys import mark_of
from rejoin_adapters.store_types import ApiKeyRow, Artifact, AuditEntry, Limits, Owner, Run
from rejoin_adapters.usage_types import RunUsage, UsageRow, add_usage
from rejoin_protocol.errors import Conflict, Limited
from rejoin_protocol.ids import AgentName, ApprovalId, MessageId, RunId, SessionId, TenantId, UserId
from rejoin_protocol.lifecycle import State
from rejoin_protocol.money import to_usd


class WebhookRow(msgspec.Struct):
    """A delivery."""

    number: int
    endpoint: str
    payload: bytes
    due_at: datetime
    expires_at: datetime
    created_at: datetime
    session: str | None = None
    url: str | None = None
    """Null: the endpoint's."""
    run: RunId | None = None
    state: WebhookState = "pending"
    attempts: int = 0
    leased_until: datetime | None = None
    error: str | None = None
    done_at: datetime | None = None

    def is_leased(self, now: datetime) -> bool:
        """Whether a sender has it."""
        return self.leased_until is not None and self.leased_until >= now

    def queue_again(self) -> None:
        """For another day."""
        self.state, self.done_at, self.attempts = "pending", None, 0
        self.due_at = now_utc()
        self.expires_at = self.due_at + timedelta(days=1)


class MemoryDatabase:
    """`limits`: the default limits of tenants."""

    def __init__(self, limits: Limits = Limits()) -> None:  # noqa: B008 - a frozen struct
        self.default_limits = limits
        self.limits: dict[TenantId, Limits] = {}
        self.spent: dict[tuple[TenantId, date], RunUsage] = {}
        self.usage_days: dict[tuple[TenantId, date, AgentName, str], UsageRow] = {}
        self.sessions: dict[tuple[TenantId, SessionId], SessionRow] = {}
        self.runs: dict[RunId, RunRow] = {}
        self.approvals: dict[ApprovalId, ApprovalRow] = {}
        self.approval_numbers = itertools.count(1)
        self.artifacts: dict[tuple[TenantId, str], Artifact] = {}
        self.api_keys: dict[str, ApiKeyRow] = {}
        self.feedback: list[tuple[TenantId, Feedback]] = []
        self.client_events: list[tuple[TenantId, ClientEvent]] = []
        self.audit: list[AuditEntry] = []
        self.webhook_endpoints: dict[str, WebhookEndpoint] = {}
        self.webhook_secrets: dict[str, tuple[bytes, bytes | None, datetime]] = {}
        self.webhooks: list[WebhookRow] = []
        self._webhook_numbers = itertools.count(1)
        self.early_stops: dict[tuple[Owner, SessionId, MessageId | None], datetime] = {}
        """Until when each one holds."""
        self.purges: dict[RunId, tuple[datetime, bool]] = {}
        """Deleted runs: when their logs are due to be purged, and whether for the second time."""

    def record_audit(self, tenant: TenantId, action: str, target: str, **detail: Any) -> None:
        """Write an entry of the audit log."""
        actor = current_actor() or Actor("database role memory")
        number = self.audit[-1].number + 1 if self.audit else 1
        self.audit.append(
            AuditEntry(number, now_utc(), tenant, actor.name, actor.peer, "memory", action, target, detail)
        )

    def key(self, owner: Owner, name: SessionId) -> SessionId:
        """The id of the session that the owner calls so, whether it exists or not. See `session_keys`."""
        if owner.user is None:
            return name
        marked = SessionId(name + mark_of(owner.user))
        mine, first = self.sessions.get((owner.tenant, marked)), self.sessions.get((owner.tenant, name))
        is_marked = mine is not None and mine.user == owner.user
        return marked if is_marked or (first is not None and first.user != owner.user) else name

    def find_session(self, owner: Owner, session: SessionId) -> SessionRow | None:
        """The session, if it is the owner's."""
        row = self.sessions.get((owner.tenant, self.key(owner, session)))
        return row if row is not None and owner.user in {None, row.user} else None

    def find_run(self, owner: Owner, run: RunId) -> RunRow | None:
        """The run, if it is the owner's."""
        row = self.runs.get(run)
        if row is None or row.row.tenant != owner.tenant or owner.user not in {None, row.row.user}:
            return None
        return row

    def store_early_stop(self, owner: Owner, session: SessionId, message: MessageId | None) -> None:
        """Keep a stop for a message that has not come yet; None: for the session's first one. Raises
        `Limited`.
        """
        now, stop = now_utc(), (owner, session, message)
        self.early_stops = {kept: until for kept, until in self.early_stops.items() if until > now}
        others = [kept for kept, _, _ in self.early_stops if kept.tenant == owner.tenant]
        if stop not in self.early_stops and len(others) >= EARLY_STOPS_MAX:
            raise Limited("the tenant has too many stops that wait for their messages", 10)
        self.early_stops[stop] = now + timedelta(seconds=3 if message is None else 10)

    def was_stopped(self, tenant: TenantId, session: SessionId, message: MessageId) -> bool:
        """Whether the stop of a run that is about to be made has come already."""
        row, now = self.sessions[tenant, session], now_utc()
        return any(
            (owner.tenant, named) == (tenant, session)
            and owner.user in {None, row.user}
            and stopped in ({message} if row.runs else {message, None})
            and until > now
            for (owner, named, stopped), until in self.early_stops.items()
        )

    def session_of(self, run: RunRow) -> SessionRow:
        """The session of a run."""
        return self.sessions[run.row.tenant, run.row.session]

    def delete_session(self, tenant: TenantId, session: SessionId) -> list[RunId]:
        """Delete a session with everything that belongs to it. Returns its runs."""
        row = self.sessions.pop((tenant, session))
        runs = [run.row.id for run in row.runs]
        for run in runs:
            del self.runs[run]
            self.purges.setdefault(run, (now_utc(), False))
        self.webhooks = [one for one in self.webhooks if one.run not in runs]
        self.approvals = {
            id: approval for id, approval in self.approvals.items() if approval.run not in row.runs
        }
        self.artifacts = {
            key: artifact
            for key, artifact in self.artifacts.items()
            if (key[0], artifact.session) != (tenant, session)
        }
        self.feedback = [row for row in self.feedback if (row[0], row[1].session) != (tenant, session)]
        self.client_events = [
            row for row in self.client_events if (row[0], row[1].session) != (tenant, session)
        ]
        return runs

    def queue_webhooks(self, run: Run) -> None:
        """A run has ended or waits: a delivery for each endpoint of its tenant that is told of it. For the
        endpoint with the URL `*`, if the run's request names a URL: to that.
        """
        event = "run.waiting" if run.state is State.SUSPENDED else f"run.{run.state.value}"
        named = self.runs[run.id].request_options.webhook_url
        for endpoint in self.webhook_endpoints.values():
            if endpoint.tenant == run.tenant and endpoint.disabled_at is None and event in endpoint.events:
                url = named if endpoint.url == "*" else None
                if endpoint.url != "*" or url is not None:
                    self.queue_webhook(endpoint.id, event, self._webhook_data(run), run, url)

    def queue_webhook(
        self, endpoint: str, event: str, data: dict[str, Any], run: Run | None = None, url: str | None = None
    ) -> None:
        """A delivery for an endpoint."""
        now = now_utc()
        payload = msgspec.json.encode({"type": event, "timestamp": now, "data": data})
        row = WebhookRow(
            next(self._webhook_numbers), endpoint, payload, now, now + timedelta(days=1), now, url=url
        )
        if run is not None:
            row.run, row.session = run.id, run.session
            waiting = sum(one.endpoint == endpoint and one.state == "pending" for one in self.webhooks)
            if waiting >= PENDING_MAX:
                row.state, row.done_at, row.error = "failed", now, f"{PENDING_MAX} earlier deliveries wait"
        self.webhooks.append(row)

    def _webhook_data(self, run: Run) -> dict[str, Any]:
        waiting = [one.request for one in self.approvals.values() if one.run.row.id == run.id and one.pending]
        return {
            "run": run.id,
            "session": run.session,
            "agent": run.agent,
            "user": run.user,
            "state": run.state,
            "turn": run.turn,
            "message": run.answer,
            "usage": {
                "inputTokens": run.usage.input_tokens,
                "outputTokens": run.usage.output_tokens,
                "costUsd": to_usd(run.usage.cost_nano_usd),
            },
            "waitingFor": [
                {
                    "id": one.id,
                    "kind": one.kind,
                    "toolCallId": one.call,
                    "toolName": one.tool,
                    "expiresAt": one.expires_at,
                }
                for one in waiting[:WEBHOOK_WAITING_MAX]
            ]
            if run.state is State.SUSPENDED
            else None,
        }

    def limit(self, tenant: TenantId, name: str) -> int | None:
        """A limit of the tenant, or the default one."""
        own: int | None = getattr(self.limits.get(tenant), name, None)
        default: int | None = getattr(self.default_limits, name)
        return default if own is None else own

    def check_limits(self, tenant: TenantId, user: UserId | None) -> None:
        """See `RunStore.check_limits`."""
        queued_max, user_queued_max, tokens_max, money_max = (
            self.limit(tenant, name)
            for name in ("queued_max", "user_queued_max", "tokens_per_day", "nano_usd_per_day")
        )
        queued = [
            run.row.user
            for run in self.runs.values()
            if run.row.tenant == tenant and run.queued and not run.is_taken
        ]
        if queued_max is not None and len(queued) >= queued_max:
            raise Limited(f"the tenant has too many runs queued: at most {queued_max}", 5)
        if user is not None and user_queued_max is not None and queued.count(user) >= user_queued_max:
            raise Limited(f"you have too many runs queued: at most {user_queued_max}", 5)
        today = now_utc()
        spent = self.spent.get((tenant, today.date()), RunUsage())
        midnight = datetime.combine(today.date() + timedelta(days=1), time(), UTC)
        until_s = math.ceil((midnight - today).total_seconds())
        if tokens_max is not None and spent.total >= tokens_max:
            raise Limited(f"the tenant has used up its {tokens_max} tokens of the day", until_s)
        if money_max is not None and (spent.cost_nano_usd or 0) >= money_max:
            raise Limited(f"the tenant has used up its {to_usd(money_max):g} USD of the day", until_s)

    def count_usage(self, run: Run, before: Mapping[str, RunUsage], now: Mapping[str, RunUsage]) -> None:
        """Count what each model of a run has used since the run was last stored."""
        today = now_utc().date()
        spent = self.spent.get((run.tenant, today), RunUsage())
        for model, used in now.items():
            earlier = before.get(model, RunUsage())
            tokens_in = max(0, used.input_tokens - earlier.input_tokens)
            tokens_out = max(0, used.output_tokens - earlier.output_tokens)
            cost = used.cost_nano_usd and max(0, used.cost_nano_usd - (earlier.cost_nano_usd or 0))
            spent = RunUsage(
                spent.input_tokens + tokens_in,
                spent.output_tokens + tokens_out,
                (spent.cost_nano_usd or 0) + (cost or 0),
            )
            key = run.tenant, today, run.agent, model
            added = UsageRow(tokens_in, tokens_out, tokens_in + tokens_out if cost is None else 0, cost)
            if tokens_in or tokens_out or cost:
                self.usage_days[key] = add_usage(self.usage_days.get(key, UsageRow(0, 0, 0, None)), added)
        self.spent[run.tenant, today] = spent

    def check_size(self, tenant: TenantId, session: SessionRow, added: int, end: int | None = None) -> None:
        """Raises `Conflict` if the session would have more bytes than it may, with `added` more bytes in the
        place of all from the position `end` on. None: behind all.
        """
        total_max = self.limit(tenant, "session_bytes_max")
        total = added + session.count_bytes(end)
        if total_max is not None and total > total_max:
            raise Conflict(
                f"the session would have {total} bytes of messages, and has at most {total_max}: begin a new "
                "session, or go back to an earlier message"
            )

    def check_forks(self, tenant: TenantId, user: UserId | None) -> None:
        """Raises `Limited` if the tenant's or the user's sessions have as much text as they may."""
        mine = [session for (owner, _), session in self.sessions.items() if owner == tenant]
        for name, sessions in (
            ("text_bytes_max", mine),
            ("user_text_bytes_max", [one for one in mine if user is not None and one.user == user]),
        ):
            text_max = self.limit(tenant, name)
            if text_max is not None and text_max <= sum(one.count_bytes() for one in sessions):
                raise Limited(f"the sessions have more than {text_max} bytes of text", 60)

    def waiting(self, tenant: TenantId) -> list[RunRow]:
        """The runs that wait only for a place among the tenant's ready runs, oldest first."""
        mine = [row.waiting for (owner, _), row in self.sessions.items() if owner == tenant]
        numbers = {id: number for number, id in enumerate(self.runs)}
        found = [run for run in mine if run is not None and not self.is_full(tenant, run.row.user)]
        return sorted(found, key=lambda run: numbers[run.row.id])

    def has_place(self, tenant: TenantId, user: UserId | None = None) -> bool:
        """Whether one more run of the tenant, and of the user, may be ready."""
        running_max = self.limit(tenant, "running_max")
        count = sum(run.busy and run.row.ready for run in self.runs.values() if run.row.tenant == tenant)
        return (running_max is None or count < running_max) and not self.is_full(tenant, user)

    def is_full(self, tenant: TenantId, user: UserId | None) -> bool:
        """Whether no further run of a user may be ready."""
        user_max = self.limit(tenant, "user_running_max")
        mine = [run for run in self.runs.values() if (run.row.tenant, run.row.user) == (tenant, user)]
        count = sum(run.busy and run.row.ready for run in mine)
        return user is not None and user_max is not None and count >= user_max

    def is_limited(self, tenant: TenantId) -> bool:
        """Whether runs may have to wait for a place."""
        return any(self.limit(tenant, name) is not None for name in ("running_max", "user_running_max"))

    def may_start(self, run: RunRow) -> bool:
        """Whether it is the first of the runs that wait, and there is a place."""
        tenant = run.row.tenant
        first = next(iter(self.waiting(tenant)), None)
        return not self.is_limited(tenant) or (self.has_place(tenant) and first is run)
