"""The gateway behaves as `/openapi.json` says: schemathesis generates requests that try to disprove it.

Requests beyond the schemas (odd JSON values, bytes that are no text) are tested separately.
"""

import asyncio
import io
import os
import re
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import msgspec
import pytest
import swagger_ui_bundle
from yarl import URL

from rejoin_gateway.app import ROUTES
from rejoin_gateway.http.routes import Route
from rejoin_gateway.ui.pages import SWAGGER_FILES
from rejoin_protocol import file_formats
from rejoin_runner.demo import build_demo_agent
from tests.support.clients.attachments import PNG
from tests.support.system.local_system import Answer, LocalSystem

SIGNING = "a secret that both sides know, long enough for every algorithm that there is"
CONFIG = Path(__file__).with_name("schemathesis.toml")
EXAMPLES_MAX = 4
SOON_S = 30.0
STARTS = "import sys; from schemathesis.cli import schemathesis; schemathesis(sys.argv[1:])"
OUTSIDE = re.compile(r"""(?:src|href)=["'](?:https?:)?//|@import|url\(|innerHTML|outerHTML|\beval\(""")


@pytest.fixture
async def base(system: LocalSystem) -> str:
    """A gateway that requires credentials, and the agent of the examples in the contract."""
    await system.runner([msgspec.structs.replace(build_demo_agent(), name="demo")])
    return await system.gateway(
        allow_anonymous=False, default_agent="demo", jwt_key=SIGNING, jwt_algorithms="HS256"
    )


def token() -> str:
    until = datetime.now(UTC) + timedelta(minutes=10)
    return jwt.encode({"sub": "ann", "exp": until, "scope": "chat approve admin"}, SIGNING, "HS256")


async def made(system: LocalSystem, base: str) -> dict[str, str]:
    """A run that waits for an answer about a call, and a file: by the names that the configuration has."""
    from_ann = {"Authorization": f"Bearer {token()}"}
    session = system.fresh("s")
    body = system.chat(session, "delete notes.txt")
    async with system.http.post(f"{base}/api/chat", json=body, headers=from_ann) as response:
        run = (await Answer.of(response)).headers["x-workflow-run-id"]
    execution = (await system.get(f"{base}/run/api/executions/{run}", **from_ann)).json
    return {
        "REJOIN_TEST_RUN": run,
        "REJOIN_TEST_CALL": execution["pendingApprovals"][0]["toolCallId"],
        "REJOIN_TEST_RESPONSE": f"resp_{run.removeprefix('run_')}",
        "REJOIN_TEST_FILE": await sent(system, base, session),
    }


async def sent(system: LocalSystem, base: str, session: str) -> str:
    """The id of a file that was sent in a session beside."""
    parts = [{"type": "file", "mediaType": "image/png", "url": file_formats.to_data_url("image/png", PNG)}]
    path = f"{base}/api/agents/demo/{session}-file"
    from_ann = {"Authorization": f"Bearer {token()}"}
    async with system.http.post(path, json={"message": parts}, headers=from_ann) as response:
        assert (await Answer.of(response)).complete
    stored = (await system.get(path, **from_ann)).json["messages"][0]["parts"][0]["url"]
    return str(stored).rpartition("/")[2]


async def schemathesis(base: str, known: Mapping[str, str], place: Path) -> tuple[int | None, str]:
    """Run schemathesis in the folder `place`. Returns its exit status and its output."""
    command = (
        *("-c", STARTS, "--config-file", str(CONFIG), "run", f"{base}/openapi.json"),
        *("--header", f"Authorization: Bearer {token()}", "--no-color", "--request-timeout", str(SOON_S)),
        *("--max-examples", str(EXAMPLES_MAX)),
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, **known},
        cwd=place,
    )
    try:
        said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode, said.decode()


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_schemathesis_finds_nothing_that_the_contract_does_not_say(
    system: LocalSystem, base: str, tmp_path: Path
) -> None:
    """All checks, all phases, every route: no 5xx, no unknown status, and each answer is of its schema."""
    status, said = await schemathesis(base, await made(system, base), tmp_path)
    assert status == 0, said
    assert f"Tested: {len(ROUTES) - 1}\n" in said, said  # all but the one that it reads the contract from


# --------------------------------------------------------------------------- beside what a schema says

DEEP = 100_000
NASTY: Mapping[str, bytes] = {
    "an object": b"{}",
    "a list in a list": b"[[]]",
    "null": b"null",
    "true": b"true",
    "a number beyond 64 bits": b"1" + b"0" * 30,
    "a number of many digits": b"1" + b"0" * 5_000,
    "a number beyond floats": b"1e999",
    "NaN": b"NaN",
    "an empty string": b'""',
    "a NUL": rb'"\u0000"',
    "half a character": rb'"\ud800"',
    "no UTF-8": b'"\xff"',
    "a long string": b'"' + b"x" * DEEP + b'"',
    "nested by hundreds": b"[" * 500 + b"]" * 500,
    "nested by thousands": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "the end": b"",
}
PLACES_EACH = int(os.environ.get("REJOIN_FUZZ_PLACES_EACH", "3"))
MORE = ("metadata", "context", "title", "threadId", "history")
"""Fields that examples do without."""
HEADERS = (
    "Idempotency-Key",
    "Last-Event-ID",
    "x-agent-id",
    "x-stream-start-index",
    "Authorization",
    "x-request-id",
)
HEADER_VALUES = ("\u00ff\u0080", "\t", "x" * 8_000, "-", "9" * 30, "{}", "%00", "'\"<>&;")
IDS = (
    "%00",
    "%FF",
    "%2E%2E",
    "%2F",
    "%0A",
    "a" * 5_000,
    "run_",
    "resp_",
    "%F0%9D%92%B3",
    "'",
    "*",
    ">",
    "a.b",
)


