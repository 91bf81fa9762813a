"""`rejoin dev`: everything on this machine, in one command, made to have its plugs pulled.

Owns child processes: the embedded servers, the gateways, the runners. Each is started again when it dies, and
none outlives this one. It is a supervisor for one machine and one developer, not for production.
"""

import asyncio
import secrets
import socket
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import structlog

from protocol import seal
from protocol.adapters import broker, migrate, streams
from protocol.adapters.embedded import Server, Servers, embedded
from protocol.adapters.process import SUPERVISOR, LogFormat, on_stop
from protocol.adapters.tasks import beside
from protocol.errors import Invalid

log = structlog.get_logger("rejoin.dev")

HOST = "127.0.0.1"
KILL_RUNNER = "kill-runner"
"""What a gateway may ask for, in a line to its supervisor."""
CONFIG = "rejoin.toml"
CONTEXT_KEY = "context.key"
STOP_GRACE_S = 15.0
RESTART_FIRST_S = 0.1
RESTART_MAX_S = 5.0
STABLE_S = 10.0
"""A child that lived this long is started again at once."""


class Settings(msgspec.Struct, frozen=True):
    """Real servers instead of the embedded ones, `REJOIN_…` each; the rest is the services' own."""

    nats_url: str | None = None
    database_url: str | None = None
    default_agent: str | None = None
    log_level: str = "info"
    log_format: LogFormat = "auto"


class Plan(msgspec.Struct, frozen=True):
    """What the command line asks for. `agents` is MODULE:ATTR, or None for the demo."""

    agents: str | None
    port: int
    data_dir: Path
    gateways: int
    runners: int
    config: str | None


class Progress:
    """What is starting and how far it is: a line each, on stderr."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def __call__(self, text: str) -> None:
        """One line."""
        sys.stderr.write(f"  {time.monotonic() - self._began:5.1f} s  {text}\n")
        sys.stderr.flush()


async def run(plan: Plan, settings: Settings, variables: Mapping[str, str]) -> None:
    """Until SIGTERM or SIGINT. Raises `RejoinError` if something cannot start."""
    for number in range(plan.gateways):
        _check_port(plan.port + number)
    stop = asyncio.Event()
    with on_stop(stop.set):
        async with beside(_up(plan, settings, variables)):
            await stop.wait()


async def _up(plan: Plan, settings: Settings, variables: Mapping[str, str]) -> None:
    progress = Progress()
    async with AsyncExitStack() as stack:
        servers = await stack.enter_async_context(
            embedded(
                plan.data_dir,
                on_progress=progress,
                nats_url=settings.nats_url,
                database_url=settings.database_url,
            )
        )
        _write_config(plan.data_dir / CONFIG, servers)
        progress("preparing streams and tables")
        await _prepare(servers)
        environment = dict(variables) | {
            "REJOIN_NATS_URL": servers.nats_url,
            "REJOIN_DATABASE_URL": servers.database_url,
            "REJOIN_HOST": HOST,
            "REJOIN_DEV": "true",
            "REJOIN_ANONYMOUS": "true",
            "REJOIN_CONTEXT_KEYS": variables.get("REJOIN_CONTEXT_KEYS") or _context_keys(plan.data_dir),
        }
        services = Services(plan, settings, environment, progress)
        async with beside(*(_keep_server(server) for server in servers.own), services.keep()):
            await services.ready()
            progress(f"ready: {plan.gateways} gateway(s), {plan.runners} runner(s)")
            for number in range(plan.gateways):
                progress(f"http://{HOST}:{plan.port + number}")
            sys.stdout.write(f"ready http://{HOST}:{plan.port}\n")
            sys.stdout.flush()
            await asyncio.Event().wait()


async def _prepare(servers: Servers) -> None:
    async with broker.connect(servers.nats_url, "dev") as connection:
        await streams.declare(connection, streams.Settings())
    await migrate.migrate(servers.database_url)


def _write_config(path: Path, servers: Servers) -> None:
    """For `rejoin runs --config`: the servers' addresses hold their secrets, so it is ours alone."""
    path.touch(0o600)
    path.write_text(f'nats_url = "{servers.nats_url}"\ndatabase_url = "{servers.database_url}"\n')


def _context_keys(data_dir: Path) -> str:
    """What contexts are sealed with, made once for each data directory."""
    path = data_dir / CONTEXT_KEY
    if not path.exists():
        path.touch(0o600)
        path.write_text(f"dev:{b64encode(secrets.token_bytes(seal.KEY_BYTES)).decode()}\n")
    return path.read_text().strip()


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as fault:
            raise Invalid(
                f"port {port} cannot be used ({fault.strerror}): choose another with --port"
            ) from fault


