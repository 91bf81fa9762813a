"""`rejoin dev` and its processes: each is killed with SIGKILL while a client watches."""

import itertools
import secrets
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, Self

import aiohttp
import asyncpg
import psutil
import pytest
import structlog

from rejoin_adapters.embedded import Servers, embedded
from rejoin_adapters.jetstream import nats_connection, setup
from tests.support.clients.reconnecting_client import DONE, cursor_of, split_frames
from tests.support.system.observation import wait_until
from tests.support.system.processes import HOST, Command, Dev, free_ports, has_exited, rejoin_dev

pytestmark = pytest.mark.slow

OPTIONS = {"gateway": (), "runner": ("--demo",)}
TAKEOVER_S_MAX = 8.0
"""Twice and more of what it takes on a machine with nothing else to do."""
log = structlog.get_logger("tests")


@pytest.fixture(scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Dev]:
    async with rejoin_dev(tmp_path_factory.mktemp("dev")) as one:
        yield one


@pytest.fixture
async def plugged(shared: Dev) -> Dev:
    """A running `rejoin dev`, whatever the test before has done to it."""
    await shared.up()
    await wait_until(lambda: complete(shared), "two runners")
    return shared


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
        yield session


def complete(dev: Dev) -> bool:
    return len(dev.command.living("runner")) == 2


def said_unavailable(response: aiohttp.ClientResponse) -> bool:
    return (
        response.status == 503
        and response.content_type == "application/problem+json"
        and int(response.headers["Retry-After"]) > 0
    )


async def answers(http: aiohttp.ClientSession, url: str, status: int = 200) -> bool:
    with suppress(aiohttp.ClientError):
        async with http.get(url) as response:
            return response.status == status
    return False


def chat(session: str, text: str) -> dict[str, Any]:
    message = {"id": secrets.token_hex(8), "role": "user", "parts": [{"type": "text", "text": text}]}
    return {"id": session, "messages": [message], "trigger": "submit-message"}


def fresh() -> str:
    return f"s-{secrets.token_hex(6)}"


class Watch:
    """One POST under a viewer's eyes: every frame, and when it came."""

    def __init__(self, http: aiohttp.ClientSession, base: str, session: str, text: str) -> None:
        self._request = http.post(f"{base}/api/chat", json=chat(session, text))
        self.frames: list[bytes] = []
        self.times: list[float] = []
        self.run = ""
        self._rest = b""

    async def __aenter__(self) -> Self:
        self._response = await self._request.__aenter__()
        assert self._response.status == 200, await self._response.text()
        self.run = self._response.headers["x-workflow-run-id"]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._request.__aexit__(kind, error, trace)

    async def read(self, frames: int | None = None) -> None:
        """Until there are so many frames, or to the end."""
        while frames is None or len(self.frames) < frames:
            received = await self._response.content.readany()
            if not received:
                return
            self._rest += received
            found = split_frames(self._rest)
            self._rest = self._rest.rpartition(b"\n\n")[2]
            self.frames += found
            self.times += [monotonic()] * len(found)

    @property
    def silence_s(self) -> float:
        """The longest time without an event."""
        return max(later - earlier for earlier, later in itertools.pairwise(self.times))


async def replay(http: aiohttp.ClientSession, base: str, session: str) -> list[bytes]:
    """The session's newest run, whole."""
    async with http.get(f"{base}/api/chat/{session}/stream?startIndex=0") as response:
        assert response.status == 200
        return split_frames(await response.read())


async def history(http: aiohttp.ClientSession, base: str, session: str) -> list[Any]:
    async with http.get(f"{base}/api/agents/demo/{session}") as response:
        assert response.status == 200
        messages: list[Any] = (await response.json())["messages"]
        return messages


def said(message: Any) -> str:
    return "".join(part.get("text", "") for part in message["parts"])


def counted(last: int) -> str:
    return " ".join(str(number) for number in range(1, last + 1))


