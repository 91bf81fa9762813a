"""A run whose log accepts no append cannot even be failed in its log: it is abandoned.

Its clients learn of it within a heartbeat, because their streams are aborted; a resume is answered 410; and
the session continues with its next message.
"""

import asyncio
from time import monotonic
from typing import Any, Literal

import aiohttp
import asyncpg
import pytest

from rejoin_adapters.jetstream.nats_connection import STORE_REFUSED, ApiError
from rejoin_adapters.jetstream.run_log import JetStreamRunLog
from rejoin_adapters.ports.run_log import RunLog
from rejoin_adapters.postgres.runs.run_store import PostgresRunStore
from rejoin_adapters.store_types import Claim
from rejoin_protocol.errors import Unavailable
from rejoin_protocol.ids import RunId
from rejoin_protocol.log.record import Head, Mark
from rejoin_protocol.run_request import RunRequest
from rejoin_runner.agent.agent import Agent
from rejoin_runner.run.executor import TOO_MANY_ATTEMPTS
from rejoin_runner.worker.delivery import ABANDON_FACTOR
from tests.support.clients.reconnecting_client import cursor_of, split_frames
from tests.support.models.scripted_models import GatedModel
from tests.support.system.local_system import LocalSystem
from tests.support.system.observation import read_log, wait_until

HEARTBEAT_S = 0.5
SLACK_S = 3.0
WORDS = 5
TRIES = 2 * ABANDON_FACTOR


type Refused = Literal["everything", "all but takeovers"]


class Died(Exception):
    """The process is gone."""


class Filling:
    """A log that a test can make full, or whose writer crashes once, right after the run's last record."""

    def __init__(self, log: RunLog) -> None:
        self._log = log
        self.full: Refused | None = None
        self.refusals = 0
        self.dies = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    async def append(self, run: RunId, head: Head, payload: bytes) -> int:
        if self.full == "everything" or (self.full and payload):
            self.refusals += 1
            raise ApiError(STORE_REFUSED, "maximum messages per subject exceeded")
        seq = await self._log.append(run, head, payload)
        if self.dies and head.mark is Mark.ENDED:
            self.dies = False
            raise Died
        return seq


class Watched:
    """A response that is read until it breaks: what came, and when that was."""

    def __init__(self) -> None:
        self.raw = b""
        self.broken_at = 0.0

    async def read(self, response: aiohttp.ClientResponse) -> None:
        try:
            async for received in response.content.iter_any():
                self.raw += received
        except aiohttp.ClientPayloadError:
            self.broken_at = monotonic()

    async def words(self) -> bool:
        return self.raw.count(b'"text-delta"') == WORDS


@pytest.fixture
def logs(monkeypatch: pytest.MonkeyPatch) -> list[Filling]:
    """The runners' logs."""
    made: list[Filling] = []

    def filling(*brokers: Any) -> Filling:
        made.append(Filling(JetStreamRunLog(*brokers)))
        return made[-1]

    monkeypatch.setattr("rejoin_runner.app.JetStreamRunLog", filling)
    return made


