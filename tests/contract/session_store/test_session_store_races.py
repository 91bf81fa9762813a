"""`SessionStore`: deletion races with other requests. The loser gets an error; nothing is half done."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from rejoin_adapters.postgres.artifacts import PostgresArtifacts
from rejoin_adapters.postgres.runs.run_store import PostgresRunStore
from rejoin_adapters.postgres.session_store import PostgresSessionStore
from rejoin_adapters.store_types import ApprovalRequest, Artifact, Run
from rejoin_protocol.errors import Conflict, Fenced, NotFound
from rejoin_protocol.ids import ApprovalId, CallId, MessageId, RunId, SessionId
from tests.support.data.store_session import DEFAULT, Chat, fresh

pytest_plugins = ("tests.support.data.store_fixtures",)

ROUNDS = 15
NOW = datetime(2026, 1, 2, tzinfo=UTC)


async def late(action: Callable[[], Awaitable[Any]]) -> type[Exception] | None:
    try:
        await action()
    except (Fenced, NotFound, Conflict) as fault:
        return type(fault)
    return None


def actions(store: PostgresRunStore, chat: Chat, run: Run) -> dict[str, Callable[[], Awaitable[Any]]]:
    """All that may meet, on one session."""
    threads, artifacts = PostgresSessionStore(store.database), PostgresArtifacts(store.database)
    artifact = Artifact(fresh("art"), chat.id, run.id, "t", None, None, 1, NOW)
    question = ApprovalRequest(ApprovalId(f"{run.id}_0"), CallId("c"), "rm", {})
    return {
        "put": lambda: artifacts.put(DEFAULT.tenant, artifact),
        "ask": lambda: store.request_approvals(run.id, run.attempt, [question]),
        "send": lambda: chat.send("two"),
        "end": lambda: chat.end(run),
        "interrupt": chat.interrupt,
        "fork": lambda: threads.fork(DEFAULT, chat.id, MessageId("m1"), SessionId(fresh("ses"))),
        "delete": lambda: threads.delete(DEFAULT, chat.id),
        "delete too": lambda: threads.delete(DEFAULT, chat.id),
    }


async def test_whatever_meets_a_deletion_happens_before_it_or_after(postgres: PostgresRunStore) -> None:
    outcomes = set()
    for _ in range(ROUNDS):
        chat = Chat(postgres)
        run = (await chat.claim(await chat.send("one", "m1"))).run
        async with asyncio.TaskGroup() as group:
            tasks = [
                (name, group.create_task(late(act))) for name, act in actions(postgres, chat, run).items()
            ]
        outcomes |= {(name, task.result()) for name, task in tasks}
        made = "select count(*)::text from artifacts where session_id = $1"
        assert await postgres.database.fetch_text(made, chat.id) == "0"
        left = await postgres.history(DEFAULT, chat.id)
        assert left is None or await chat.texts() == ["two"]  # it came after the deletion
        assert await postgres.run_summary(DEFAULT, run.id) is None
        assert run.id in await postgres.logs_to_purge(1000)
    assert {fault for name, fault in outcomes if name in {"put", "ask", "end"}} <= {Fenced, None}
    assert {fault for name, fault in outcomes if name in {"interrupt", "fork"}} <= {NotFound, None}
    assert {fault for name, fault in outcomes if name in {"send", "delete", "delete too"}} == {None}


async def test_a_session_is_deleted_once_however_many_ask(postgres: PostgresRunStore) -> None:
    chat = Chat(postgres)
    run = await chat.complete("one")
    async with asyncio.TaskGroup() as group:
        delete = PostgresSessionStore(postgres.database).delete
        tasks = [group.create_task(delete(DEFAULT, chat.id)) for _ in range(5)]
    said: list[list[RunId] | None] = [list(task.result() or []) or None for task in tasks]
    assert sorted(said, key=str) == [None, None, None, None, [run.id]]
