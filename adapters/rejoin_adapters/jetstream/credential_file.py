"""Reads the file with a NATS user's credentials: at each connect anew, so that a rotated file is used without
a restart. Never keeps a seed longer than a connect takes, and never logs one.
"""

import time
from pathlib import Path

from rejoin_protocol.broker import nats_credentials
from rejoin_protocol.broker.broker_url import BrokerUrl
from rejoin_protocol.broker.nats_credentials import CREDENTIALS_BYTES_MAX, NatsCredentials
from rejoin_protocol.errors import Invalid


def has_credential_file(url: BrokerUrl) -> bool:
    """Whether the user of this broker is named by a file."""
    return url.creds_file is not None or url.nkey_file is not None


def load_credentials(url: BrokerUrl) -> NatsCredentials:
    """The credentials in the file of a broker that has one. Raises `Invalid`, which names setting, file and
    fault.
    """
    setting, path = (
        ("REJOIN_NATS_CREDS_FILE", url.creds_file)
        if url.creds_file is not None
        else ("REJOIN_NATS_NKEY_FILE", url.nkey_file or "")
    )
    try:
        with Path(path).open(encoding="ascii") as file:
            text = file.read(CREDENTIALS_BYTES_MAX)
    except OSError as error:
        raise Invalid(f"{setting} names {path}, which cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Invalid(f"{setting} names {path}: it is not a text file") from None
    try:
        if url.creds_file is not None:
            return nats_credentials.parse_credentials(text, time.time())
        return nats_credentials.parse_nkey(text)
    except Invalid as fault:
        raise Invalid(f"{setting} names {path}: {fault}") from None
