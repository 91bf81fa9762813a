"""The target of the security matrix: a gateway, a runner, a user with data, and the credentials of everyone
else.
"""

import secrets
import uuid
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import msgspec

from rejoin.cli.api_keys import KeyCommands, NewKey
from rejoin_adapters.embedded import Servers
from rejoin_adapters.jetstream import nats_connection
from rejoin_adapters.ports.webhooks import WebhookEndpoint
from rejoin_adapters.postgres.api_keys import PostgresApiKeys
from rejoin_adapters.postgres.mcp_sessions import PostgresMcpSessions
from rejoin_adapters.postgres.runs.run_store import PostgresRunStore, open_run_store
from rejoin_adapters.postgres.webhooks.outbox import PostgresWebhookOutbox
from rejoin_adapters.store_types import ApiKeyRow, Artifact, Owner
from rejoin_gateway.auth import api_key
from rejoin_gateway.auth.scope import Scope
from rejoin_gateway.http.gateway_service import SERVICE
from rejoin_protocol.broker import subjects
from rejoin_protocol.ids import AgentName, RunId, SessionId, TenantId, UserId
from tests.support.clients.attachments import PNG
from tests.support.clients.webhook_receiver import KEYS
from tests.support.system.databases import migrated_database
from tests.support.system.local_system import LocalSystem
from tests.support.system.observation import last_sequence, wait_until

PEPPER = "a pepper of some length"
ALL = tuple(Scope)
ANN, BEN = "ann", "ben"
TABLES = """
    select table_name, array_agg(column_name::text)
    from information_schema.columns join information_schema.tables using (table_schema, table_name)
    where table_schema = 'public' and table_type = 'BASE TABLE'
    group by table_name
"""


class Victim(msgspec.Struct, frozen=True):
    """The user's data: a session whose run waits for an approval, and what belongs to it."""

    agent: str
    session: str
    run: str
    response: str
    call: str
    message: str
    artifact: str
    file: str
    dialogue: str
    webhook: str
    """Of her tenant."""
    approval: str


