"""The limits of `rejoin dev`, of load tests and of benchmarks: one developer is all tenants and all users.

A developer's own settings come before these.
"""

from collections.abc import Mapping
from typing import Any

GENEROUS_LIMITS: Mapping[str, Any] = {
    "tenant_running_max": 10_000,
    "user_running_max": 10_000,
    "tenant_queued_max": 1_000_000,
    "user_queued_max": 1_000_000,
}
"""Settings of gateways and runners."""
GENEROUS_RATES: Mapping[str, Any] = {
    "requests_per_minute": 10_000_000,
    "user_requests_per_minute": 10_000_000,
    "tenant_requests_per_minute": 10_000_000,
    "login_failures_per_minute": 10_000_000,
    "tenant_streams_max": 65_536,
    "user_streams_max": 65_536,
}
"""Settings of gateways."""
