"""The settings of a runner process."""

import msgspec
from rejoin_adapters.jetstream import setup
from rejoin_adapters.records import Count
from rejoin_adapters.service.service_process import LogFormat


class RunnerSettings(msgspec.Struct, frozen=True):
    """A runner's settings, `REJOIN_…` each."""

    nats_url: str
    database_url: str
    nats_replicas: int = 1
    run_log_retention_s: float = 24 * 3600
    ack_wait_s: float = setup.ACK_WAIT_S
    """How long a silent runner keeps its runs; it is heard of three times as often."""
    max_concurrent_runs: int = 64
    """Runs at once in one process; each agent beyond the first may have one more."""
    drain_grace_s: float = 10.0
    """How long a stopping runner's runs may go on before they are handed over."""
    retry_delay_s: float = 1.0
    """How long a run whose execution broke waits for its next attempt."""
    attempts_max: int = 10
    """In one turn of a run: then it fails, visibly."""
    sweep_interval_s: float = 5.0
    """How often it looks for what got lost or expired."""
    database_pool_max: int = 10
    model: str | None = None
    """What the demo agent uses instead of its script, `provider:name`."""
    model_base_url: str | None = None
    """Where models named `provider:name` are, if not at their provider's."""
    model_api_key: str | None = None
    """Their key."""
    context_encryption_keys: str | None = None
    """What contexts are sealed with, `id:base64,…`, the gateways' own."""
    deployed_at_ms: int | None = None
    """Tells this deploy from earlier ones that still have runners; unsaid, it is the process's start."""
    tenant_running_max: Count | None = None
    """Runs at once of a tenant that has no limits of its own, the gateways' own setting; others wait."""
    tenant_file_bytes_max: Count | None = None
    """Of all its files, those that its models make as well; likewise."""
    session_retention_s: float | None = None
    """Sessions untouched for longer are deleted, with all that belongs to them; unsaid, none are."""
    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = None
    """Where Prometheus reads; unsaid, nowhere."""
    otlp_endpoint: str | None = None
    """Where spans go, `http://…/v1/traces`; needs the extra `otel`."""
    log_level: str = "info"
    log_format: LogFormat = "auto"
