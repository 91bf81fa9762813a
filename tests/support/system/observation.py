"""What a test looks at besides responses: a run's log in the broker, and conditions that it waits for."""

import asyncio
from collections.abc import Callable
from inspect import isawaitable
from typing import Any

import msgspec

from rejoin_adapters.jetstream import nats_connection
from rejoin_adapters.jetstream.run_log import JetStreamRunLog
from rejoin_gateway.streaming.client_view import VIEW_DEFAULT
from rejoin_protocol.broker import subjects
from rejoin_protocol.ids import RunId
from rejoin_protocol.log.record import Record

type RecordMeasurement = Callable[[str], None]
"""What stands below the results of the whole run: the fixture `record_measurement`."""

DEADLINE_S = 40.0
POLL_S = 0.01


async def read_log(nats_url: str, run: str) -> list[Record]:
    """Every record of a run's log."""
    async with nats_connection.connect(nats_url, "tests") as connection:
        runs = JetStreamRunLog(connection, connection)
        records: list[Record] = []
        more = True
        while more:
            after = records[-1].seq if records else 0
            page = await runs.read(RunId(run), after=after, records_max=256)  # message by message
            records += page.records
            more = page.more
        return records


async def expire_log(nats_url: str, run: RunId, keep: int) -> None:
    """Delete the records of a run except the last `keep`, as their age would."""
    async with nats_connection.connect(nats_url, "expire") as connection:
        ask: dict[str, Any] = {"filter": subjects.DEFAULT.log(run)}
        if keep:
            ask["keep"] = keep
        await connection.call_api(f"$JS.API.STREAM.PURGE.{subjects.LOG}", msgspec.json.encode(ask))


async def last_sequence(connection: nats_connection.NatsConnection, stream: str, subject: str) -> int:
    """Of the last message with such a subject; 0 without one. Probes of gateways have other subjects."""
    ask = msgspec.json.encode({"last_by_subj": subject})
    try:
        answer = await connection.call_api(f"$JS.API.STREAM.MSG.GET.{stream}", ask)
    except nats_connection.ApiError as fault:
        if fault.code != nats_connection.NOT_FOUND:
            raise
        return 0
    seq: int = msgspec.json.decode(answer)["message"]["seq"]
    return seq


def client_bytes(records: list[Record]) -> bytes:
    """The frames of a log as a client without options receives them."""
    client = VIEW_DEFAULT
    return b"".join(record.payload for record in records if client.sees(record.head))


async def wait_until(
    condition: Callable[[], object], what: str = "it", deadline_s: float = DEADLINE_S
) -> None:
    """Poll until the condition, or what it returns if that is awaitable, is true. Raises `AssertionError`
    naming `what` after `deadline_s` seconds.
    """
    try:
        async with asyncio.timeout(deadline_s):
            while not (await found if isawaitable(found := condition()) else found):  # noqa: ASYNC110
                await asyncio.sleep(POLL_S)  # the condition is outside of this process
    except TimeoutError:
        raise AssertionError(f"{what} did not happen within {deadline_s} s") from None
