"""The settings that limit tenants and their users: gateways and runners read the same ones, and with them
those of the broker.

A tenant's own limits (`rejoin tenants limits`) override these. The defaults protect tenants from each other
on one runner with 64 slots. With more runners, raise them.
"""

from typing import Annotated

from msgspec import Meta

from rejoin_adapters.broker_settings import BrokerSettings
from rejoin_adapters.store_types import Limits
from rejoin_protocol.limits import MIB, Count
from rejoin_protocol.money import parse_usd

GIB = 1024 * MIB
type DayCost = Annotated[float, Meta(ge=0.000001, le=9_000_000)]


class LimitSettings(BrokerSettings, frozen=True, kw_only=True):
    """What a tenant, or a user of a tenant, may have at the same time or keep."""

    tenant_running_max: Count = 48
    """Concurrent runs of a tenant; further runs wait. The default is three quarters of the slots of one
    runner, so that no tenant takes them all: raise it with the number of runners. This limit and the
    following hold for tenants without limits of their own (`rejoin tenants limits`). Set the same values for
    gateways and runners.
    """
    user_running_max: Count = 16
    """Concurrent runs of one user; further runs wait and delay no other user."""
    tenant_queued_max: Count = 1_000
    """Waiting runs of a tenant; further messages get 429."""
    user_queued_max: Count = 100
    """Waiting runs of one user; further messages get 429."""
    tenant_tokens_per_day: Count | None = None
    """Tokens of a tenant per day; when they are used up, messages get 429 until midnight UTC."""
    tenant_cost_per_day: DayCost | None = None
    """US dollars of a tenant per day, of models that have a price; likewise."""
    tenant_file_bytes_max: Count = 10 * GIB
    """Bytes of all stored files of a tenant; further ones are refused until sessions are deleted."""
    session_bytes_max: Count = 50 * MIB
    """Bytes of all messages of a session, as JSON, without files, and of the tools that requests have brought
    for runs that have not ended; then further messages get 409.
    """
    tenant_text_bytes_max: Count = 50 * GIB
    """Bytes of all sessions of a tenant, counted in the same way; above it no session can be forked."""
    user_text_bytes_max: Count = GIB
    """Bytes of all messages of one user; above it the user forks no session."""

    @property
    def limits(self) -> Limits:
        """The limits as the database reads them."""
        return Limits(
            running_max=self.tenant_running_max,
            queued_max=self.tenant_queued_max,
            tokens_per_day=self.tenant_tokens_per_day,
            nano_usd_per_day=parse_usd(self.tenant_cost_per_day),
            file_bytes_max=self.tenant_file_bytes_max,
            session_bytes_max=self.session_bytes_max,
            text_bytes_max=self.tenant_text_bytes_max,
            user_running_max=self.user_running_max,
            user_queued_max=self.user_queued_max,
            user_text_bytes_max=self.user_text_bytes_max,
        )
