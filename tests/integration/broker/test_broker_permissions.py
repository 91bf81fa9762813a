"""The broker's users on a real server with `deploy/nats.conf`: what each may do, and what a stolen credential
cannot do.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator

import msgspec
import pytest
from nats.aio.msg import Msg
from structlog.testing import capture_logs

from rejoin_adapters.jetstream import nats_connection, setup
from rejoin_adapters.jetstream.nats_connection import NatsConnection, PermissionDenied
from rejoin_adapters.jetstream.run_log import LOG_READ_BYTES_MAX, JetStreamRunLog
from rejoin_adapters.jetstream.run_queue import JetStreamRunQueue
from rejoin_protocol.broker import broker_permissions, subjects
from rejoin_protocol.errors import Unavailable
from rejoin_protocol.ids import AgentName, RunId
from rejoin_protocol.log.record import Head, Record
from rejoin_protocol.log.segment import RECORDS
from rejoin_protocol.run_request import RunRequest
from tests.support.clients.stopped_runs import stop_while_working
from tests.support.system.local_system import LocalSystem
from tests.support.system.nats_cluster import Cluster, cluster
from tests.support.system.observation import read_log

AGENT = AgentName("demo")
HEARD_S = 10.0


@pytest.fixture(scope="module")
async def guarded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """A server with the production configuration, and our streams, declared by the administrator."""
    async with cluster(tmp_path_factory.mktemp("guarded")) as one:
        async with nats_connection.connect(one.url("admin"), "migrate") as admin:
            await setup.declare_streams(admin, setup.StreamSettings())
        yield one


@pytest.fixture
async def admin(guarded: Cluster) -> AsyncIterator[NatsConnection]:
    async with nats_connection.connect(guarded.url("admin"), "operator") as one:
        yield one


@pytest.fixture
def run() -> RunId:
    return RunId(f"run_{secrets.token_hex(8)}")


@pytest.fixture
async def thief(guarded: Cluster) -> AsyncIterator[NatsConnection]:
    """A client that has a gateway's credential and sends any message."""
    async with nats_connection.connect(guarded.url("gateway").partition("/?")[0], "gateway-stolen") as one:
        yield one


async def messages(admin: NatsConnection, stream: str) -> tuple[int, int]:
    """How many a stream holds, and the last sequence that it gave."""
    state = msgspec.json.decode(await admin.call_api(f"$JS.API.STREAM.INFO.{stream}"))["state"]
    return state["messages"], state["last_seq"]


async def write(guarded: Cluster, run: RunId, count: int = 3) -> None:
    async with nats_connection.connect(guarded.url("runner"), "runner-log") as writer:
        log = JetStreamRunLog(writer, writer)
        last = 0
        for index in range(count):
            last = await log.append(run, Head(last, 1, index, 1), b"%d" % index)


# ------------------------------------------------------------------------------- the services do all they do


async def test_runs_go_their_whole_way_with_the_services_own_users(
    guarded: Cluster, database_url: str
) -> None:
    """An answer, a replay, an approval with its second turn, an interrupt: the broker refuses nothing."""
    with capture_logs() as lines:
        async with LocalSystem(guarded.url("runner"), database_url) as system:
            base = await system.gateway(nats_url=guarded.url("gateway"))
            await system.runner()
            session = system.fresh("s")
            answer = await system.post(base, system.chat(session, "count 50"))
            assert answer.complete
            again = await system.get(f"{base}/api/chat/{session}/stream?startIndex=-3")
            assert again.raw == b"".join(answer.raw.partition(frame)[1] for frame in frames(answer.raw)[-4:])
            asked = system.fresh("s")
            await system.post(base, system.chat(asked, "delete notes.txt"))
            decided = await system.post(base, await system.decision(base, asked, approved=True))
            assert decided.text == "notes.txt is deleted."
            await stop_while_working(system, base)
            assert (await system.get(f"{base}/health/ready")).status == 200
    assert [line for line in lines if line["event"] == "broker_denied"] == []


def frames(raw: bytes) -> list[bytes]:
    return [frame + b"\n\n" for frame in raw.split(b"\n\n")[:-1]]


async def test_a_runner_copies_what_it_writes_and_a_gateway_reads_the_copies(
    guarded: Cluster, run: RunId
) -> None:
    async with (
        nats_connection.connect(guarded.url("runner"), "runner-log") as runner,
        nats_connection.connect(guarded.url("gateway"), "gateway-api") as gateway,
    ):
        log, reader = JetStreamRunLog(runner, runner), JetStreamRunLog(gateway, gateway)
        written: list[Record] = []
        for index in range(2 * RECORDS):
            head = Head(written[-1].seq if written else 0, 1, index, 1)
            written.append(Record(await log.append(run, head, b"x"), head, b"x"))
        await log.add_segment(run, written)
        await runner.flush()
        assert len((await reader._get(run, subjects.DEFAULT.segments(run), 0, 9, LOG_READ_BYTES_MAX))[0]) == 1
        assert (await reader.read(run, after=0)).records == written


