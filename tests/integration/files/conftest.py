"""A site that serves files, a model that records what it gets, and a gateway that may fetch from the site."""

from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from rejoin_gateway.core import remote_fetch
from rejoin_gateway.http.gateway_service import SERVICE
from rejoin_runner.agent.agent import Agent
from tests.support.clients.attachments import FileSite, RecordingModel
from tests.support.system.local_system import LocalSystem


@pytest.fixture
async def site() -> AsyncIterator[FileSite]:
    one = FileSite()
    app = web.Application()
    app.router.add_get("/{path:.*}", one.serve)
    server = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await server.setup()
    await web.TCPSite(server, "127.0.0.1", 0).start()
    one.port = server.addresses[0][1]
    yield one
    one.over.set()
    await server.cleanup()


@pytest.fixture
def model() -> RecordingModel:
    return RecordingModel()


@pytest.fixture
async def base(system: LocalSystem, model: RecordingModel, site: FileSite) -> AsyncIterator[str]:
    await system.runner([Agent(name=system.agent, model=model)])
    url = await system.gateway()
    async with remote_fetch.open_fetcher(site.allowed) as guarded:
        attachments = system.apps[0][SERVICE].backend.attachments
        assert attachments is not None
        attachments.fetcher = guarded
        yield url
