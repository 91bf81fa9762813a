"""The configuration of the streams and consumers, and how they are declared (idempotently)."""

import asyncio
from typing import Any

import msgspec
import stamina
import structlog

from rejoin_adapters.jetstream.nats_connection import ApiError, NatsConnection, PermissionDenied
from rejoin_protocol.broker import subjects
from rejoin_protocol.broker.subjects import BrokerNames
from rejoin_protocol.errors import Invalid, Unavailable
from rejoin_protocol.ids import SHARDS_MAX, AgentName

log = structlog.get_logger("rejoin.streams")

SECOND_NS = 1_000_000_000
EXISTS = 10058
"""Error code for creating a stream that exists with another configuration."""
TOO_FEW_SERVERS = 10005
"""Error code for more replicas than servers: a starting cluster has not found all of its servers yet."""

ACK_WAIT_S = 1.0
"""A request is redelivered to another runner if its runner does not report progress for this long."""
REQUEST_AGE_MAX_S = 7 * 24 * 3600
AGENT_AGE_MAX_S = 24 * 3600
RUN_MESSAGES_MAX = 1_000_000
"""Appends of one run. Further appends are refused, and the run fails visibly."""
CONSUMERS_MAX = 10_000
"""Explicit, because the server's default limit is 1,000 consumers for each stream."""
ACK_PENDING_MAX = 100_000


class StreamSettings(msgspec.Struct, frozen=True):
    """What a deployment configures."""

    replicas: int = 1
    run_log_retention_s: float = 24 * 3600
    ack_wait_s: float = ACK_WAIT_S
    placement_tags: tuple[str, ...] = ()
    """Tags that a server must have to store streams (`server_tags` of NATS)."""


def stream_configs(names: BrokerNames, settings: StreamSettings) -> list[dict[str, Any]]:
    """The configuration of all streams, as JSON of the JetStream API."""
    shared: dict[str, Any] = {
        "storage": "file",
        "num_replicas": settings.replicas,
        "max_consumers": CONSUMERS_MAX,
    }
    if settings.placement_tags:
        shared["placement"] = {"tags": list(settings.placement_tags)}
    streams = (
        *(_requests_config(names, shard) for shard in range(names.shards)),
        *(_log_config(names, shard, settings.run_log_retention_s) for shard in range(names.shards)),
        _agents_config(names),
        _files_config(names),
    )
    return [shared | stream for stream in streams]


def _requests_config(names: BrokerNames, shard: int) -> dict[str, Any]:
    stream = names.requests_stream(shard)
    return {
        "name": stream,
        "subjects": [names.request_subjects(shard), names.probe(stream, "*")],
        "allow_msg_ttl": True,
        "retention": "workqueue",
        # One message for each subject, and a second one refused: a turn cannot be queued twice, no matter
        # when it was published first. JetStream's duplicate window would forget after two minutes.
        "max_msgs_per_subject": 1,
        "discard": "new",
        "discard_new_per_subject": True,
        "max_age": REQUEST_AGE_MAX_S * SECOND_NS,
    }


def _log_config(names: BrokerNames, shard: int, retention_s: float) -> dict[str, Any]:
    stream, records = names.log_stream(shard), names.log_subjects(shard)
    return {
        "name": stream,
        "subjects": [
            records,
            names.segments_subjects(shard),
            names.model_calls_subjects(shard),
            names.probe(stream, "*"),
        ],
        "allow_msg_ttl": True,
        "retention": "limits",
        "max_msgs_per_subject": RUN_MESSAGES_MAX,
        "discard": "new",  # a refused append is visible; a dropped first record is not
        "discard_new_per_subject": True,
        "max_age": int(retention_s * SECOND_NS),
        "allow_direct": True,
        # The same subject for all shards: the template's first wildcard is the run in each.
        "republish": {"src": records, "dest": names.live_template},
    }


