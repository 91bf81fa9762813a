"""TLS to a real broker and a real database: what is trusted, and one clear sentence for what is not."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from structlog.testing import capture_logs

from rejoin_adapters.embedded import Servers
from rejoin_adapters.jetstream import nats_connection, setup
from rejoin_adapters.postgres import migrate
from rejoin_adapters.postgres.pool import open_database
from rejoin_adapters.process.background import run_alongside
from rejoin_protocol.errors import Invalid, RejoinError, Unavailable
from tests.support.system.certificates import Authority
from tests.support.system.local_system import LocalSystem
from tests.support.system.nats_cluster import Cluster, cluster
from tests.support.system.observation import wait_until
from tests.support.system.processes import HOST, Command, free_ports

SOON_S = 10.0
SSL_REQUEST = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"
"""What a client says first that wants TLS (PostgreSQL 55.2.10)."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def ours(place: Path) -> Authority:
    return Authority(place, "ours")


@pytest.fixture(scope="module")
def other(place: Path) -> Authority:
    """A certificate authority that we do not trust."""
    return Authority(place, "other")


@pytest.fixture(scope="module")
async def secured(place: Path, ours: Authority) -> AsyncIterator[Cluster]:
    """A broker with TLS."""
    certificate, key = ours.sign("nats")
    block = f'tls {{ cert_file: "{certificate}", key_file: "{key}" }}\n'
    async with cluster(place / "secured", tls=block) as one:
        async with nats_connection.connect(trusting(one, "admin", ours.ca), "migrate") as admin:
            await setup.declare_streams(admin, setup.StreamSettings())
        yield one


@pytest.fixture(scope="module")
async def mutual(place: Path, ours: Authority) -> AsyncIterator[Cluster]:
    """A broker that wants to see certificates too."""
    certificate, key = ours.sign("nats-mutual")
    block = f'tls {{ cert_file: "{certificate}", key_file: "{key}", ca_file: "{ours.ca}", verify: true }}\n'
    async with cluster(place / "mutual", tls=block) as one:
        yield one