async def approve(http: aiohttp.ClientSession, base: str, session: str) -> list[bytes]:
    """Say yes to every open question of the session; what follows."""
    messages = await history(http, base, session)
    for part in messages[-1]["parts"]:
        if part.get("state") == "approval-requested":
            part["state"] = "approval-responded"
            part["approval"]["approved"] = True
    body = {"id": session, "messages": messages, "messageId": messages[-1]["id"]}
    async with http.post(f"{base}/api/chat", json=body) as response:
        return split_frames(await response.read())


async def holder(plugged: Dev, run: str) -> psutil.Process:
    """The process that executes a run."""
    connection = await asyncpg.connect(plugged.database_url)
    try:
        name = await connection.fetchval("select runner from runs where id = $1", run)
    finally:
        await connection.close()
    return psutil.Process(int(name.rpartition("-")[2]))


# ------------------------------------------------------------------------------------- one part at a time


@pytest.mark.feature("F71", "F84", "F85")
async def test_a_killed_runner_is_replaced_and_its_viewer_sees_every_event_once(
    plugged: Dev, http: aiohttp.ClientSession
) -> None:
    """The connection never drops."""
    a, b = plugged.gateways
    session = fresh()
    async with Watch(http, a, session, "count 60 every 30 ms") as watch:
        await watch.read(15)
        victim = await holder(plugged, watch.run)
        victim.kill()
        await watch.read()
    log.warning("takeover", seconds=round(watch.silence_s, 2))
    assert watch.silence_s < TAKEOVER_S_MAX
    assert watch.frames[-1] == DONE
    assert watch.frames == await replay(http, b, session)
    assert sum(b'"reset-step"' in frame for frame in watch.frames) == 1
    assert said((await history(http, b, session))[-1]) == counted(60)
    await wait_until(lambda: complete(plugged), "another runner")
    assert has_exited(victim)


@pytest.mark.feature("F82", "F83")
async def test_a_killed_gateways_client_resumes_at_the_other_one(
    plugged: Dev, http: aiohttp.ClientSession
) -> None:
    """Byte for byte; and the killed one is started again."""
    a, b = plugged.gateways
    session = fresh()
    async with Watch(http, a, session, "count 60 every 20 ms") as watch:
        await watch.read(15)
        plugged.find("gateway", 0).kill()
        with suppress(aiohttp.ClientError):
            await watch.read()
    assert watch.frames[-1] != DONE
    headers = {"Last-Event-ID": cursor_of(watch.frames[-1])}
    async with http.get(f"{b}/api/chat/{session}/stream", headers=headers) as response:
        rest = split_frames(await response.read())
    assert rest[-1] == DONE
    assert watch.frames + rest == await replay(http, b, session)
    await wait_until(lambda: answers(http, f"{a}/health/ready"), "the killed gateway's return")
    assert await replay(http, a, session) == await replay(http, b, session)


@pytest.mark.slow
@pytest.mark.feature("F91")
async def test_a_killed_broker_is_started_again_and_everything_goes_on(
    plugged: Dev, http: aiohttp.ClientSession
) -> None:
    """Streams and runs outlast it, and nothing is doubled."""
    a, b = plugged.gateways
    session = fresh()
    async with Watch(http, a, session, "count 80 every 20 ms") as watch:
        await watch.read(15)
        plugged.find("nats").kill()
        await watch.read()
    log.warning("broker", seconds=round(watch.silence_s, 2))
    assert watch.frames[-1] == DONE
    assert watch.frames == await replay(http, b, session)
    assert said((await history(http, b, session))[-1]) == counted(80)


