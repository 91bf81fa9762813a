"""Parses the broker's URL: servers, credentials, TLS, prefix of the JetStream API.

    nats://user:password@one:4222,nats://two:4222       a cluster: the credentials are those of all servers
    tls://…/?sslrootcert=FILE                           the server's certificate must be issued by this CA
    tls://…/?sslrootcert=FILE&sslcert=FILE&sslkey=FILE  and we present our own certificate
    ws://…, wss://…                                     over WebSocket
    nats://…/?api=JS.REJOIN                             the JetStream API of another account, by its prefix
    here; of a domain behind a leaf node: `?api=$JS.DOMAIN.API`

The parameters have the names of PostgreSQL's URLs (libpq, 34.1.2). A parameter after the last server applies
to all servers.
"""

from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import msgspec

from rejoin_protocol.broker import subjects
from rejoin_protocol.broker.subjects import BrokerNames
from rejoin_protocol.errors import Invalid

NATS_PORTS = {"nats": 4222, "tls": 4222, "ws": 80, "wss": 443}
"""The schemes, and the port of a URL that names none."""
WEBSOCKET = ("ws", "wss")


class BrokerUrl(msgspec.Struct, frozen=True, repr_omit_defaults=True):
    """A parsed URL. `servers`: URLs without secrets. `ca`, `certificate`, `key`: paths of PEM files.
    `creds_file`, `nkey_file` (paths of the user's credentials) and `names` are not part of the URL.
    """

    servers: tuple[str, ...]
    tls: bool = False
    user: str | None = None
    password: str | None = None
    token: str | None = None
    ca: str | None = None
    certificate: str | None = None
    key: str | None = None
    api: str = subjects.JETSTREAM_API
    creds_file: str | None = None
    nkey_file: str | None = None
    names: BrokerNames = subjects.DEFAULT

    @property
    def is_websocket(self) -> bool:
        """Whether the protocol of NATS is spoken over WebSocket."""
        return self.servers[0].startswith("ws")

    @property
    def is_in_domain(self) -> bool:
        """Whether the JetStream API is that of a named domain."""
        return self.api.startswith("$JS.") and self.api != subjects.JETSTREAM_API

    @property
    def hosts(self) -> str:
        """The hosts, for logs."""
        return ", ".join(server.partition("://")[2] for server in self.servers)


def parse(
    url: str,
    *,
    creds_file: str | None = None,
    nkey_file: str | None = None,
    names: BrokerNames = subjects.DEFAULT,
) -> BrokerUrl:
    """Parse a URL; the files belong to the user. Raises `Invalid`, whose text contains no secret."""
    parts = [_split(one) for one in url.split(",")]
    options = _options(parts)
    schemes = {part.scheme for part in parts}
    if schemes & {*WEBSOCKET} and schemes - {*WEBSOCKET}:
        raise Invalid("the broker's URL mixes ws:// with nats://: all of its servers are of one kind")
    tls = not schemes.isdisjoint({"tls", "wss"})
    if not tls and options.keys() & {"ca", "certificate", "key"}:
        raise Invalid("the broker's URL names certificates: then it begins with tls:// or wss://")
    if "key" in options and "certificate" not in options:
        raise Invalid("the broker's URL names sslkey without sslcert")
    plain, safe = WEBSOCKET if schemes & {*WEBSOCKET} else ("nats", "tls")
    servers = tuple(dict.fromkeys(_server(safe if tls else plain, part) for part in parts))
    credentials = _credentials(parts)
    if sum(map(bool, (credentials, creds_file, nkey_file))) > 1:
        raise Invalid(
            "the broker's user is named twice: one of the URL, REJOIN_NATS_CREDS_FILE and "
            "REJOIN_NATS_NKEY_FILE names it"
        )
    return BrokerUrl(
        servers, tls, **credentials, **options, creds_file=creds_file, nkey_file=nkey_file, names=names
    )


def _split(one: str) -> SplitResult:
    part = urlsplit(one.strip() if "://" in one else f"nats://{one.strip()}")
    if part.scheme not in NATS_PORTS:
        raise Invalid(f"the broker's URL begins with nats://, tls://, ws:// or wss://, not {part.scheme}://")
    if not part.hostname or part.path not in ("", "/"):
        raise Invalid("the broker's URL is nats://HOST:PORT, several of them separated by commas")
    return part


def _server(scheme: str, part: SplitResult) -> str:
    try:
        port = part.port or NATS_PORTS[scheme]
    except ValueError as fault:
        raise Invalid(f"the broker's URL has a wrong port: {fault}") from None
    host = f"[{part.hostname}]" if ":" in (part.hostname or "") else part.hostname
    return f"{scheme}://{host}:{port}"


def _options(parts: list[SplitResult]) -> dict[str, str]:
    fields = {"sslrootcert": "ca", "sslcert": "certificate", "sslkey": "key", "api": "api"}
    options: dict[str, str] = {}
    for name, value in (pair for part in parts for pair in parse_qsl(part.query)):
        if name not in fields:
            raise Invalid(f"the broker's URL has an unknown parameter {name}: it knows {', '.join(fields)}")
        options[fields[name]] = value
    return options


def _credentials(parts: list[SplitResult]) -> dict[str, str]:
    """A user and a password, or, without a colon, a token."""
    given = {(part.username, part.password) for part in parts if part.username}
    if len(given) > 1:
        raise Invalid("the broker's URL has different credentials for its servers: one broker has one")
    for user, password in given:
        if password is None:
            return {"token": unquote(user)}
        return {"user": unquote(user), "password": unquote(password)}
    return {}
