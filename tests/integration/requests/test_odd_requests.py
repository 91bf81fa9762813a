"""What odd clients and proxies send over HTTP: each gets what RFC 9110 and RFC 9112 promise it."""

import asyncio
import gzip
import logging
from urllib.parse import urlsplit

import msgspec
import pytest

from rejoin_gateway.app import ROUTES
from rejoin_gateway.core.context_names import read_headers
from rejoin_gateway.http.gateway_service import SERVICE
from rejoin_gateway.http.instrumentation import brief_log_of_malformed_requests
from tests.support.clients.api_families import ApiClient
from tests.support.system.local_system import LocalSystem
from tests.support.system.observation import wait_until

DEADLINE_S = 20.0
JSON = ("Content-Type: application/json",)
MESSAGE = {"message": "count 2"}
SAID = msgspec.json.encode(MESSAGE)
TEXTS = ["user: count 2", "assistant: 1 2"]


@pytest.fixture
async def client(system: LocalSystem) -> ApiClient:
    await system.runner()
    return ApiClient(system, await system.gateway())


async def exchange(client: ApiClient, *pieces: bytes, ends: bool = False) -> bytes:
    """What the gateway sends until it closes the connection. `ends`: the client then ends its side."""
    place = urlsplit(client.base)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        if ends:
            writer.write_eof()
        async with asyncio.timeout(DEADLINE_S):
            return await reader.read()
    finally:
        writer.close()


def http(
    method: str, target: str, *headers: str, body: bytes = b"", version: str = "1.1", length: bool = True
) -> bytes:
    """A request that asks for the connection's end."""
    lines = [f"{method} {target} HTTP/{version}", "Host: 127.0.0.1", *headers]
    lines += ["Connection: close"] if version == "1.1" else []
    lines += [f"Content-Length: {len(body)}"] if length and body else []
    return "\r\n".join([*lines, "", ""]).encode() + body


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def body_of(answer: bytes) -> bytes:
    return answer.split(b"\r\n\r\n", 1)[1]


# ---------------------------------------------------------------------------------------------------- HEAD


async def test_head_has_the_headers_of_get_and_no_body(client: ApiClient) -> None:
    session = client.session()
    await client.post(client.at(session), MESSAGE)
    answered = client.at(session, "/reconnect?startIndex=0")
    for path in (
        client.at(session),
        answered,
        "/api/agents",
        "/run/v1/models",
        "/docs",
        "/api/threads",
        "/x",
    ):
        head, got = await client.ask("HEAD", path), await client.get(path)
        assert (head.status, head.raw) == (got.status, b"")
        differing = {"x-request-id", "date", "transfer-encoding"}
        kept = {name: value for name, value in got.headers.items() if name not in differing}
        assert {name: head.headers[name] for name in kept} == kept
    assert (await client.ask("HEAD", "/api/chat")).headers["allow"] == "POST"


async def test_every_get_route_serves_head(client: ApiClient) -> None:
    for route in ROUTES:
        if route.method == "GET":
            assert (await client.ask("HEAD", route.path.format_map(Anything()))).status != 405


class Anything(dict[str, str]):
    def __missing__(self, name: str) -> str:
        return "x"


async def test_head_opens_no_stream(client: ApiClient) -> None:
    """Also of a run that is being executed."""
    session, service = client.session(), client.system.apps[0][SERVICE]
    running = asyncio.create_task(client.post(client.at(session), {"message": "count 400 every 20 ms"}))

    async def has_begun() -> bool:
        return bool(service.streams)

    await wait_until(has_begun, "the stream")
    async with asyncio.timeout(DEADLINE_S):
        head = await client.ask("HEAD", client.at(session, "/reconnect"))
    assert (head.status, head.headers["content-type"]) == (200, "text/event-stream")
    assert len(service.streams) == 1
    await client.post(f"/api/chat/{session}/stop")
    await running


# ------------------------------------------------------------------------------------------------ HTTP/1.0


@pytest.mark.parametrize("connection", ["keep-alive", "close"])
async def test_a_stream_of_http_1_0_ends_with_its_connection(client: ApiClient, connection: str) -> None:
    """It has no chunks, so nothing else can end it."""
    path = client.at(client.session())
    answer = await exchange(
        client, http("POST", path, f"Connection: {connection}", *JSON, body=SAID, version="1.0")
    )
    head, frames = answer.split(b"\r\n\r\n", 1)
    assert b"Connection: close" in head
    assert b"chunked" not in head
    assert frames.endswith(b"data: [DONE]\n\n")


# ---------------------------------------------------------------------------------------- paths and bodies


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/api/agents/"), ("POST", "/api/chat/"), ("GET", "/run/v1/models/")]
)
async def test_a_slash_at_the_end_of_a_path_is_left_out(client: ApiClient, method: str, path: str) -> None:
    body = {"parts": [{"type": "text", "text": "count 1"}]} if method == "POST" else None
    assert (await client.ask(method, path, body)).status == 200


