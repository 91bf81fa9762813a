"""Broker URLs: valid ones are parsed, invalid ones are refused with the reason."""

from typing import Any

import pytest

from rejoin_protocol.broker.broker_url import BrokerUrl, parse
from rejoin_protocol.errors import Invalid

WORD = "word"


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("nats://one", BrokerUrl(("nats://one:4222",))),
        ("one:4223", BrokerUrl(("nats://one:4223",))),
        ("nats://word@one:4222", BrokerUrl(("nats://one:4222",), token=WORD)),
        (
            "nats://a:word%40c@one:1,nats://a:word%40c@two:2,nats://a:word%40c@one:1",
            BrokerUrl(("nats://one:1", "nats://two:2"), user="a", password=f"{WORD}@c"),
        ),
        (
            "nats://one:1, nats://a:word@two:2",
            BrokerUrl(("nats://one:1", "nats://two:2"), user="a", password=WORD),
        ),
        ("nats://[::1]:4222", BrokerUrl(("nats://[::1]:4222",))),
        ("tls://one", BrokerUrl(("tls://one:4222",), tls=True)),
        (
            "tls://one,two/?sslrootcert=/ca&sslcert=/c&sslkey=/k",
            BrokerUrl(("tls://one:4222", "tls://two:4222"), tls=True, ca="/ca", certificate="/c", key="/k"),
        ),
        ("ws://one", BrokerUrl(("ws://one:80",))),
        ("wss://one,wss://two:8443", BrokerUrl(("wss://one:443", "wss://two:8443"), tls=True)),
        ("nats://one?api=JS.REJOIN", BrokerUrl(("nats://one:4222",), api="JS.REJOIN")),
    ],
)
def test_a_url_says_it_all(url: str, address: BrokerUrl) -> None:
    assert parse(url) == address


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://a:secret@one", "begins with nats://, tls://, ws:// or wss://"),
        ("", "HOST:PORT"),
        ("nats://", "HOST:PORT"),
        ("nats://a:secret@one/path", "HOST:PORT"),
        ("nats://a:secret@one:many", "wrong port"),
        ("nats://a:secret@one:70000", "wrong port"),
        ("nats://a:secret@one?sslmode=require", "unknown parameter sslmode"),
        ("nats://a:secret@one?sslrootcert=/ca", "begins with tls://"),
        ("tls://a:secret@one?sslkey=/k", "sslkey without sslcert"),
        ("nats://a:secret@one,nats://b:secret@two", "different credentials"),
        ("nats://a:secret@one,ws://a:secret@two", "mixes ws:// with nats://"),
    ],
)
def test_what_is_wrong_is_named_and_no_secret_with_it(url: str, words: str) -> None:
    with pytest.raises(Invalid, match=words) as wrong:
        parse(url)
    assert "secret" not in str(wrong.value)


@pytest.mark.parametrize(
    ("url", "files"),
    [
        ("nats://a:secret@one", {"creds_file": "/c"}),
        ("nats://secret@one", {"nkey_file": "/k"}),
        ("nats://one", {"creds_file": "/c", "nkey_file": "/k"}),
    ],
)
def test_a_user_is_named_once(url: str, files: dict[str, Any]) -> None:
    with pytest.raises(Invalid, match="named twice") as wrong:
        parse(url, **files)
    assert "secret" not in str(wrong.value)


def test_a_log_line_names_the_hosts_alone() -> None:
    assert parse("nats://a:secret@one:1,nats://a:secret@two:2").hosts == "one:1, two:2"