# ------------------------------------------------------------------------------- a stolen gateway credential


async def test_a_stolen_gateway_credential_writes_no_log(
    guarded: Cluster, thief: NatsConnection, admin: NatsConnection, run: RunId
) -> None:
    """Neither by a publish, nor by a reply subject that names a log."""
    await write(guarded, run)
    before = await messages(admin, subjects.LOG)
    subject = subjects.DEFAULT.log(run)
    for forged in (subject, subjects.DEFAULT.segments(run)):
        with pytest.raises(PermissionDenied):
            await thief.request(forged, b"forged")
    last = b'{"last_by_subj":"%s"}' % subject.encode()
    for asked, payload in (
        (subjects.DEFAULT.request(AGENT, run, 1), b"{}"),
        (subjects.DEFAULT.control(run), b'{"type":"interrupt"}'),
        (f"{broker_permissions.CORE_API}.DIRECT.GET.{subjects.LOG}", last),
        (f"{broker_permissions.CORE_API}.STREAM.MSG.GET.{subjects.LOG}", last),
        (f"{broker_permissions.CORE_API}.STREAM.NAMES", b""),
    ):
        with capture_logs() as lines:
            await thief.send(asked, payload, reply=subject)
            await thief.flush()
        assert lines == []  # it may ask that
    # What was asked is answered in order, and this is asked behind it.
    await thief.request(f"{broker_permissions.CORE_API}.STREAM.NAMES")
    assert await messages(admin, subjects.LOG) == before


@pytest.mark.parametrize(
    "call",
    [
        f"STREAM.PURGE.{subjects.LOG}",
        f"STREAM.DELETE.{subjects.LOG}",
        f"STREAM.MSG.DELETE.{subjects.LOG}",
        f"STREAM.UPDATE.{subjects.LOG}",
        f"STREAM.CREATE.{subjects.LOG}",
        f"STREAM.INFO.{subjects.REQUESTS}",
        f"STREAM.MSG.GET.{subjects.REQUESTS}",
        f"DIRECT.GET.{subjects.REQUESTS}",
        f"CONSUMER.CREATE.{subjects.REQUESTS}",
        f"CONSUMER.CREATE.{subjects.LOG}",
        f"CONSUMER.DURABLE.CREATE.{subjects.REQUESTS}.thief",
        f"CONSUMER.MSG.NEXT.{subjects.REQUESTS}.{subjects.consumer(AGENT)}",
    ],
)
@pytest.mark.parametrize("prefix", [subjects.JETSTREAM_API, broker_permissions.CORE_API])
async def test_a_stolen_gateway_credential_has_no_such_right(
    guarded: Cluster, thief: NatsConnection, admin: NatsConnection, run: RunId, prefix: str, call: str
) -> None:
    await write(guarded, run)
    async with nats_connection.connect(guarded.url("gateway"), "gateway-api") as gateway:
        await JetStreamRunQueue(gateway, setup.StreamSettings()).publish(RunRequest(AGENT, run, 0))
    before = [await messages(admin, stream) for stream in (subjects.LOG, subjects.REQUESTS)]
    with pytest.raises(PermissionDenied):
        await thief.request(f"{prefix}.{call}", b'{"seq":1,"no_erase":true}')
    assert [await messages(admin, stream) for stream in (subjects.LOG, subjects.REQUESTS)] == before


@pytest.mark.parametrize("subject", [">", "request.>", "run.>", "$JS.>", "_INBOX_runner.>", "control.*"])
async def test_a_stolen_gateway_credential_overhears_nothing(thief: NatsConnection, subject: str) -> None:
    with capture_logs() as lines:
        await thief.subscribe(subject, _ignore, lambda: None)
        await thief.flush()
    (line,) = lines
    assert (line["event"], line["denied"]) == ("broker_denied", "subscription")


# -------------------------------------------------------------------------------- a stolen runner credential


