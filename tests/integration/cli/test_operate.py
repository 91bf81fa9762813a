"""Operators list sessions and runs, watch an installation, and export what is stored of a person."""

import zipfile
from base64 import b64decode
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest

from rejoin_adapters.jetstream import nats_connection
from rejoin_adapters.jetstream.run_log import JetStreamRunLog
from rejoin_protocol.ids import RunId
from tests.support.system.local_system import LocalSystem
from tests.support.system.processes import run_rejoin

PNG = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwAD"
    "hgGAWjR9awAAAABJRU5ErkJggg=="
)
SECRETS = {"REJOIN_API_KEY_PEPPER": "a pepper of some length"}


def lines_of(out: str) -> list[Any]:
    """The objects of JSON lines."""
    return [msgspec.json.decode(line) for line in out.splitlines()]


@pytest.mark.slow
async def test_runs_are_listed_by_what_they_are_page_by_page(system: LocalSystem) -> None:
    await system.runner()
    base, session = await system.gateway(), system.fresh("s")
    asked = [session, session, system.fresh("s")]
    answers = [
        await system.post(base, system.chat(one, text))
        for one, text in zip(asked, ("count 1", "fail", "count 1"), strict=True)
    ]
    ids = [one.headers["x-workflow-run-id"] for one in answers]
    mine = ("runs", "list", "--json", "--agent", system.agent)

    async def listed(*words: str) -> list[str]:
        code, out, err = await run_rejoin(system, *mine, *words)
        assert code == 0, err
        return [one["id"] for one in lines_of(out)]

    assert await listed("--since", "1h") == ids[::-1]
    assert await listed("--session", session) == [ids[1], ids[0]]
    assert await listed("--state", "failed") == [ids[1]]
    assert await listed("--since", "2099-01-01") == []
    code, out, err = await run_rejoin(system, *mine, "--limit", "2")
    assert [one["id"] for one in lines_of(out)] == [ids[2], ids[1]]
    assert err == f"there are more: --before {ids[1]}\n"
    assert await listed("--limit", "2", "--before", ids[1]) == [ids[0]]
    assert (await run_rejoin(system, "runs", "--tenant", "nobody", "list", "--json"))[1] == ""
    code, _, err = await run_rejoin(system, *mine, "--since", "yesterday")
    assert code != 0
    assert "is neither an age (30m, 12h, 7d) nor a time" in err


@pytest.mark.slow
async def test_a_run_is_shown_in_words_and_as_json(system: LocalSystem) -> None:
    await system.runner()
    base, session = await system.gateway(), system.fresh("s")
    run = (await system.post(base, system.chat(session, "delete notes.txt"))).headers["x-workflow-run-id"]
    _, out, _ = await run_rejoin(system, "runs", "show", run)
    assert "state     suspended\n" in out
    assert "waits for a decision about delete, call " in out
    assert " events, suspended, last record " in out
    assert "{" not in out
    [shown] = lines_of((await run_rejoin(system, "runs", "show", run, "--json"))[1])
    assert (shown["id"], shown["state"], shown["log"]["mark"]) == (run, "suspended", "suspended")
    assert [one["tool"] for one in shown["waiting_for"]] == ["delete"]
    assert shown["ended_at"] is None


@pytest.mark.slow
async def test_sessions_are_listed_page_by_page(system: LocalSystem) -> None:
    await system.runner()
    base, sessions = await system.gateway(), [system.fresh("s"), system.fresh("s")]
    for session in sessions:
        await system.post(base, system.chat(session, "count 1"))
    words = ("sessions", "list", "--agent", system.agent, "--json")
    _, out, err = await run_rejoin(system, *words, "--limit", "1", "--since", "1h")
    [newest] = lines_of(out)
    assert (newest["id"], newest["messages"], newest["busy"]) == (sessions[1], 2, False)
    token = err.rsplit(" ", 1)[1].strip()
    _, out, err = await run_rejoin(system, *words, "--limit", "1", "--before", token)
    assert [one["id"] for one in lines_of(out)] == [sessions[0]]
    assert err == ""
    assert (await run_rejoin(system, *words, "--since", "2099-01-01"))[1] == ""
    _, out, _ = await run_rejoin(system, "sessions", "list", "--agent", system.agent)
    assert sessions[1] in out.splitlines()[0]