@pytest.mark.slow
@pytest.mark.feature("F92")
async def test_a_killed_database_is_started_again_and_no_run_is_lost(
    plugged: Dev, http: aiohttp.ClientSession
) -> None:
    """Meanwhile requests succeed or get 503, and open streams continue."""
    a, b = plugged.gateways
    session = fresh()
    async with Watch(http, a, session, "count 60 every 20 ms") as watch:
        await watch.read(15)
        killed = plugged.find("postgres")
        killed.kill()
        statuses = []
        while 200 not in statuses:
            async with http.post(f"{b}/api/chat", json=chat(fresh(), "count 3")) as response:
                statuses.append(response.status)
                answer = await response.read()
                assert response.status == 200 or said_unavailable(response)
        await watch.read()
    log.warning("database", statuses=statuses)
    await wait_until(lambda: plugged.command.living("postgres") not in ([], [killed]), "another database")
    await wait_until(lambda: answers(http, f"{b}/health/ready"), "its readiness")
    assert answer.endswith(DONE)
    assert watch.frames[-1] == DONE
    assert watch.frames == await replay(http, b, session)
    assert said((await history(http, b, session))[-1]) == counted(60)


@pytest.mark.feature("F94")
async def test_a_second_instance_on_the_same_port_or_directory_ends_with_one_line(plugged: Dev) -> None:
    """The first instance continues."""
    port, data = plugged.port, plugged.place / "data"
    for at, on, words in (
        (port, plugged.place / "other", f"port {port} cannot be used"),
        (free_ports(2), data, f"{data} is in use"),
    ):
        async with await plugged.start(at, on) as second:
            assert await second.end() == 1
            assert words in second.err
            assert "Traceback" not in second.err
            assert [line for line in second.err.splitlines() if line.startswith("Error: ")] == [
                second.err.splitlines()[-1]
            ]
    assert plugged.command.running


# ----------------------------------------------------------------------------------------- all at once


@pytest.mark.slow
@pytest.mark.feature("F62", "F94")
async def test_sigterm_ends_everything_in_order_and_the_next_start_loses_nothing(
    plugged: Dev, http: aiohttp.ClientSession
) -> None:
    """An approval that waited is decided after the restart."""
    session, other = fresh(), fresh()
    async with Watch(http, plugged.gateways[0], session, "delete notes.txt") as watch:
        await watch.read()
    async with Watch(http, plugged.gateways[0], other, "count 5") as watch:
        await watch.read()
    family = plugged.command.family()
    plugged.command.signal(signal.SIGTERM)
    began = monotonic()
    assert await plugged.command.end() == 0, plugged.command.err
    log.warning("sigterm", seconds=round(monotonic() - began, 2))
    assert [process for process in family if not has_exited(process)] == []
    assert "Traceback" not in plugged.command.err
    began = monotonic()
    await plugged.up()
    log.warning("warm_start", seconds=round(monotonic() - began, 2))
    base = plugged.gateways[1]
    assert said((await history(http, base, other))[-1]) == counted(5)
    assert (await approve(http, base, session))[-1] == DONE
    assert said((await history(http, base, session))[-1]) == "notes.txt is deleted."


@pytest.mark.slow
@pytest.mark.feature("F62", "F71")
async def test_kill_9_leaves_no_process_behind_and_the_next_start_ends_what_was_running(
    plugged: Dev, http: aiohttp.ClientSession
) -> None:
    """The run continues at the end of its log, and the client resumes by cursor. The run that waited for a
    decision is decided through another gateway, and its tool runs once.
    """
    session, waits = fresh(), fresh()
    async with Watch(http, plugged.gateways[0], waits, "delete notes.txt") as asked:
        await asked.read()
    async with Watch(http, plugged.gateways[0], session, "count 40 every 50 ms") as watch:
        await watch.read(15)
        family = plugged.command.family()
        plugged.command.signal(signal.SIGKILL)
        with suppress(aiohttp.ClientError):
            await watch.read()
    await plugged.command.end()

    began = monotonic()
    await wait_until(lambda: all(map(has_exited, family)), "the end of all")
    log.warning("kill_9", seconds=round(monotonic() - began, 2))
    await plugged.up()
    base = plugged.gateways[1]
    headers = {"Last-Event-ID": cursor_of(watch.frames[-1])}
    async with http.get(f"{base}/api/chat/{session}/stream", headers=headers) as response:
        rest = split_frames(await response.read())
    assert watch.frames + rest == await replay(http, base, session)
    assert said((await history(http, base, session))[-1]) == counted(40)
    approved = await approve(http, base, waits)
    assert approved[-1] == DONE
    assert asked.frames[:-1] + approved == await replay(http, base, waits)
    assert sum(b'"tool-output-available"' in frame for frame in approved) == 1
    assert said((await history(http, base, waits))[-1]) == "notes.txt is deleted."


