"""`RunQueue` and `Delivery`: the adapter and the double pass the same tests.

The promises are about time. The tests let it pass by waiting for a request, never by sleeping.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from random import Random

import msgspec
import pytest
import pytest_asyncio

from rejoin_adapters.jetstream import nats_connection
from rejoin_adapters.jetstream.nats_connection import ApiError, NatsConnection
from rejoin_adapters.jetstream.run_queue import JetStreamRunQueue
from rejoin_adapters.jetstream.setup import StreamSettings
from rejoin_adapters.memory.broker.run_queue import MemoryRunQueue
from rejoin_adapters.ports.run_queue import Delivery, RunQueue
from rejoin_protocol.broker import subjects
from rejoin_protocol.ids import AgentName, RunId
from rejoin_protocol.run_request import RunRequest

SOON_S = 5.0
LONG_S = 60.0
ACK_WAIT_S = 0.6

type Next = Callable[[int], Awaitable[Sequence[Delivery]]]
type Queues = Callable[[float], tuple[RunQueue, RunQueue]]


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=["memory", "jetstream"])
async def queues(request: pytest.FixtureRequest, nats_url: str) -> AsyncIterator[Queues]:
    """By ack wait: the same queue, seen from two processes."""
    if request.param == "memory":
        yield lambda ack_wait_s: (MemoryRunQueue(ack_wait_s),) * 2
        return
    async with (
        nats_connection.connect(nats_url, "one") as one,
        nats_connection.connect(nats_url, "two") as two,
    ):

        def of(ack_wait_s: float) -> tuple[RunQueue, RunQueue]:
            settings = StreamSettings(ack_wait_s=ack_wait_s)
            return JetStreamRunQueue(one, settings), JetStreamRunQueue(two, settings)

        yield of


@pytest.fixture
async def connection(nats_url: str) -> AsyncIterator[NatsConnection]:
    async with nats_connection.connect(nats_url, "one") as one:
        yield one


@pytest.fixture
def agent() -> AgentName:
    return AgentName(f"agent-{secrets.token_hex(8)}")


def fresh(agent: AgentName, turn: int = 0) -> RunRequest:
    return RunRequest(agent, RunId(f"run_{secrets.token_hex(8)}"), turn)


async def arrival(following: Next, within_s: float = SOON_S) -> Delivery:
    async with asyncio.timeout(within_s):
        (delivery,) = await following(1)
        return delivery


async def several(following: Next) -> Sequence[Delivery]:
    return await following(3)


async def silence(following: Next, seconds: float) -> None:
    """Nothing comes for so long."""
    with pytest.raises(TimeoutError):
        await arrival(following, seconds)


# ----------------------------------------------------------------------------------------- publish, pull


async def test_a_request_is_delivered_as_it_was_published(queues: Queues, agent: AgentName) -> None:
    here, there = queues(LONG_S)
    async with there.pull(agent) as following, asyncio.TaskGroup() as group:
        waiting = group.create_task(arrival(following))
        await here.publish(request := fresh(agent, 3))
        assert (await waiting).request == request


async def test_what_was_published_before_anybody_pulled_is_delivered_in_order(
    queues: Queues, agent: AgentName
) -> None:
    here, there = queues(LONG_S)
    requests = [fresh(agent) for _ in range(5)]
    for request in requests:
        await here.publish(request)
    async with there.pull(agent) as following:
        assert [(await arrival(following)).request for _ in requests] == requests


async def test_a_turn_that_is_queued_is_not_queued_twice(queues: Queues, agent: AgentName) -> None:
    here, there = queues(LONG_S)
    request = fresh(agent)
    for publisher in (here, there):
        await publisher.publish(request)
    async with there.pull(agent) as following:
        delivery = await arrival(following)
        await here.publish(request)  # delivered, and not acknowledged
        await silence(following, 0.3)
        await delivery.ack()
        await silence(following, 0.3)


async def test_two_turns_of_a_run_are_two_requests(queues: Queues, agent: AgentName) -> None:
    here, _ = queues(LONG_S)
    first = fresh(agent)
    second = RunRequest(agent, first.run, 1)
    for request in (first, second, first, second):
        await here.publish(request)
    async with here.pull(agent) as following:
        assert [(await arrival(following)).request for _ in range(2)] == [first, second]
        await silence(following, 0.2)


async def test_a_request_is_for_its_agent_alone(queues: Queues, agent: AgentName) -> None:
    here, _ = queues(LONG_S)
    longer = AgentName(f"{agent}-b")
    async with here.pull(agent) as mine, here.pull(longer) as theirs:
        await here.publish(fresh(longer))
        await silence(mine, 0.2)
        assert (await arrival(theirs)).request.agent == longer


async def test_two_pullers_share_a_queue(queues: Queues, agent: AgentName) -> None:
    here, there = queues(LONG_S)
    requests = [fresh(agent) for _ in range(30)]
    got: list[list[RunRequest]] = [[], []]

    async def take_half(following: Next, mine: list[RunRequest]) -> None:
        while len(mine) < len(requests) / 2:
            delivery = await arrival(following)
            mine.append(delivery.request)
            await delivery.ack()

    async with here.pull(agent) as one, there.pull(agent) as two:
        async with asyncio.TaskGroup() as group:
            for following, mine in zip((one, two), got, strict=True):
                group.create_task(take_half(following, mine))
            for request in requests:
                await here.publish(request)
        await silence(one, 0.2)
    assert sorted(got[0] + got[1], key=str) == sorted(requests, key=str)


# ------------------------------------------------------------------------------------------------ several


async def test_of_those_that_wait_so_many_come_at_once_as_are_asked_for(
    queues: Queues, agent: AgentName
) -> None:
    here, there = queues(LONG_S)
    requests = [fresh(agent) for _ in range(5)]
    for request in requests:
        await here.publish(request)
    async with there.pull(agent) as following:
        first = await arrival(following)
        assert (first.request, first.pending_count) == (requests[0], 4)
        some = await following(3)
        assert [delivery.request for delivery in some] == requests[1:4]
        assert some[-1].pending_count == 1
        rest = await following(3)
        assert [delivery.request for delivery in rest] == requests[4:]
        assert rest[-1].pending_count == 0


async def test_those_that_are_delivered_again_are_not_counted_and_come_together(
    queues: Queues, agent: AgentName
) -> None:
    here, there = queues(LONG_S)
    requests = [fresh(agent) for _ in range(5)]
    for request in requests:
        await here.publish(request)
    async with there.pull(agent) as following:
        for delivery in [await arrival(following), *await following(4)]:
            await delivery.nak()
        first = await arrival(following)
        assert (first.delivery_count, first.pending_count) == (2, 0)
        others = await following(len(requests))
        assert {delivery.delivery_count for delivery in others} == {2}
        assert {delivery.request for delivery in (first, *others)} == set(requests)


async def test_several_are_not_waited_for(queues: Queues, agent: AgentName) -> None:
    here, there = queues(LONG_S)
    async with asyncio.timeout(SOON_S), here.pull(agent) as following, there.pull(agent) as other:
        assert await following(2) == []
        async with asyncio.TaskGroup() as group:  # and take nothing from one who waits
            waiting = group.create_task(arrival(other))
            assert await following(2) == []
            await here.publish(request := fresh(agent))
        assert waiting.result().request == request


async def test_a_request_that_cannot_be_read_does_not_keep_others_back(
    connection: NatsConnection, agent: AgentName
) -> None:
    queue, requests = JetStreamRunQueue(connection, StreamSettings()), [fresh(agent) for _ in range(3)]
    async with queue.pull(agent) as following:
        await queue.publish(requests[0])
        await connection.call_api(subjects.DEFAULT.request(agent, RunId("poison"), 0), b"{")
        for request in requests[1:]:
            await queue.publish(request)
        assert [delivery.request for delivery in await following(10)] == requests


# ----------------------------------------------------------------------------------- ack, nak, in progress


async def test_what_is_acknowledged_never_comes_again(queues: Queues, agent: AgentName) -> None:
    here, there = queues(ACK_WAIT_S)
    await here.publish(fresh(agent))
    async with there.pull(agent) as following:
        await (await arrival(following)).ack()
        await silence(following, ACK_WAIT_S * 2)


async def test_what_is_given_back_comes_again_at_once(queues: Queues, agent: AgentName) -> None:
    here, there = queues(LONG_S)
    await here.publish(request := fresh(agent))
    async with here.pull(agent) as one, there.pull(agent) as two:
        for following in (one, two, one):
            delivery = await arrival(following)
            assert delivery.request == request
            await delivery.nak()


async def test_what_is_given_back_with_a_delay_comes_again_after_it(queues: Queues, agent: AgentName) -> None:
    here, _ = queues(LONG_S)
    await here.publish(request := fresh(agent))
    async with here.pull(agent) as following:
        await (await arrival(following)).nak(0.7)
        await silence(following, 0.4)
        assert (await arrival(following)).request == request


async def test_what_nobody_keeps_alive_goes_to_another(queues: Queues, agent: AgentName) -> None:
    here, there = queues(ACK_WAIT_S)
    await here.publish(request := fresh(agent))
    async with here.pull(agent) as one, there.pull(agent) as two:
        await arrival(one)
        await silence(two, ACK_WAIT_S / 2)
        assert (await arrival(two)).request == request


async def test_what_is_in_progress_stays_where_it_is(queues: Queues, agent: AgentName) -> None:
    here, there = queues(ACK_WAIT_S)
    await here.publish(request := fresh(agent))
    async with here.pull(agent) as one, there.pull(agent) as two, here.open_link() as link:
        delivery = await arrival(one)
        for _ in range(6):
            await link.keep(delivery.receipt)
            await silence(two, ACK_WAIT_S / 3)
        assert (await arrival(two)).request == request


async def test_what_is_given_up_on_a_link_goes_to_another_at_once(queues: Queues, agent: AgentName) -> None:
    here, there = queues(LONG_S)
    await here.publish(request := fresh(agent))
    async with here.pull(agent) as one, here.open_link() as link:
        delivery = await arrival(one)
        await link.give_up(delivery.receipt)
        async with there.pull(agent) as two:
            assert (await arrival(two)).request == request


# ---------------------------------------------------------------------------------- no waiter is left


async def test_what_arrives_while_nobody_waits_goes_back_to_the_queue(
    queues: Queues, agent: AgentName
) -> None:
    """The wait was cancelled and its context is open: the server may still hold the pull request."""
    here, there = queues(LONG_S)
    async with here.pull(agent) as gone, there.pull(agent) as following:
        await silence(gone, 0.1)
        await here.publish(request := fresh(agent))
        assert (await arrival(following)).request == request


async def test_what_arrives_after_the_context_was_left_goes_back_to_the_queue(
    queues: Queues, agent: AgentName
) -> None:
    here, there = queues(ACK_WAIT_S)
    async with here.pull(agent) as gone:
        await silence(gone, 0.1)
    await here.publish(request := fresh(agent))
    async with there.pull(agent) as following:
        assert (await arrival(following)).request == request


async def test_waits_that_are_given_up_at_any_moment_lose_nothing(queues: Queues, agent: AgentName) -> None:
    here, _ = queues(LONG_S)
    random, requests = Random(7), [fresh(agent) for _ in range(60)]
    got: list[RunRequest] = []
    async with asyncio.timeout(30), here.pull(agent) as following, asyncio.TaskGroup() as group:

        async def publish() -> None:
            for request in requests:
                await here.publish(request)

        group.create_task(publish())
        while len(got) < len(requests):
            try:
                delivery = await arrival(following, random.random() * 0.004)
            except TimeoutError:
                continue
            got.append(delivery.request)
            await delivery.ack()
        await silence(following, 0.2)
    assert sorted(got, key=str) == sorted(requests, key=str)


async def test_several_that_arrive_as_the_wait_is_given_up_come_again(
    queues: Queues, agent: AgentName
) -> None:
    here, _ = queues(LONG_S)
    async with here.pull(agent) as following:
        for turns in range(20):
            requests = {fresh(agent) for _ in range(3)}
            for request in requests:
                await here.publish(request)
            async with asyncio.TaskGroup() as group:
                task = group.create_task(several(following))
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
            deliveries = [] if task.cancelled() else [*task.result()]
            while len(deliveries) < len(requests):
                deliveries.append(await arrival(following))
            assert {delivery.request for delivery in deliveries} == requests
            for delivery in deliveries:
                await delivery.ack()


async def test_a_wait_may_be_given_up_in_any_turn_of_the_loop(queues: Queues, agent: AgentName) -> None:
    here, _ = queues(LONG_S)
    async with here.pull(agent) as following:
        for turns in range(40):
            await here.publish(request := fresh(agent))
            async with asyncio.TaskGroup() as group:
                task = group.create_task(arrival(following))
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
            delivery = await arrival(following) if task.cancelled() else task.result()
            assert delivery.request == request
            await delivery.ack()


# --------------------------------------------------------------------------------- of the real one alone


async def test_a_request_that_cannot_be_read_is_removed_and_stops_nobody(
    connection: NatsConnection, agent: AgentName
) -> None:
    queue, request = JetStreamRunQueue(connection, StreamSettings(ack_wait_s=ACK_WAIT_S)), fresh(agent)
    for turn, payload in enumerate((b"{", b'{"agent":1}', b"")):
        await connection.call_api(subjects.DEFAULT.request(agent, RunId("poison"), turn), payload)
    await queue.publish(request)
    async with queue.pull(agent) as following:
        delivery = await arrival(following)
        assert delivery.request == request
        await delivery.ack()
        await silence(following, ACK_WAIT_S * 1.5)
    with pytest.raises(ApiError):
        await connection.call_api(
            f"$JS.API.STREAM.MSG.GET.{subjects.REQUESTS}",
            b'{"last_by_subj":"%b"}' % subjects.DEFAULT.requests_for(agent).encode(),
        )


async def pulled(connection: NatsConnection, agent: AgentName) -> None:
    """Wait until the server has received a pull request."""
    info = f"$JS.API.CONSUMER.INFO.{subjects.REQUESTS}.{subjects.consumer(agent)}"
    async with asyncio.timeout(SOON_S):
        while msgspec.json.decode(await connection.call_api(info))["num_waiting"] != 1:
            pass


async def test_a_consumer_that_was_removed_is_made_again(
    connection: NatsConnection, agent: AgentName
) -> None:
    queue = JetStreamRunQueue(connection, StreamSettings())
    async with queue.pull(agent) as following, asyncio.TaskGroup() as group:
        waiting = group.create_task(arrival(following))
        await pulled(connection, agent)
        await connection.call_api(f"$JS.API.CONSUMER.DELETE.{subjects.REQUESTS}.{subjects.consumer(agent)}")
        await queue.publish(request := fresh(agent))
        assert (await waiting).request == request


async def test_a_delivery_says_how_often_the_request_was_delivered(queues: Queues, agent: AgentName) -> None:
    here, _ = queues(LONG_S)
    await here.publish(fresh(agent))
    async with here.pull(agent) as following:
        for times in (1, 2, 3):
            delivery = await arrival(following)
            assert delivery.delivery_count == times
            await delivery.nak()
