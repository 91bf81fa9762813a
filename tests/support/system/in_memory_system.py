"""A whole Rejoin in memory: gateways on real ports and runners, on the doubles of all ports."""

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, override

import msgspec

from rejoin_adapters.memory.broker.agent_registry import MemoryAgentRegistry
from rejoin_adapters.memory.broker.run_control import MemoryRunControl
from rejoin_adapters.memory.broker.run_log import MemoryRunLog
from rejoin_adapters.memory.broker.run_queue import MemoryRunQueue
from rejoin_adapters.memory.database.files import MemoryFileStore
from rejoin_adapters.memory.database.tables import MemoryDatabase
from rejoin_adapters.ports.run_store import RunStore
from rejoin_adapters.webhook_endpoints import WebhookEndpoints
from rejoin_gateway.api.mcp import endpoint
from rejoin_gateway.app import build_application
from rejoin_gateway.auth.authenticator import AuthSettings, open_authenticator
from rejoin_gateway.core import remote_fetch
from rejoin_gateway.core.attachments import Attachments
from rejoin_gateway.core.backend import Backend
from rejoin_gateway.http.gateway_service import GatewayService
from rejoin_gateway.http.rate_limit import TenantRates
from rejoin_gateway.images.image_pool import ImagePool
from rejoin_protocol.ids import AgentName, TenantId
from rejoin_runner.agent.agent import Agent
from rejoin_runner.demo import build_demo_agent
from rejoin_runner.worker.configuration import ServedAgent, WorkerLimits, WorkerPorts, WorkerSignals
from rejoin_runner.worker.worker import Worker
from tests.support.data.database_ports import memory_ports
from tests.support.system.local_system import LocalSystem


class InMemorySystem(LocalSystem):
    """Neither NATS nor PostgreSQL: all gateways and runners share the same doubles."""

    def __init__(self) -> None:
        super().__init__("", "")
        self.database = MemoryDatabase()
        self.ports = memory_ports(self.database)
        self.store: RunStore = self.ports.run_store
        self.log = MemoryRunLog()
        self.queue = MemoryRunQueue()
        self.control = MemoryRunControl()
        self.registry = MemoryAgentRegistry()
        self.files = MemoryFileStore(self.database)

    @override
    async def gateway(self, *, nats_url: str | None = None, **settings: Any) -> str:
        """Start a gateway; its base URL. Takes no settings."""
        assert (nats_url, settings) == (None, {})
        enter = self._stack.enter_async_context
        fetcher = await enter(remote_fetch.open_fetcher())
        backend = Backend(
            self.store,
            self.log,
            self.queue,
            self.control,
            self.registry,
            self.ports.session_store,
            self.ports.artifacts,
            self.ports.feedback,
            lambda: datetime.now(UTC),
            secrets.token_bytes,
            Attachments(self.files, fetcher, await enter(ImagePool())),
        )
        service = GatewayService(
            audit=self.ports.audit,
            webhooks=lambda tenant: WebhookEndpoints(self.ports.webhooks, tenant, None, secrets.token_bytes),
            run_counts=self.ports.run_counts,
            backend=backend,
            authenticator=await enter(
                open_authenticator(AuthSettings(allow_anonymous=True), self.ports.api_keys)
            ),
            default_agent=AgentName(self.agent),
            tenant_rates=TenantRates(None, self._requests_per_minute),
        )
        await enter(service.changes)
        app = build_application(service, {})
        app[endpoint.ENDPOINT] = await enter(endpoint.open_endpoint(self.ports.mcp_sessions))
        return await self.serve(app)

    async def _requests_per_minute(self, tenant: TenantId) -> int | None:
        return (await self.ports.tenants.get_limits(tenant)).requests_per_minute

    @override
    async def runner(
        self,
        agents: Sequence[Agent] | None = None,
        signals: WorkerSignals = WorkerSignals(),  # noqa: B008 - a frozen struct
        **settings: Any,
    ) -> Worker:
        """Start a runner; returns once it serves. `settings` are those of `WorkerLimits`."""
        served = agents or [msgspec.structs.replace(build_demo_agent(), name=self.agent)]
        worker = Worker(
            "runner",
            [_serve(agent) for agent in served],
            WorkerPorts(
                store=self.store,
                run_log=self.log,
                queue=self.queue,
                control=self.control,
                registry=self.registry,
                files=self.files,
                artifacts=self.ports.artifacts,
                sessions=self.ports.session_store,
            ),
            WorkerLimits(**({"drain_grace_s": 0.1} | settings)),
            signals=signals,
            now_ms=lambda: int(datetime.now(UTC).timestamp() * 1000),
        )
        await self.work(worker)
        return worker


def _serve(agent: Agent) -> ServedAgent:
    assert not isinstance(agent.model, str), "a model of a provider needs the network"
    return ServedAgent(agent, agent.model)
