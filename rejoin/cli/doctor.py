"""`rejoin doctor`: looks at an installation from where it is called, says what is wrong and how to mend it.

Changes nothing. It asks as whoever the settings name: with a gateway's URLs it sees what a gateway sees, with
the administrator's a little more. What is a matter of taste is a note; only what cannot work is wrong.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from enum import StrEnum

import click
import msgspec
from rejoin_adapters.jetstream import nats_connection, setup
from rejoin_adapters.jetstream.agent_registry import JetStreamAgentRegistry
from rejoin_adapters.jetstream.nats_connection import ApiError, NatsConnection, PermissionDenied
from rejoin_adapters.postgres import migrate
from rejoin_adapters.postgres.pool import Database, open_database
from rejoin_gateway import app
from rejoin_gateway.auth.authenticator import config_errors
from rejoin_protocol.broker import broker_url, subjects
from rejoin_protocol.errors import Invalid, RejoinError, Unavailable
from rejoin_protocol.ids import RunId
from rejoin_protocol.run_request import SILENT_MS

REACH_S = 5.0
SKEW_S_MAX = 1.0
NATS_MIN = (2, 12)
POSTGRES_MIN = 150_000
ACK_WAIT_S_MIN = 1.0
NOBODY_S = 30
NOBODYS_LOG = subjects.log(RunId("run_doctor"))
NEVER = {subjects.EXPECTED_LAST: str(2**62)}
"""An append behind a message that cannot be there: it is refused, and stores nothing."""


class DoctorSettings(app.GatewaySettings, frozen=True, kw_only=True):
    """A gateway's, and those of the runners' that have to do with them."""

    ack_wait_s: float = setup.ACK_WAIT_S
    session_retention_s: float | None = None
    log_level: str = "critical"


class Grade(StrEnum):
    """How bad it is."""

    OK = "ok"
    NOTE = "note"
    WRONG = "wrong"


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at. `mend`: what to do about it."""

    grade: Grade
    what: str
    mend: str = ""

    def __str__(self) -> str:
        return f"{self.grade:6} {self.what}" + (f"\n       → {self.mend}" if self.mend else "")


def ok(what: str) -> Finding:
    """Nothing to do."""
    return Finding(Grade.OK, what)


def note(what: str, mend: str) -> Finding:
    """Worth knowing."""
    return Finding(Grade.NOTE, what, mend)


def wrong(what: str, mend: str) -> Finding:
    """Does not work."""
    return Finding(Grade.WRONG, what, mend)


# ------------------------------------------------------------------------------------- settings


def contradictions(settings: DoctorSettings) -> Iterator[Finding]:
    """What is wrong with the settings by themselves."""
    for refusal in config_errors(settings):
        yield wrong(*refusal)
    if settings.allow_anonymous and not app.is_loopback(settings.host):
        yield wrong(
            f"anonymous, and listening on {settings.host}: a gateway refuses to start like this",
            "unset REJOIN_ALLOW_ANONYMOUS, or listen on 127.0.0.1",
        )
    if settings.takes_tokens and not (settings.jwt_issuer and settings.jwt_audience):
        yield note(
            "tokens of any issuer or audience are taken that the key has signed",
            "set REJOIN_JWT_ISSUER and REJOIN_JWT_AUDIENCE",
        )
    if settings.ack_wait_s < ACK_WAIT_S_MIN:
        yield note(
            f"REJOIN_ACK_WAIT_S is {settings.ack_wait_s:g}: runners must be heard of every "
            f"{settings.ack_wait_s / 3:.2g} s, and one that is busy for a moment loses its runs",
            f"make it {setup.ACK_WAIT_S:g}",
        )
    kept = settings.session_retention_s
    if kept is not None and kept < settings.run_log_retention_s:
        yield note(
            f"sessions are deleted after {kept:g} s, before their logs would expire",
            "make REJOIN_SESSION_RETENTION_S more than "
            f"REJOIN_RUN_LOG_RETENTION_S ({settings.run_log_retention_s:g})",
        )
    if settings.metrics_port is None and not app.is_loopback(settings.host):
        yield note(
            "/metrics is a public route of the gateway", "set REJOIN_METRICS_PORT, or refuse it in front"
        )


# --------------------------------------------------------------------------------------- broker


