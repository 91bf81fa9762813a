"""Connections to PostgreSQL, and the translation of the driver's errors. All I/O policy is here.

An error that means an unreachable database becomes `Unavailable`. Errors that our SQL functions raise by
SQLSTATE become those of `rejoin_protocol.errors`. A statement whose connection turns out to be dead is
executed once more on a new connection: all statements are idempotent, also if the first execution was
committed. There is no other retry.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import asyncpg
import msgspec
import stamina
import structlog

from rejoin_adapters.actor import current_actor
from rejoin_adapters.postgres.database_url import parse_database_url
from rejoin_adapters.process import tls
from rejoin_protocol.errors import (
    Busy,
    Conflict,
    Fenced,
    Invalid,
    Limited,
    NotFound,
    RejoinError,
    Unavailable,
)

log = structlog.get_logger("rejoin.database")

CLOSE_TIMEOUT_S = 5.0
ROWS_HELD_MAX = 10
"""Rows of a snapshot that are read at once: answers have up to 4 MiB."""
PING = "select 'pong'"
_SET_ACTOR = "select set_config('rejoin.actor', $1, true), set_config('rejoin.peer', $2, true)"
_SET_SESSION = "set default_transaction_isolation = 'read committed'"
"""The SQL functions need it: each of their statements sees what was committed before it. It is no startup
parameter, since poolers refuse connections with parameters that they do not know.
"""
_REFUSALS = {
    "RJ400": Invalid,
    "RJ404": NotFound,
    "RJ409": Conflict,
    "RJ412": Fenced,
    "RJ423": Busy,
    "RJ429": Limited,
}

_CONNECTION_LOST = (
    ConnectionError,
    asyncpg.InterfaceError,  # "connection is closed"; those that are `ValueError`s are wrong arguments
    asyncpg.InternalClientError,  # the server has just closed an idle connection
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
)
_UNREACHABLE = (
    *_CONNECTION_LOST,
    OSError,  # includes `TimeoutError`: of the pool, a connect or a command
    asyncpg.CannotConnectNowError,
    asyncpg.InsufficientResourcesError,  # too many connections, disk full, out of memory
    asyncpg.OperatorInterventionError,
    asyncpg.ReadOnlySQLTransactionError,  # a standby that is not promoted yet
    asyncpg.TransactionRollbackError,  # a deadlock: nothing was committed
)
_UNSUPPORTED = "unsupported startup parameter"
"""PgBouncer's text. Its errors have one SQLSTATE, whether a later try may succeed or not."""
_NO_TLS = "rejected SSL upgrade"
"""The driver's text."""
_REFUSED = (
    asyncpg.InvalidPasswordError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InvalidAuthorizationSpecificationError,
)
_NO_CONNECTION_LEFT = (
    "too many clients",
    "too many connections",
    "connection slots",
    "no more connections",
    "client connections reached",
    "no more client connections",
)
"""What servers and poolers say when they have no connection left; each pooler has its own SQLSTATE for it."""
_WRONG_LOGIN = "the user or the password of its URL is wrong"
_NO_DATABASE = "it has no database of the name in its URL"
_UNSTORABLE = (asyncpg.CharacterNotInRepertoireError, asyncpg.UntranslatableCharacterError)
_UNSTORABLE_TEXT = "the text contains a character that cannot be stored"