async def _keep_server(server: Server) -> None:
    while True:
        code = await server.wait()
        log.warning("server_died", server=server.name, code=code)
        await server.start()


class Services:
    """The gateways and runners of one `rejoin dev`."""

    def __init__(
        self, plan: Plan, settings: Settings, environment: Mapping[str, str], progress: Progress
    ) -> None:
        self._progress = progress
        agents = [plan.agents] if plan.agents else []
        config = ["--config", plan.config] if plan.config else []
        self._runners = [
            Service(f"runner {number}", ["runner", *agents, *config], environment)
            for number in range(plan.runners)
        ]
        self._gateways = [
            Service(
                f"gateway {number}",
                ["gateway", "gateway", *config],
                dict(environment) | {"REJOIN_PORT": str(plan.port + number)},
                {KILL_RUNNER: self.kill_runners},
            )
            for number in range(plan.gateways)
        ]
        # Without a module to import, the runners serve the demo; with one, they say what they serve.
        self._default = settings.default_agent or (None if agents and self._runners else "demo")

    async def keep(self) -> None:
        """Start all and keep them alive. The gateways' default is the first agent that a runner names."""
        self._progress(f"starting {len(self._runners)} runner(s) and {len(self._gateways)} gateway(s)")
        async with beside(*(runner.keep({}) for runner in self._runners)):
            default = self._default or (await self._runners[0].ready())[0]
            variables = {"REJOIN_DEFAULT_AGENT": default}
            async with beside(*(gateway.keep(variables) for gateway in self._gateways)):
                await asyncio.Event().wait()

    def kill_runners(self) -> None:
        """As a crash would: the playground's button."""
        for runner in self._runners:
            runner.kill()

    async def ready(self) -> None:
        """Until each has been ready once."""
        for service in (*self._runners, *self._gateways):
            await service.ready()


class Service:
    """A gateway or runner process that is started again whenever it dies."""

    def __init__(
        self,
        name: str,
        arguments: list[str],
        environment: Mapping[str, str],
        wishes: Mapping[str, Callable[[], None]] | None = None,
    ) -> None:
        self.name = name
        self._arguments = arguments
        self._environment = environment
        self._wishes = wishes or {}
        self._process: asyncio.subprocess.Process | None = None
        self._ready: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()

    async def ready(self) -> list[str]:
        """What it said about itself when it was ready for the first time."""
        return await asyncio.shield(self._ready)

    def kill(self) -> None:
        """SIGKILL, if it runs; it is started again."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def keep(self, variables: Mapping[str, str]) -> None:
        """For ever. Raises `Invalid` if it dies before it was ever ready: trying again would not help."""
        wait_s = RESTART_FIRST_S
        while True:
            began = time.monotonic()
            code = await self._once(variables)
            if not self._ready.done():
                raise Invalid(f"{self.name} did not start (exit code {code}): see its last words above")
            wait_s = (
                RESTART_FIRST_S if time.monotonic() - began > STABLE_S else min(wait_s * 2, RESTART_MAX_S)
            )
            log.warning("service_died", service=self.name, code=code, restart_in_s=wait_s)
            await asyncio.sleep(wait_s)

    async def _once(self, variables: Mapping[str, str]) -> int:
        ours, theirs = socket.socketpair()
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                *self._arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=sys.stderr,
                env={**self._environment, **variables, SUPERVISOR: str(theirs.fileno())},
                pass_fds=(theirs.fileno(),),
                process_group=0,  # Ctrl-C is ours to hear
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._process = process
        reader, writer = await asyncio.open_connection(sock=ours)
        try:
            await self._listen(reader)
            return await process.wait()
        finally:
            await _end(process)
            writer.close()

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        """Until the process closes its end, as it does when it dies."""
        async for line in reader:
            word, *facts = line.decode().split()
            if word == "ready" and not self._ready.done():
                self._ready.set_result(facts)
            elif word in self._wishes:
                self._wishes[word]()


async def _end(process: asyncio.subprocess.Process) -> None:
    """SIGTERM, and SIGKILL for one that does not listen; a cancellation only makes it quicker."""
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(STOP_GRACE_S):
            await process.wait()
    except (TimeoutError, asyncio.CancelledError) as cause:
        process.kill()
        await process.wait()
        if isinstance(cause, asyncio.CancelledError):
            raise
