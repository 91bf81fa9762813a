"""All ports of one database, by their adapters and by their doubles."""

from typing import NamedTuple

from rejoin_adapters.memory.database.api_keys import MemoryApiKeys
from rejoin_adapters.memory.database.artifacts import MemoryArtifacts
from rejoin_adapters.memory.database.audit import MemoryAuditLog
from rejoin_adapters.memory.database.feedback import MemoryFeedbackStore
from rejoin_adapters.memory.database.mcp_sessions import MemoryMcpSessions
from rejoin_adapters.memory.database.run_counts import MemoryRunCounts
from rejoin_adapters.memory.database.run_store import MemoryRunStore
from rejoin_adapters.memory.database.session_store import MemorySessionStore
from rejoin_adapters.memory.database.tables import MemoryDatabase
from rejoin_adapters.memory.database.tenants import MemoryTenants
from rejoin_adapters.memory.database.webhooks import MemoryWebhookOutbox
from rejoin_adapters.ports.api_keys import ApiKeys
from rejoin_adapters.ports.artifacts import Artifacts
from rejoin_adapters.ports.audit import AuditLog
from rejoin_adapters.ports.feedback import FeedbackStore
from rejoin_adapters.ports.mcp_sessions import McpSessions
from rejoin_adapters.ports.run_counts import RunCounts
from rejoin_adapters.ports.run_store import RunStore
from rejoin_adapters.ports.session_store import SessionStore
from rejoin_adapters.ports.tenants import Tenants
from rejoin_adapters.ports.webhooks import WebhookOutbox
from rejoin_adapters.postgres.api_keys import PostgresApiKeys
from rejoin_adapters.postgres.artifacts import PostgresArtifacts
from rejoin_adapters.postgres.audit import PostgresAuditLog
from rejoin_adapters.postgres.feedback import PostgresFeedbackStore
from rejoin_adapters.postgres.mcp_sessions import PostgresMcpSessions
from rejoin_adapters.postgres.runs.run_counts import PostgresRunCounts
from rejoin_adapters.postgres.runs.run_store import PostgresRunStore
from rejoin_adapters.postgres.session_store import PostgresSessionStore
from rejoin_adapters.postgres.tenants import PostgresTenants
from rejoin_adapters.postgres.webhooks.outbox import PostgresWebhookOutbox


class DatabasePorts(NamedTuple):
    """All ports of one database."""

    run_store: RunStore
    session_store: SessionStore
    artifacts: Artifacts
    api_keys: ApiKeys
    tenants: Tenants
    mcp_sessions: McpSessions
    run_counts: RunCounts
    feedback: FeedbackStore
    audit: AuditLog
    webhooks: WebhookOutbox


def memory_ports(database: MemoryDatabase | None = None) -> DatabasePorts:
    """The doubles, over one set of rows."""
    rows = database or MemoryDatabase()
    return DatabasePorts(
        MemoryRunStore(rows),
        MemorySessionStore(rows),
        MemoryArtifacts(rows),
        MemoryApiKeys(rows),
        MemoryTenants(rows),
        MemoryMcpSessions(rows),
        MemoryRunCounts(rows),
        MemoryFeedbackStore(rows),
        MemoryAuditLog(rows),
        MemoryWebhookOutbox(rows),
    )


def postgres_ports(store: PostgresRunStore) -> DatabasePorts:
    """The adapters, over one pool."""
    pool = store.database
    return DatabasePorts(
        store,
        PostgresSessionStore(pool),
        PostgresArtifacts(pool),
        PostgresApiKeys(pool),
        PostgresTenants(pool),
        PostgresMcpSessions(pool),
        PostgresRunCounts(pool),
        PostgresFeedbackStore(pool),
        PostgresAuditLog(pool),
        PostgresWebhookOutbox(pool),
    )
