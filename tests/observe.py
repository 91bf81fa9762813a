"""What a test knows besides the answers it gets: a run's log as the broker has it, and conditions awaited."""

import asyncio
from collections.abc import Awaitable, Callable

from protocol.adapters import broker
from protocol.adapters.log import JetStreamLog
from protocol.ids import RunId
from protocol.log import Record, View

DEADLINE_S = 20.0
POLL_S = 0.01


async def stored(nats_url: str, run: str) -> list[Record]:
    """Every record of a run's log."""
    async with broker.connect(nats_url, "tests") as connection:
        runs = JetStreamLog(connection, connection)
        records: list[Record] = []
        more = True
        while more:
            page = await runs.read(RunId(run), after=records[-1].seq if records else 0)
            records += page.records
            more = page.more
        return records


def payload(records: list[Record]) -> bytes:
    """The frames of a log, as a client that asks for nothing special is sent them."""
    client = View()
    return b"".join(record.payload for record in records if client.sees(record.head))


async def until(
    condition: Callable[[], Awaitable[bool]], what: str = "it", deadline_s: float = DEADLINE_S
) -> None:
    """Poll until it holds; a test that waits in vain says for what."""
    try:
        async with asyncio.timeout(deadline_s):
            while not await condition():  # noqa: ASYNC110 - the condition is outside of this process
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise AssertionError(f"{what} did not happen within {deadline_s} s") from None