@contextmanager
def map_errors() -> Iterator[None]:
    """Translate the driver's errors in the block to those of `rejoin_protocol.errors`."""
    try:
        yield
    except ssl.SSLError as error:  # some are `ValueError`s, too
        if reason := tls.describe_refusal(error):
            raise RejoinError(f"the database {reason}") from None
        raise Unavailable("the database cannot be reached") from error
    except ValueError:
        raise  # a wrong argument; some are `InterfaceError`s, too
    except _UNREACHABLE as error:
        if (reason := _find_final_refusal(str(error))) is not None:
            raise RejoinError(reason) from None
        raise Unavailable(_describe_absence(error)) from error
    except (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError) as error:
        raise Unavailable(
            "a pooler in transaction mode stands before the database: add pgbouncer=true to the "
            "parameters of REJOIN_DATABASE_URL"
        ) from error
    except _REFUSED as error:
        # Readiness shows the text to everybody: the server's own names the role.
        raise RejoinError(f"the database refuses the connection: {_describe_refusal(error)}") from None
    except _UNSTORABLE as error:
        raise Invalid(_UNSTORABLE_TEXT) from error
    except asyncpg.PostgresError as error:
        if isinstance(error.__cause__, UnicodeEncodeError):  # half a surrogate pair, as headers can have
            raise Invalid(_UNSTORABLE_TEXT) from error
        if isinstance(error, asyncpg.UndefinedObjectError) and "configuration parameter" in str(error):
            raise RejoinError(f"the database refuses the connection: {error}") from None
        if (kind := _REFUSALS.get(error.sqlstate or "")) is None:
            if _has_no_connection_left(error):
                raise Unavailable(_describe_absence(error)) from error
            raise
        detail = str(error.args[0])
        raise (kind(detail) if not error.detail else Limited(detail, int(error.detail))) from None


def _find_final_refusal(text: str) -> str | None:
    """Why no later try can succeed, from an error that else means an unreachable database."""
    if _UNSUPPORTED in text:
        return f"the database's pooler refuses the connection: {text}"
    if _NO_TLS in text:
        return "the database offers no TLS, which sslmode in its URL demands"
    return None


def _has_no_connection_left(error: BaseException) -> bool:
    text = str(error).lower()
    return any(words in text for words in _NO_CONNECTION_LEFT)


def _describe_absence(error: BaseException) -> str:
    """Why a database cannot be used now. Clients read it, too: without names and addresses."""
    if isinstance(error, asyncpg.ReadOnlySQLTransactionError | asyncpg.TargetServerAttributeNotMatched):
        return "the database takes no writes: it is a standby, or set to read only"
    if isinstance(error, asyncpg.DiskFullError):
        return "the database's disk is full"
    if isinstance(error, asyncpg.TooManyConnectionsError) or _has_no_connection_left(error):
        return "the database has no connection left (see REJOIN_DATABASE_POOL_MAX)"
    return "the database cannot be reached"


def _describe_refusal(error: asyncpg.PostgresError) -> str:
    """Why it refuses a connection for good. Readiness shows the text: the server's own names the role."""
    if isinstance(error, asyncpg.InvalidPasswordError):
        return _WRONG_LOGIN
    if isinstance(error, asyncpg.InvalidCatalogNameError):
        return _NO_DATABASE
    if "no encryption" in str(error):
        return "it demands TLS: its URL needs sslmode=require"
    return "no entry of its pg_hba.conf allows this user, database and address"


async def wait_for_database[T](
    database_url: str, request: Callable[[], Awaitable[T]], *, attempts_max: int | None = None
) -> T:
    """Repeat `request` until the database is reachable, or `attempts_max` times. Raises what `request`
    raises, and `Invalid` for a wrong URL.
    """
    host = _host_of(database_url)
    logged: set[str] = set()

    def is_unreachable(error: Exception) -> bool:
        if not isinstance(error, Unavailable):
            return False
        if (cause := str(error.__cause__)) not in logged:  # stamina logs every try
            logged.add(cause)
            log.warning("waiting_for_database", host=host, problem=str(error), cause=cause)
        return True

    async for retry in stamina.retry_context(
        on=is_unreachable,
        attempts=attempts_max,
        timeout=None,
        wait_initial=0.2,
        wait_max=3.0,
        wait_jitter=0.2,
    ):
        with retry, _explain_refusal(), map_errors(), _refuse_wrong_url():
            return await request()
    raise AssertionError("retries without end")


def _host_of(database_url: str) -> str:
    """The hosts of a URL, for logs. An unescaped `/` in a password ends the part with the hosts too early."""
    hosts = urlsplit(database_url).netloc
    return "?" if "@" in database_url and "@" not in hosts else hosts.rpartition("@")[2]


