"""Whether the broker stores messages: a small message to each stream that runs need, which lasts a second.

NATS reads and answers while it cannot store. There are two such states:

- Its limit of storage is reached (`max_file_store`). It refuses each message, and goes on by itself once
  messages have been deleted.
- Its disk is full. The first failed write disables the stream, also when there is space again, until the
  server is restarted. It does not answer then.
"""

import asyncio
from collections.abc import Sequence

from rejoin_adapters.jetstream import setup
from rejoin_adapters.jetstream.nats_connection import ApiError, NatsConnection, PermissionDenied, StorageFull
from rejoin_protocol.broker import subjects
from rejoin_protocol.errors import Unavailable

WRITE_PROBE_TIMEOUT_S = 1.0
"""Of each try. All of them together are shorter than a readiness check."""
WRITE_PROBE_TRIES = 2
WRITE_PROBE_HEADERS = {subjects.TTL_HEADER: "1s"}
FULL = (
    "the broker's storage is full: delete messages or raise max_file_store; it goes on by itself as soon as "
    "there is space"
)
STUCK = (
    "the broker answers but stores nothing in {streams}: if its disk was full, free space, then restart the "
    "NATS server, because it does not write to such a stream again before"
)


async def probe_writes(connection: NatsConnection, token: str) -> Sequence[int]:
    """The shards that store messages. Raises `Unavailable`, whose text says what to do, if it is none, or
    if files are not stored. `token`: no other probe of the last second has it.
    """
    names = connection.names
    shards = {shard: {names.log_stream(shard), names.requests_stream(shard)} for shard in range(names.shards)}
    streams = {names.files_stream}.union(*shards.values())
    async with asyncio.TaskGroup() as group:
        probes = {stream: group.create_task(_probe(connection, stream, token)) for stream in streams}
    failed = {stream: fault for stream, task in probes.items() if (fault := task.result()) is not None}
    usable = tuple(shard for shard, needed in shards.items() if not needed & failed.keys())
    if usable and names.files_stream not in failed:
        return usable
    for fault in failed.values():
        if isinstance(fault, PermissionDenied):
            raise fault
        if isinstance(fault, StorageFull):
            raise Unavailable(FULL)
        if isinstance(fault, ApiError):
            raise Unavailable(f"the broker refuses messages: {fault}")
    await setup.find_missing_streams(connection)  # raises if the broker does not even answer
    raise Unavailable(STUCK.format(streams=", ".join(sorted(failed))))


async def _probe(connection: NatsConnection, stream: str, token: str) -> Exception | None:
    found: Exception | None = None
    # If the event loop was blocked, the time is over although the answer has arrived: the second try tells.
    for number in range(WRITE_PROBE_TRIES):
        subject = connection.names.probe(stream, f"{token}{number}")
        try:
            async with asyncio.timeout(WRITE_PROBE_TIMEOUT_S):
                await connection.call_api(subject, headers=WRITE_PROBE_HEADERS)
        except ApiError as fault:
            return fault
        except (Unavailable, TimeoutError) as fault:
            found = fault
        else:
            return None
    return found