def mutated(value: Any, nasty: bytes) -> Iterator[bytes]:
    """A body with one of its values replaced, for each of them; or with one more."""
    mark = "\ue000"
    match value:
        case dict():
            for name, one in (dict.fromkeys(MORE) | value).items():
                for inner in mutated(one, nasty):
                    yield spliced({**value, name: mark}, inner, mark)
        case list():
            for number, one in enumerate(value):
                for inner in mutated(one, nasty):
                    yield spliced([*value[:number], mark, *value[number + 1 :]], inner, mark)
    yield nasty


def spliced(value: Any, inner: bytes, mark: str) -> bytes:
    return msgspec.json.encode(value).replace(f'"{mark}"'.encode(), inner)


def path_of(route: Route, session: str, id: str | None = None) -> str:
    path = route.path.replace("{agent}", "demo")
    return re.sub(r"\{\w+\}", lambda _: session if id is None else id, path)


async def status_of(system: LocalSystem, route: Route, url: str, body: bytes | None, **headers: str) -> int:
    said = {"Authorization": f"Bearer {token()}", "Content-Type": "application/json", **headers}
    timeout = aiohttp.ClientTimeout(total=SOON_S)
    sent = None if body is None else io.BytesIO(body)
    async with system.http.request(
        route.method, URL(url, encoded=True), data=sent, headers=said, timeout=timeout
    ) as response:
        await response.read()
        return response.status


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", NASTY)
async def test_no_value_in_a_body_breaks_a_route(system: LocalSystem, base: str, name: str) -> None:
    """In the places of each route's example: taken, or refused with a status of the contract, and soon. Each
    value stands in one place of `PLACES_EACH`, others in the others; with 1 in all of them.
    """
    first = list(NASTY).index(name) % PLACES_EACH
    for route in ROUTES:
        bodies = list(mutated(route.doc.example, NASTY[name])) if route.doc.example else []
        for number, body in list(enumerate(bodies))[first::PLACES_EACH]:
            url = base + path_of(route, system.fresh("s"))
            assert await status_of(system, route, url, body) < 500, (route.path, number, body[:200])


@pytest.mark.slow
async def test_no_header_breaks_a_route(system: LocalSystem, base: str) -> None:
    """Each value of a header goes to one route of `PLACES_EACH`, other values to the others."""
    for number, (route, name, value) in enumerate(product(ROUTES, HEADERS, HEADER_VALUES)):
        # The numbers of a route's pairs shift from route to route, so that no pair meets the same routes.
        if (number + number // (len(HEADERS) * len(HEADER_VALUES))) % PLACES_EACH:
            continue
        body = None if route.doc.body is None else b"{}"
        url = base + path_of(route, "nobody")
        assert await status_of(system, route, url, body, **{name: value}) < 500, (route.path, name, value)


@pytest.mark.slow
async def test_no_id_breaks_a_route(system: LocalSystem, base: str) -> None:
    for route in (one for one in ROUTES if "{" in one.path):
        for id in IDS:
            body = msgspec.json.encode(route.doc.example) if route.doc.example else None
            assert await status_of(system, route, base + path_of(route, "", id), body) < 500, (route.path, id)


# ------------------------------------------------------------------------------------ for people


async def test_the_contract_can_be_read_without_another_host(system: LocalSystem, base: str) -> None:
    """`/docs` and what it loads come from the gateway, under the policy that allows nothing else."""
    page = await system.get(f"{base}/docs")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    loaded = set(re.findall(r"""(?:src|href)="(/page/[^"]+)""", page.raw.decode()))
    assert {"/page/docs.js", "/page/style.css"} <= loaded
    library = {f"/page/{name}" for name in SWAGGER_FILES}
    assert library <= loaded
    for one in (page, *[await system.get(base + name) for name in sorted(loaded - library)]):
        assert one.status == 200
        assert not OUTSIDE.search(one.raw.decode())
    for name in library:  # tests/browser/test_docs.py proves that the library contacts no other host
        file = await system.get(base + name)
        assert (file.status, file.headers["content-security-policy"]) == (200, policy)
        assert file.raw == (swagger_ui_bundle.swagger_ui_path / name.rpartition("/")[2]).read_bytes()
        assert not re.search(r"""@import|url\(["']?(?:https?:)?//""", file.raw.decode()) or name.endswith(
            ".js"
        )
    contract = await system.get(f"{base}/openapi.json")
    assert contract.headers["content-type"].startswith("application/json")
    assert contract.json["openapi"] == "3.1.0"
