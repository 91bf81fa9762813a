"""The rows that belong to one user, table by table. Reads only.

Each line is a whole row, so that a column of a later version is in the export without a change here. The
hash of an API key is left out: it is no data of a person. What is sealed (contexts) stays sealed.
"""

from collections.abc import AsyncIterator

from rejoin_adapters.postgres.pool import Snapshot
from rejoin_protocol import file_ids
from rejoin_protocol.file_ids import FileId
from rejoin_protocol.ids import RunId, TenantId, UserId


def _of_each_session(rows: str) -> str:
    """The rows of each session `s` of the user, session by session."""
    return f"""
        select t.* from (
          select id from sessions where tenant_id = $1 and user_id = $2 order by updated_at, id) s
        cross join lateral ({rows}) t
    """  # noqa: S608 - of constants


def _by_user_or_session(table: str) -> str:
    """The rows that have the user, and those of others about the user's sessions."""
    own = f"select * from {table} where tenant_id = $1 and user_id = $2"  # noqa: S608
    others = own.replace("user_id = $2", "session_id = s.id and user_id is distinct from $2")
    return f"{own} union all {_of_each_session(others)}"


TABLES = {
    "session": "select * from sessions where tenant_id = $1 and user_id = $2 order by updated_at, id",
    "message": _of_each_session(
        "select * from messages where tenant_id = $1 and session_id = s.id order by position"
    ),
    "run": _of_each_session(
        "select * from runs where tenant_id = $1 and session_id = s.id order by position"
    ),
    "approval": _of_each_session("""
        select a.* from runs r join approvals a on a.run_id = r.id
        where r.tenant_id = $1 and r.session_id = s.id order by a.number
    """),
    "artifact": _of_each_session(
        "select * from artifacts where tenant_id = $1 and session_id = s.id order by created_at"
    ),
    "webhook": _of_each_session("""
        select d.* from runs r join webhook_deliveries d on d.run_id = r.id
        where r.tenant_id = $1 and r.session_id = s.id order by d.number
    """),
    "feedback": _by_user_or_session("feedback"),
    "event": _by_user_or_session("client_events"),
    "key": """
        select id, scopes, agent, user_id, name, created_at, expires_at, revoked_at, last_used_at
        from api_keys where tenant_id = $1 and user_id = $2 order by created_at
    """,
}
"""The rows of each kind but files: `$1` is the tenant, `$2` the user. Every part of a query has an index."""
RUN_IDS = _of_each_session("select id from runs where tenant_id = $1 and session_id = s.id order by position")
OWN_FILES = """
    select * from files
    where tenant_id = $1 and user_id = $2 and id >= $3 and id < $3 || 'g' order by id
"""
"""`$3` is the prefix of the ids of the user's files: a range of the primary key, which ends before `g`
because hexadecimal digits follow.
"""
USED_FILES = f"""
    select distinct f.* from ({
    _of_each_session('''
        select file_id from file_uses where tenant_id = $1 and session_id = s.id
    ''')
}) u
    join files f on f.tenant_id = $1 and f.id = u.file_id
    where f.user_id is distinct from $2
"""  # noqa: S608
"""Files of the tenant that messages of the user refer to."""


class UserRows:
    """What a snapshot of the database has of one user."""

    def __init__(self, snapshot: Snapshot, tenant: TenantId, user: UserId) -> None:
        self._snapshot = snapshot
        self._owner = tenant, user
        self._of_files = tenant, user, file_ids.user_prefix(user)

    async def lines(self) -> AsyncIterator[str]:
        """All rows as JSON: `{"type": …, "row": …}`."""
        for kind, query in TABLES.items():
            async for line in self._snapshot.texts(_as_json(kind, query), *self._owner):
                yield line
        for query, arguments in self._file_queries():
            async for line in self._snapshot.texts(_as_json("file", query), *arguments):
                yield line

    async def runs(self) -> AsyncIterator[RunId]:
        """The ids of the user's runs, whose logs may still be there."""
        async for run in self._snapshot.texts(RUN_IDS, *self._owner):
            yield RunId(run)

    async def files(self) -> AsyncIterator[FileId]:
        """The user's files, and others that messages of the user's sessions refer to."""
        for query, arguments in self._file_queries():
            async for file in self._snapshot.texts(f"select id from ({query}) f", *arguments):  # noqa: S608
                yield FileId(file)

    def _file_queries(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        return (
            (OWN_FILES, self._of_files),
            (USED_FILES, self._owner),
        )


def _as_json(kind: str, query: str) -> str:
    return f"select json_build_object('type', '{kind}', 'row', row_to_json(t))::text from ({query}) t"  # noqa: S608
