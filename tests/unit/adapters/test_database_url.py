"""The URLs that providers print, and what the driver gets of them."""

import pytest

from rejoin_adapters.postgres.database_url import DatabaseUrl, parse_database_url
from rejoin_protocol.errors import Invalid


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgresql://u:p@h/d", DatabaseUrl("postgresql://u:p@h/d", False, ())),
        (
            "postgresql://u:p@h/d?sslmode=require",
            DatabaseUrl("postgresql://u:p@h/d?sslmode=require", False, ()),
        ),
        (  # Neon
            "postgresql://u:p@ep-x-pooler.eu.example/d?sslmode=require&channel_binding=require",
            DatabaseUrl(
                "postgresql://u:p@ep-x-pooler.eu.example/d?sslmode=require", False, ["channel_binding"]
            ),
        ),
        (  # Supabase
            "postgres://postgres.ref:p%2F@aws.pooler.example:6543/postgres?pgbouncer=true",
            DatabaseUrl("postgres://postgres.ref:p%2F@aws.pooler.example:6543/postgres", True, []),
        ),
        (
            "postgresql://h/d?sslrootcert=/run/ca.pem&pgbouncer=1",
            DatabaseUrl("postgresql://h/d?sslrootcert=%2Frun%2Fca.pem", True, []),
        ),
        ("postgresql://h/d?pgbouncer=false", DatabaseUrl("postgresql://h/d", False, [])),
        ("postgresql://u:p?x=1@h/d", DatabaseUrl("postgresql://u:p?x=1@h/d", False, ())),
    ],
    ids=["plain", "TLS", "channel binding", "pooler", "file", "no pooler", "unescaped password"],
)
def test_what_the_driver_gets(text: str, expected: DatabaseUrl) -> None:
    assert parse_database_url(text) == expected


def test_a_pooler_is_true_or_false() -> None:
    with pytest.raises(Invalid, match="pgbouncer=maybe: it is true or false"):
        parse_database_url("postgresql://h/d?pgbouncer=maybe")
