"""Creates or updates the database tables and the NATS streams: `rejoin migrate`, and at the start of
`rejoin dev`.
"""

from rejoin_adapters.broker_settings import BrokerSettings
from rejoin_adapters.jetstream import nats_connection, setup
from rejoin_adapters.postgres import migrate
from rejoin_adapters.process.service_process import LogFormat


class MigrateSettings(BrokerSettings, frozen=True, kw_only=True):
    """The settings of `rejoin migrate`."""

    nats_url: str
    database_url: str
    migrate_database_url: str | None = None
    """PostgreSQL itself, where `database_url` is a pooler in transaction mode. Default: `database_url`."""
    nats_replicas: int = 1
    run_log_retention_s: float = 24 * 3600
    nats_placement_tags: str = ""
    """Tags that a NATS server must have to store streams, separated by spaces."""
    log_level: str = "info"
    log_format: LogFormat = "auto"

    @property
    def owner_url(self) -> str:
        """The database of migrations."""
        return self.migrate_database_url or self.database_url


async def check(settings: MigrateSettings) -> None:
    """Change nothing. Raises `Invalid` if the database is older or newer than this version."""
    await migrate.check_schema(settings.owner_url, exactly=True)


async def update(settings: MigrateSettings) -> list[str]:
    """Update both, and wait for a broker that starts. Returns the migrations that were applied. Raises
    `RejoinError`.
    """
    streams = setup.StreamSettings(
        settings.nats_replicas,
        settings.run_log_retention_s,
        placement_tags=tuple(settings.nats_placement_tags.split()),
    )
    async with nats_connection.connect(settings.broker(settings.nats_url), "migrate") as connection:
        await setup.declare_streams_when_ready(connection, streams)
    return await migrate.migrate(settings.owner_url)
