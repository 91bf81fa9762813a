"""`rejoin doctor`, settings: contradictions that need no connection to be seen."""

from collections.abc import Iterator

from rejoin.cli.finding import Finding, error, note
from rejoin_adapters.jetstream import setup
from rejoin_gateway import app
from rejoin_gateway.auth.authenticator import config_errors
from rejoin_gateway.core.file_urls import check_public_url
from rejoin_gateway.settings import GatewaySettings
from rejoin_protocol.errors import Invalid

ACK_WAIT_S_MIN = 1.0


class DoctorSettings(GatewaySettings, frozen=True, kw_only=True):
    """A gateway's settings, and those of the runners' that must fit them."""

    ack_wait_s: float = setup.ACK_WAIT_S
    session_retention_s: float | None = None
    nats_placement_tags: str = ""
    log_level: str = "critical"


def check_settings(settings: DoctorSettings) -> Iterator[Finding]:
    """Check the settings against each other."""
    for refusal in config_errors(settings):
        yield error(*refusal)
    if settings.allow_anonymous and not app.is_loopback(settings.host):
        yield error(
            f"REJOIN_ALLOW_ANONYMOUS is set and the host is {settings.host}: a gateway refuses to start",
            "unset REJOIN_ALLOW_ANONYMOUS, or listen on 127.0.0.1",
        )
    if settings.accepts_tokens and not (settings.jwt_issuer and settings.jwt_audience):
        yield note(
            "gateways accept tokens of any issuer or audience that the key has signed",
            "set REJOIN_JWT_ISSUER and REJOIN_JWT_AUDIENCE",
        )
    if settings.ack_wait_s < ACK_WAIT_S_MIN:
        yield note(
            f"REJOIN_ACK_WAIT_S is {settings.ack_wait_s:g}: a runner must send a heartbeat every "
            f"{settings.ack_wait_s / 3:.2g} s, and loses its runs if it is busy for longer",
            f"set it to {setup.ACK_WAIT_S:g}",
        )
    yield from _check_file_urls(settings)
    retention_s = settings.session_retention_s
    if retention_s is not None and retention_s < settings.run_log_retention_s:
        yield note(
            f"sessions are deleted after {retention_s:g} s, before their logs expire",
            "set REJOIN_SESSION_RETENTION_S to more than "
            f"REJOIN_RUN_LOG_RETENTION_S ({settings.run_log_retention_s:g})",
        )
    if settings.metrics_port is None and not app.is_loopback(settings.host):
        yield note(
            "/metrics is a public route of the gateway",
            "set REJOIN_METRICS_PORT, or block the path in the load balancer",
        )


def _check_file_urls(settings: DoctorSettings) -> Iterator[Finding]:
    try:
        check_public_url(settings.public_url)
    except Invalid as fault:
        yield error(fault.detail, "set REJOIN_PUBLIC_URL to what clients have before /api, or unset it")
    if settings.public_url and not settings.context_encryption_keys:
        yield note(
            "the URLs of files are not signed: an `<img>` element cannot load them",
            "set REJOIN_CONTEXT_ENCRYPTION_KEYS_FILE to the same keys for all gateways and runners",
        )
