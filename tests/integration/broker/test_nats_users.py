"""Users by credentials file and by key, on real servers: in operator mode, over WebSocket, behind a leaf."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from rejoin.cli import doctor
from rejoin.cli.check_settings import DoctorSettings
from rejoin.cli.finding import Severity
from rejoin_adapters.jetstream import nats_connection, setup
from rejoin_adapters.jetstream.nats_client import INTERNALS
from rejoin_adapters.jetstream.nats_connection import NatsConnection, PermissionDenied
from rejoin_gateway.embed import connect
from rejoin_gateway.settings import GatewaySettings
from rejoin_protocol.broker import broker_url, subjects
from rejoin_protocol.broker.broker_permissions import BrokerPermissions, one_account
from rejoin_protocol.broker.broker_url import BrokerUrl
from rejoin_protocol.broker.nats_credentials import USER_PREFIX
from rejoin_protocol.errors import Invalid, RejoinError
from rejoin_protocol.ids import AgentName
from tests.support.system.certificates import Authority
from tests.support.system.local_system import LocalSystem
from tests.support.system.observation import wait_until
from tests.support.system.operator_mode import ConfiguredNats, Identity, Operator
from tests.support.system.processes import HOST, free_ports, run_rejoin

PERMISSIONS = BrokerPermissions(subjects.DEFAULT)
GATEWAY, RUNNER = map(one_account, (PERMISSIONS.gateway, PERMISSIONS.runner))
WEBSOCKET_TIMEOUT = "ignore:parameter 'timeout' of type 'float':DeprecationWarning"
"""nats-py passes aiohttp a timeout in its old form."""


class Managed:
    """A server in operator mode, and files with the credentials of its users."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.operator = Operator()
        self.websocket_port, self.leaf_port = (first := free_ports(2)), first + 1
        text = (
            f"websocket {{ listen: '{HOST}:{self.websocket_port}', no_tls: true }}\n"
            f"leafnodes {{ listen: '{HOST}:{self.leaf_port}' }}\n"
        )
        self.server = ConfiguredNats(path / "nats", self.operator.config() + text, domain="hub")
        for name, role in {"admin": None, "gateway": GATEWAY, "runner": RUNNER}.items():
            self.file(name).write_text(self.operator.user(role))

    def file(self, name: str) -> Path:
        return self.path / f"{name}.creds"

    def broker(self, name: str, url: str = "") -> BrokerUrl:
        return broker_url.parse(url or self.server.url(), creds_file=str(self.file(name)))


@pytest.fixture(scope="module")
async def managed(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Managed]:
    one = Managed(tmp_path_factory.mktemp("managed"))
    try:
        await one.server.start()
        async with nats_connection.connect(one.broker("admin"), "migrate") as admin:
            await setup.declare_streams(admin, setup.StreamSettings())
        yield one
    finally:
        await one.server.stop()


async def chat(system: LocalSystem, base: str) -> None:
    """An answer, and an approval with its second turn."""
    assert (await system.post(base, system.chat(system.fresh("s"), "count 20"))).complete
    asked = system.fresh("s")
    await system.post(base, system.chat(asked, "delete notes.txt"))
    decided = await system.post(base, await system.decision(base, asked, approved=True))
    assert decided.text == "notes.txt is deleted."


async def run_by_files(managed: Managed, database_url: str, url: str) -> None:
    with capture_logs() as lines:
        async with LocalSystem(url, database_url) as system:
            base = await system.gateway(nats_creds_file=str(managed.file("gateway")))
            await system.runner(nats_creds_file=str(managed.file("runner")))
            await chat(system, base)
            assert (await system.get(f"{base}/health/ready")).status == 200
    assert [line for line in lines if line["event"] == "broker_denied"] == []
    assert "SU" + managed.file("runner").read_text().split("\nSU")[1].split("\n")[0] not in str(lines)


@pytest.mark.feature("F111")
async def test_the_services_work_with_users_that_their_permissions_made(
    managed: Managed, database_url: str
) -> None:
    """In operator mode, each with the permissions that `rejoin nats-users` prints: nothing is denied."""
    await run_by_files(managed, database_url, managed.server.url())
    async with nats_connection.connect(managed.broker("gateway"), "gateway-api") as gateway:
        with pytest.raises(PermissionDenied):
            await gateway.call_api("run.x.log", b"forged")
        with pytest.raises(PermissionDenied):
            await gateway.call_api(f"$JS.API.STREAM.PURGE.{subjects.LOG}")


async def test_the_commands_and_the_library_take_a_credentials_file(
    managed: Managed, database_url: str
) -> None:
    given: dict[str, Any] = {"nats_url": managed.server.url(), "database_url": database_url}
    found = await doctor.examine(
        DoctorSettings(**given, nats_creds_file=str(managed.file("gateway")), allow_anonymous=True)
    )
    texts = [finding.text for finding in found]
    assert "broker: this user cannot write logs" in texts
    assert not [one for one in found if one.text.startswith("broker") and one.severity is Severity.ERROR]
    settings = GatewaySettings(**given, nats_creds_file=str(managed.file("gateway")))
    async with connect(settings) as rejoin:
        assert await rejoin.service.backend.agents.find(AgentName("nobody")) is None
    async with LocalSystem(managed.server.url(), database_url) as system:
        variables = {"REJOIN_NATS_CREDS_FILE": str(managed.file("admin"))}
        assert (await run_rejoin(system, "migrate", **variables))[0] == 0


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read: No such file"),
        ("{}", "no block BEGIN NATS USER JWT"),
        ("\udc80", "not a text"),
    ],
)
async def test_a_wrong_file_is_named_before_anything_connects(
    tmp_path: Path, content: str | None, words: str
) -> None:
    file = tmp_path / "user.creds"
    if content is not None:
        file.write_bytes(content.encode(errors="surrogateescape"))
    broker = broker_url.parse("nats://127.0.0.1:1", creds_file=str(file))
    async with asyncio.timeout(1):
        with pytest.raises(Invalid, match=rf"REJOIN_NATS_CREDS_FILE names {file}.*{words}"):
            async with nats_connection.connect(broker, "gateway-api"):
                pass