@contextmanager
def _refuse_wrong_url() -> Iterator[None]:
    """The driver's text may hold a part of the password, and is not repeated."""
    try:
        yield
    except ssl.SSLError:
        raise  # some are `ValueError`s, too
    except ValueError as error:
        raise Invalid(
            f"REJOIN_DATABASE_URL is not a URL of PostgreSQL ({type(error).__name__}): it is "
            "postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with %2F for a / in the password"
        ) from None


@contextmanager
def _explain_refusal() -> Iterator[None]:
    """What poolers of providers refuse for reasons of their own, in their words."""
    try:
        yield
    except asyncpg.PostgresError as error:
        raise RejoinError(f"the database refuses the connection: {error}") from error


type _Connection = asyncpg.pool.PoolConnectionProxy[asyncpg.Record]


async def _skip_reset(_connection: Any) -> None:
    """Replaces asyncpg's reset, a second round trip for each statement. Our statements leave no session
    state.
    """


class Database:
    """A pool of connections; one statement is one transaction and one round trip. Closed at the end of its
    context. `transaction_settings`: behind a pooler in transaction mode, the statements that set PostgreSQL
    settings for each transaction, which then takes five round trips; otherwise None.

    asyncpg's pool creates and repairs connections. A working connection is kept here between two statements:
    releasing and acquiring it costs more than a statement.
    """

    def __init__(
        self,
        pool: "asyncpg.Pool[asyncpg.Record]",
        *,
        acquire_timeout_s: float,
        transaction_settings: str | None = None,
    ) -> None:
        self._pool = pool
        self._acquire_timeout_s = acquire_timeout_s
        self._transaction_settings = transaction_settings
        self._slots = asyncio.Semaphore(pool.get_max_size())
        """Who has one finds a connection in `_idle`, or room for one in the pool."""
        self._idle: list[_Connection] = []
        self._closing = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def find_json[T](self, kind: type[T], query: str, *args: Any) -> T | None:
        """The first column of the first row, JSON of one `kind`; None if there is no row or it is null."""
        text = await self.fetch_text(query, *args)
        return None if text is None else msgspec.json.decode(text, type=kind)

    async def fetch_json[T](self, kind: type[T], query: str, *args: Any) -> T:
        """The first column of the first row, JSON of one `kind`. No row and SQL's null count as JSON's null:
        `kind` must accept it, unless the statement always returns a value.
        """
        return msgspec.json.decode(await self.fetch_text(query, *args) or "null", type=kind)

    async def fetch_text_as_actor(self, query: str, *args: Any) -> str | None:
        """`fetch_text` in a transaction that tells the triggers of the audit log who acts."""
        actor = current_actor()
        if actor is None:
            return await self.fetch_text(query, *args)
        with map_errors():
            async with self._connection() as connection, self._transaction(connection):
                await connection.execute(_SET_ACTOR, actor.name, actor.peer or "")
                found: str | None = await connection.fetchval(query, *args)
                return found

    async def fetch_text(self, query: str, *args: Any) -> str | None:
        """The first column of the first row as text; None if there is no row or it is null."""
        with map_errors():
            try:
                return await self._once(query, args)
            except ValueError:
                raise
            except _CONNECTION_LOST:
                await self._pool.expire_connections()  # the other connections are dead, too
                await self._release_idle()
                return await self._once(query, args)

    async def _once(self, query: str, args: tuple[Any, ...]) -> str | None:
        async with self._connection() as connection:
            value: str | None
            if self._transaction_settings is None:
                value = await connection.fetchval(query, *args)
            else:
                async with self._transaction(connection):
                    value = await connection.fetchval(query, *args)
            return value

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator["Snapshot"]:
        """One moment of the database, to read more of it than memory can hold. It keeps a connection, and
        PostgreSQL keeps all rows of that moment: not for services.
        """
        async with AsyncExitStack() as stack:
            with map_errors():
                connection = await stack.enter_async_context(self._connection())
                await stack.enter_async_context(
                    connection.transaction(isolation="repeatable_read", readonly=True)
                )
            yield Snapshot(connection)

    @asynccontextmanager
    async def _transaction(self, connection: _Connection) -> AsyncIterator[None]:
        async with connection.transaction(isolation="read_committed"):
            if self._transaction_settings:
                await connection.execute(self._transaction_settings)
            yield

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[_Connection]:
        """An idle connection, or else one of the pool; waits while all are in use. It is kept for the next
        statement if the block ends well.
        """
        await self._take_slot()
        try:
            connection = self._idle.pop() if self._idle else await self._acquire()
            keep = False
            try:
                yield connection
                keep = not self._closing
            finally:
                if keep:
                    self._idle.append(connection)
                else:
                    await self._pool.release(connection)
        finally:
            self._slots.release()

    async def _take_slot(self) -> None:
        if self._slots.locked():
            async with asyncio.timeout(self._acquire_timeout_s):
                await self._slots.acquire()
        else:
            await self._slots.acquire()

    async def _acquire(self) -> "_Connection":
        return await self._pool.acquire(timeout=self._acquire_timeout_s)

    async def _release_idle(self) -> None:
        while self._idle:
            await self._pool.release(self._idle.pop())

    async def close(self) -> None:
        """Close all connections; running statements get `CLOSE_TIMEOUT_S` to end."""
        self._closing = True
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._release_idle()
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()


