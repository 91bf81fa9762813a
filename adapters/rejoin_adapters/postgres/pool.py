"""The connections to PostgreSQL, and what becomes of their errors: all I/O policy of this seam is here.

Whatever means that the database is away leaves here as `Unavailable`; the refusals that our functions raise
with their own SQLSTATEs leave as the words of `rejoin_protocol.errors`. A statement whose connection
turned out to
be dead is tried once more on a new one: all of ours may be repeated, also if the first try was committed.
No other retry hides here.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import asyncpg
import msgspec
import stamina
import structlog
from rejoin_protocol.errors import Conflict, Fenced, Invalid, Limited, NotFound, RejoinError, Unavailable

from rejoin_adapters.service import tls

log = structlog.get_logger("rejoin.database")

CLOSE_TIMEOUT_S = 5.0
PING = "select 'pong'"
_REFUSALS = {"RJ400": Invalid, "RJ404": NotFound, "RJ409": Conflict, "RJ412": Fenced, "RJ429": Limited}

_DEAD = (
    ConnectionError,
    asyncpg.InterfaceError,  # "connection is closed"; its `ValueError`s are about arguments
    asyncpg.InternalClientError,  # the server said goodbye to an idle connection a moment ago
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
)
_AWAY = (
    *_DEAD,
    OSError,  # and `TimeoutError`: of the pool, of a connect, of a command
    asyncpg.CannotConnectNowError,
    asyncpg.InsufficientResourcesError,  # too many connections, disk full, out of memory
    asyncpg.OperatorInterventionError,
    asyncpg.ReadOnlySQLTransactionError,  # a standby that is not promoted yet
    asyncpg.TransactionRollbackError,  # a deadlock: nothing was done
)
_UNSTORABLE = (asyncpg.CharacterNotInRepertoireError, asyncpg.UntranslatableCharacterError)


@contextmanager
def map_errors() -> Iterator[None]:
    """What the driver raises inside leaves as one of our words, if there is one for it."""
    try:
        yield
    except ssl.SSLError as error:  # some of them are `ValueError`s too
        if why := tls.refusal(error):
            raise RejoinError(f"the database {why}") from None
        raise Unavailable("the database is away") from error
    except ValueError:
        raise  # a wrong argument, although some of them are `InterfaceError`s too
    except _AWAY as error:
        raise Unavailable("the database is away") from error
    except _UNSTORABLE as error:
        raise Invalid("text with a character that cannot be stored") from error
    except asyncpg.PostgresError as error:
        if (word := _REFUSALS.get(error.sqlstate or "")) is None:
            raise
        said = str(error.args[0])
        raise (word(said) if not error.detail else Limited(said, int(error.detail))) from None


async def wait_for_database[T](database_url: str, attempt: Callable[[], Awaitable[T]]) -> T:
    """The first success of `attempt`, for as long as the database is away. Anything else is raised."""
    host = urlsplit(database_url).netloc.rpartition("@")[2]
    known: set[str] = set()

    def away(error: Exception) -> bool:
        if not isinstance(error, Unavailable):
            return False
        if (cause := str(error.__cause__)) not in known:  # every single try is stamina's to tell
            known.add(cause)
            log.warning("waiting_for_database", host=host, cause=cause)
        return True

    async for retry in stamina.retry_context(
        on=away, attempts=None, timeout=None, wait_initial=0.2, wait_max=3.0, wait_jitter=0.2
    ):
        with retry, map_errors():
            return await attempt()
    raise AssertionError("retries without end")


type _Connection = asyncpg.pool.PoolConnectionProxy[asyncpg.Record]


async def _as_it_is(_connection: Any) -> None:
    """Instead of a reset, a second round trip per statement: no statement of ours leaves anything behind."""


class Database:
    """A pool of connections, on which one statement is one transaction and one round trip. At the end of its
    context they are closed.

    The pool makes connections, counts them and mends them. One that works is kept here between two statements
    unless somebody waits for it: to give it back and take it again costs more than a statement.
    """

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]", *, acquire_timeout_s: float) -> None:
        self._pool = pool
        self._acquire_timeout_s = acquire_timeout_s
        self._kept: list[_Connection] = []
        self._waiting = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def find[T](self, kind: type[T], query: str, *args: Any) -> T | None:
        """A statement's answer, which is the JSON of one `kind`; None if there is no row or it is null."""
        text = await self.value(query, *args)
        return None if text is None else msgspec.json.decode(text, type=kind)

    async def get[T](self, kind: type[T], query: str, *args: Any) -> T:
        """The same for a statement that always answers."""
        return msgspec.json.decode(await self.value(query, *args) or "null", type=kind)

    async def value(self, query: str, *args: Any) -> str | None:
        """The first column of the first row, which is text; None if there is no row or it is null."""
        with map_errors():
            try:
                return await self._once(query, args)
            except ValueError:
                raise
            except _DEAD:
                await self._pool.expire_connections()  # the others have died with it
                await self._keep_none()
                return await self._once(query, args)

    async def _once(self, query: str, args: tuple[Any, ...]) -> str | None:
        connection = self._kept.pop() if self._kept else await self._acquire()
        keep = False
        try:
            found: str | None = await connection.fetchval(query, *args)
            keep = not self._waiting
        finally:
            if keep:
                self._kept.append(connection)
            else:
                await self._pool.release(connection)
        return found

    async def _acquire(self) -> "_Connection":
        self._waiting += 1
        try:
            return await self._pool.acquire(timeout=self._acquire_timeout_s)
        finally:
            self._waiting -= 1

    async def _keep_none(self) -> None:
        while self._kept:
            await self._pool.release(self._kept.pop())

    async def close(self) -> None:
        """Let running statements end, for a while."""
        self._waiting += 1  # for all that come back
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._keep_none()
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()


def json_text(value: Any) -> str:
    """What goes into a `json` column, or is an argument of a function of ours."""
    return msgspec.json.encode(value).decode()


def json_or_null(value: Any) -> str | None:
    """The same; None is the column's null."""
    return None if value is None else json_text(value)


async def open_database(
    database_url: str,
    *,
    pool_max: int = 10,
    acquire_timeout_s: float = 5.0,
    connect_timeout_s: float = 5.0,
    command_timeout_s: float = 10.0,
    settings: Mapping[str, str] | None = None,
) -> Database:
    """Waits until the database answers, for as long as nobody cancels it, saying so in the log.
    `settings` are those of its connections.
    """
    pool = asyncpg.create_pool(
        database_url,
        min_size=0,  # a floor is restored in the background, with a traceback for every vain try
        max_size=pool_max,
        timeout=connect_timeout_s,
        command_timeout=command_timeout_s,
        max_cached_statement_lifetime=0,
        reset=_as_it_is,
        server_settings={
            "application_name": "rejoin",
            # The functions rely on it: each of their statements sees what was committed before it.
            "default_transaction_isolation": "read committed",
            **(settings or {}),
        },
    )
    database = Database(await pool, acquire_timeout_s=acquire_timeout_s)
    await wait_for_database(database_url, lambda: database.value(PING))
    return database