@pytest.mark.slow
async def test_top_shows_runs_queues_and_the_lag_of_processes(system: LocalSystem) -> None:
    await system.runner()
    base, session = await system.gateway(), system.fresh("s")
    body = system.chat(session, "count 1000 every 50 ms")
    urls = ("--process", f"{base}/metrics", "--process", "http://127.0.0.1:1/metrics")
    async with system.http.post(f"{base}/api/chat", json=body) as response:
        await response.content.readany()
        code, out, err = await run_rejoin(system, "top", "--once", *urls)
        assert code == 0, err
        agent, gateway, dead = (
            next(line.split() for line in out.splitlines() if line.startswith(start))
            for start in (f"{system.agent} ", f"{base}/metrics", "http://127.0.0.1:1/")
        )
        await run_rejoin(system, "runs", "interrupt", response.headers["x-workflow-run-id"])
        await response.read()
    running, ready, _, queued, at_runners = agent[1:6]
    assert (running, ready, queued, at_runners) == ("1", "0", "0", "1")
    assert (gateway[2], gateway[3]) == ("ms", "1")
    assert dead[1:3] == ["no", "answer"]
    assert "\x1b" not in out


@pytest.mark.slow
async def test_usage_and_a_limit_of_money_are_shown_and_set(system: LocalSystem) -> None:
    await system.runner()
    base = await system.gateway()
    await system.post(base, system.chat(system.fresh("s"), "count 3"))
    code, out, err = await run_rejoin(system, "usage", "--by", "agent", "--by", "model", "--json")
    assert code == 0, err
    [mine] = [one for one in lines_of(out) if one["agent"] == system.agent]
    assert (mine["model"], mine["cost_usd"]) == ("", None)
    assert mine["unpriced_tokens"] == mine["input_tokens"] + mine["output_tokens"] > 0
    _, out, _ = await run_rejoin(system, "usage", "--tenant", "default")
    assert out.splitlines()[0].split() == ["DAY", "INPUT", "OUTPUT", "COST", "WITHOUT", "PRICE"]
    tenant = system.fresh("ten")
    _, out, _ = await run_rejoin(system, "tenants", "limits", tenant, "--cost-per-day", "2.5")
    assert "nano_usd_per_day     2500000000 ($2.5000)" in out
    code, _, err = await run_rejoin(system, "tenants", "limits", tenant, "--cost-per-day", "0")
    assert (code, "is not in the range" in err) == (2, True)


