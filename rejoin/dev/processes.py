"""The gateways and runners of one `rejoin dev`: their command lines, and the order in which they start."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

from rejoin.dev.supervised_process import SupervisedProcess, Variables
from rejoin_adapters.process.background import run_alongside

KILL_RUNNER = "kill-runner"
"""The command that a gateway sends when the playground's button *Kill the runner* is pressed."""
PREPARED = "prepared"
"""The command that the first service sends when tables and streams exist: see `rejoin.dev.prepare`."""


class DevProcesses:
    """All services of one `rejoin dev`. `run_processes` starts and stops them.

    `runners`: the arguments of each runner. `gateways`: the arguments of each gateway, by port.
    `default_agent`: the agent for requests that name none; None means the first
    agent that a runner announces. The first of all services prepares the servers for the others.
    """

    def __init__(
        self,
        runners: Sequence[Sequence[str]],
        gateways: Mapping[int, Sequence[str]],
        environment: Variables,
        default_agent: str | None,
    ) -> None:
        self._is_prepared = asyncio.Event()
        commands = {PREPARED: self._is_prepared.set, KILL_RUNNER: self.kill_runners}

        def arguments(module: str, *command: str, is_first: bool) -> Callable[[], list[str]]:
            """At a restart nothing is prepared: a service that is needed again starts at once, and waits by
            itself for a server that is away.
            """
            prepare = ["rejoin.dev.prepare"] if is_first else []
            return lambda: [module, *([] if self._is_prepared.is_set() else prepare), *command]

        self._runners = [
            SupervisedProcess(
                f"runner {number}",
                arguments("rejoin_runner.app", "rejoin_runner", *command, is_first=number == 0),
                environment,
                commands,
            )
            for number, command in enumerate(runners)
        ]
        self._gateways = [
            SupervisedProcess(
                f"gateway {number}",
                arguments("rejoin_gateway.app", "rejoin", *command, is_first=not runners and number == 0),
                {**environment, "REJOIN_PORT": str(port)},
                commands,
            )
            for number, (port, command) in enumerate(gateways.items())
        ]
        self._default_agent = default_agent

    @property
    def all(self) -> Sequence[SupervisedProcess]:
        """Runners first, then gateways."""
        return (*self._runners, *self._gateways)

    @property
    def unready(self) -> list[str]:
        """The names of the services that have not been ready yet."""
        return [service.name for service in self.all if not service.was_ready]

    async def default_agent(self) -> str:
        """Wait until the default agent is known. Returns its name."""
        return self._default_agent or (await self._runners[0].ready())[0]

    async def supervise(self, variables: Variables) -> None:
        """Send the services their variables, and restart those that die, until cancelled.

        All but the first get theirs when tables and streams exist, gateways when the default agent is known,
        too. Raises `Invalid` if a service cannot start.
        """
        async with run_alongside(*(self._supervise(service, variables) for service in self.all)):
            await asyncio.Event().wait()

    async def _supervise(self, service: SupervisedProcess, variables: Variables) -> None:
        if service is not self.all[0]:
            await self._is_prepared.wait()
        if service in self._gateways:
            variables = {**variables, "REJOIN_DEFAULT_AGENT": await self.default_agent()}
        await service.supervise(variables)

    async def prepared(self) -> None:
        """Wait until tables and streams exist."""
        await self._is_prepared.wait()

    def kill_runners(self) -> None:
        """Send SIGKILL to all runners, as a crash would end them. They are restarted."""
        for runner in self._runners:
            runner.kill()

    def restart_runners(self) -> None:
        """Let the runners hand their runs over and start again, with the code as it is now."""
        for runner in self._runners:
            runner.restart()

    async def ready(self) -> None:
        """Wait until each service has been ready once."""
        for service in self.all:
            await service.ready()


@asynccontextmanager
async def run_processes(services: DevProcesses) -> AsyncIterator[None]:
    """Start the services' processes. At the end of the context no process is left."""
    try:
        for service in services.all:
            await service.start()
        yield
    finally:
        async with asyncio.TaskGroup() as group:
            for service in services.all:
                group.create_task(service.stop())
