"""The settings that say which NATS user a process is: all processes that connect to NATS read them."""

import msgspec

from rejoin_protocol.broker import broker_url, subjects
from rejoin_protocol.broker.broker_url import BrokerUrl
from rejoin_protocol.broker.subjects import BrokerNames
from rejoin_protocol.limits import Count


class BrokerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How to be known to NATS, beside `nats_url`."""

    nats_creds_file: str | None = None
    """Path of a NATS credentials file (`.creds`: a user's JWT and NKEY seed). It is read anew at each
    connect, so it may be replaced at any time.
    """
    nats_nkey_file: str | None = None
    """Path of a file with a user's NKEY seed (`SU…`), for servers that list public keys. Read anew, too."""

    nats_prefix: str = ""
    """Prefix of all subjects and streams, so that several installations share a NATS account: the same for
    all processes of one installation.
    """

    log_shards: Count = 1
    """JetStream streams over which the logs and requests of runs are spread: a multiple of the NATS
    servers. Raise it for `rejoin migrate` first, then for the runners, then for the gateways; never lower
    it for a runner while runs of the shards that it would leave are open.
    """

    @property
    def names(self) -> BrokerNames:
        """What streams and subjects are called. Raises `Invalid`."""
        return subjects.broker_names(self.nats_prefix, self.log_shards)

    def broker(self, nats_url: str) -> BrokerUrl:
        """The broker at `nats_url`, for this user. Raises `Invalid`, whose text contains no secret."""
        return broker_url.parse(
            nats_url,
            creds_file=self.nats_creds_file,
            nkey_file=self.nats_nkey_file,
            names=self.names,
        )
