"""`RunControl`: the adapter and the double pass the same tests."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from rejoin_adapters.jetstream import nats_connection
from rejoin_adapters.jetstream.run_control import NatsRunControl
from rejoin_adapters.memory.broker.run_control import MemoryRunControl
from rejoin_adapters.ports.run_control import ControlMessage, Interrupt, RunControl, Supersede
from rejoin_protocol.broker import subjects
from rejoin_protocol.ids import RunId
from tests.support.system.observation import wait_until


class Ear:
    """Records the control messages of each run."""

    def __init__(self) -> None:
        self.words: dict[RunId, list[ControlMessage]] = {}

    def hear(self, run: RunId, word: ControlMessage) -> None:
        self.words.setdefault(run, []).append(word)

    async def hears(self, run: RunId, *words: ControlMessage) -> None:
        """Wait until exactly these messages of a run have arrived, in this order."""

        async def heard() -> bool:
            return self.words.get(run) == list(words)

        await wait_until(heard, f"{words} (heard so far: {self.words})", 5.0)


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=["memory", "nats"])
async def controls(request: pytest.FixtureRequest, nats_url: str) -> AsyncIterator[Sequence[RunControl]]:
    """The same adapter in three processes."""
    if request.param == "memory":
        yield [MemoryRunControl()] * 3
        return
    async with AsyncExitStack() as stack:
        yield [
            NatsRunControl(await stack.enter_async_context(nats_connection.connect(nats_url, name)))
            for name in ("one", "two", "three")
        ]


@pytest.fixture
def run() -> RunId:
    return RunId(f"run_{secrets.token_hex(8)}")


async def test_an_interrupt_reaches_the_one_that_listens(controls: Sequence[RunControl], run: RunId) -> None:
    """From the moment the context is entered, whichever run it is about."""
    here, there, _ = controls
    ear, other = Ear(), RunId(f"{run}2")
    async with there.listen(ear.hear):
        for wanted in (run, other):
            await here.interrupt(wanted)
        for wanted in (run, other):
            await ear.hears(wanted, Interrupt())


async def test_where_nobody_listens_an_interrupt_is_no_fault(
    controls: Sequence[RunControl], run: RunId
) -> None:
    """It does not wait for a listener, and a closed listener receives nothing."""
    here, there, _ = controls
    ear = Ear()
    async with there.listen(ear.hear):
        pass
    async with asyncio.timeout(1):
        await there.interrupt(run)  # the server hears of the leaving first: it is one connection
        await here.supersede(run, 2)
    async with here.listen(Ear().hear):  # behind all that was said, if it still was on its way
        assert ear.words == {}


async def test_every_one_that_listens_is_told(controls: Sequence[RunControl], run: RunId) -> None:
    """Each runner receives the messages of all runs and ignores those of others."""
    here, there, elsewhere = controls
    first, second = Ear(), Ear()
    async with there.listen(first.hear):
        async with elsewhere.listen(second.hear):
            await here.interrupt(run)
            for ear in (first, second):
                await ear.hears(run, Interrupt())
        await elsewhere.interrupt(run)
        await first.hears(run, Interrupt(), Interrupt())
    assert second.words == {run: [Interrupt()]}


async def test_a_takeover_reaches_whoever_listens_and_the_one_that_says_it(
    controls: Sequence[RunControl], run: RunId
) -> None:
    """Messages keep their order. The attempt in the message says which runners must stop."""
    here, there, _ = controls
    loser, winner = Ear(), Ear()
    async with there.listen(loser.hear), here.listen(winner.hear):
        for attempt in (2, 3):
            await here.supersede(run, attempt)
        for ear in (loser, winner):
            await ear.hears(run, Supersede(2), Supersede(3))


async def test_a_word_that_nobody_knows_is_passed_over(nats_url: str, run: RunId) -> None:
    """A message of a later version is skipped; the listener receives the next one."""
    async with (
        nats_connection.connect(nats_url, "one") as one,
        nats_connection.connect(nats_url, "two") as two,
    ):
        ear = Ear()
        async with NatsRunControl(two).listen(ear.hear):
            for odd in (b"", b"{", b'{"type":"Pause"}', b'{"type":"Supersede","attempt":"x"}'):
                await one.send(subjects.DEFAULT.control(run), odd)
            await NatsRunControl(one).interrupt(run)
            await ear.hears(run, Interrupt())
        assert set(ear.words) == {run}