async def test_bodies_come_in_many_ways(client: ApiClient) -> None:
    """In chunks with trailers, byte by byte, with `Expect`, with a byte order mark."""
    chunked = http("POST", "{}", "Transfer-Encoding: chunked", "Trailer: X-Sum", *JSON)
    chunks = b"5;a=b\r\n" + SAID[:5] + b"\r\n%x\r\n" % len(SAID[5:]) + SAID[5:] + b"\r\n0\r\nX-Sum: 1\r\n\r\n"
    absolute = f"http://127.0.0.1:{urlsplit(client.base).port}" + "{}"
    whole = http("POST", "{}", "Content-Type: application/json; charset=UTF-8", body=SAID)
    for pieces in (
        (whole,),
        [whole[at : at + 1] for at in range(len(whole))],
        (chunked, chunks),
        (http("POST", "{}", "Expect: 100-continue", *JSON, body=SAID),),
        (http("POST", "{}", "Accept: application/json", "Accept-Encoding: identity", body=SAID),),
        (http("POST", "{}", *JSON, body=b"\xef\xbb\xbf" + SAID),),
        (http("POST", absolute, *JSON, body=SAID),),
    ):
        session = client.session()
        named = b"".join(pieces).replace(b"{}", client.at(session).encode(), 1)
        sent = [named] if len(pieces) < 9 else [named[at : at + 1] for at in range(len(named))]
        answer = await exchange(client, *sent)
        assert b"data: [DONE]" in answer, pieces
        assert await client.texts(session) == TEXTS


@pytest.mark.parametrize(
    ("headers", "body", "expected", "says"),
    [
        (JSON, '{"message": "Jürgen"}'.encode("latin-1"), 400, "it is not in UTF-8"),
        (JSON, '{"message": "Jürgen"}'.encode("utf-16"), 400, "is not JSON"),
        (("Content-Type: application/x-www-form-urlencoded",), SAID, 415, "nsupported"),
        ((*JSON, "Content-Encoding: gzip"), gzip.compress(SAID, mtime=0), 400, "Content-Encoding"),
    ],
)
async def test_bodies_that_are_not_taken(
    client: ApiClient, headers: tuple[str, ...], body: bytes, expected: int, says: str
) -> None:
    session = client.session()
    answer = await exchange(client, http("POST", client.at(session), *headers, body=body))
    assert (status(answer), says in body_of(answer).decode()) == (expected, True), answer
    assert (await client.get(client.at(session))).status == 404


async def test_a_transfer_coding_that_is_not_undone_is_refused(client: ApiClient) -> None:
    zipped = gzip.compress(SAID, mtime=0)
    head = http("POST", client.at(client.session()), "Transfer-Encoding: gzip, chunked", *JSON)
    answer = await exchange(client, head, b"%x\r\n" % len(zipped) + zipped + b"\r\n0\r\n\r\n")
    assert status(answer) == 501


async def test_requests_in_a_row_are_answered_in_order(client: ApiClient) -> None:
    """Pipelined: all are written before the first one is answered."""
    sessions = [client.session() for _ in range(3)]
    requests = [http("POST", client.at(session), *JSON, body=SAID) for session in sessions]
    kept = [request.replace(b"Connection: close\r\n", b"") for request in requests[:-1]]
    answer = await exchange(client, b"".join([*kept, requests[-1]]))
    assert answer.count(b"HTTP/1.1 200") == answer.count(b"[DONE]") == 3
    places = [answer.index(session.encode()) for session in sessions]
    assert places == sorted(places)


async def test_a_client_that_ends_its_side_has_left_and_its_request_is_carried_out(client: ApiClient) -> None:
    """It cannot be told from one that has closed the connection. Half a request is none."""
    session, half = client.session(), client.session()
    request = http("POST", client.at(session), *JSON, body=SAID)
    await exchange(client, request, ends=True)
    await exchange(client, request.replace(session.encode(), half.encode())[:-1], ends=True)

    async def is_answered() -> bool:
        found = await client.get(client.at(session))
        return found.status == 200 and await client.texts(session) == TEXTS

    await wait_until(is_answered, "the answer")
    assert (await client.get(client.at(half))).status == 404


# ------------------------------------------------------------------------------------------------- headers


def test_a_header_that_is_no_utf_8_is_latin_1_as_fetch_sends_it() -> None:
    """aiohttp decodes it as UTF-8, with its bytes as halves of surrogate pairs."""
    sent = {b"J\xfcrgen": "Jürgen", "Jürgen".encode(): "Jürgen", b"plain": "plain"}
    for value, expected in sent.items():
        header = value.decode("utf-8", "surrogateescape")
        assert read_headers({"user-name": header}, {"user_name": {}}) == {"user_name": expected}


async def test_an_id_that_no_header_can_return_is_replaced(client: ApiClient) -> None:
    for given in ("\xff", "ü", "a\tb"):
        answer = await exchange(client, http("GET", "/api/agents", f"x-request-id: {given}"))
        assert status(answer) == 200
        assert b"x-request-id: req_" in answer
    assert b"x-request-id: mine" in await exchange(client, http("GET", "/api/agents", "x-request-id: mine"))


async def test_a_malformed_request_is_logged_without_what_it_says(
    client: ApiClient, caplog: pytest.LogCaptureFixture
) -> None:
    with brief_log_of_malformed_requests(), caplog.at_level(logging.INFO):
        answer = await exchange(
            client, b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer s3cret\x01\r\n\r\n"
        )
    assert status(answer) == 400
    assert "s3cret" not in caplog.text


# ---------------------------------------------------------------------------------------------- edits, ints


async def test_an_edit_of_an_unknown_message_is_a_404_that_stores_nothing(client: ApiClient) -> None:
    """In a new session there is nothing to edit: what the client has is what it begins with."""
    session = client.session()
    body = client.system.chat(session, "count 1")
    assert (await client.post("/api/chat", body)).complete
    for message_id in ("unknown", "another"):
        edit = client.system.chat(session, "count 2")
        edit["messages"][0]["id"] = "unknown"
        refused = await client.post("/api/chat", edit | {"messageId": message_id})
        assert (refused.status, message_id in refused.json["detail"]) == (404, True)
    assert await client.texts(session) == ["user: count 1", "assistant: 1"]
    fresh = client.system.chat(client.session(), "count 2")
    assert (await client.post("/api/chat", fresh | {"messageId": fresh["messages"][0]["id"]})).text == "1 2"
