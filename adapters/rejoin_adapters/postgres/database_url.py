"""The URL of a database, as providers print it: what the driver understands of it, and what it says about a
pooler. Pure.
"""

from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit

from rejoin_protocol.errors import Invalid

POOLER = "pgbouncer"
"""The parameter that says that a pooler in transaction mode stands before the server, as in other libraries:
`?pgbouncer=true`.
"""
STATEMENTS_MAX = 100
"""asyncpg's default."""
_TRUE, _FALSE = frozenset({"true", "1", "yes", "on"}), frozenset({"false", "0", "no", "off"})
SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
LIBPQ_ONLY = frozenset(
    {
        "channel_binding",
        "connect_timeout",
        "fallback_application_name",
        "gssencmode",
        "keepalives",
        "keepalives_count",
        "keepalives_idle",
        "keepalives_interval",
        "tcp_user_timeout",
    }
)
"""Parameters of libpq that our driver does not know: it would send them to the server, which refuses them."""


class DatabaseUrl(NamedTuple):
    """`url`: for the driver. `is_pooled`: consecutive transactions of a connection may reach different
    server connections. `ignored`: the parameters that were left out.
    """

    url: str
    is_pooled: bool
    ignored: Sequence[str]

    @property
    def statements_max(self) -> int:
        """The prepared statements that a connection may keep. None behind a pooler: a prepared statement
        stays in one server connection, which the next transaction may not get.
        """
        return 0 if self.is_pooled else STATEMENTS_MAX


def parse_database_url(text: str) -> DatabaseUrl:
    """Raises `Invalid` for a value of `pgbouncer` that is no boolean, and for an `sslmode` that does not
    exist. The driver finds other faults.
    """
    head, mark, query = text.partition("?")
    try:
        has_query = bool(mark) and urlsplit(text).query == query
    except ValueError:  # a wrong host
        has_query = False
    if not has_query:
        return DatabaseUrl(text, is_pooled=False, ignored=())
    given = parse_qsl(query, keep_blank_values=True)
    pooler = dict(given).get(POOLER, "false").lower()
    if pooler not in _TRUE | _FALSE:
        raise Invalid(f"the database's URL has {POOLER}={pooler}: it is true or false")
    if (mode := dict(given).get("sslmode", "prefer")) not in SSL_MODES:
        raise Invalid(f"the database's URL has sslmode={mode}: it is one of {', '.join(SSL_MODES)}")
    kept = [(name, value) for name, value in given if name != POOLER and name not in LIBPQ_ONLY]
    ignored = [name for name, _ in given if name in LIBPQ_ONLY]
    if kept == given:
        return DatabaseUrl(text, is_pooled=False, ignored=())
    return DatabaseUrl(head + (f"?{urlencode(kept)}" if kept else ""), pooler in _TRUE, ignored)
