"""Runs and their logs without a runner: what a gateway is measured with.

`python -m bench.logs NATS_URL EVENTS RATE` is the writer: it appends EVENTS deltas to each run that it is
told of on stdin, one to a message, RATE of them a second and run, 0 as fast as they are acknowledged. With a
RATE of -1 nothing is stored: they are published as if they had been, faster than a gateway can follow. A
delta is the time at which it was made.
"""

import asyncio
import secrets
import sys
import time
from collections.abc import Sequence
from hashlib import sha256

import msgspec
from rejoin_adapters.embedded import Servers
from rejoin_adapters.jetstream import nats_connection
from rejoin_adapters.jetstream.run_log import JetStreamRunLog
from rejoin_adapters.ports.run_store import RunStore
from rejoin_adapters.records import Admission, Owner, Submit, UserMessage
from rejoin_protocol import ids
from rejoin_protocol.events import chunks
from rejoin_protocol.events.chunks import Chunk
from rejoin_protocol.ids import AgentName, RunId, SessionId, TenantId
from rejoin_protocol.log.record import Head, Mark, Record, encode_frames
from rejoin_protocol.log.segment import SegmentBuilder
from rejoin_protocol.run_request import RunRequest

from bench import plain, servers

OWNER = Owner(TenantId("default"))
OPENING: tuple[Chunk, ...] = (chunks.Start(message_id="m"), chunks.StartStep(), chunks.TextStart(id="t"))


class Place(msgspec.Struct):
    """Where a run's log has come to."""

    run: RunId
    session: SessionId
    prev: int = 0
    index: int = 0


class Admittance(msgspec.Struct):
    """A run, and what a runner would be asked."""

    place: Place
    request: RunRequest


async def admitted(store: RunStore, text: str, agent: str = "clock", session: str = "") -> Admittance:
    """A run that is stored and that nobody has asked a runner for."""
    now_ms = int(time.time() * 1_000)
    message = {"id": secrets.token_hex(8), "role": "user", "parts": [{"type": "text", "text": text}]}
    place = Place(
        ids.new_run_id(now_ms, secrets.token_bytes(ids.RANDOM_BYTES)),
        SessionId(session or f"bench-{secrets.token_hex(8)}"),
    )
    answer = ids.new_message_id(now_ms, secrets.token_bytes(ids.RANDOM_BYTES))
    ask = Submit(UserMessage(message, sha256(text.encode()).digest()))
    found = await store.admit(Admission(OWNER, place.session, AgentName(agent), place.run, answer, ask))
    return Admittance(place, found.run.request)


async def append(
    log: JetStreamRunLog, place: Place, events: Sequence[Chunk], mark: Mark = Mark.NONE
) -> Record:
    """One message."""
    head = Head(place.prev, 1, place.index, len(events), mark=mark)
    payload = encode_frames(map(chunks.encode, events), prev=place.prev, index=place.index)
    place.prev = await log.append(place.run, head, payload)
    place.index += len(events)
    return Record(place.prev, head, payload)


async def opened(log: JetStreamRunLog, store: RunStore, count: int) -> list[Place]:
    """Runs with the beginning of an answer in their logs."""
    gate = asyncio.Semaphore(16)

    async def one() -> Place:
        async with gate:
            place = (await admitted(store, "hello")).place
            await append(log, place, ())
            await append(log, place, OPENING)
            return place

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one()) for _ in range(count)]
    return [task.result() for task in tasks]


def said() -> Chunk:
    """What time it is."""
    return chunks.TextDelta(id="t", delta=str(time.monotonic_ns()))


async def write(log: JetStreamRunLog, place: Place, events: int, rate: float = 0, size: int = 1) -> None:
    """So many deltas, `size` to a message, and segments, as a runner does."""
    clock = asyncio.get_running_loop().time
    due_s = clock() + (secrets.randbelow(1_000) / 1_000 / rate if rate else 0)
    gathering = SegmentBuilder()
    for _ in range(events // size):
        if rate:
            await asyncio.sleep(max(0, due_s - clock()))
            due_s += 1 / rate
        record = await append(log, place, [said() for _ in range(size)])
        if records := gathering.add(record):
            await log.add_segment(place.run, records)


async def feign(nats_url: str, places: Sequence[Place], events: int) -> None:
    """So many deltas to each run, live, of which the log knows nothing."""
    async with plain.connect(nats_url) as nats:
        for _ in range(events):
            for place in places:
                head = Head(place.prev, 1, place.index, 1)
                payload = encode_frames([chunks.encode(said())], prev=place.prev, index=place.index)
                place.prev, place.index = place.prev + 1, place.index + 1
                nats.feign(place.run, payload, str(head), place.prev)
            await nats.flush()


async def written_apart(found: Servers, places: Sequence[Place], events: int, rate: float) -> float:
    """The same, by a process of its own; when it began. `places` stay where they are."""
    arguments = ("-m", "bench.logs", found.nats_url, str(events), str(rate))
    async with servers.process(*arguments) as child:
        assert child.stdin is not None  # noqa: S101
        assert child.stdout is not None  # noqa: S101
        child.stdin.write(msgspec.json.encode(places))
        child.stdin.close()
        await child.stdout.readline()
        began = time.monotonic()
        if await child.wait():
            raise RuntimeError("the writer failed")
    return began


async def main(nats_url: str, events: int, rate: float) -> None:
    """The writer."""
    places = msgspec.json.decode(sys.stdin.buffer.read(), type=list[Place])
    print("begins", flush=True)  # noqa: T201
    if rate < 0:
        await feign(nats_url, places, events)
        return
    async with nats_connection.connect(nats_url, "runner-log") as connection:
        log = JetStreamRunLog(connection, connection)
        async with asyncio.TaskGroup() as group:
            for place in places:
                group.create_task(write(log, place, events, rate))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