# -------------------------------------------------------------------------------------- without a supervisor


@pytest.mark.slow
@pytest.mark.feature("F91")
async def test_services_wait_for_a_broker_and_outlast_its_absence(
    servers: Servers, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """A line for each try and no traceback at the start; 503 for what comes meanwhile, later."""
    port = free_ports(1)
    base = f"http://{HOST}:{port}"
    async with AsyncExitStack() as stack:
        own = await stack.enter_async_context(
            embedded(tmp_path / "data", database_url=servers.database_url, durable=False)
        )
        async with nats_connection.connect(own.nats_url, "migrate") as connection:
            await setup.declare_streams(connection, setup.StreamSettings())
        await own.nats.stop()
        variables = {
            "REJOIN_NATS_URL": own.nats_url,
            "REJOIN_DATABASE_URL": own.database_url,
            "REJOIN_DEFAULT_AGENT": "demo",
            "REJOIN_PORT": str(port),
            "REJOIN_ALLOW_ANONYMOUS": "true",
        }
        services = [
            await stack.enter_async_context(
                await Command.start(tmp_path / service, service, *OPTIONS[service], variables=variables)
            )
            for service in ("gateway", "runner")
        ]
        for service in services:
            await service.says("waiting_for_broker")
        await own.nats.start()
        await wait_until(lambda: answers(http, f"{base}/health/ready"), "the gateway's readiness")
        await services[1].says('"serving"')
        await outlast(own, http, base)
        assert ["Traceback" in service.err or "Error" in service.err for service in services] == [False] * 2
        for service in services:
            service.signal(signal.SIGTERM)
            assert await service.end() == 0


async def outlast(own: Servers, http: aiohttp.ClientSession, base: str) -> None:
    """The broker goes in the middle of a run, and comes back."""
    session = fresh()
    async with Watch(http, base, session, "count 100 every 20 ms") as watch:
        await watch.read(15)
        await own.nats.stop()
        async with http.post(f"{base}/api/chat", json=chat(fresh(), "count 3")) as response:
            assert said_unavailable(response)
        await wait_until(
            lambda: answers(http, f"{base}/health/ready", 503), "the gateway's word that it is not ready"
        )
        assert await answers(http, f"{base}/health/live")
        await own.nats.start()
        await watch.read()
    log.warning("broker_away", seconds=round(watch.silence_s, 2))
    assert watch.frames[-1] == DONE
    assert watch.frames == await replay(http, base, session)
    assert said((await history(http, base, session))[-1]) == counted(100)


@pytest.mark.feature("F92")
@pytest.mark.parametrize("service", ["gateway", "runner"])
async def test_a_service_without_its_database_logs_it_and_waits(
    servers: Servers, tmp_path: Path, service: str
) -> None:
    url = f"postgresql://nobody:secret-word@{HOST}:{free_ports(1)}/none"
    variables = {
        "REJOIN_NATS_URL": servers.nats_url,
        "REJOIN_DATABASE_URL": url,
        "REJOIN_ALLOW_ANONYMOUS": "true",
    }
    async with await Command.start(
        tmp_path / "logs", service, *OPTIONS[service], variables=variables
    ) as command:
        await command.says("waiting_for_database")
        await command.says("retrying")
        assert command.running
        assert "Traceback" not in command.err
        assert "secret-word" not in command.err
