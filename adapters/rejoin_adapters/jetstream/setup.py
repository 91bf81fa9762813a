"""The configuration of the streams and consumers, and how they are declared (idempotently)."""

from typing import Any

import msgspec
import stamina
import structlog

from rejoin_adapters.jetstream.nats_connection import ApiError, NatsConnection, PermissionDenied
from rejoin_protocol.broker import subjects
from rejoin_protocol.broker.subjects import BrokerNames
from rejoin_protocol.errors import Invalid, Unavailable
from rejoin_protocol.ids import AgentName

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
        _requests_config(names),
        _log_config(names, settings.run_log_retention_s),
        _agents_config(names),
        _files_config(names),
    )
    return [shared | stream for stream in streams]


def _requests_config(names: BrokerNames) -> dict[str, Any]:
    return {
        "name": names.requests_stream,
        "subjects": [names.request_subjects, names.probe(names.requests_stream, "*")],
        "allow_msg_ttl": True,
        "retention": "workqueue",
        # One message for each subject, and a second one refused: a turn cannot be queued twice, no matter
        # when it was published first. JetStream's duplicate window would forget after two minutes.
        "max_msgs_per_subject": 1,
        "discard": "new",
        "discard_new_per_subject": True,
        "max_age": REQUEST_AGE_MAX_S * SECOND_NS,
    }


def _log_config(names: BrokerNames, retention_s: float) -> dict[str, Any]:
    return {
        "name": names.log_stream,
        "subjects": [names.log_subjects, names.segments_subjects, names.probe(names.log_stream, "*")],
        "allow_msg_ttl": True,
        "retention": "limits",
        "max_msgs_per_subject": RUN_MESSAGES_MAX,
        "discard": "new",  # a refused append is visible; a dropped first record is not
        "discard_new_per_subject": True,
        "max_age": int(retention_s * SECOND_NS),
        "allow_direct": True,
        "republish": {"src": names.log_subjects, "dest": names.live_template},
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


async def find_missing_streams(connection: NatsConnection) -> list[str]:
    """The names of the streams that do not exist. Raises `Unavailable`."""
    response = await connection.call_api(f"{subjects.JETSTREAM_API}.STREAM.NAMES")
    existing = set(_stream_list.decode(response).streams or ())
    wanted = [stream["name"] for stream in stream_configs(connection.names, StreamSettings())]
    return [name for name in wanted if name not in existing]


async def declare_consumer(connection: NatsConnection, agent: AgentName, settings: StreamSettings) -> None:
    """Create or update the durable consumer that all runners of an agent share."""
    durable = subjects.consumer(agent)
    config = {
        "stream_name": connection.names.requests_stream,
        "config": {
            "durable_name": durable,
            "filter_subject": connection.names.requests_for(agent),
            "ack_policy": "explicit",
            "ack_wait": int(settings.ack_wait_s * SECOND_NS),
            "max_ack_pending": ACK_PENDING_MAX,
            "max_deliver": -1,  # the run's attempt count ends it, visibly, in its log
            "num_replicas": settings.replicas,
        },
    }
    await connection.call_api(
        f"{subjects.JETSTREAM_API}.CONSUMER.DURABLE.CREATE.{connection.names.requests_stream}.{durable}",
        msgspec.json.encode(config),
    )


async def check_log_readable(connection: NatsConnection) -> None:
    """Raises `Unavailable` unless the log can be read."""
    subject = f"{subjects.JETSTREAM_API}.DIRECT.GET.{connection.names.log_stream}"
    *_, end = await connection.request_many(subject, b'{"seq":1,"batch":1}')
    status = end.status
    if status not in ("204", "404"):
        raise Unavailable(f"the broker's log cannot be read ({status})")