ADMINISTRATION = (
    *(
        f"STREAM.{verb}.{stream}"
        for verb in ("DELETE", "UPDATE", "CREATE")
        for stream in (subjects.LOG, "NEW")
    ),
    f"STREAM.DELETE.{subjects.REQUESTS}",
    f"STREAM.MSG.DELETE.{subjects.LOG}",
    f"STREAM.PURGE.{subjects.REQUESTS}",
    f"CONSUMER.DELETE.{subjects.REQUESTS}.{subjects.consumer(AGENT)}",
    f"CONSUMER.CREATE.{subjects.LOG}",
)
"""What only the administrator may do with JetStream."""


@pytest.mark.parametrize("prefix", [subjects.JETSTREAM_API, broker_permissions.CORE_API])
@pytest.mark.parametrize("call", ADMINISTRATION)
async def test_a_runner_cannot_change_or_delete_streams_and_consumers(
    guarded: Cluster, call: str, prefix: str
) -> None:
    url = guarded.url("runner").partition("/?")[0]
    async with nats_connection.connect(url, "runner-stolen") as runner:
        with pytest.raises(PermissionDenied):
            await runner.call_api(f"{prefix}.{call}")


async def test_a_stolen_runner_credential_does_not_administer_jetstream_by_the_reply_trick(
    guarded: Cluster, admin: NatsConnection, run: RunId
) -> None:
    """It names calls of the API as the reply subject of whatever it may ask: the answers stay in its account.

    Within one account the server itself would publish the answer there, and the API would take it as a call.
    """
    await write(guarded, run)
    heard: list[str] = []

    async def hear(message: Msg) -> None:
        heard.append(message.subject)

    calls = [f"{subjects.JETSTREAM_API}.{call}" for call in ADMINISTRATION]
    end = await admin.subscribe("$JS.API.STREAM.*.*", hear, lambda: None)
    before = [await messages(admin, stream) for stream in (subjects.LOG, subjects.REQUESTS, subjects.FILES)]
    last = b'{"last_by_subj":"%s"}' % subjects.DEFAULT.log(run).encode()
    async with nats_connection.connect(guarded.url("runner").partition("/?")[0], "runner-stolen") as stolen:
        for asked, payload in (
            (f"{broker_permissions.CORE_API}.STREAM.NAMES", b""),
            (f"{broker_permissions.CORE_API}.STREAM.MSG.GET.{subjects.LOG}", last),
            (f"{broker_permissions.CORE_API}.DIRECT.GET.{subjects.LOG}", last),
            (f"{broker_permissions.CORE_API}.STREAM.INFO.{subjects.FILES}", b""),
            (subjects.DEFAULT.control(run), b"{}"),
        ):
            for call in calls:
                await stolen.send(asked, payload, reply=call)
        await stolen.flush()
        await stolen.request(f"{broker_permissions.CORE_API}.STREAM.NAMES")
    heard.clear()
    names = msgspec.json.decode(await admin.call_api("$JS.API.STREAM.NAMES"))["streams"]
    assert set(names) == {
        config["name"] for config in setup.stream_configs(subjects.DEFAULT, setup.StreamSettings())
    }
    assert [
        await messages(admin, stream) for stream in (subjects.LOG, subjects.REQUESTS, subjects.FILES)
    ] == before
    await end()


# -------------------------------------------------------------------------------------- what a refusal is


async def test_a_refused_publish_is_unavailable_at_once_and_a_line_in_the_log(guarded: Cluster) -> None:
    async with nats_connection.connect(guarded.url("gateway"), "gateway-api") as gateway:
        with capture_logs() as lines:
            async with asyncio.timeout(nats_connection.REQUEST_TIMEOUT_S / 2):
                with pytest.raises(Unavailable, match=r"does not allow gateway-api to publish run\.x\.log"):
                    await gateway.call_api("run.x.log", b"forged")
                with pytest.raises(PermissionDenied):
                    await gateway.request_many(f"$JS.API.DIRECT.GET.{subjects.REQUESTS}", b"{}")
                await gateway.send("request.no", b"")
                await gateway.subscribe("request.>", _ignore, lambda: None)
                await gateway.flush()
            await setup.check_log_readable(gateway)  # the connection is none the worse for it
    assert [(line["log_level"], line["denied"], line["subject"]) for line in lines] == [
        ("error", "publish", "run.x.log"),
        ("error", "publish", f"{broker_permissions.CORE_API}.DIRECT.GET.{subjects.REQUESTS}"),
        ("error", "publish", "request.no"),
        ("error", "subscription", "request.>"),
    ]


async def _ignore(_: Msg) -> None:
    pass


async def test_the_administrator_reads_a_runs_log(guarded: Cluster, run: RunId) -> None:
    await write(guarded, run, 3)
    assert [record.payload for record in await read_log(guarded.url("admin"), run)] == [b"0", b"1", b"2"]