async def of_broker(settings: DoctorSettings) -> AsyncIterator[Finding]:
    """What the broker says."""
    hosts = broker_url.parse(settings.nats_url).hosts
    async with nats_connection.connect(settings.nats_url, "gateway-doctor") as connection:
        version = connection.version
        numbers = tuple(int(one) for one in version.split(".")[:2] if one.isdigit())
        if numbers < NATS_MIN:
            yield wrong(f"broker: {hosts} is NATS {version}", "Rejoin needs 2.12 or newer")
        try:
            lacking = await setup.find_missing_streams(connection)
        except (Unavailable, ApiError) as fault:
            yield wrong(
                f"broker: {hosts} is NATS {version}, and JetStream does not answer ({fault})",
                "enable JetStream in the server's configuration; compare the user's rights with"
                " deploy/nats.conf, and the URL's `?api=` with deploy/README.md",
            )
            return
        if lacking:
            yield wrong(f"broker: it misses the streams {', '.join(lacking)}", "run `rejoin migrate`")
            return
        yield ok(f"broker: NATS {version} at {hosts}, with all streams")
        async for finding in _rights(connection):
            yield finding
        async for finding in _configured(connection, settings):
            yield finding
        async for finding in _agents(connection, settings):
            yield finding


async def _rights(connection: NatsConnection) -> AsyncIterator[Finding]:
    """Whether it can do what gateways must, and what they need not."""
    try:
        await setup.check_log_readable(connection)
    except RejoinError as fault:
        yield wrong(
            f"broker: logs cannot be read ({fault})", "compare the user's rights with deploy/nats.conf"
        )
    try:
        await connection.call(NOBODYS_LOG, headers=NEVER)
    except PermissionDenied:
        yield ok("broker: this user cannot write logs")
    except RejoinError:
        yield note(
            "broker: this user may write logs, as runners must and gateways need not",
            "for more than one machine: users of their own, deploy/README.md",
        )


async def _configured(connection: NatsConnection, settings: DoctorSettings) -> AsyncIterator[Finding]:
    """Whether the streams are as the settings want them."""
    for wanted in setup.stream_configs(
        setup.StreamSettings(settings.nats_replicas, settings.run_log_retention_s)
    ):
        name = wanted["name"]
        try:
            info = msgspec.json.decode(await connection.call(f"{subjects.API}.STREAM.INFO.{name}"))
        except RejoinError:
            yield note(
                "broker: this user cannot see how the streams are configured",
                "call it with the administrator's URL to have that looked at too",
            )
            return
        for field in ("num_replicas", "max_age"):
            found, value = info["config"].get(field, 0), wanted.get(field, 0)
            if found != value:
                yield wrong(
                    f"broker: {field} of {name} is {found}, the settings say {value}",
                    "run `rejoin migrate` with the same settings as the services",
                )


async def _agents(connection: NatsConnection, settings: DoctorSettings) -> AsyncIterator[Finding]:
    """Whether somebody would answer."""
    now_ms = time.time() * 1_000
    try:
        entries = {entry.name: entry for entry in await JetStreamAgentRegistry(connection).list()}
    except RejoinError as fault:
        yield wrong(
            f"agents: they cannot be read ({fault})", "compare the user's rights with deploy/nats.conf"
        )
        return
    if not entries:
        yield wrong("agents: no runner has announced any", "start one: rejoin runner MODULE:ATTR")
    for entry in entries.values():
        age_ms = now_ms - entry.announced_at_ms
        if age_ms > SILENT_MS:
            yield note(
                f"agents: {entry.name} was last announced {age_ms / 1_000:.0f} s ago",
                "its runners are gone; if it is not meant to be, look at their logs",
            )
        else:
            yield ok(f"agents: {entry.name} is served")
        if entry.context_schema is not None and settings.context_encryption_keys is None:
            yield wrong(
                f"agents: {entry.name} wants a context, and there are no keys to seal one",
                "set REJOIN_CONTEXT_ENCRYPTION_KEYS_FILE, the same for gateways and runners",
            )
    if settings.default_agent is not None and settings.default_agent not in entries:
        yield wrong(
            f"agents: REJOIN_DEFAULT_AGENT is {settings.default_agent}, which no runner serves",
            f"there are: {', '.join(sorted(entries)) or 'none'}",
        )


# ------------------------------------------------------------------------------------- database


class _Server(msgspec.Struct, frozen=True):
    version: int
    now_s: float
    may_create: bool
    connections_max: int


class _Rows(msgspec.Struct, frozen=True):
    keys: int
    waiting: Mapping[str, int]
    longest_s: float | None


