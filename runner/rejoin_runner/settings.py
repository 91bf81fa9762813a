"""The settings of a runner process."""

from typing import Literal

from rejoin_adapters.jetstream import setup
from rejoin_adapters.limit_settings import LimitSettings
from rejoin_adapters.process.service_process import LogFormat
from rejoin_protocol.limits import MIB, Count


class RunnerSettings(LimitSettings, frozen=True, kw_only=True):
    """The settings of a runner process, each from the variable `REJOIN_<NAME>` or the configuration file."""

    nats_url: str
    database_url: str
    nats_replicas: int = 1
    run_log_retention_s: float = 24 * 3600
    ack_wait_s: float = setup.ACK_WAIT_S
    """Seconds without a heartbeat after which a runner loses its runs; it sends three in that time."""
    loop_blocked_max_s: float = 10.0
    """Seconds for which code of an agent may block the event loop; then another runner gets its run. By then
    providers and users have given up waiting, and no correct tool needs as long.
    """
    max_concurrent_runs: int = 64
    """Concurrent runs in one process. Each agent and each shard of its requests beyond the first may add
    one more.
    """
    drain_grace_s: float = 10.0
    """Seconds for which runs go on while the runner stops; then they are handed over."""
    retry_delay_s: float = 1.0
    """Seconds before the next attempt at a run that crashed."""
    attempts_max: int = 10
    """Attempts at one turn of a run that end by an error, without progress in between; then the run fails
    with an error that the users see. An attempt that was lost with its process, or gave its run back, does
    not count: another run may be the reason.
    """
    sweep_interval_s: float = 5.0
    """Seconds between two searches for lost runs and expired sessions, approvals and files."""
    history_bytes_max: Count = 2 * MIB
    """Bytes of a session's newest messages, as JSON, that an agent sees; older ones are left out. The default
    is about 500,000 tokens of English.
    """
    database_pool_max: int = 10
    model: str | None = None
    """The model of the demo agent, `provider:name`. Default: the scripted model."""
    model_base_url: str | None = None
    """The base URL of models named `provider:name`. Default: the provider's own."""
    model_api_key: str | None = None
    """The API key of these models; several as `openai=…,anthropic=…`."""
    prices: str | None = None
    """Prices of models in US dollars for a million tokens, as JSON, in place of the known ones:
    `{"openai:gpt-5": {"input": 1.25, "cached_input": 0.125, "output": 10}}`.
    """
    record_model_calls: bool = False
    """Record the body of each request to a model and the raw answer, for the inspector. The records hold what
    users and tools say: see [recorded model calls](console.md#recorded-model-calls).
    """
    recorded_bytes_max: int = 256 * 1024 * 1024
    """Bytes of such records that this runner stores of one tenant in an hour. Beyond them it records of a
    call its address, status and sizes, without the texts.
    """
    context_encryption_keys: str | None = None
    """The keys that encrypt request contexts, `id:base64,…`: the same as the gateways'."""
    webhook_timeout_s: float = 15.0
    """Seconds that a receiver of webhooks has to answer."""
    webhook_retry_s: float = 5.0
    """Seconds before a webhook is sent a second time; each further pause is four times as long."""
    webhook_private_addresses: bool = False
    """Send webhooks to addresses and ports that are not public, too: for receivers in the same network."""
    webhook_request_private_addresses: bool = False
    """The same for receivers that requests name: whoever may send messages then makes runners post there."""
    deployed_at_ms: int | None = None
    """The time of this deployment in milliseconds since 1970. Default: the start of the process."""
    session_retention_s: float | None = None
    """Seconds without a message after which a session is deleted with all its data. Default: never."""
    audit_retention_s: float = 365 * 24 * 3600
    """Seconds after which entries of the audit log are deleted; at least a week."""
    usage_retention_s: float = 800 * 24 * 3600
    """Seconds after which the sums of tokens and costs by day are deleted."""
    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = None
    """The port of the Prometheus metrics. Default: none."""
    health_host: str = "127.0.0.1"
    """Address of the port for probes."""
    health_port: int | None = None
    """Port for probes: `/health/live` and `/health/ready`. Default: none."""
    otlp_endpoint: str | None = None
    """Where spans are sent, `http://…/v1/traces`; needs the extra `otel`. Default: nowhere."""
    otlp_metrics_endpoint: str | None = None
    """Where OpenTelemetry's GenAI metrics are sent, `http://…/v1/metrics`. Default: nowhere."""
    otlp_users: Literal["none", "hash", "id"] = "none"
    """Whether spans name the user of a run: by a hash (`user.hash`) or as it is (`user.id`)."""
    otlp_content: bool = False
    """Whether spans have instructions, messages, arguments and results."""
    log_level: str = "info"
    log_format: LogFormat = "auto"
