"""TLS settings of the broker's connection, and the reasons why a certificate is refused (NATS and
PostgreSQL).

A refused certificate is a permanent error: a service must not wait for it as for an unreachable server.
"""

import ssl

from rejoin_protocol.broker.broker_url import BrokerUrl
from rejoin_protocol.errors import Invalid

NO_CLIENT_CERTIFICATE = "does not accept our certificate: certificate required (see sslcert)"
ALERTS = (
    "CERTIFICATE_REQUIRED",
    "BAD_CERTIFICATE",
    "UNKNOWN_CA",
    "CERTIFICATE_UNKNOWN",
    "CERTIFICATE_EXPIRED",
)


def build_ssl_context(address: BrokerUrl) -> ssl.SSLContext:
    """The TLS settings for this URL. Trusts the CA in its `ca`, by default the CAs of the system. Raises
    `Invalid`, which names the file.
    """
    try:
        ssl_context = ssl.create_default_context(cafile=address.ca)
    except (OSError, ssl.SSLError) as error:
        raise Invalid(
            f"sslrootcert of the broker's URL, {address.ca}: {_describe_file_error(error)}"
        ) from None
    if address.certificate is not None:
        try:
            ssl_context.load_cert_chain(address.certificate, address.key)
        except (OSError, ssl.SSLError) as error:
            files = " and ".join(filter(None, (address.certificate, address.key)))
            raise Invalid(f"sslcert of the broker's URL, {files}: {_describe_file_error(error)}") from None
    return ssl_context


def describe_refusal(error: BaseException | None) -> str | None:
    """Why one side refuses the other's certificate; None for any other error."""
    match getattr(error, "certificate_error", error):  # aiohttp's error around it, of a WebSocket
        case ssl.SSLCertVerificationError() as error:
            return f"has a certificate that we do not trust: {error.verify_message} (see sslrootcert)"
        case ssl.SSLError(reason=str(reason)) if reason.endswith(ALERTS):
            return f"does not accept our certificate: {reason.lower().replace('_', ' ')} (see sslcert)"
    return None


def _describe_file_error(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return "not a file with certificates (and a key) in PEM"
    return error.strerror or type(error).__name__
