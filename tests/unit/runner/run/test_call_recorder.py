"""How much is recorded of models' calls, and what is recorded of the rest."""

import msgspec

from rejoin_adapters.memory.broker.run_log import MemoryRunLog
from rejoin_adapters.store_types import Run
from rejoin_protocol.ids import AgentName, MessageId, RunId, SessionId, TenantId
from rejoin_protocol.lifecycle import State
from rejoin_protocol.log import model_call
from rejoin_protocol.log.model_call import RecordedAnswer
from rejoin_runner.run.model_calls import HOUR_S, CallRecorder


def run_of(tenant: str) -> Run:
    return Run(
        RunId(f"run_{tenant}"),
        TenantId(tenant),
        SessionId("s"),
        AgentName("demo"),
        MessageId("m"),
        State.RUNNING,
        ready=True,
        turn=0,
        attempt=1,
    )


def answer(size: int) -> RecordedAnswer:
    return RecordedAnswer(call="1.1", step=1, status=200, duration_ms=5, text="x" * size, bytes=size)


async def sizes(log: MemoryRunLog, run: Run) -> list[tuple[int, int]]:
    """Of each record the size of its text, and the size of the whole that it names."""
    page = await log.model_calls(run.id, after=0)
    found = [model_call.unpack(one, None, run.owner.tenant, run.id) for one in page.calls]
    return [(len(one.text), one.bytes) for one in found if one is not None]


async def test_a_tenant_has_its_bytes_in_each_hour_and_takes_none_of_another() -> None:
    now_s, log = 0.0, MemoryRunLog()
    recorder = CallRecorder(log, None, 2_500, lambda: now_s)
    greedy, other = run_of("greedy"), run_of("other")
    for _ in range(4):
        await recorder.store_of(greedy)(answer(1_000))
    assert await sizes(log, greedy) == [(1_000, 1_000)] * 2 + [(0, 1_000)] * 2
    await recorder.store_of(other)(answer(2_000))
    assert await sizes(log, other) == [(2_000, 2_000)]
    now_s = HOUR_S
    await recorder.store_of(greedy)(answer(1_000))
    assert (await sizes(log, greedy))[-1] == (1_000, 1_000)


async def test_what_the_broker_does_not_take_is_recorded_without_its_text() -> None:
    log, run = MemoryRunLog(payload_bytes_max=1_000), run_of("acme")
    store = CallRecorder(log, None, 10**9, lambda: 0.0).store_of(run)
    for size in (2_000, 100):
        await store(answer(size))
    assert await sizes(log, run) == [(0, 2_000), (100, 100)]
    assert msgspec.json.decode((await log.model_calls(run.id, after=0)).calls[0])["status"] == 200
