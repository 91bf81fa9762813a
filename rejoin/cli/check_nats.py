"""`rejoin doctor`, NATS: version, streams, the user's permissions, agents."""

import time
from collections import Counter
from collections.abc import AsyncIterator

import msgspec

from rejoin.cli.check_settings import DoctorSettings
from rejoin.cli.finding import Finding, error, note, ok
from rejoin_adapters.jetstream import nats_connection, setup
from rejoin_adapters.jetstream.agent_registry import JetStreamAgentRegistry
from rejoin_adapters.jetstream.nats_connection import ApiError, NatsConnection, PermissionDenied
from rejoin_protocol.broker import subjects
from rejoin_protocol.errors import RejoinError, Unavailable
from rejoin_protocol.ids import RunId
from rejoin_protocol.run_request import SILENT_MS

NATS_MIN = (2, 12)
PROBE_RUN = RunId("run_doctor")
PROBE_HEADERS = {subjects.EXPECTED_LAST: str(2**62)}
"""Expects a last sequence number that no stream has reached: the server refuses to store the message."""


async def check_nats(settings: DoctorSettings) -> AsyncIterator[Finding]:
    """Check the broker as the user whom `nats_url` names. Raises `RejoinError` if the connection fails."""
    broker = settings.broker(settings.nats_url)
    hosts = broker.hosts
    async with nats_connection.connect(broker, "gateway-doctor") as connection:
        version = connection.version
        numbers = tuple(int(number) for number in version.split(".")[:2] if number.isdigit())
        if numbers < NATS_MIN:
            yield error(f"broker: {hosts} is NATS {version}", "install NATS 2.12 or newer")
        try:
            missing = await setup.find_missing_streams(connection)
        except (Unavailable, ApiError) as fault:
            yield error(
                f"broker: {hosts} is NATS {version}, and JetStream does not answer ({fault})",
                "enable JetStream in the server's configuration; compare the user's permissions with"
                " deploy/nats.conf, and the URL's `?api=` with deploy/README.md",
            )
            return
        if missing:
            yield error(f"broker: the streams {', '.join(missing)} are missing", "run `rejoin migrate`")
            return
        yield ok(f"broker: NATS {version} at {hosts}, with all streams")
        if further := await setup.find_further_shards(connection):
            yield error(
                f"broker: there are {', '.join(further)} too, and REJOIN_LOG_SHARDS is "
                f"{settings.log_shards}: runners with this setting leave the runs there waiting",
                "set REJOIN_LOG_SHARDS to the same number for all processes",
            )
        async for finding in _check_permissions(connection):
            yield finding
        async for finding in _check_streams(connection, settings):
            yield finding
        async for finding in _check_leaders(connection):
            yield finding
        async for finding in _check_agents(connection, settings):
            yield finding


async def _check_permissions(connection: NatsConnection) -> AsyncIterator[Finding]:
    """A gateway must read logs, and should not be able to write them."""
    for stream, fault in (await setup.find_unreadable_logs(connection)).items():
        yield error(
            f"broker: this user cannot read logs in {stream} ({fault})",
            "compare the user's permissions with deploy/nats.conf",
        )
    try:
        await connection.call_api(connection.names.log(PROBE_RUN), headers=PROBE_HEADERS)
    except PermissionDenied:
        yield ok("broker: this user cannot write logs")
    except RejoinError:
        yield note(
            "broker: this user can write logs; runners must, gateways should not",
            "on more than one machine, use the separate users of deploy/README.md",
        )


async def _check_streams(connection: NatsConnection, settings: DoctorSettings) -> AsyncIterator[Finding]:
    """The streams' configuration must be that of the settings."""
    streams = setup.StreamSettings(
        settings.nats_replicas,
        settings.run_log_retention_s,
        placement_tags=tuple(settings.nats_placement_tags.split()),
    )
    for expected in setup.stream_configs(connection.names, streams):
        name = expected["name"]
        try:
            info = msgspec.json.decode(
                await connection.call_api(f"{subjects.JETSTREAM_API}.STREAM.INFO.{name}")
            )
        except RejoinError:
            yield note(
                "broker: this user cannot see the configuration of the streams",
                "run `rejoin doctor` with the administrator's REJOIN_NATS_URL to check it, too",
            )
            return
        for field in ("num_replicas", "max_age", "placement"):
            actual, value = info["config"].get(field, 0), expected.get(field, 0)
            # A gateway's environment, with which the doctor runs, need not say where streams are stored.
            if actual != value and not (field == "placement" and not value):
                yield error(
                    f"broker: {field} of {name} is {actual}, the settings say {value}",
                    "run `rejoin migrate` with the same settings as the services",
                )


async def _check_leaders(connection: NatsConnection) -> AsyncIterator[Finding]:
    """The leaders of the shards must be spread over the servers: one server writes what its leaders take."""
    try:
        leaders = await setup.find_leaders(connection)
    except RejoinError:
        return  # as in `_check_streams`, which reports it
    names = connection.names
    for stream_of in (names.log_stream, names.requests_stream):
        streams = [stream_of(shard) for shard in range(names.shards)]
        led = Counter(leaders[stream][0] for stream in streams)
        servers = {server for stream in streams for server in leaders[stream][1]}
        most = -(-names.shards // max(1, len(servers)))
        if leaderless := [stream for stream in streams if not leaders[stream][0] and len(servers) > 1]:
            yield error(
                f"broker: {', '.join(leaderless)} have no leader", "start the NATS servers that are missing"
            )
        elif crowded := [f"{name} ({count})" for name, count in led.items() if count > most]:
            yield note(
                f"broker: the leaders of {streams[0]} and its shards are not spread: {', '.join(crowded)} "
                f"of {names.shards}",
                "run `rejoin migrate`, which spreads them",
            )


async def _check_agents(connection: NatsConnection, settings: DoctorSettings) -> AsyncIterator[Finding]:
    """Runners must have announced the agents, and recently."""
    now_ms = time.time() * 1_000
    try:
        entries = {entry.name: entry for entry in await JetStreamAgentRegistry(connection).list()}
    except RejoinError as fault:
        yield error(
            f"agents: this user cannot read them ({fault})",
            "compare the user's permissions with deploy/nats.conf",
        )
        return
    if not entries:
        yield error("agents: no runner has announced any", "start one: rejoin runner MODULE:ATTR")
    for entry in entries.values():
        age_ms = now_ms - entry.announced_at_ms
        if age_ms > SILENT_MS:
            yield note(
                f"agents: {entry.name} was last announced {age_ms / 1_000:.0f} s ago",
                "its runners have stopped; if they should run, read their logs",
            )
        else:
            yield ok(f"agents: {entry.name} is served")
        if entry.context_schema is not None and settings.context_encryption_keys is None:
            yield error(
                f"agents: {entry.name} declares a context, and no context encryption keys are set",
                "set REJOIN_CONTEXT_ENCRYPTION_KEYS_FILE to the same keys for gateways and runners",
            )
    if settings.default_agent is not None and settings.default_agent not in entries:
        yield error(
            f"agents: REJOIN_DEFAULT_AGENT is {settings.default_agent}, which no runner serves",
            f"served agents: {', '.join(sorted(entries)) or 'none'}",
        )
