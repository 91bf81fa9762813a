"""What `ports.Control` promises, of the real one and of its double."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from protocol import names
from protocol.adapters import broker
from protocol.adapters.control import NatsControl
from protocol.adapters.memory_broker import MemoryControl
from protocol.adapters.ports import Control, Interrupt, Supersede, Word
from protocol.ids import RunId
from tests.observe import until


class Ear:
    """What was heard."""

    def __init__(self) -> None:
        self.words: list[Word] = []

    async def hears(self, *words: Word) -> None:
        """Until exactly these words were heard, in their order."""

        async def heard() -> bool:
            return self.words == list(words)

        await until(heard, f"{words} (heard so far: {self.words})", 5.0)


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=["memory", "nats"])
async def controls(request: pytest.FixtureRequest, nats_url: str) -> AsyncIterator[Sequence[Control]]:
    """The same way, from three processes."""
    if request.param == "memory":
        yield [MemoryControl()] * 3
        return
    async with AsyncExitStack() as stack:
        yield [
            NatsControl(await stack.enter_async_context(broker.connect(nats_url, name)))
            for name in ("one", "two", "three")
        ]


@pytest.fixture
def run() -> RunId:
    return RunId(f"run_{secrets.token_hex(8)}")


async def test_an_interrupt_reaches_the_one_that_listens(controls: Sequence[Control], run: RunId) -> None:
    """From the moment the context is entered, and once it was told it has been heard."""
    here, there, _ = controls
    ear = Ear()
    async with there.listen(run, ear.words.append):
        assert await here.interrupt(run)
        assert ear.words == [Interrupt()]


async def test_where_nobody_listens_an_interrupt_says_so_at_once(
    controls: Sequence[Control], run: RunId
) -> None:
    """Not after a time-out; also where somebody listened before, or listens to another run."""
    here, there, _ = controls
    ear = Ear()
    async with asyncio.timeout(1), there.listen(RunId(f"{run}2"), ear.words.append):
        assert not await here.interrupt(run)
        async with there.listen(run, ear.words.append):
            pass
        assert not await here.interrupt(run)
        await here.supersede(run, 2)
        assert await here.interrupt(RunId(f"{run}2"))
    assert ear.words == [Interrupt()]


async def test_every_one_that_listens_is_told(controls: Sequence[Control], run: RunId) -> None:
    """During a takeover there are two: whoever lost the run, and whoever has it."""
    here, there, elsewhere = controls
    first, second = Ear(), Ear()
    async with there.listen(run, first.words.append):
        async with elsewhere.listen(run, second.words.append):
            assert await here.interrupt(run)
            for ear in (first, second):
                await ear.hears(Interrupt())
        assert await here.interrupt(run)
        await first.hears(Interrupt(), Interrupt())
    assert second.words == [Interrupt()]
    assert not await here.interrupt(run)


async def test_a_takeover_reaches_whoever_listens_and_the_one_that_says_it(
    controls: Sequence[Control], run: RunId
) -> None:
    """In the order in which it was said; the attempt tells each of them whether it is meant."""
    here, there, _ = controls
    loser, winner = Ear(), Ear()
    async with there.listen(run, loser.words.append), here.listen(run, winner.words.append):
        for attempt in (2, 3):
            await here.supersede(run, attempt)
        for ear in (loser, winner):
            await ear.hears(Supersede(2), Supersede(3))


async def test_one_process_may_listen_twice_and_leave_once(controls: Sequence[Control], run: RunId) -> None:
    """A request that is delivered to the runner that has it already."""
    here, there, _ = controls
    first, second = Ear(), Ear()
    async with there.listen(run, first.words.append):
        async with there.listen(run, second.words.append):
            pass
        assert await here.interrupt(run)
    assert first.words == [Interrupt()]
    assert second.words == []


async def test_a_word_that_nobody_knows_is_passed_over(nats_url: str, run: RunId) -> None:
    """One of a later version: the one that listens stays, and is told the next."""
    async with broker.connect(nats_url, "one") as one, broker.connect(nats_url, "two") as two:
        ear = Ear()
        async with NatsControl(two).listen(run, ear.words.append):
            for odd in (b"", b"{", b'{"type":"Pause"}', b'{"type":"Supersede","attempt":"x"}'):
                assert await one.reach(names.control(run), odd)
            assert await NatsControl(one).interrupt(run)
        assert ear.words == [Interrupt()]