class Snapshot:
    """Reads rows of one moment, a few at a time."""

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection

    async def texts(self, query: str, *args: Any) -> AsyncIterator[str]:
        """The first column of all rows, as text. At most `ROWS_HELD_MAX` rows are in memory."""
        with map_errors():
            async for row in self._connection.cursor(query, *args, prefetch=ROWS_HELD_MAX):
                yield row[0]


def json_text(value: Any) -> str:
    """JSON for a `json` column or parameter."""
    return msgspec.json.encode(value).decode()


def json_or_null(value: Any) -> str | None:
    """JSON for a nullable `json` column; None is SQL's null."""
    return None if value is None else json_text(value)


async def open_database(
    database_url: str,
    *,
    pool_max: int = 10,
    acquire_timeout_s: float = 5.0,
    connect_timeout_s: float = 5.0,
    command_timeout_s: float = 10.0,
    settings: Mapping[str, str] | None = None,
    attempts_max: int | None = None,
) -> Database:
    """Open a pool and wait until the database answers, with log lines meanwhile; with `attempts_max` it
    raises `Unavailable` after so many. `settings`: PostgreSQL settings of its connections. With
    `?pgbouncer=true` in the URL, a pooler in transaction mode may stand between.
    """
    parsed = parse_database_url(database_url)
    if parsed.ignored:
        log.warning("database_url_parameters_ignored", names=parsed.ignored)
    changes = settings or {}

    async def set_up(connection: Any) -> None:
        await connection.execute("; ".join([_SET_SESSION, *_set_statements("set", changes)]))

    pool = asyncpg.create_pool(
        parsed.url,
        min_size=0,  # asyncpg would restore a minimum in the background, with a traceback for each failure
        max_size=pool_max,
        timeout=connect_timeout_s,
        command_timeout=command_timeout_s,
        max_cached_statement_lifetime=0,
        statement_cache_size=parsed.statements_max,
        reset=_skip_reset,
        init=None if parsed.is_pooled else set_up,
        server_settings={"application_name": "rejoin"},
    )
    with _refuse_wrong_url():
        database = Database(
            await pool,
            acquire_timeout_s=acquire_timeout_s,
            transaction_settings="; ".join(_set_statements("set local", changes))
            if parsed.is_pooled
            else None,
        )
    await wait_for_database(database_url, lambda: database.fetch_text(PING), attempts_max=attempts_max)
    return database


def _set_statements(command: str, changes: Mapping[str, str]) -> list[str]:
    """`changes` are our own names and numbers: nothing of a request is in them."""
    return [f"{command} {name} = '{value}'" for name, value in changes.items()]
