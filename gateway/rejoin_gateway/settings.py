"""The settings of a gateway. `rejoin.cli` and `embed` read them from the environment and from files."""

from rejoin_adapters.process.service_process import LogFormat
from rejoin_gateway.agent_cache import AGENT_CACHE_TTL_S
from rejoin_gateway.auth.authenticator import AuthSettings
from rejoin_gateway.core.file_urls import FILE_URL_TTL_S
from rejoin_gateway.streaming.replay import HEARTBEAT_S
from rejoin_protocol.limits import CONNECTIONS_MAX, PEER_CONNECTIONS_MAX, Count


class GatewaySettings(AuthSettings, frozen=True, kw_only=True):
    """The settings of a gateway: each is the variable `REJOIN_…`."""

    nats_url: str
    """NATS 2.12 or newer with JetStream; a cluster's servers are separated by commas."""
    database_url: str
    """PostgreSQL 15 or newer."""
    host: str = "127.0.0.1"
    """Address that the gateway listens on."""
    port: int = 8080
    connections_max: Count = CONNECTIONS_MAX
    """Connections of all clients; fewer if the limit of open files is low. Beyond them the idle ones are
    closed and new ones wait.
    """
    connections_per_peer_max: Count = PEER_CONNECTIONS_MAX
    """Connections of one peer: an IPv4 address or an IPv6 network (/64), loopback excepted. A load balancer
    is one peer: behind one, set it to `REJOIN_CONNECTIONS_MAX`.
    """
    default_agent: str | None = None
    """Agent of requests that name none."""
    openai_strict: bool = False
    """Whether fields of OpenAI's clients that would change an agent, or have no effect, are refused with a
    400. Else agents take what their `callers` say, and the header `Rejoin-Ignored` names the rest.
    """
    agent_cache_ttl_s: float = AGENT_CACHE_TTL_S
    """How long an agent's registry entry is cached."""
    nats_replicas: int = 1
    """Servers that store each stream: 3 in a cluster."""
    run_log_retention_s: float = 24 * 3600
    """How long a run's events can be streamed again. Messages stay in the database for longer."""
    database_pool_max: int = 10
    """Database connections of one process."""
    requests_per_minute: Count = 3_000
    """Rate limit of one credential at one gateway."""
    user_requests_per_minute: Count = 1_200
    """Rate limit of one user, with all of the user's credentials, at one gateway."""
    tenant_requests_per_minute: Count = 12_000
    """Rate limit of one tenant at one gateway."""
    login_failures_per_minute: Count = 30
    """Wrong API keys from one address, and with one key's id, at one gateway. Further ones get 429 without
    being checked; keys that were right before are always checked.
    """
    tenant_streams_max: Count = 5_000
    """Open streams of a tenant at one gateway; further ones get 429."""
    user_streams_max: Count = 100
    """Open streams of one user at one gateway; further ones get 429."""
    stream_heartbeat_s: float = HEARTBEAT_S
    """Time without events after which a stream sends a comment, so that proxies keep the connection open."""
    agent_chat_timeout_s: float | None = 120.0
    """Time limit of runs that the agent-chat routes stream."""
    agent_chat_cancel_on_disconnect: bool = True
    """Whether such a run is cancelled when its client disconnects. On all other routes runs continue."""
    cors_origins: str = ""
    """Origins whose pages may call the gateway, separated by spaces; `*` for all."""
    context_encryption_keys: str | None = None
    """Keys that encrypt agent contexts: `id:base64,…`, 32 bytes each. The first encrypts, all decrypt. Keys
    derived from them sign the URLs of files; without them, files need a credential.
    """
    public_url: str = ""
    """Where clients reach the gateways, for example `https://chat.example.com`. With it, URLs of files are
    absolute. Without it, they are absolute only for pages of other origins, with the host that these called.
    """
    file_url_ttl_s: float = FILE_URL_TTL_S
    """How long a file's signed URL is valid at least; at most twice as long."""
    shutdown_delay_s: float = 0.0
    """How long readiness fails before streams are closed: the time a load balancer needs to notice."""
    metrics_host: str = "127.0.0.1"
    """Address of the metrics port."""
    metrics_port: int | None = None
    """Port of `/metrics`. Unset, `/metrics` is a route of the gateway."""
    otlp_endpoint: str | None = None
    """URL for trace spans, `http://…/v1/traces`; needs the extra `otel`."""
    log_level: str = "info"
    log_format: LogFormat = "auto"
    """`json`, `console`, or `auto`: JSON unless stderr is a terminal."""
