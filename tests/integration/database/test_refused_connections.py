"""A server that refuses a connection for good: the reason is said at once, without the password."""

import secrets
from collections.abc import Callable
from urllib.parse import SplitResult, urlsplit

import asyncpg
import pytest

from rejoin_adapters.embedded import Servers
from rejoin_adapters.postgres import migrate
from rejoin_adapters.postgres.pool import map_errors, open_database
from rejoin_protocol.errors import Invalid, RejoinError, Unavailable
from tests.support.system.databases import fresh_database


def wrong_password(url: SplitResult) -> SplitResult:
    return url._replace(netloc=f"{url.username}:hunter2@{url.hostname}:{url.port}")


def missing_database(url: SplitResult) -> SplitResult:
    return url._replace(path="/nowhere")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (wrong_password, "the user or the password of its URL is wrong"),
        (missing_database, "it has no database of the name in its URL"),
    ],
)
async def test_the_reason_is_said_and_no_name_of_a_role(
    servers: Servers, change: Callable[[SplitResult], SplitResult], reason: str
) -> None:
    url = change(urlsplit(servers.database_url)).geturl()
    for connect in (open_database, migrate.check_schema):
        with pytest.raises(RejoinError) as fault:
            await connect(url)
        assert str(fault.value) == f"the database refuses the connection: {reason}"
        assert not isinstance(fault.value, Unavailable)


async def test_tls_that_the_server_does_not_offer_is_said(servers: Servers) -> None:
    """As with `sslmode=require` from a provider's page, and a server of one's own."""
    with pytest.raises(
        RejoinError, match="the database offers no TLS, which sslmode in its URL demands"
    ) as fault:
        await open_database(with_query(servers.database_url, "sslmode=require"))
    assert not isinstance(fault.value, Unavailable)


async def test_a_mode_of_tls_that_does_not_exist_is_named(servers: Servers) -> None:
    with pytest.raises(Invalid, match="sslmode=no-verify: it is one of disable, allow, prefer"):
        await open_database(with_query(servers.database_url, "sslmode=no-verify"))


@pytest.mark.parametrize(
    "query",
    [
        "sslmode=prefer&channel_binding=prefer",  # RDS and Neon
        "connect_timeout=10&options=-c%20statement_timeout%3D5000",
        "target_session_attrs=read-write",
    ],
)
async def test_what_providers_write_into_urls_is_understood(servers: Servers, query: str) -> None:
    async with await open_database(with_query(servers.database_url, query), pool_max=1) as database:
        assert await database.fetch_text("select 'there'") == "there"


async def test_a_startup_parameter_that_the_server_does_not_know_is_said(servers: Servers) -> None:
    with pytest.raises(RejoinError, match="unrecognized configuration parameter") as fault:
        await open_database(with_query(servers.database_url, "supa=base"))
    assert not isinstance(fault.value, Unavailable)


async def test_a_server_without_free_connections_says_so(servers: Servers) -> None:
    role, parts = f"test_{secrets.token_hex(8)}", urlsplit(servers.database_url)
    admin = await asyncpg.connect(servers.database_url)
    await admin.execute(f"create role {role} login password 'secret' connection limit 1")
    url = parts._replace(netloc=f"{role}:secret@{parts.hostname}:{parts.port}").geturl()
    try:
        async with await open_database(url, pool_max=1):
            with pytest.raises(Unavailable, match="the database has no connection left"):
                await open_database(url, pool_max=1, attempts_max=1)
    finally:
        await admin.execute(f"drop role {role}")
        await admin.close()


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("no more connections allowed (max_client_conn)", asyncpg.ProtocolViolationError),  # PgBouncer
        ("Max client connections reached", asyncpg.InternalServerError),  # Supabase
        ("remaining connection slots are reserved for roles", asyncpg.TooManyConnectionsError),
    ],
)
async def test_poolers_say_it_in_words_of_their_own(text: str, kind: type[Exception]) -> None:
    with pytest.raises(Unavailable, match="the database has no connection left"):
        raise_as_service(kind(text))


async def test_a_database_that_takes_no_writes_is_no_unreachable_one(database_url: str) -> None:
    async with fresh_database(database_url) as url:
        async with await open_database(url, pool_max=1) as database:
            await database.fetch_text(
                f'alter database "{urlsplit(url).path[1:]}" set default_transaction_read_only = on'
            )
        async with await open_database(url, pool_max=1) as database:
            with pytest.raises(Unavailable, match="takes no writes: it is a standby, or set to read only"):
                await database.fetch_text("create table t (n int)")


def raise_as_service(error: Exception) -> None:
    with map_errors():
        raise error


def with_query(url: str, query: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}{query}"