@pytest.mark.slow
async def test_everything_of_a_person_is_exported_and_nothing_of_others(
    system: LocalSystem, tmp_path: Path
) -> None:
    """Sessions, messages, runs and logs, approvals, artifacts, feedback, events, keys and files."""
    await system.runner()
    base = await system.gateway(allow_anonymous=False, api_key_pepper=SECRETS["REJOIN_API_KEY_PEPPER"])
    ann, bob = system.fresh("ann"), system.fresh("bob")
    for user in (ann, bob):
        _, key, _ = await run_rejoin(system, "keys", "create", "--user", user, **SECRETS)
        headers, session = {"Authorization": f"Bearer {key.strip()}"}, f"chat-of-{user}"
        chat = system.chat(session, "delete notes.txt")
        chat["messages"][0]["parts"].append({"type": "file", "mediaType": "image/png", "url": PNG})
        async with system.http.post(f"{base}/api/chat", json=chat, headers=headers) as response:
            assert response.status == 200, await response.text()
            await response.read()
        await add_rows(system, user, session)
        await record_call(system, RunId(response.headers["x-workflow-run-id"]), user)
    output = tmp_path / "ann.zip"
    code, out, err = await run_rejoin(system, "export", ann, "--output", str(output))
    assert code == 0, err
    assert ", 1 files\n" in out
    assert output.stat().st_mode & 0o077 == 0
    with zipfile.ZipFile(output) as archive:
        text = archive.read("export.jsonl").decode()
        [file] = [name for name in archive.namelist() if name.startswith("files/")]
        assert file.endswith(".png")
        assert archive.read(file).startswith(b"\x89PNG")
    rows = lines_of(text)
    kinds = {row["type"] for row in rows}
    assert kinds == {
        "session",
        "message",
        "run",
        "approval",
        "artifact",
        "feedback",
        "event",
        "key",
        "file",
        "log",
        "model_call",
    }
    assert {row["row"]["session_id"] for row in rows if row["type"] == "message"} == {f"chat-of-{ann}"}
    assert bob not in text
    assert "hash" not in next(row["row"] for row in rows if row["type"] == "key")
    events = [event["type"] for row in rows if row["type"] == "log" for event in row["row"]["events"]]
    assert "tool-approval-request" in events
    plain, sealed = (row["row"]["call"] for row in rows if row["type"] == "model_call")
    assert plain == {"request": f"asked by {ann}"}
    assert b64decode(sealed) == b"\x01encrypted"
    code, _, err = await run_rejoin(system, "export", ann, "--output", str(output))
    assert (code, err) == (1, f"Error: {output} exists already\n")
    nobody = tmp_path / "nobody.zip"
    assert (await run_rejoin(system, "export", "nobody", "--output", str(nobody)))[1].endswith(
        ": 0 rows, 0 records of logs, 0 files\n"
    )


async def record_call(system: LocalSystem, run: RunId, user: str) -> None:
    """Two recorded calls of a run's model: one plain, one encrypted."""
    async with nats_connection.connect(system.nats_url, "recorder") as connection:
        log = JetStreamRunLog(connection, connection)
        for stored in (msgspec.json.encode({"request": f"asked by {user}"}), b"\x01encrypted"):
            await log.add_model_call(run, 1, stored)


async def add_rows(system: LocalSystem, user: str, session: str) -> None:
    """What a short conversation does not store: an artifact, feedback, an event."""
    connection = await asyncpg.connect(system.database_url)
    try:
        await connection.execute(
            "insert into artifacts (tenant_id, id, session_id, type, body)"
            " values ('default', $1, $2, 't', '{}')",
            f"artifact-{user}",
            session,
        )
        await connection.execute(
            "insert into feedback (tenant_id, user_id, id, session_id, agent, type, created_at)"
            " values ('default', $1, 'f', $2, 'a', 'positive', now())",
            user,
            session,
        )
        await connection.execute(
            "insert into client_events (tenant_id, user_id, id, type, session_id, created_at)"
            " values ('default', null, $1, 'click', $2, now())",
            f"event-{user}",
            session,
        )
    finally:
        await connection.close()


async def test_every_table_with_data_of_a_session_or_user_is_exported_or_says_why_not(
    database_url: str,
) -> None:
    """A new table of a migration fails this test until it is in the export or in the list here."""
    exported = {
        "sessions",
        "messages",
        "runs",
        "approvals",
        "artifacts",
        "feedback",
        "client_events",
        "webhook_deliveries",
        "api_keys",
        "files",
    }
    left_out = {
        "early_stops": "a stop that waits some seconds for its message",
        "file_uses": "which message names which file: the messages say it",
        "run_losses": "about processes",
        "run_failures": "about processes",
        "purges": "ids of deleted runs",
    }
    connection = await asyncpg.connect(database_url)
    try:
        rows = await connection.fetch(
            "select distinct table_name from information_schema.columns"
            " join information_schema.tables using (table_schema, table_name)"
            " where table_schema = current_schema() and table_type = 'BASE TABLE'"
            " and column_name in ('user_id', 'session_id', 'run_id')"
        )
    finally:
        await connection.close()
    assert {row["table_name"] for row in rows} - set(left_out) - exported == set()
