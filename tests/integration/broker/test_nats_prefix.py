"""Two installations with different prefixes share a server and an account; neither sees the other."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from nats.aio.msg import Msg
from structlog.testing import capture_logs

from rejoin.cli import doctor
from rejoin.cli.check_settings import DoctorSettings
from rejoin.cli.finding import Severity
from rejoin_adapters.jetstream import nats_connection, setup
from rejoin_adapters.jetstream.nats_connection import NatsConnection, PermissionDenied
from rejoin_adapters.postgres import migrate
from rejoin_protocol.broker import broker_url, subjects
from rejoin_protocol.broker.broker_permissions import BrokerPermissions, one_account
from rejoin_protocol.broker.broker_url import BrokerUrl
from rejoin_protocol.broker.subjects import BrokerNames
from rejoin_protocol.ids import AgentName, RunId
from tests.support.clients.attachments import PNG, inline_file_part
from tests.support.clients.stopped_runs import stop_while_working
from tests.support.system.databases import fresh_database
from tests.support.system.local_system import LocalSystem
from tests.support.system.nats_cluster import cluster
from tests.support.system.observation import wait_until
from tests.support.system.operator_mode import ConfiguredNats, Operator
from tests.support.system.processes import run_rejoin

PREFIXES = ("shop", "desk")


class Shared:
    """A server with one account, and a file for each user of both installations."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.operator = Operator()
        self.server = ConfiguredNats(path / "nats", self.operator.config())
        for prefix in PREFIXES:
            permissions = BrokerPermissions(BrokerNames(prefix))
            roles = {"admin": None, "gateway": permissions.gateway, "runner": permissions.runner}
            for name, role in roles.items():
                self.file(prefix, name).write_text(self.operator.user(role and one_account(role)))

    def file(self, prefix: str, name: str) -> Path:
        return self.path / f"{prefix}-{name}.creds"

    def broker(self, prefix: str, name: str) -> BrokerUrl:
        file = str(self.file(prefix, name))
        return broker_url.parse(self.server.url(), creds_file=file, names=subjects.broker_names(prefix))


@pytest.fixture(scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shared]:
    one = Shared(tmp_path_factory.mktemp("shared"))
    try:
        await one.server.start()
        for prefix in PREFIXES:
            async with nats_connection.connect(one.broker(prefix, "admin"), "migrate") as admin:
                await setup.declare_streams(admin, setup.StreamSettings())
        yield one
    finally:
        await one.server.stop()


async def stored_subjects(admin: NatsConnection, stream: str) -> dict[str, int]:
    payload = b'{"subjects_filter":">"}'
    info = msgspec.json.decode(await admin.call_api(f"$JS.API.STREAM.INFO.{stream}", payload))
    return dict(info["state"].get("subjects") or {})


async def serve(system: LocalSystem, shared: Shared, prefix: str) -> str:
    """A gateway and a runner of one installation; the gateway's base URL."""
    base = await system.gateway(nats_prefix=prefix, nats_creds_file=str(shared.file(prefix, "gateway")))
    await system.runner(nats_prefix=prefix, nats_creds_file=str(shared.file(prefix, "runner")))
    return base


async def use(system: LocalSystem, base: str) -> None:
    """An answer, a replay, a file, an approval with its second turn, an interrupt."""
    session = system.fresh("s")
    answer = await system.post(base, system.chat(session, "count 30"))
    assert answer.complete
    assert (await system.get(f"{base}/api/chat/{session}/stream?startIndex=0")).raw == answer.raw
    with_file = system.chat(system.fresh("s"), "count 1")
    with_file["messages"][0]["parts"].append(inline_file_part(PNG, "image/png"))
    assert (await system.post(base, with_file)).complete
    asked = system.fresh("s")
    await system.post(base, system.chat(asked, "delete notes.txt"))
    decided = await system.post(base, await system.decision(base, asked, approved=True))
    assert decided.text == "notes.txt is deleted."
    await stop_while_working(system, base)