def _agents_config(names: BrokerNames) -> dict[str, Any]:
    return {
        "name": names.agents_stream,
        "subjects": [names.agents_subjects],
        "retention": "limits",
        "max_msgs_per_subject": 1,
        "discard": "new",
        "max_age": AGENT_AGE_MAX_S * SECOND_NS,
        "allow_direct": True,
        "allow_rollup_hdrs": True,
        "deny_delete": True,
    }


def _files_config(names: BrokerNames) -> dict[str, Any]:
    return {
        "name": names.files_stream,
        "subjects": [names.file_subjects, names.probe(names.files_stream, "*")],
        "allow_msg_ttl": True,
        "retention": "limits",
        # As with requests: a chunk is written once, and a second writer learns that it exists.
        "max_msgs_per_subject": 1,
        "discard": "new",
        "discard_new_per_subject": True,
        "allow_direct": True,
    }


class _StreamList(msgspec.Struct, frozen=True):
    streams: list[str] | None = None


_stream_list = msgspec.json.Decoder(_StreamList)


def _is_not_ready(error: Exception) -> bool:
    is_incomplete = isinstance(error, ApiError) and error.code == TOO_FEW_SERVERS
    if isinstance(error, PermissionDenied) or not (is_incomplete or isinstance(error, Unavailable)):
        return False
    log.warning("waiting_for_jetstream", cause=str(error))
    return True


async def declare_streams(connection: NatsConnection, settings: StreamSettings) -> None:
    """Create or update the streams. Raises `Unavailable`, and `ApiError` if the broker refuses one."""
    for stream in stream_configs(connection.names, settings):
        name, config = stream["name"], msgspec.json.encode(stream)
        try:
            await connection.call_api(f"{subjects.JETSTREAM_API}.STREAM.CREATE.{name}", config)
        except ApiError as error:
            if error.code != EXISTS:
                raise
            await connection.call_api(f"{subjects.JETSTREAM_API}.STREAM.UPDATE.{name}", config)
        log.debug("stream_declared", stream=name)
    if connection.names.shards > 1:
        await _spread_leaders(connection)


class _Peer(msgspec.Struct, frozen=True):
    name: str


class _ClusterInfo(msgspec.Struct, frozen=True):
    leader: str = ""
    replicas: list[_Peer] = []

    @property
    def servers(self) -> list[str]:
        """All that store the stream, in the order of their names; none if they are not known."""
        return sorted({self.leader, *(peer.name for peer in self.replicas)} - {""})


class _ClusteredStream(msgspec.Struct, frozen=True):
    cluster: _ClusterInfo = _ClusterInfo()


_clustered_stream = msgspec.json.Decoder(_ClusteredStream)


async def find_leaders(connection: NatsConnection) -> dict[str, tuple[str, list[str]]]:
    """For each stream of the shards its leader, "" without one, and the servers that store it. Raises
    `ApiError` if this user may not see them.
    """
    names, found = connection.names, {}
    for shard in range(names.shards):
        for stream in (names.log_stream(shard), names.requests_stream(shard)):
            response = await connection.call_api(f"{subjects.JETSTREAM_API}.STREAM.INFO.{stream}")
            info = _clustered_stream.decode(response).cluster
            found[stream] = (info.leader, info.servers)
    return found


async def _spread_leaders(connection: NatsConnection) -> None:
    """Let the shards' leaders take turns over the servers, a shard's log and requests at the same one: each
    server leads its share, and its end is that of its shards' leaders alone. A wish: NATS may decide
    otherwise.
    """
    names, leaders = connection.names, await find_leaders(connection)
    for shard in range(names.shards):
        for stream in (names.log_stream(shard), names.requests_stream(shard)):
            leader, servers = leaders[stream]
            if not leader or leader == (wanted := servers[shard % len(servers)]):
                continue
            query = msgspec.json.encode({"placement": {"preferred": wanted}})
            try:
                await connection.call_api(f"{subjects.JETSTREAM_API}.STREAM.LEADER.STEPDOWN.{stream}", query)
            except (ApiError, Unavailable) as fault:
                log.warning("leader_not_moved", stream=stream, to=wanted, error=str(fault))


