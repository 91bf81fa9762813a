"""Requests to a real broker: each gets its own answer, or fails as soon as no answer is possible."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic

import nats.errors
import pytest
from nats.aio.msg import Msg

from rejoin_adapters.embedded import Servers, embedded
from rejoin_adapters.jetstream import nats_connection
from rejoin_adapters.jetstream.nats_connection import NatsConnection
from rejoin_protocol.broker import subjects
from rejoin_protocol.errors import Invalid, Unavailable

SOON_S = 20.0
AT_ONCE_S = 1.0


@pytest.fixture
async def servers(tmp_path: Path) -> AsyncIterator[Servers]:
    """A NATS of the test's own."""
    async with embedded(tmp_path, durable=False, database_url="postgresql://none") as running:
        yield running


@pytest.fixture
async def asker(servers: Servers) -> AsyncIterator[NatsConnection]:
    async with asyncio.timeout(SOON_S), nats_connection.connect(servers.nats_url, "asker") as connection:
        yield connection


@pytest.fixture
def subject() -> str:
    return f"any.{secrets.token_hex(8)}"


@asynccontextmanager
async def hearing(
    servers: Servers, subject: str, hear: Callable[[Msg], None]
) -> AsyncIterator[NatsConnection]:
    """A responder that may answer."""

    async def on_message(message: Msg) -> None:
        hear(message)

    async with nats_connection.connect(servers.nats_url, "hearer") as connection:
        await connection.subscribe(subject, on_message, lambda: None)
        await connection.flush()
        yield connection


async def test_every_question_gets_its_own_answer(
    servers: Servers, asker: NatsConnection, subject: str
) -> None:
    """Also when all are asked at once, and answered in another order."""
    heard: list[Msg] = []
    count = 300
    async with hearing(servers, subject, heard.append) as hearer, asyncio.TaskGroup() as group:
        asked = [group.create_task(asker.request(subject, b"%d" % number)) for number in range(count)]
        while len(heard) < count:
            await hearer.flush()
        for message in reversed(heard):
            await hearer.send(message.reply, b"re " + message.data)
    assert [task.result().data for task in asked] == [b"re %d" % number for number in range(count)]
    assert not asker._requests.list_pending()


async def test_headers_and_payload_come_as_they_were_sent(
    servers: Servers, asker: NatsConnection, subject: str
) -> None:
    heard: asyncio.Queue[Msg] = asyncio.Queue()
    headers = {subjects.BATCH: "1 2 3", "Other": "ä: b"}
    payload = b"\r\nHPUB x\r\n\0" * 1_000
    async with hearing(servers, subject, heard.put_nowait) as hearer, asyncio.TaskGroup() as group:
        for fields in (headers, None):
            group.create_task(asker.request(subject, payload, headers=fields))
            message = await heard.get()
            assert (message.headers, message.data) == (fields, payload)
            await hearer.send(message.reply)


async def test_a_request_without_responders_fails_at_once(asker: NatsConnection, subject: str) -> None:
    with pytest.raises(Unavailable) as told:
        await asker.request(subject)
    assert isinstance(told.value.__cause__, nats.errors.NoRespondersError)


async def test_pending_requests_fail_when_the_connection_breaks(
    servers: Servers, asker: NatsConnection, subject: str
) -> None:
    heard: asyncio.Queue[Msg] = asyncio.Queue()
    async with hearing(servers, subject, heard.put_nowait), asyncio.TaskGroup() as group:
        asked = [group.create_task(failing(asker, subject, timeout_s=SOON_S)) for _ in range(3)]
        for _ in asked:
            await heard.get()
        await servers.nats.kill()
        began = monotonic()
        await asyncio.wait(asked)
        assert monotonic() - began < AT_ONCE_S
        await servers.nats.start()
    assert {task.result() for task in asked} == {"the broker does not answer (ConnectionResetError)"}


async def failing(asker: NatsConnection, subject: str, *, timeout_s: float) -> str:
    """The error of a request that fails."""
    with pytest.raises(Unavailable) as told:
        await asker.request(subject, timeout_s=timeout_s)
    return str(told.value)


async def test_unsent_requests_are_not_sent_on_the_next_connection(
    servers: Servers, asker: NatsConnection, subject: str
) -> None:
    """The caller has got an error, and may have sent the request again."""
    heard: asyncio.Queue[Msg] = asyncio.Queue()
    returned = asyncio.Event()
    asker.on_reconnect(returned.set)
    async with hearing(servers, subject, heard.put_nowait) as hearer, asyncio.TaskGroup() as group:
        group.create_task(failing(asker, subject, timeout_s=SOON_S))
        # Asked, and behind it in the same turn of the loop, before anything is sent:
        group.create_task(asker._client.force_reconnect())
        await returned.wait()
        await asker.send(subject, b"next")
        await asker.flush()
        await hearer.flush()
    assert [(heard.get_nowait()).data for _ in range(heard.qsize())] == [b"next"]


async def test_a_request_times_out_and_its_late_answer_has_no_effect(
    servers: Servers, asker: NatsConnection, subject: str
) -> None:
    heard: asyncio.Queue[Msg] = asyncio.Queue()
    async with hearing(servers, subject, heard.put_nowait) as hearer, asyncio.TaskGroup() as group:
        patient = group.create_task(asker.request(subject, b"patient"))
        told = await failing(asker, subject, timeout_s=0.1)
        assert told == "the broker does not answer (TimeoutError)"
        for _ in range(2):
            await hearer.send((await heard.get()).reply, b"late")
        assert (await patient).data == b"late"
        await hearer.flush()
        await asker.flush()
    assert not asker._requests.list_pending()


async def test_a_cancelled_request_leaves_no_state(
    servers: Servers, asker: NatsConnection, subject: str
) -> None:
    heard: asyncio.Queue[Msg] = asyncio.Queue()
    async with hearing(servers, subject, heard.put_nowait) as hearer, asyncio.TaskGroup() as group:
        asked = group.create_task(asker.request(subject))
        message = await heard.get()
        asked.cancel()
        await asyncio.wait([asked])
        assert not asker._requests.list_pending()
        await hearer.send(message.reply, b"late")
        await hearer.flush()
        await asker.flush()


@pytest.mark.parametrize(
    ("told", "headers"),
    [
        ("", {}),
        ("a b", {}),
        ("a\r\nPUB b 0", {}),
        ("a", {"Name": "one\r\nTwo: three"}),
        ("a", {"Name": "one\ntwo"}),
    ],
)
async def test_subjects_that_would_break_the_protocol_are_refused(
    asker: NatsConnection, told: str, headers: dict[str, str]
) -> None:
    with pytest.raises(Invalid):
        await asker.request(told, headers=headers)
    await asker.flush()
    assert not asker._requests.list_pending()


async def test_a_question_larger_than_the_broker_takes_is_refused_here(
    asker: NatsConnection, subject: str
) -> None:
    """With its headers: the broker would close the connection."""
    room = asker._client.max_payload
    with pytest.raises(Invalid):
        await asker.request(subject, b"x" * room, headers={"Name": ""})
    with pytest.raises(Unavailable):  # it fits, and there is no listener
        await asker.request(subject, b"x" * room)