async def test_a_strangers_credentials_are_refused_and_their_file_is_named(
    managed: Managed, tmp_path: Path
) -> None:
    file = tmp_path / "stranger.creds"
    file.write_text(Operator().user(GATEWAY))
    broker = broker_url.parse(managed.server.url(), creds_file=str(file))
    with capture_logs() as lines, pytest.raises(RejoinError, match=f"refuses our credentials in {file}"):
        async with asyncio.timeout(5), nats_connection.connect(broker, "gateway-api"):
            pass
    assert file.read_text().split("\n")[1] not in str(lines)


async def test_credentials_without_the_private_parts_of_the_client_are_refused(
    managed: Managed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nats_connection, "INTERNALS", INTERNALS._replace(credentials=False))
    with pytest.raises(RejoinError, match="cannot use credential files"):
        async with nats_connection.connect(managed.broker("gateway"), "gateway-api"):
            pass


async def test_a_file_that_is_replaced_is_used_when_the_users_jwt_expires(
    managed: Managed, tmp_path: Path
) -> None:
    """The server ends the connection; in between the file is damaged, as one that is being written."""
    file, user = tmp_path / "rotated.creds", Identity(USER_PREFIX)
    file.write_text(managed.operator.user(expires_s=2, user=user))
    broker = broker_url.parse(managed.server.url(), creds_file=str(file))
    with capture_logs() as lines:
        async with asyncio.timeout(20), nats_connection.connect(broker, "gateway-api") as connection:
            await setup.check_log_readable(connection)
            file.write_text("half")
            await wait_until(lambda: "no block BEGIN NATS USER JWT" in str(lines))
            file.write_text(managed.operator.user(user=user))
            await wait_until(lambda: connection.connected)
            await setup.check_log_readable(connection)
    assert user.seed not in str(lines)


@pytest.mark.feature("F111")
async def test_a_user_by_its_key_alone(tmp_path: Path) -> None:
    user = Identity(USER_PREFIX)
    server = ConfiguredNats(tmp_path / "nats", f"authorization {{ users: [ {{ nkey: {user.public} }} ] }}\n")
    file = tmp_path / "user.nk"
    file.write_text(user.seed)
    try:
        await server.start()
        broker = broker_url.parse(server.url(), nkey_file=str(file))
        async with nats_connection.connect(broker, "migrate") as admin:
            await setup.declare_streams(admin, setup.StreamSettings())
            await server.restart()
            await wait_until(lambda: admin.connected)
            await setup.check_log_readable(admin)
        file.write_text(Identity(USER_PREFIX).seed)
        with pytest.raises(RejoinError, match=f"refuses our credentials in {file}"):
            async with nats_connection.connect(broker, "migrate"):
                pass
    finally:
        await server.stop()


# ------------------------------------------------------------------------------------------------ WebSocket


@pytest.mark.filterwarnings(WEBSOCKET_TIMEOUT)
async def test_the_services_work_over_websocket(managed: Managed, database_url: str) -> None:
    await run_by_files(managed, database_url, f"ws://{HOST}:{managed.websocket_port}")


@pytest.mark.filterwarnings(WEBSOCKET_TIMEOUT)
async def test_a_websocket_with_tls_comes_back_after_a_restart_and_is_verified(tmp_path: Path) -> None:
    ours, other = Authority(tmp_path, "ours"), Authority(tmp_path, "other")
    certificate, key = ours.sign("nats")
    port = free_ports(1)
    tls = f'tls {{ cert_file: "{certificate}", key_file: "{key}" }}'
    server = ConfiguredNats(tmp_path / "nats", f"websocket {{ listen: '{HOST}:{port}', {tls} }}\n")
    url = f"wss://{HOST}:{port}/?sslrootcert="
    try:
        await server.start()
        async with nats_connection.connect(f"{url}{ours.ca}", "migrate") as connection:
            await setup.declare_streams(connection, setup.StreamSettings())
            await server.restart()
            await wait_until(lambda: connection.connected)
            await readable(connection)
        with pytest.raises(RejoinError, match="certificate that we do not trust"):
            async with nats_connection.connect(f"{url}{other.ca}", "migrate"):
                pass
    finally:
        await server.stop()


async def readable(connection: NatsConnection) -> None:
    async with asyncio.timeout(10):
        await setup.require_streams(connection)
        await setup.check_log_readable(connection)


# ----------------------------------------------------------------------------------------------- leaf nodes


async def test_the_services_work_behind_a_leaf_node(managed: Managed, database_url: str) -> None:
    """Their server has JetStream in a domain of its own; the streams are at the hub."""
    remote = f"url: 'nats-leaf://{HOST}:{managed.leaf_port}', credentials: '{managed.file('admin')}'"
    leaf = ConfiguredNats(
        managed.path / "leaf", f"leafnodes {{ remotes: [ {{ {remote} }} ] }}\n", domain="edge"
    )
    try:
        await leaf.start()
        async with LocalSystem(f"{leaf.url()}/?api=$JS.hub.API", database_url) as system:
            base = await system.gateway()
            await system.runner()
            await chat(system, base)
    finally:
        await leaf.stop()