async def declare_streams_when_ready(connection: NatsConnection, settings: StreamSettings) -> None:
    """`declare_streams`, retried until a starting cluster has a leader and enough servers. Raises
    `PermissionDenied`, and `ApiError`.
    """
    async for attempt in stamina.retry_context(
        on=_is_not_ready, attempts=None, timeout=None, wait_initial=0.2, wait_max=3.0
    ):
        with attempt:
            await declare_streams(connection, settings)


async def require_streams(connection: NatsConnection) -> None:
    """Wait for JetStream, and raise `Invalid` if streams are missing: services do not declare them, and may
    not be allowed to. Raises `PermissionDenied` if this user may not even list them.
    """
    async for attempt in stamina.retry_context(
        on=_is_not_ready, attempts=None, timeout=None, wait_initial=0.2, wait_max=3.0
    ):
        with attempt:
            missing = await find_missing_streams(connection)
    if missing:
        raise Invalid(f"the broker misses the streams {', '.join(missing)}: run `rejoin migrate`")
    if further := await find_further_shards(connection):
        log.warning("shards_not_served", streams=further, log_shards=connection.names.shards)


async def find_missing_streams(connection: NatsConnection) -> list[str]:
    """The names of the streams that do not exist. Raises `Unavailable`."""
    existing = await _list_streams(connection)
    wanted = [stream["name"] for stream in stream_configs(connection.names, StreamSettings())]
    return [name for name in wanted if name not in existing]


async def find_further_shards(connection: NatsConnection) -> list[str]:
    """The logs of shards that exist beyond the number that is set. Raises `Unavailable`."""
    existing, names = await _list_streams(connection), connection.names
    further = [names.log_stream(shard) for shard in range(names.shards, SHARDS_MAX)]
    return [name for name in further if name in existing]


async def _list_streams(connection: NatsConnection) -> set[str]:
    response = await connection.call_api(f"{subjects.JETSTREAM_API}.STREAM.NAMES")
    return set(_stream_list.decode(response).streams or ())


async def declare_consumer(
    connection: NatsConnection, agent: AgentName, settings: StreamSettings, shard: int = 0
) -> None:
    """Create or update the durable consumer of a shard that all runners of an agent share."""
    durable, stream = subjects.consumer(agent), connection.names.requests_stream(shard)
    config = {
        "stream_name": stream,
        "config": {
            "durable_name": durable,
            "filter_subject": connection.names.requests_for(agent, shard),
            "ack_policy": "explicit",
            "ack_wait": int(settings.ack_wait_s * SECOND_NS),
            "max_ack_pending": ACK_PENDING_MAX,
            "max_deliver": -1,  # the run's attempt count ends it, visibly, in its log
            "num_replicas": settings.replicas,
        },
    }
    await connection.call_api(
        f"{subjects.JETSTREAM_API}.CONSUMER.DURABLE.CREATE.{stream}.{durable}",
        msgspec.json.encode(config),
    )


async def check_log_readable(connection: NatsConnection) -> None:
    """Raises `Unavailable` if no shard of the log can be read: one that cannot does not stop the others."""
    unreadable = await find_unreadable_logs(connection)
    if len(unreadable) == connection.names.shards:
        raise next(iter(unreadable.values()))


async def find_unreadable_logs(connection: NatsConnection) -> dict[str, Unavailable]:
    """The streams of the log that cannot be read, and why."""
    streams = [connection.names.log_stream(shard) for shard in range(connection.names.shards)]
    async with asyncio.TaskGroup() as group:
        reads = {stream: group.create_task(_find_read_fault(connection, stream)) for stream in streams}
    return {stream: fault for stream, read in reads.items() if (fault := read.result()) is not None}


async def _find_read_fault(connection: NatsConnection, stream: str) -> Unavailable | None:
    try:
        *_, end = await connection.request_many(
            f"{subjects.JETSTREAM_API}.DIRECT.GET.{stream}", b'{"seq":1,"batch":1}'
        )
    except Unavailable as fault:
        return fault
    if end.status in ("204", "404"):
        return None
    return Unavailable(f"the broker's log cannot be read ({end.status})")