@pytest.fixture(scope="module")
async def database(servers: Servers, ours: Authority) -> AsyncIterator[str]:
    """The URL of a database with TLS, without a word about certificates.

    The embedded server is built without TLS: what it lacks is done before it, as PostgreSQL does it.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*ours.sign("postgres"))
    behind = urlsplit(servers.database_url)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            if await reader.readexactly(8) == SSL_REQUEST:
                writer.write(b"S")
                await writer.start_tls(context)
                theirs, ours = await asyncio.open_connection(behind.hostname, behind.port)
                async with asyncio.TaskGroup() as group:
                    group.create_task(carry(reader, ours))
                    group.create_task(carry(theirs, writer))
        writer.close()

    server = await asyncio.start_server(serve, HOST, 0)
    try:
        port = server.sockets[0].getsockname()[1]
        yield f"postgresql://{behind.username}:{behind.password}@{HOST}:{port}{behind.path}"
    finally:
        server.close()


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while received := await reader.read(65_536):
            writer.write(received)
            await writer.drain()
    writer.close()


def trusting(one: Cluster, role: str, ca: Path, more: str = "") -> str:
    return one.url(role, scheme="tls", parameters=f"sslrootcert={ca}{more}")


async def test_the_services_work_over_tls_alone(secured: Cluster, database: str, ours: Authority) -> None:
    verified = f"{database}?sslmode=verify-full&sslrootcert={ours.ca}"
    async with LocalSystem(trusting(secured, "runner", ours.ca), verified) as system:
        base = await system.gateway(nats_url=trusting(secured, "gateway", ours.ca))
        await system.runner()
        assert (await system.post(base, system.chat(system.fresh("s"), "count 5"))).complete
        assert (await system.get(f"{base}/health/ready")).status == 200


# ---------------------------------------------------------------------------------------------- the broker


async def refused(url: str) -> str:
    """The sentence with which a refused connection ends, at once."""
    async with asyncio.timeout(SOON_S):
        with pytest.raises(RejoinError) as fault:
            async with nats_connection.connect(url, "stranger"):
                pass
    assert not isinstance(fault.value, Unavailable)
    return str(fault.value)


async def test_a_broker_of_another_authority_is_not_trusted(secured: Cluster, other: Authority) -> None:
    with capture_logs() as lines:
        said = await refused(trusting(secured, "admin", other.ca))
    assert said.startswith("the broker has a certificate that we do not trust: ")
    assert lines == []
    assert (await refused(secured.url("admin", scheme="tls"))).startswith(  # and the system knows neither
        "the broker has a certificate that we do not trust: "
    )


async def test_a_broker_of_another_name_is_not_trusted(place: Path, ours: Authority) -> None:
    certificate, key = ours.sign("elsewhere", "127.0.0.2")
    block = f'tls {{ cert_file: "{certificate}", key_file: "{key}" }}\n'
    async with cluster(place / "elsewhere", tls=block) as one:
        assert "IP address mismatch" in await refused(trusting(one, "admin", ours.ca))


async def test_a_broker_that_wants_a_certificate_gets_ours_and_says_no_to_none(
    mutual: Cluster, ours: Authority, other: Authority
) -> None:
    certificate, key = ours.sign("runner")
    shown = f"&sslcert={certificate}&sslkey={key}"
    async with nats_connection.connect(trusting(mutual, "runner", ours.ca, shown), "runner") as connection:
        await connection.flush()
    assert (await refused(trusting(mutual, "runner", ours.ca))).startswith(
        "the broker does not accept our certificate: "
    )
    certificate, key = other.sign("forger")
    shown = f"&sslcert={certificate}&sslkey={key}"
    assert (await refused(trusting(mutual, "runner", ours.ca, shown))).startswith(
        "the broker does not accept our certificate: "
    )


async def test_no_word_is_said_in_the_clear_if_tls_is_asked_for(servers: Servers, ours: Authority) -> None:
    """A broker without TLS, or an attacker who hides that it has TLS, does not get the password."""
    url = servers.nats_url.replace("nats://", "tls://") + f"/?sslrootcert={ours.ca}"

    async def connect() -> None:
        async with nats_connection.connect(url, "careful"):
            pass

    with capture_logs() as lines:
        async with run_alongside(connect()):
            await wait_until(lambda: any(line["event"] == "waiting_for_broker" for line in lines), "its wait")
    causes = {line["cause"] for line in lines if line["event"] == "waiting_for_broker"}
    assert causes == {"the broker cannot be reached (the server offers no TLS)"}


@pytest.mark.parametrize("parameter", ["sslrootcert", "sslcert"])
async def test_a_file_that_is_none_is_named(place: Path, parameter: str) -> None:
    wrong = place / "wrong.pem"
    wrong.write_text("not a certificate")
    for path, words in ((wrong, "in PEM"), (place / "missing.pem", "No such file")):
        with pytest.raises(Invalid, match=f"{parameter} of the broker's URL, {path}: .*{words}"):
            async with nats_connection.connect(f"tls://{HOST}:{free_ports(1)}/?{parameter}={path}", "misled"):
                pass


# -------------------------------------------------------------------------------------------- the database


async def test_a_database_of_another_authority_is_not_trusted(database: str, other: Authority) -> None:
    url = f"{database}?sslmode=verify-full&sslrootcert={other.ca}"
    sentence = "the database has a certificate that we do not trust: "
    async with asyncio.timeout(SOON_S):
        with pytest.raises(RejoinError, match=sentence):
            await migrate.check_schema(url)
        with pytest.raises(RejoinError, match=sentence):
            await open_database(
                url, pool_max=1, acquire_timeout_s=5, connect_timeout_s=5, command_timeout_s=5
            )


# ------------------------------------------------------------------------------------------- the processes


@pytest.mark.parametrize("service", ["gateway", "runner --demo", "migrate"])
async def test_a_service_that_trusts_neither_says_so_in_a_line_and_ends(
    secured: Cluster, database: str, other: Authority, tmp_path: Path, service: str
) -> None:
    variables = {
        "REJOIN_NATS_URL": trusting(secured, "admin", other.ca),
        "REJOIN_DATABASE_URL": database,
        "REJOIN_ALLOW_ANONYMOUS": "true",
    }
    async with await Command.start(tmp_path / "logs", *service.split(), variables=variables) as command:
        assert await command.end() == 1
        assert command.err.splitlines()[-1].startswith(
            "Error: the broker has a certificate that we do not trust: "
        )
        assert "Traceback" not in command.err