async def test_two_installations_with_the_same_agent_share_an_account_and_no_message(
    shared: Shared, database_url: str
) -> None:
    heard: set[str] = set()

    async def hear(message: Msg) -> None:
        heard.add(message.subject)

    with capture_logs() as lines:
        async with (
            asyncio.timeout(60),
            nats_connection.connect(shared.broker("shop", "admin"), "tests") as admin,
            fresh_database(database_url) as own,
        ):
            await migrate.migrate(own)
            end = await admin.subscribe(">", hear, lambda: None)
            async with (
                LocalSystem(shared.server.url(), database_url) as shop,
                LocalSystem(shared.server.url(), own) as desk,
            ):
                desk.agent = shop.agent
                bases = [
                    await serve(system, shared, prefix)
                    for system, prefix in zip((shop, desk), PREFIXES, strict=True)
                ]
                async with asyncio.TaskGroup() as group:
                    for system, base in zip((shop, desk), bases, strict=True):
                        group.create_task(use(system, base))
            await end()
            names = msgspec.json.decode(await admin.call_api("$JS.API.STREAM.NAMES"))["streams"]
            for prefix in PREFIXES:
                one = BrokerNames(prefix)
                logs = await stored_subjects(admin, one.log_stream())
                assert len({name for name in logs if name.endswith(".log")}) == 4
                assert all(name.startswith(f"{prefix}.") for name in logs)
                kept = await stored_subjects(admin, one.files_stream)  # perhaps a probe, too, for a second
                assert len([name for name in kept if name.startswith(f"{prefix}.file.")]) == 1
                assert list(await stored_subjects(admin, one.agents_stream)) == [
                    one.agent_key(AgentName(shop.agent))
                ]
    assert sorted(names) == sorted(
        f"{head}{prefix}_{name}"
        for prefix in PREFIXES
        for head, name in (("", "LOG"), ("", "REQUESTS"), ("", "FILES"), ("KV_", "AGENTS"))
    )
    ours = tuple(
        f"{head}{prefix}{tail}"
        for prefix in PREFIXES
        for head, tail in (("", "."), ("$KV.", "_AGENTS."), ("_INBOX_", "_"))
    )
    assert [one for one in sorted(heard) if not one.startswith((*ours, "$JS.", "_INBOX_tests"))] == []
    assert {one.split(".")[0] for one in heard} >= {"shop", "desk"}
    assert [line for line in lines if line["event"] == "broker_denied"] == []


@pytest.mark.parametrize("role", ["gateway", "runner"])
async def test_a_user_of_one_installation_may_do_nothing_in_the_other(shared: Shared, role: str) -> None:
    other = BrokerNames("desk")
    async with nats_connection.connect(shared.broker("shop", role), f"{role}-stolen") as thief:
        for subject in (
            other.request(AgentName("a"), RunId("r"), 0),
            other.log(RunId("r")),
            other.control(RunId("r")),
            other.agent_key(AgentName("a")),
            f"$JS.API.DIRECT.GET.{other.log_stream()}",
            f"$JS.API.DIRECT.GET.{other.files_stream}",
            f"$JS.API.STREAM.PURGE.{other.log_stream()}",
        ):
            with pytest.raises(PermissionDenied):
                await thief.request(subject, b"{}")
        with capture_logs() as lines:
            for subject in (other.live_subjects, other.control_subjects, f"{other.inbox(role)}.>"):
                await thief.subscribe(subject, _ignore, lambda: None)
            await thief.flush()
        assert [line["event"] for line in lines] == ["broker_denied"] * 3


async def _ignore(_: Msg) -> None:
    pass


async def test_the_commands_know_the_prefix(shared: Shared, database_url: str) -> None:
    async with LocalSystem(shared.server.url(), database_url) as system:
        variables = {
            "REJOIN_NATS_CREDS_FILE": str(shared.file("shop", "admin")),
            "REJOIN_NATS_PREFIX": "shop",
        }
        assert (await run_rejoin(system, "migrate", **variables))[0] == 0
        code, printed, _ = await run_rejoin(system, "nats-users", "SHARED", **variables)
        assert (code, "shop.report.runner,_INBOX_shop_gateway.>" in printed) == (0, True)
    found = await doctor.examine(
        DoctorSettings(
            nats_url=shared.server.url(),
            database_url=database_url,
            nats_creds_file=str(shared.file("shop", "admin")),
            nats_prefix="absent",
        )
    )
    wrong = [one.text for one in found if one.severity is Severity.ERROR]
    assert any("absent_LOG" in text and "are missing" in text for text in wrong)


@pytest.mark.slow
async def test_streams_are_stored_where_their_tags_say(tmp_path: Path) -> None:
    """One replica, on the tagged server of three; without tags three replicas are on all of them."""
    async with (
        asyncio.timeout(60),
        cluster(tmp_path, 3) as brokers,
        nats_connection.connect(brokers.url("admin"), "migrate") as admin,
    ):
        wanted = setup.StreamSettings(placement_tags=("name:nats-2",))
        await setup.declare_streams_when_ready(admin, wanted)
        for stream in (subjects.LOG, subjects.REQUESTS, subjects.FILES):
            assert await servers_of(admin, stream) == {"nats-2"}
        await setup.declare_streams_when_ready(admin, setup.StreamSettings(replicas=3))

        async def is_spread() -> bool:
            return await servers_of(admin, subjects.LOG) == {"nats-1", "nats-2", "nats-3"}

        await wait_until(is_spread)


async def servers_of(admin: NatsConnection, stream: str) -> set[str]:
    found = msgspec.json.decode(await admin.call_api(f"$JS.API.STREAM.INFO.{stream}"))["cluster"]
    return {found.get("leader"), *(one["name"] for one in found.get("replicas") or ())}