@pytest.mark.feature("F71")
@pytest.mark.parametrize("refused", ["everything", "all but takeovers"])
async def test_clients_of_an_abandoned_run_learn_of_it_within_a_heartbeat(
    system: LocalSystem, logs: list[Filling], refused: Refused
) -> None:
    """They are not ended as if the answer were whole, and not sent in circles when they resume."""
    base, gate, session = (
        await system.gateway(stream_heartbeat_s=HEARTBEAT_S),
        asyncio.Semaphore(WORDS),
        system.fresh("s"),
    )
    agent = Agent(name=system.agent, model=GatedModel(gate, WORDS + 1), text_interval_s=0)
    await system.runner([agent], attempts_max=1, retry_delay_s=0.0)
    url, viewer = f"{base}/api/chat/{session}/stream", Watched()
    post = system.http.post(f"{base}/api/chat", json=system.chat(session, "hello"))
    async with post as response, asyncio.TaskGroup() as group:
        run = RunId(response.headers["x-workflow-run-id"])
        group.create_task(viewer.read(response))
        await wait_until(viewer.words, "the words")
        logs[0].full = refused
        gate.release()
        await wait_until(lambda: failed(system, run), "its end in the database")
        failed_at = monotonic()
    assert logs[0].refusals > 1, "it was given up at once"
    assert viewer.broken_at, "it was ended, and not broken"
    assert viewer.broken_at - failed_at < HEARTBEAT_S + SLACK_S
    assert viewer.raw.count(b'"text-delta"') == WORDS
    rest = await system.get(url, **{"Last-Event-ID": cursor_of(split_frames(viewer.raw)[-1])})
    assert (rest.status, rest.json["code"]) == (410, "gone")
    assert (await system.get(url)).status == 204
    await assert_goes_on(system, base, session, logs[0], gate)


async def failed(system: LocalSystem, run: RunId) -> bool:
    connection = await asyncpg.connect(system.database_url)
    try:
        row = await connection.fetchrow("select state, error, error_code from runs where id = $1", run)
    finally:
        await connection.close()
    if row is None or row["state"] != "failed":
        return False
    assert row["error_code"] == TOO_MANY_ATTEMPTS.code
    return TOO_MANY_ATTEMPTS.text in row["error"]


async def assert_goes_on(
    system: LocalSystem, base: str, session: str, log: Filling, gate: asyncio.Semaphore
) -> None:
    """The next run of the session is none the worse for it."""
    log.full = None
    for _ in range(WORDS + 1):
        gate.release()
    answer = await system.post(base, system.chat(session, "and now?"))
    assert answer.complete
    assert answer.text == "".join(f" {number}" for number in range(WORDS + 1))
    messages = (await system.get(f"{base}/api/agents/{system.agent}/{session}")).json["messages"]
    assert [message["role"] for message in messages] == ["user", "user", "assistant"]


@pytest.mark.feature("F71")
async def test_a_run_whose_end_another_attempt_recorded_is_not_abandoned(
    system: LocalSystem, logs: list[Filling]
) -> None:
    """The log has a takeover record after its end. A client that resumes still gets the rest."""
    base, session = await system.gateway(stream_heartbeat_s=HEARTBEAT_S), system.fresh("s")
    await system.runner(retry_delay_s=0.0)
    logs[0].dies = True
    answer = await system.post(base, system.chat(session, "count 5"))
    records = await read_log(system.nats_url, answer.headers["x-workflow-run-id"])
    assert [(record.head.attempt, record.head.mark) for record in records][-2:] == [
        (1, Mark.ENDED),
        (2, Mark.NONE),
    ]
    frames = split_frames(answer.raw)
    rest = await system.get(f"{base}/api/chat/{session}/stream", **{"Last-Event-ID": cursor_of(frames[3])})
    assert split_frames(rest.raw) == frames[4:]


@pytest.mark.feature("F92")
async def test_a_run_that_waits_for_the_database_is_not_abandoned(
    system: LocalSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of deliveries in the meantime does not matter."""
    base = await system.gateway(stream_heartbeat_s=HEARTBEAT_S)
    await system.runner(attempts_max=1, retry_delay_s=0.0)
    claim, tries = PostgresRunStore.claim, 0

    async def away(store: PostgresRunStore, request: RunRequest, runner: str, *more: Any) -> Claim | None:
        nonlocal tries
        tries += 1
        if tries <= TRIES:
            raise Unavailable("the database is away")
        return await claim(store, request, runner, *more)

    monkeypatch.setattr(PostgresRunStore, "claim", away)
    answer = await system.post(base, system.chat(system.fresh("s"), "count 3"))
    assert answer.complete
    assert answer.text == "1 2 3"
    assert tries > TRIES