async def of_database(settings: DoctorSettings) -> AsyncIterator[Finding]:
    """What the database says."""
    async with await open_database(settings.database_url, pool_max=1) as database:
        server = await database.get(
            _Server,
            """select json_build_object(
              'version', current_setting('server_version_num')::int,
              'now_s', extract(epoch from clock_timestamp()),
              'may_create', has_schema_privilege('public', 'create'),
              'connections_max', current_setting('max_connections')::int)""",
        )
        skew_s = server.now_s - time.time()
        if server.version < POSTGRES_MIN:
            yield wrong(f"database: PostgreSQL {server.version // 10_000}", "Rejoin needs 15 or newer")
        if abs(skew_s) > SKEW_S_MAX:
            yield wrong(
                f"clocks: the database's is {skew_s:+.1f} s from this machine's",
                "let all machines keep time by NTP: expiry of tokens and questions goes by it",
            )
        try:
            await migrate.check_schema(settings.database_url, exactly=True)
        except Invalid as fault:
            yield wrong(f"database: {fault}", "migrate with the version of Rejoin that is to run")
            return
        yield ok(f"database: PostgreSQL {server.version // 10_000}, migrated")
        if server.may_create:
            yield note(
                "database: this role may make tables, which services need not",
                "for more than one machine: a role of their own, deploy/README.md",
            )
        async for finding in _rows(database, settings):
            yield finding


async def _rows(database: Database, settings: DoctorSettings) -> AsyncIterator[Finding]:
    """What is in it."""
    found = await database.get(
        _Rows,
        """select json_build_object(
          'keys', (select count(*) from api_keys
            where revoked_at is null and (expires_at is null or expires_at > clock_timestamp())),
          'waiting', (select coalesce(json_object_agg(agent, runs), '{}') from (
            select agent, count(*) as runs from runs
            where state = 'queued' and ready and due_at < clock_timestamp() - $1 * interval '1 second'
            group by agent) waiting),
          'longest_s', (select extract(epoch from max(expires_at - created_at)) from approvals
            where state = 'pending'))""",
        NOBODY_S,
    )
    if settings.api_key_pepper and not found.keys and not settings.takes_tokens:
        yield wrong("keys: there is no valid one", "make one: rejoin keys create --scope chat")
    for agent, runs in found.waiting.items():
        yield wrong(
            f"runs: {runs} of {agent} have waited for more than {NOBODY_S} s",
            "start more runners that serve it, or look into the logs of those that do",
        )
    kept, longest_s = settings.session_retention_s, found.longest_s
    if kept is not None and longest_s is not None and longest_s > kept:
        yield wrong(
            f"approvals: some may be decided for {longest_s:g} s, sessions are deleted after {kept:g}",
            "make REJOIN_SESSION_RETENTION_S longer than the agents' approval_timeout_s",
        )


# ----------------------------------------------------------------------------------- everything


type Look = Callable[[DoctorSettings], AsyncIterator[Finding]]


async def examine(settings: DoctorSettings) -> list[Finding]:
    """Everything that can be found in bounded time."""
    found = list(contradictions(settings))
    found += await _looked("broker", of_broker, settings)
    found += await _looked("database", of_database, settings)
    return found


async def _looked(name: str, look: Look, settings: DoctorSettings) -> list[Finding]:
    """What a look found. What cannot be reached is a finding too."""
    found: list[Finding] = []
    try:
        async with asyncio.timeout(REACH_S):
            async for finding in look(settings):
                found.append(finding)  # noqa: PERF401 - what was found before it failed is kept
    except TimeoutError:
        mend = f"check REJOIN_{'NATS' if name == 'broker' else 'DATABASE'}_URL, that it runs, and the network"
        found.append(wrong(f"{name}: it does not answer within {REACH_S:g} s", mend))
    except RejoinError as fault:
        found.append(wrong(f"{name}: {fault}", "see deploy/README.md"))
    except Exception as fault:  # noqa: BLE001 - a driver's refusals: a wrong password, no such database
        found.append(wrong(f"{name}: it refuses us ({type(fault).__name__})", _said(fault)))
    return found


def _said(fault: Exception) -> str:
    return str(fault).splitlines()[0] if str(fault) else "see its log"


def execute(settings: DoctorSettings) -> None:
    """Print what was found; exits with 1 if something is wrong."""
    found = asyncio.run(examine(settings))
    click.echo("\n".join(str(finding) for finding in found))
    if any(finding.grade is Grade.WRONG for finding in found):
        raise SystemExit(1)
