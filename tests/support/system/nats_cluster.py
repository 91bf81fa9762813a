"""NATS servers with the production configuration `deploy/nats.conf`, with this test's ports, paths and
secrets.

They end with the test. A killed server can be started again on its port and its data.
"""

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import override

from rejoin_adapters.embedded.nats import NatsServer
from rejoin_adapters.embedded.server import ServerOptions
from rejoin_protocol.broker import broker_permissions
from rejoin_protocol.broker.broker_permissions import BrokerPermissions
from rejoin_protocol.broker.subjects import BrokerNames
from tests.support.system.forked_python import ROOT
from tests.support.system.processes import HOST, free_ports

CONFIG = ROOT / "deploy" / "nats.conf"
ROLES = ("admin", "gateway", "runner")


class ListeningNats(NatsServer):
    """A server that is ready as soon as it listens, whoever its users are."""

    @override
    async def _probe(self, port: int) -> bool:
        reader, writer = await asyncio.open_connection(HOST, port)
        try:
            return (await reader.readline()).startswith(b"INFO ")
        finally:
            writer.close()


class Node(ListeningNats):
    """One of them. `cluster`: its port for routes, and those of all servers, if it is not alone. `monitor`:
    its port for monitoring; 0 for none.
    """

    def __init__(
        self,
        path: Path,
        port: int,
        passwords: str,
        cluster: tuple[int, Sequence[int]],
        tls: str = "",
        shards: int = 1,
        monitor: int = 0,
    ) -> None:
        path.mkdir(parents=True)
        super().__init__(ServerOptions(path, durable=True, report=lambda _: None), port)
        self._passwords = passwords
        self._cluster = cluster
        self._tls = tls
        self._shards = shards
        self.monitor = monitor

    @override
    def config(self, port: int) -> str:
        own, others = self._cluster
        given = self.options.path / "passwords"
        given.touch(0o600)
        words = [f'{role}_password: "{role}-{self._passwords}"' for role in ROLES]
        if others:
            routes = ", ".join(f'"nats-route://route:{self._passwords}@{HOST}:{one}"' for one in others)
            words += [f'route_password: "{self._passwords}"', f"routes: [{routes}]"]
        given.write_text("\n".join(words))
        head, generated, accounts = CONFIG.read_text().partition("# The rest is generated")
        text = head + generated + accounts
        if self._shards > 1:
            text = head + BrokerPermissions(BrokerNames(shards=self._shards)).render()
        for ours, this in {
            "client_advertise: $NATS_SERVER": f'client_advertise: "{HOST}:{port}"',
            "server_name: $NATS_SERVER": f"server_name: {self.options.path.name}\n"
            f'server_tags: ["name:{self.options.path.name}"]',
            "0.0.0.0:4222": f"{HOST}:{port}",
            "0.0.0.0:6222": f"{HOST}:{own}",
            'http: "127.0.0.1:8222"': f'http: "{HOST}:{self.monitor}"' if self.monitor else "",
            "../../run/secrets/nats_passwords": given.name,
            '"/data"': f'"{self.options.path / "nats"}"',
        }.items():
            assert text.count(ours) == 1, ours
            text = text.replace(ours, this)
        if not others:
            text = re.sub(r"^cluster {.*?^}$", "", text, flags=re.DOTALL | re.MULTILINE)
        return text + self._tls


class Cluster:
    """The servers, and the URLs of their users."""

    def __init__(self, nodes: list[Node], passwords: str) -> None:
        self.nodes = nodes
        self._passwords = passwords

    def url(self, role: str, *, parameters: str = "", scheme: str = "nats") -> str:
        """The URL of a user: gateway, runner or admin."""
        servers = [f"{scheme}://{role}:{role}-{self._passwords}@{HOST}:{node.port}" for node in self.nodes]
        if role in (broker_permissions.GATEWAY_USER, broker_permissions.RUNNER_USER):
            parameters = "&".join(filter(None, (f"api={broker_permissions.CORE_API}", parameters)))
        return ",".join(servers) + (f"/?{parameters}" if parameters else "")


@asynccontextmanager
async def cluster(
    path: Path, count: int = 1, *, tls: str = "", shards: int = 1, monitored: bool = False
) -> AsyncIterator[Cluster]:
    """Start `count` servers that form a cluster. They listen; they may have no leader yet. `shards`: for so
    many the users have permissions. `monitored`: each has a port for monitoring.
    """
    passwords = secrets.token_hex(12)
    first = free_ports(2 * count)
    ports, routes = range(first, first + count), range(first + count, first + 2 * count)
    nodes = [
        Node(
            path / f"nats-{number + 1}",
            ports[number],
            passwords,
            (routes[number], routes if count > 1 else ()),
            tls,
            shards,
            free_ports(1) if monitored else 0,
        )
        for number in range(count)
    ]
    async with AsyncExitStack() as stopping:
        for node in nodes:
            stopping.push_async_callback(node.stop)
        async with asyncio.TaskGroup() as group:
            for node in nodes:
                group.create_task(node.start())
        yield Cluster(nodes, passwords)
