"""`RunLog`, adapter and double: recorded calls of models are beside the log and go with it."""

import secrets

import pytest

from rejoin_adapters.ports.run_log import CALLS_READ_BYTES_MAX, PAGE_CALLS, RunLog
from rejoin_protocol.errors import Invalid
from rejoin_protocol.ids import RunId
from rejoin_protocol.log.model_call import CALL_RECORD_BYTES_MAX
from rejoin_protocol.log.record import Head
from tests.support.system.observation import wait_until

pytest_plugins = ("tests.support.data.log_fixtures",)


def fresh() -> RunId:
    return RunId(f"run_{secrets.token_hex(8)}")


async def test_recorded_calls_are_read_in_pages_and_go_with_the_log(log: RunLog) -> None:
    """No reader of the log sees them."""
    run, other = fresh(), fresh()
    before = await log.append(run, Head(0, 1, 0, 1), b"one")
    calls = [b"call %d" % number for number in range(2 * PAGE_CALLS + 3)]
    for call in calls:
        await log.add_model_call(run, 1, call)
    await log.add_model_call(other, 1, b"of another run")
    after = await log.append(run, Head(before, 1, 1, 1), b"two")

    async def read() -> list[bytes]:
        found, sequence, more = list[bytes](), 0, True
        while more:
            page = await log.model_calls(run, after=sequence)
            assert len(page.calls) <= PAGE_CALLS
            found += page.calls
            sequence, more = page.next, page.next > 0
        return found

    async def is_stored() -> bool:
        return len(await read()) == len(calls)

    await wait_until(is_stored)
    assert await read() == calls
    assert [record.seq for record in (await log.read(run, after=0)).records] == [before, after]
    assert await log.run_at(before + 1) is None
    await log.purge(run)
    assert await read() == []
    assert (await log.model_calls(other, after=0)).calls == [b"of another run"]


@pytest.mark.feature("F123")
async def test_the_calls_of_one_step_are_read_alone_and_no_page_is_larger_than_its_bound(log: RunLog) -> None:
    run, large = fresh(), b"x" * CALL_RECORD_BYTES_MAX
    for number in range(12):
        await log.add_model_call(run, 1 + number % 2, large[:-1] + b"%x" % number)

    async def are_stored() -> bool:
        return len(await endings(2)) == 6

    async def endings(step: int | None, records_max: int | None = None) -> list[bytes]:
        found, sequence, more = list[bytes](), 0, True
        while more:
            page = await log.model_calls(run, after=sequence, step=step, records_max=records_max)
            assert 0 < sum(map(len, page.calls)) <= CALLS_READ_BYTES_MAX + CALL_RECORD_BYTES_MAX or not found
            assert len(page.calls) <= (records_max or PAGE_CALLS)
            found += [stored[-1:] for stored in page.calls]
            sequence, more = page.next, page.next > 0
        return found

    await wait_until(are_stored)
    assert await endings(1) == [b"0", b"2", b"4", b"6", b"8", b"a"]
    assert await endings(None) == [b"%x" % number for number in range(12)]
    assert await endings(2, records_max=1) == [b"1", b"3", b"5", b"7", b"9", b"b"]
    assert await endings(3) == []


async def test_a_message_that_the_broker_does_not_take_is_refused(log: RunLog) -> None:
    with pytest.raises(Invalid):
        await log.add_model_call(fresh(), 1, b"x" * (3 * 1024 * 1024))