class AttackedGateway:
    """A gateway and a runner on their own database, the victim's tenant, and keys of every kind."""

    def __init__(
        self,
        system: LocalSystem,
        base: str,
        store: PostgresRunStore,
        watch: "asyncpg.Connection[Any]",
        broker: nats_connection.NatsConnection,
    ) -> None:
        self.system = system
        self.base = base
        self.store = store
        self._watch = watch
        self._broker = broker
        self._census = ""
        self.tenant = TenantId(system.fresh("tenant"))
        self.owner = Owner(self.tenant, UserId(ANN))

    async def key(self, *, tenant: str | None = None, **wish: Any) -> str:
        issuer = KeyCommands(
            PostgresApiKeys(self.store.database), TenantId(tenant or self.tenant), PEPPER.encode()
        )
        return await issuer.create(NewKey(**({"scopes": ALL, "user": ANN} | wish)))

    async def expired(self) -> str:
        key, then = api_key.generate_key(secrets.token_bytes), datetime.now(UTC) - timedelta(seconds=1)
        digest = api_key.hash_key(PEPPER.encode(), key)
        row = ApiKeyRow(key.id, self.tenant, digest, [*ALL], None, UserId(ANN), None, then, then)
        await PostgresApiKeys(self.store.database).create(row)
        return str(key)

    async def revoked(self) -> str:
        key = await self.key()
        await PostgresApiKeys(self.store.database).revoke(self.tenant, key.partition(".")[0])
        return key

    async def credentials(self, scope: Scope) -> dict[str, str | None]:
        """The credentials that must be refused, by their fault."""
        good = await self.key()
        return {
            "none": None,
            "malformed": "rk_short.key",
            "wrong secret": good[:-2] + ("AA" if good[-2:] != "AA" else "BB"),
            "expired": await self.expired(),
            "revoked": await self.revoked(),
            "other tenant": await self.key(tenant=self.system.fresh("other")),
            "other user": await self.key(user=self.system.fresh(BEN)),
            "other agent": await self.key(agent="another"),
            "missing scope": await self.key(scopes=tuple(one for one in ALL if one is not scope)),
        }

    async def ann(self) -> Victim:
        """Ann has sent a message, and her run waits for her decision."""
        key = await self.key()
        headers, session = {"Authorization": f"Bearer {key}"}, str(uuid.uuid4())
        body = self.system.chat(session, "delete notes.txt")
        async with self.system.http.post(f"{self.base}/api/chat", json=body, headers=headers) as response:
            await response.read()
            run = response.headers["x-workflow-run-id"]
        service = self.system.apps[0][SERVICE]
        [question] = await service.backend.store.pending_approvals(self.owner, SessionId(session))
        assert service.backend.attachments is not None
        file = await service.backend.attachments.files.put(self.tenant, UserId(ANN), PNG, "image/png")
        artifact = Artifact(
            f"art-{run}", SessionId(session), RunId(run), "note", None, None, {}, datetime.now(UTC)
        )
        await service.backend.artifacts.put(self.tenant, artifact)
        dialogue = SessionId(str(uuid.uuid4()))
        await PostgresMcpSessions(self.store.database).open(
            self.owner, dialogue, AgentName(self.system.agent)
        )
        message = body["messages"][0]["id"]
        response_id = f"resp_{run.removeprefix('run_')}"
        call = question.request.call
        return Victim(
            self.system.agent,
            session,
            run,
            response_id,
            call,
            message,
            artifact.id,
            file,
            dialogue,
            await self.webhook(),
            question.request.id,
        )

    async def webhook(self) -> str:
        """A receiver of the tenant that is told of nothing but failures."""
        outbox = PostgresWebhookOutbox(self.store.database)
        for one in await outbox.list(self.tenant):
            await outbox.remove(self.tenant, one.id)
        id = f"we_{secrets.token_hex(12)}"
        endpoint = WebhookEndpoint(id, self.tenant, "https://a.example/", ["run.failed"], datetime.now(UTC))
        await outbox.add(endpoint, b"sealed")
        return id

    async def still(self) -> None:
        """Until nothing is under way any more."""
        query = "select count(*)::text from runs where state in ('queued', 'running')"

        async def ended() -> bool:
            return await self.store.database.fetch_text(query) == "0"

        await wait_until(ended, "the end of all runs")

    async def everything(self, ann: Victim) -> "SideEffects":
        """The state of all data, when no work is in progress."""
        await self.still()
        self._census = self._census or census_query(await self._watch.fetch(TABLES))
        found = await self._watch.fetch(self._census, self.tenant)
        rows: dict[str, int] = {table: count for table, count, _ in found}
        hers: dict[str, Any] = {table: own for table, _, own in found}
        last = await self.system.apps[0][SERVICE].backend.log.last(RunId(ann.run))
        hers["log"] = None if last is None else last.seq
        for stream, subject in (
            (subjects.LOG, subjects.DEFAULT.log_subjects()),
            (subjects.REQUESTS, subjects.DEFAULT.request_subjects()),
            (subjects.FILES, subjects.DEFAULT.file_subjects),
        ):
            rows[stream] = await last_sequence(self._broker, stream, subject)
        return SideEffects(rows, hers)


def census_query(tables: Iterable[tuple[str, Sequence[str]]]) -> str:
    """A statement that counts the rows of each table, in all and of one tenant."""
    own = "array_agg(t::text order by t::text) filter (where tenant_id = $1)"
    # A stop of a session that the caller does not have holds for messages of the caller alone.
    anns = f"tenant_id = $1 and coalesce(user_id, '{ANN}') = '{ANN}'"
    ann_stops = f"(select * from early_stops where {anns})"  # noqa: S608

    def of(table: str, fields: Sequence[str]) -> str:
        has_tenant = "tenant_id" in fields and table != "api_keys"  # whose use is noted
        if table == "early_stops":
            return f"select '{table}', count(*), {own} from {ann_stops} t"  # noqa: S608
        return f"select '{table}', count(*), {own if has_tenant else 'null::text[]'} from {table} t"  # noqa: S608

    return " union all ".join(of(table, fields) for table, fields in tables)


class SideEffects(msgspec.Struct, frozen=True):
    """How many rows each table has, where each stream ends; and what of it is Ann's, to the letter."""

    rows: dict[str, int]
    hers: dict[str, Any]


@asynccontextmanager
async def open_attacked_gateway(servers: Servers) -> AsyncIterator[AttackedGateway]:
    """A attacked on a fresh database."""
    async with migrated_database(servers.database_url) as url:
        watch = await asyncpg.connect(url)
        async with (
            await open_run_store(url, pool_max=2) as store,
            LocalSystem(servers.nats_url, url) as system,
            nats_connection.connect(servers.nats_url, "matrix") as connected,
        ):
            await system.runner()
            base = await system.gateway(
                allow_anonymous=False, api_key_pepper=PEPPER, context_encryption_keys=KEYS
            )
            yield AttackedGateway(system, base, store, watch, connected)
        await watch.close()
