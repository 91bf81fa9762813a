"""`Replay`: records that arrive together are written together; silence causes a heartbeat and a check."""

import asyncio

import pytest

from rejoin_adapters.jetstream import live_feed
from rejoin_adapters.memory.broker.run_log import MemoryRunLog
from rejoin_adapters.memory.database.run_store import MemoryRunStore
from rejoin_adapters.store_types import Run
from rejoin_gateway.streaming.replay import Replay
from rejoin_gateway.streaming.resume_point import ResumePoint
from rejoin_protocol.errors import Gone
from rejoin_protocol.ids import AgentName, MessageId, RunId, SessionId, TenantId
from rejoin_protocol.lifecycle import State
from rejoin_protocol.log import sse
from rejoin_protocol.log.record import Head, Mark, View, encode_frames

RUN = RunId("run_1")
SOON_S = 5.0


def run() -> Run:
    who = TenantId("t"), SessionId("s"), AgentName("a"), MessageId("m")
    return Run(RUN, *who, State.RUNNING, ready=True, turn=0, attempt=1)


async def append(log: MemoryRunLog, count: int, mark: Mark = Mark.NONE) -> bytes:
    """So many records of one event each; what a client is to see of them."""
    shown = b""
    for number in range(count):
        last = await log.last(RUN)
        prev, index = (last.seq, last.end) if last else (0, 0)
        shown += (payload := encode_frames([b'{"type":"custom"}'], prev=prev, index=index))
        await log.append(
            RUN, Head(prev, 1, index, 1, mark=mark if number == count - 1 else Mark.NONE), payload
        )
    return shown


async def test_what_comes_in_one_turn_of_the_loop_is_one_write() -> None:
    log = MemoryRunLog()
    async with asyncio.timeout(SOON_S):
        async with Replay(MemoryRunStore(), log, run(), ResumePoint(), View(), until=0).open() as response:
            for count in (3, 1, 50):
                shown = await append(log, count)
                assert await anext(response) == shown
            shown = await append(log, 4, Mark.ENDED)
            assert [written async for written in response] == [shown, sse.DONE]


async def test_a_silence_is_broken_by_a_comment_until_the_run_turns_out_to_be_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its log will not say so any more: the response breaks, and never ends as if all had been said."""
    monkeypatch.setattr(live_feed, "WAIT_GRANULARITY_S", 0.01)
    log, over = MemoryRunLog(), asyncio.Event()

    class EndedRuns(MemoryRunStore):
        async def has_ended(self, *_: object) -> bool:
            return over.is_set()

    async with asyncio.timeout(SOON_S):
        replay = Replay(EndedRuns(), log, run(), ResumePoint(), View(), until=0, heartbeat_s=0.01)
        async with replay.open() as response:
            shown = await append(log, 1)
            written = [await anext(response) for _ in range(4)]
            assert written == [shown, *[sse.KEEP_ALIVE] * 3]
            over.set()
            with pytest.raises(Gone, match="abandoned"):
                await anext(response)
