"""`rejoin doctor`, PostgreSQL: version, clock, migrations, permissions, rows that show a problem."""

import time
from collections.abc import AsyncIterator, Mapping

import msgspec

from rejoin.cli.check_settings import DoctorSettings
from rejoin.cli.finding import Finding, error, note, ok
from rejoin_adapters.postgres import migrate
from rejoin_adapters.postgres.pool import Database, open_database
from rejoin_protocol.errors import Invalid

CLOCK_SKEW_S_MAX = 1.0
POSTGRES_MIN = 150_000
QUEUE_WAIT_S_MAX = 30
"""A run that is ready and has been queued for longer has no runner."""


class _Server(msgspec.Struct, frozen=True):
    version: int
    now_s: float
    may_create: bool
    is_read_only: bool


class _Rows(msgspec.Struct, frozen=True):
    keys: int
    queued: Mapping[str, int]
    longest_approval_s: float | None


async def check_database(settings: DoctorSettings) -> AsyncIterator[Finding]:
    """Check the database as the role that `database_url` names. Raises what the driver raises."""
    async with await open_database(settings.database_url, pool_max=1, attempts_max=1) as database:
        server = await database.fetch_json(
            _Server,
            """select json_build_object(
              'version', current_setting('server_version_num')::int,
              'now_s', extract(epoch from clock_timestamp()),
              'may_create', has_schema_privilege('public', 'create'),
              'is_read_only', current_setting('transaction_read_only')::bool)""",
        )
        skew_s = server.now_s - time.time()
        if server.version < POSTGRES_MIN:
            yield error(f"database: PostgreSQL {server.version // 10_000}", "install PostgreSQL 15 or newer")
        if server.is_read_only:
            yield error(
                "database: it takes no writes: it is a standby, or set to read only",
                "let REJOIN_DATABASE_URL name the primary: with several hosts, "
                "target_session_attrs=read-write chooses it",
            )
        if abs(skew_s) > CLOCK_SKEW_S_MAX:
            yield error(
                f"clocks: the database's clock differs from this machine's by {skew_s:+.1f} s",
                "synchronize the clocks by NTP: tokens and approvals expire by them",
            )
        try:
            await migrate.check_schema(settings.database_url, exactly=True)
        except Invalid as fault:
            yield error(f"database: {fault}", "run `rejoin migrate` of the version that the services run")
            return
        yield ok(f"database: PostgreSQL {server.version // 10_000}, migrated")
        if server.may_create:
            yield note(
                "database: this role can create tables, which services do not need",
                "on more than one machine, use the separate roles of deploy/README.md",
            )
        async for finding in _check_rows(database, settings):
            yield finding


async def _check_rows(database: Database, settings: DoctorSettings) -> AsyncIterator[Finding]:
    """API keys must exist, runs must start, approvals must not outlive their sessions."""
    rows = await database.fetch_json(
        _Rows,
        """select json_build_object(
          'keys', (select count(*) from api_keys
            where revoked_at is null and (expires_at is null or expires_at > clock_timestamp())),
          'queued', (select coalesce(json_object_agg(agent, runs), '{}') from (
            select agent, count(*) as runs from runs
            where state = 'queued' and ready and due_at < clock_timestamp() - $1 * interval '1 second'
            group by agent) queued),
          'longest_approval_s', (select extract(epoch from max(expires_at - created_at)) from approvals
            where state = 'pending'))""",
        QUEUE_WAIT_S_MAX,
    )
    if settings.api_key_pepper and not rows.keys and not settings.accepts_tokens:
        yield error("keys: there is no valid API key", "create one: rejoin keys create --scope chat")
    for agent, runs in rows.queued.items():
        yield error(
            f"runs: {runs} of {agent} have been queued for more than {QUEUE_WAIT_S_MAX} s",
            "start more runners that serve the agent, or read the logs of those that do",
        )
    retention_s, longest_s = settings.session_retention_s, rows.longest_approval_s
    if retention_s is not None and longest_s is not None and longest_s > retention_s:
        yield error(
            f"approvals: some expire after {longest_s:g} s, but sessions are deleted after {retention_s:g}",
            "set REJOIN_SESSION_RETENTION_S to more than the agents' approval_timeout_s",
        )
