"""Signed URLs of files: what one allows and for how long, and that all gateways make the same one."""

from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rejoin_gateway.core.file_urls import FileAccess, FileUrls
from rejoin_protocol import file_ids, ids
from rejoin_protocol.errors import Invalid
from rejoin_protocol.events import chunks
from rejoin_protocol.file_ids import FileId
from rejoin_protocol.ids import MessageId, TenantId
from rejoin_protocol.log.record import encode_frames

SECRET, OTHER = bytes(32), bytes([1]) * 32
ACME = TenantId("acme & co/ü")
ID = file_ids.file_id(None, b"x")
PATH = file_ids.file_url(ID)
START = datetime(2026, 11, 30, 12, 0, 0, tzinfo=UTC)
TTL_S = 3600
ANSWER = ids.new_message_id(int(START.timestamp() * 1000), bytes(10))


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.at = START

    def __call__(self) -> datetime:
        return self.at

    def wait(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def make_urls(clock: Clock, *secrets: bytes, public_url: str = "") -> FileUrls:
    return FileUrls(secrets or (SECRET,), clock, public_url=public_url, ttl_s=TTL_S)


def query_of(url: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(url).query, strict_parsing=True))


def test_a_signed_url_names_its_file_and_allows_to_read_it(clock: Clock) -> None:
    urls = make_urls(clock)
    url = urls.url(ID, ACME, ANSWER)
    assert url.startswith(f"{PATH}?tenant=acme%20%26%20co%2F%C3%BC&expires=")
    assert file_ids.parse_client_url(url) == ID
    assert urls.verify(ID, query_of(url)) == FileAccess(ACME, 2 * TTL_S)


@pytest.mark.parametrize("base", ["https://chat.example.com", "http://localhost:8080/", "https://a.b/rejoin"])
def test_with_a_public_url_it_is_absolute(clock: Clock, base: str) -> None:
    assert (
        make_urls(clock, public_url=base)
        .url(ID, ACME, ANSWER)
        .startswith(f"{base.rstrip('/')}{PATH}?tenant=")
    )


def test_without_keys_it_has_no_signature(clock: Clock) -> None:
    assert FileUrls([], clock).url(ID, ACME, ANSWER) == PATH
    assert FileUrls([], clock, public_url="https://a").url(ID, ACME, ANSWER) == f"https://a{PATH}"
    assert FileUrls([], clock).verify(ID, query_of(make_urls(clock).url(ID, ACME, ANSWER))) is None


@pytest.mark.parametrize(
    "url",
    ["chat.example.com", "ftp://a", "https://", "https://u:p@a", "https://a?b", "https://a#b", "http://["],
)
def test_a_public_url_is_checked(clock: Clock, url: str) -> None:
    with pytest.raises(Invalid, match="REJOIN_PUBLIC_URL"):
        make_urls(clock, public_url=url)


@pytest.mark.parametrize(
    "change",
    [
        {"tenant": "other"},
        {"tenant": ""},
        {"expires": "99999999999"},
        {"expires": ""},
        {"expires": "-1"},
        {"expires": "1e9"},
        {"expires": "9" * 5_000},
        {"expires": "\u0661"},
        {"signature": ""},
        {"signature": "A" * 43},
        {"signature": "\ud800é"},
    ],
)
def test_a_url_that_was_changed_allows_nothing(clock: Clock, change: dict[str, str]) -> None:
    urls = make_urls(clock)
    query = query_of(urls.url(ID, ACME, ANSWER))
    assert urls.verify(ID, query | change) is None
    assert urls.verify(ID, {name: value for name, value in query.items() if name not in change}) is None


def test_a_signature_is_of_one_file_one_tenant_and_one_key(clock: Clock) -> None:
    urls = make_urls(clock)
    query = query_of(urls.url(ID, ACME, ANSWER))
    assert urls.verify(file_ids.file_id(None, b"y"), query) is None
    assert urls.verify(ID.upper(), query) is None
    assert make_urls(clock, OTHER).verify(ID, query) is None
    moved = query_of(urls.url(ID, TenantId("other"), ANSWER)) | {"tenant": ACME}
    assert urls.verify(ID, moved) is None


