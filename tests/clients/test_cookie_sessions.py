"""The bridges of `docs/howto/browser-auth.md` between a cookie and a gateway, as they are printed.

FastAPI, aiohttp and Express run as servers. The test calls the routes of Next.js with a web `Request`, as
Next.js does; they also pass the `strict` check of TypeScript.
"""

import asyncio
import json
import re
import socket
import textwrap
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvicorn
from aiohttp import web
from aiohttp.test_utils import TestServer
from fastapi import HTTPException, Request

from rejoin_protocol.log import sse
from tests.browser.test_documented_react import CHECK_S_MAX, OPTIONS
from tests.support.browser.browser_site import HERE as BROWSER
from tests.support.browser.node import INSTALL_S_MAX, install_packages, run_command
from tests.support.faults.cutting_proxy import cut_connections
from tests.support.system.local_system import Answer, LocalSystem
from tests.support.system.observation import wait_until

HERE = Path(__file__).parent / "cookie_sessions"
PAGE = (Path(__file__).parents[2] / "docs/howto/browser-auth.md").read_text(encoding="utf-8")
KEY = "the value of REJOIN_JWT_KEY, 32 characters or more"
ANN = {"Cookie": "user=ann"}
BOB = {"Cookie": "user=bob"}
READY_S = 30.0
SESSION = """
import { SignJWT } from 'jose';

export async function loggedInUser(request%(typed)s)%(user)s {
  const cookie = request.headers.cookie ?? request.headers.get?.('cookie') ?? '';
  return /user=(\\w+)/.exec(cookie)?.[1] ?? null;
}

export async function chatToken(request%(typed)s)%(user)s {
  const user = await loggedInUser(request);
  const token = new SignJWT({ sub: user ?? '', scope: 'chat approve' }).setProtectedHeader({ alg: 'HS256' });
  return user && token.setExpirationTime('5m').sign(new TextEncoder().encode(process.env.REJOIN_JWT_KEY));
}
"""
"""What is the application's own: who is logged in, by a cookie that holds the name."""
PLAIN = {"typed": "", "user": ""}
TYPED = {"typed": ": any", "user": ": Promise<string | null>"}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(INSTALL_S_MAX + 120)]


def code(language: str, word: str) -> str:
    """The page's block in a language that has the word."""
    pattern = rf"^ *```{language}\n(.*?)^ *```"
    blocks = [textwrap.dedent(one) for one in re.findall(pattern, PAGE, re.DOTALL | re.MULTILINE)]
    [found] = [block for block in blocks if word in block]
    return found


