"""Declares the streams of the broker, idempotently: running it again changes nothing, or what was configured.

Owns their configuration and the reasons for it.
"""

from typing import Any

import msgspec
import stamina
import structlog
from rejoin_protocol.broker import subjects
from rejoin_protocol.errors import Invalid, Unavailable
from rejoin_protocol.ids import AgentName

from rejoin_adapters.jetstream.nats_connection import ApiError, NatsConnection, PermissionDenied

log = structlog.get_logger("rejoin.streams")

SECOND_NS = 1_000_000_000
EXISTS = 10058
TOO_FEW_SERVERS = 10005
"""For the replicas that are wanted: a cluster that starts has not found all of its servers yet."""

ACK_WAIT_S = 2.5
"""A request whose runner has been silent for this long goes to another one."""
REQUEST_AGE_MAX_S = 7 * 24 * 3600
AGENT_AGE_MAX_S = 24 * 3600
RUN_MESSAGES_MAX = 1_000_000
"""Appends of one run: past it they are refused, and the run fails where everybody can see it."""
CONSUMERS_MAX = 10_000
"""Spelled out because a stream refuses more than 1,000 consumers unless it is told otherwise."""
ACK_PENDING_MAX = 100_000


class StreamSettings(msgspec.Struct, frozen=True):
    """What a deployment decides."""

    replicas: int = 1
    run_log_retention_s: float = 24 * 3600
    ack_wait_s: float = ACK_WAIT_S


def stream_configs(settings: StreamSettings) -> list[dict[str, Any]]:
    """How the streams are to be."""
    shared = {"storage": "file", "num_replicas": settings.replicas, "max_consumers": CONSUMERS_MAX}
    return [
        shared
        | {
            "name": subjects.REQUESTS,
            "subjects": [subjects.REQUEST_SUBJECTS],
            "retention": "workqueue",
            # One message a subject, and a second one refused: a turn cannot be queued twice, however long
            # ago it was published first. A duplicate window would forget after two minutes.
            "max_msgs_per_subject": 1,
            "discard": "new",
            "discard_new_per_subject": True,
            "max_age": REQUEST_AGE_MAX_S * SECOND_NS,
        },
        shared
        | {
            "name": subjects.LOG,
            "subjects": [subjects.LOG_SUBJECTS, subjects.SEGMENTS_SUBJECTS],
            "retention": "limits",
            "max_msgs_per_subject": RUN_MESSAGES_MAX,
            "discard": "new",  # refusing an append is visible, dropping the head of a log is not
            "discard_new_per_subject": True,
            "max_age": int(settings.run_log_retention_s * SECOND_NS),
            "allow_direct": True,
            "republish": {"src": subjects.LOG_SUBJECTS, "dest": subjects.LIVE_TEMPLATE},
        },
        shared
        | {
            "name": subjects.AGENTS_STREAM,
            "subjects": [subjects.AGENTS_SUBJECTS],
            "retention": "limits",
            "max_msgs_per_subject": 1,
            "discard": "new",
            "max_age": AGENT_AGE_MAX_S * SECOND_NS,
            "allow_direct": True,
            "allow_rollup_hdrs": True,
            "deny_delete": True,
        },
        shared
        | {
            "name": subjects.FILES,
            "subjects": [subjects.FILE_SUBJECTS],
            "retention": "limits",
            # As with requests: a chunk is written once, and a second writer is told that it is there.
            "max_msgs_per_subject": 1,
            "discard": "new",
            "discard_new_per_subject": True,
            "allow_direct": True,
        },
    ]


class _StreamList(msgspec.Struct, frozen=True):
    streams: list[str] | None = None


_listed = msgspec.json.Decoder(_StreamList)


def _away(fault: Exception) -> bool:
    few = isinstance(fault, ApiError) and fault.code == TOO_FEW_SERVERS
    if isinstance(fault, PermissionDenied) or not (few or isinstance(fault, Unavailable)):
        return False
    log.warning("waiting_for_jetstream", cause=str(fault))
    return True


async def declare_streams(broker: NatsConnection, settings: StreamSettings) -> None:
    """Create or update the streams. Raises `Unavailable`, and `ApiError` if the broker will not have them."""
    for stream in stream_configs(settings):
        name, config = stream["name"], msgspec.json.encode(stream)
        try:
            await broker.call_api(f"{subjects.API}.STREAM.CREATE.{name}", config)
        except ApiError as fault:
            if fault.code != EXISTS:
                raise
            await broker.call_api(f"{subjects.API}.STREAM.UPDATE.{name}", config)
        log.debug("stream_declared", stream=name)


async def declare_streams_when_ready(broker: NatsConnection, settings: StreamSettings) -> None:
    """`declare`, as soon as a cluster that starts has a leader and enough servers. Raises
    `PermissionDenied`, and `ApiError`.
    """
    async for attempt in stamina.retry_context(
        on=_away, attempts=None, timeout=None, wait_initial=0.2, wait_max=3.0
    ):
        with attempt:
            await declare_streams(broker, settings)


async def require_streams(broker: NatsConnection) -> None:
    """Waits for JetStream. Raises `Invalid` unless the streams are there: the services do not declare them,
    and in an installation with permissions may not. Raises `PermissionDenied` if not even that may be asked.
    """
    async for attempt in stamina.retry_context(
        on=_away, attempts=None, timeout=None, wait_initial=0.2, wait_max=3.0
    ):
        with attempt:
            lacking = await find_missing_streams(broker)
    if lacking:
        raise Invalid(f"the broker misses the streams {', '.join(lacking)}: run `rejoin migrate`")


async def find_missing_streams(broker: NatsConnection) -> list[str]:
    """The streams that are not there. Raises `Unavailable`."""
    found = set(_listed.decode(await broker.call_api(f"{subjects.API}.STREAM.NAMES")).streams or ())
    return [stream["name"] for stream in stream_configs(StreamSettings()) if stream["name"] not in found]


async def declare_consumer(broker: NatsConnection, agent: AgentName, settings: StreamSettings) -> None:
    """Create or update the consumer that an agent's runners share."""
    durable = subjects.consumer(agent)
    config = {
        "stream_name": subjects.REQUESTS,
        "config": {
            "durable_name": durable,
            "filter_subject": subjects.requests_for(agent),
            "ack_policy": "explicit",
            "ack_wait": int(settings.ack_wait_s * SECOND_NS),
            "max_ack_pending": ACK_PENDING_MAX,
            "max_deliver": -1,  # the run's own attempt count ends it, visibly, in its log
            "num_replicas": settings.replicas,
        },
    }
    await broker.call_api(
        f"{subjects.API}.CONSUMER.DURABLE.CREATE.{subjects.REQUESTS}.{durable}", msgspec.json.encode(config)
    )


async def check_log_readable(broker: NatsConnection) -> None:
    """Raises `Unavailable` unless the log answers reads."""
    replies = await broker.request_many(f"{subjects.API}.DIRECT.GET.{subjects.LOG}", b'{"seq":1,"batch":1}')
    status = (replies[-1].headers or {}).get(subjects.STATUS)
    if status not in ("204", "404"):
        raise Unavailable(f"the broker's log does not answer ({status})")