def test_keys_rotate(clock: Clock) -> None:
    """The first one signs, all of them verify."""
    old, both, new = make_urls(clock, OTHER), make_urls(clock, SECRET, OTHER), make_urls(clock, SECRET)
    assert both.verify(ID, query_of(old.url(ID, ACME, ANSWER))) is not None
    assert both.url(ID, ACME, ANSWER) == new.url(ID, ACME, ANSWER)


def test_a_url_expires(clock: Clock) -> None:
    urls = make_urls(clock)
    query = query_of(urls.url(ID, ACME, ANSWER))
    clock.wait(2 * TTL_S - 1)
    assert urls.verify(ID, query) == FileAccess(ACME, 1)
    clock.wait(1)
    assert urls.verify(ID, query) is None


@given(st.sampled_from([ANSWER, "made-by-a-client"]), st.floats(0, 30 * 24 * 3600))
def test_a_url_is_valid_for_the_ttl_at_least_and_for_twice_that_at_most(message: str, later_s: float) -> None:
    clock = Clock()
    clock.wait(later_s)
    urls = make_urls(clock)
    access = urls.verify(ID, query_of(urls.url(ID, ACME, message)))
    assert access is not None
    assert TTL_S <= access.seconds_left <= 2 * TTL_S + 1


def test_all_readers_of_a_message_get_the_same_url_for_a_period(clock: Clock) -> None:
    """At every gateway, also at one whose clock is behind."""
    first = make_urls(clock).url(ID, ACME, ANSWER)
    for wait_s in (TTL_S / 2, TTL_S / 2 - 1):
        clock.wait(wait_s)
        assert make_urls(clock).url(ID, ACME, ANSWER) == first
    clock.at = START - timedelta(seconds=5)
    assert make_urls(clock).url(ID, ACME, ANSWER) == first
    clock.at = START + timedelta(seconds=TTL_S)
    assert make_urls(clock).url(ID, ACME, ANSWER) != first


def frames(*events: chunks.Chunk) -> bytes:
    return encode_frames([chunks.encode(event) for event in events], prev=3, index=7)


def test_frames_of_files_are_signed_and_all_other_bytes_stay(clock: Clock) -> None:
    urls = make_urls(clock, public_url="https://chat.example.com")
    text = chunks.TextDelta(id="t", delta=f'\ndata: {{"type":"file","url":"{PATH}"}}\n\n {PATH}')
    remote = chunks.File(f"https://elsewhere{PATH}", "image/png")
    odd = chunks.File(f"{file_ids.FILE_URL_PREFIX}{'-' * 81}", "image/png")
    data = chunks.Data(type="data-file", data={"url": PATH})
    for event in (text, remote, odd, data):
        assert urls.rewrite_frames(frames(event), ACME, ANSWER) == frames(event)
    for kind in (chunks.File, chunks.ReasoningFile):
        signed = kind(urls.url(ID, ACME, ANSWER), "image/png")
        sent = urls.rewrite_frames(frames(text, kind(PATH, "image/png"), data), ACME, ANSWER)
        assert sent == frames(text, signed, data)


def test_a_stored_message_has_the_urls_of_its_stream(clock: Clock) -> None:
    urls = make_urls(clock)
    text = {"type": "text", "text": PATH}
    remote = {"type": "file", "mediaType": "image/png", "url": "https://elsewhere/a.png"}
    stored = {"id": ANSWER, "role": "assistant", "parts": [text, remote]}
    assert urls.with_urls(stored, ACME) == stored
    for kind in ("file", "reasoning-file"):
        file = {"type": kind, "mediaType": "image/png", "url": PATH}
        read = urls.with_urls(stored | {"parts": [text, file]}, ACME)
        assert read["parts"] == [text, file | {"url": urls.url(ID, ACME, ANSWER)}]
        assert file["url"] == PATH


def test_ids_of_answers_have_a_time_and_others_have_none() -> None:
    assert ids.message_created_ms(ids.new_message_id(1_234, bytes(10))) == 1_234
    for id in ("msg_1", "m-1", "", "msg_" + "u" * 26, MessageId("msg_" + "a" * 24)):
        assert ids.message_created_ms(id) == 0
    assert FileId(ID) == ID
