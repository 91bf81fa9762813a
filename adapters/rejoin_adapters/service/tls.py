"""TLS to the broker, and what a server's or our own certificate that is not accepted is called: both seams.

Such a refusal does not pass by itself: whoever waits for a server that is away must not wait for this one.
"""

import ssl

from rejoin_protocol.broker.broker_url import BrokerUrl
from rejoin_protocol.errors import Invalid

UNSHOWN = "does not accept our certificate: certificate required (see sslcert)"
ALERTS = (
    "CERTIFICATE_REQUIRED",
    "BAD_CERTIFICATE",
    "UNKNOWN_CA",
    "CERTIFICATE_UNKNOWN",
    "CERTIFICATE_EXPIRED",
)


def context(address: BrokerUrl) -> ssl.SSLContext:
    """Trusts the certificates in `ca`, or else the system's. Raises `Invalid` naming the wrong file."""
    try:
        made = ssl.create_default_context(cafile=address.ca)
    except (OSError, ssl.SSLError) as fault:
        raise Invalid(f"sslrootcert of the broker's URL, {address.ca}: {_words(fault)}") from None
    if address.certificate is not None:
        try:
            made.load_cert_chain(address.certificate, address.key)
        except (OSError, ssl.SSLError) as fault:
            files = " and ".join(filter(None, (address.certificate, address.key)))
            raise Invalid(f"sslcert of the broker's URL, {files}: {_words(fault)}") from None
    return made


def refusal(fault: BaseException | None) -> str | None:
    """Why one side does not accept the other's certificate; None if that is not what went wrong."""
    match fault:
        case ssl.SSLCertVerificationError():
            return f"has a certificate that we do not trust: {fault.verify_message} (see sslrootcert)"
        case ssl.SSLError(reason=str(reason)) if reason.endswith(ALERTS):
            return f"does not accept our certificate: {reason.lower().replace('_', ' ')} (see sslcert)"
    return None


def _words(fault: OSError) -> str:
    if isinstance(fault, ssl.SSLError):
        return "not what it should be, certificates (and a key) in PEM"
    return fault.strerror or type(fault).__name__