@asynccontextmanager
async def served_by_node(folder: Path, script: str, **variables: str) -> AsyncIterator[str]:
    """The base URL of a server that prints its port."""
    node = await install_packages(HERE)
    process = await asyncio.create_subprocess_exec(
        node, script, cwd=folder, stdout=PIPE, env={"REJOIN_JWT_KEY": KEY, **variables}
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(READY_S):
            yield f"http://127.0.0.1:{int(await process.stdout.readline())}"
    finally:
        process.kill()
        await process.wait()


@asynccontextmanager
async def express(folder: Path) -> AsyncIterator[str]:
    await install_packages(HERE)
    (folder / "node_modules").symlink_to(HERE / "node_modules")
    (folder / "session.mjs").write_text(SESSION % PLAIN)
    listening = "const server = app.listen(0, '127.0.0.1', () => console.log(server.address().port));\n"
    imported = "import { loggedInUser } from './session.mjs';\n"
    (folder / "app.mjs").write_text(imported + code("js", "express") + listening)
    async with served_by_node(folder, "app.mjs") as base:
        yield base


async def write_next(folder: Path) -> None:
    """The routes, and the session that they import."""
    await install_packages(HERE)
    await install_packages(BROWSER)
    (folder / "node_modules").symlink_to(HERE / "node_modules")
    declared = "declare const process: { env: Record<string, string | undefined> };\n"
    (folder / "session.ts").write_text(SESSION % TYPED)
    (folder / "process.d.ts").write_text(declared)
    (folder / "token.ts").write_text(code("ts", "app/chat-token/route.ts"))
    (folder / "route.ts").write_text(code("ts", "app/api/[...path]/route.ts"))
    (folder / "next.mjs").write_text((HERE / "next.mjs").read_text())


@asynccontextmanager
async def nextjs(folder: Path, gateway: str = "") -> AsyncIterator[str]:
    await write_next(folder)
    options = ("--bundle", "--format=esm", "--platform=node", "--alias:@/session=./session.ts")
    bundler = str(BROWSER / "node_modules/.bin/esbuild")
    exit_code, said = await run_command(
        folder, bundler, "next.mjs", *options, "--outfile=server.mjs", seconds=CHECK_S_MAX
    )
    assert exit_code == 0, said
    async with served_by_node(folder, "server.mjs", GATEWAY_URL=gateway) as base:
        yield base


@asynccontextmanager
async def fastapi(_: Path) -> AsyncIterator[str]:
    async def logged_in_user(request: Request) -> str:
        if "user" not in request.cookies:
            raise HTTPException(401)
        return request.cookies["user"]

    names: dict[str, Any] = {}
    exec(code("python", "fastapi"), names)  # noqa: S102  # our own document
    names["logged_in_user"] = logged_in_user
    server = uvicorn.Server(uvicorn.Config(names["app"], log_config=None, ws="none"))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        async with asyncio.TaskGroup() as group:
            group.create_task(server.serve([listening]))
            await wait_until(lambda: server.started, "the application's start")
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
            server.should_exit = True


@asynccontextmanager
async def aiohttp_app(_: Path) -> AsyncIterator[str]:
    async def logged_in_user(request: web.Request) -> str:
        if "user" not in request.cookies:
            raise web.HTTPUnauthorized
        return request.cookies["user"]

    names: dict[str, Any] = {}
    exec(code("python", "aiohttp"), names)  # noqa: S102  # our own document
    names["logged_in_user"] = logged_in_user
    app = web.Application()
    app.router.add_get("/chat-token", names["chat_token"])
    async with TestServer(app) as server:
        yield str(server.make_url("/")).rstrip("/")


async def gateway_of(system: LocalSystem) -> str:
    await system.runner()
    return await system.gateway(allow_anonymous=False, jwt_key=KEY, jwt_algorithms="HS256")


@pytest.mark.feature("F38")
@pytest.mark.parametrize("bridge", [fastapi, aiohttp_app, express, nextjs], ids=lambda one: one.__name__)
async def test_a_page_exchanges_its_cookie_for_a_token_of_its_user(
    system: LocalSystem, tmp_path: Path, bridge: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REJOIN_JWT_KEY", KEY)
    base, session = await gateway_of(system), system.fresh("s")

    async with bridge(tmp_path) as application:

        async def token_of(cookie: dict[str, str]) -> dict[str, str]:
            answer = await system.get(f"{application}/chat-token", **cookie)
            assert answer.status == 200, answer.raw
            return {"Authorization": f"Bearer {answer.json['token']}"}

        assert (await system.get(f"{application}/chat-token")).status == 401
        ann, bob = await token_of(ANN), await token_of(BOB)
    async with system.http.post(
        f"{base}/api/chat", json=system.chat(session, "count 3"), headers=ann
    ) as response:
        answer = await Answer.of(response)
    assert (answer.status, answer.text, answer.complete) == (200, "1 2 3", True)
    history = f"{base}/api/agents/{system.agent}/{session}"
    assert [(await system.get(history, **one)).status for one in (ann, bob, {})] == [200, 404, 401]


@pytest.mark.feature("F38")
async def test_the_documented_proxy_of_nextjs_streams_and_lets_nobody_in_without_a_cookie(
    system: LocalSystem, tmp_path: Path
) -> None:
    """An `Authorization` of the client's has no effect. A stream that the gateway breaks off breaks off."""
    base, session = await gateway_of(system), system.fresh("s")
    body = system.chat(session, "count 300 every 2 ms")
    forged = {"Authorization": "Bearer forged"}
    async with (
        cut_connections(base, cuts_max=1, bytes_max=4_000) as cutting,
        nextjs(tmp_path, cutting.url) as page,
    ):
        async with system.http.post(f"{page}/api/chat", json=body, headers=forged) as response:
            assert response.status == 401
        async with system.http.post(f"{page}/api/chat", json=body, headers=ANN | forged) as response:
            assert response.status == 200
            pieces = list[bytes]()

            async def read() -> None:
                async for piece in response.content.iter_any():
                    pieces.append(piece)

            with pytest.raises(aiohttp.ClientPayloadError):
                await read()
        seen = list(sse.SseParser().feed(b"".join(pieces)))  # none if the cut came very early
        cursor = {"Last-Event-ID": seen[-1].id} if seen else {}
        rest = await system.get(f"{page}/api/chat/{session}/stream", **ANN, **cursor)
        assert (rest.status, rest.complete) == (200, True)
        history = f"{page}/api/agents/{system.agent}/{session}"
        [_, answer] = (await system.get(history, **ANN)).json["messages"]
        assert answer["parts"][-1]["text"] == " ".join(map(str, range(1, 301)))
        assert [(await system.get(history, **one)).status for one in (BOB, forged)] == [404, 401]
    assert cutting.cuts == 1


async def test_the_routes_of_nextjs_type_check(tmp_path: Path) -> None:
    await write_next(tmp_path)
    options = {**OPTIONS, "paths": {"@/session": ["./session.ts"]}}
    files = ["token.ts", "route.ts", "process.d.ts"]
    (tmp_path / "tsconfig.json").write_text(json.dumps({"compilerOptions": options, "files": files}))
    exit_code, said = await run_command(
        tmp_path,
        str(BROWSER / "node_modules/.bin/tsc"),
        "--project",
        str(tmp_path),
        seconds=CHECK_S_MAX,
    )
    assert (exit_code, said) == (0, "")
