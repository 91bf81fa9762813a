"""The pages: complete from one gateway, small, restricted to it by their content security policy; and the
routes that they use.
"""

import re
from datetime import datetime
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from rejoin_gateway import app as gateway_app
from rejoin_gateway.settings import GatewaySettings
from rejoin_gateway.ui import kill_switch, pages
from rejoin_runner.demo import build_demo_agent
from tests.support.system.local_system import Answer, LocalSystem

BYTES_MAX = 120_000
ALL_BYTES_MAX = 200_000
LINES_MAX = 400
REFERENCE = re.compile(r"""(?:src|href)\s*=\s*["'](/[^"'\s>]*)""")
IMPORT = re.compile(r"""from '\./([\w.]+)'""")
OUTSIDE = re.compile(
    r"""(?:src|href)=["'](?:https?:)?//|@import|url\(|innerHTML|outerHTML|\beval\(|insertAdjacent"""
)
STATIC = Path(pages.__file__).parent / "static"
PAGES = ("/", "/playground", "/inspect", "/runs", "/approvals", "/sessions")
TYPES = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}


async def files_of(system: LocalSystem, base: str, page: Answer) -> dict[str, Answer]:
    """What a page loads, and what that imports."""
    wanted = {one for one in REFERENCE.findall(page.raw.decode()) if one.startswith("/page/")}
    found: dict[str, Answer] = {}
    while wanted - set(found):
        name = (wanted - set(found)).pop()
        found[name] = await system.get(base + name)
        wanted |= {f"/page/{one}" for one in IMPORT.findall(found[name].raw.decode())}
    return found


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_needs_nothing_but_its_gateway(system: LocalSystem, path: str) -> None:
    base = await system.gateway()
    page = await system.get(base + path, Accept="text/html")
    assert page.status == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    files = await files_of(system, base, page)
    assert len(files) > 5
    for name, file in files.items():
        assert file.status == 200, name
        assert file.headers["content-type"].partition(";")[0] == TYPES[name.rpartition(".")[2]]
        assert file.headers["x-content-type-options"] == "nosniff"
        assert not OUTSIDE.search(file.raw.decode()), name
    assert not OUTSIDE.search(page.raw.decode())
    assert sum(len(file.raw) for file in files.values()) < BYTES_MAX


async def test_all_pages_together_are_small(system: LocalSystem) -> None:
    base, total = await system.gateway(), 0
    for file in STATIC.iterdir():
        assert len(file.read_text().split("\n")) <= LINES_MAX, file.name
        if file.suffix == ".html":
            total += file.stat().st_size
            continue
        served = (await system.get(f"{base}/page/{file.name}")).raw.decode()
        total += len(served.encode())
        assert served.count("\n") == file.read_text().count("\n"), "a fault would name another line"
    assert 100_000 < total < ALL_BYTES_MAX


async def test_browsers_get_scripts_without_their_comments(system: LocalSystem) -> None:
    base = await system.gateway()
    for file in STATIC.glob("*.js"):
        served = (await system.get(f"{base}/page/{file.name}")).raw.decode()
        code = [
            line for line in file.read_text().split("\n") if not line.lstrip().startswith(("//", "/*", "*"))
        ]
        assert [line for line in served.split("\n") if line] == [line for line in code if line], file.name


@pytest.mark.parametrize("path", PAGES)
async def test_the_policy_allows_no_other_origin_and_no_inline_code(system: LocalSystem, path: str) -> None:
    base = await system.gateway()
    policy = (await system.get(base + path, Accept="text/html")).headers["content-security-policy"]
    directives = dict(directive.split(maxsplit=1) for directive in policy.split("; "))
    assert directives["default-src"] == "'none'"
    assert {directives[f"{kind}-src"] for kind in ("script", "style", "connect")} == {"'self'"}
    assert directives["img-src"] == "'self' data: blob:"
    assert "unsafe" not in policy
    assert "http" not in policy


async def test_no_other_file_is_served(system: LocalSystem) -> None:
    base = await system.gateway()
    for name in ("index", "index.html", "__init__.py", "..%2Fapp.py", "%2e%2e/app.py"):
        assert (await system.get(f"{base}/page/{name}")).status == 404


async def test_a_runner_cannot_be_killed_outside_of_rejoin_dev(system: LocalSystem) -> None:
    base = await system.gateway()
    async with system.http.post(f"{base}/dev/kill-runner") as response:
        assert response.status == 404
    assert b"data-dev" not in (await system.get(f"{base}/", Accept="text/html")).raw


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 202),
        ({"Origin": "http://localhost:3000"}, 202),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "evil.example", "Origin": "http://evil.example"}, 403),  # a name that leads here today
        ({"Host": "evil.example"}, 403),
    ],
)
async def test_no_other_sites_page_kills_a_runner(
    system: LocalSystem, headers: dict[str, str], status: int
) -> None:
    killed = []
    settings = GatewaySettings(
        nats_url=system.nats_url, database_url=system.database_url, allow_anonymous=True
    )
    async with gateway_app.open_application(settings) as app:
        kill_switch.mount_kill_switch(app, lambda: killed.append(True))
        server = web.AppRunner(app)
        await server.setup()
        await web.TCPSite(server, "127.0.0.1", 0).start()
        host, port = server.addresses[0][:2]
        async with system.http.post(f"http://{host}:{port}/dev/kill-runner", headers=headers) as response:
            assert response.status == status
        await server.cleanup()
    assert bool(killed) == (status == 202)


async def test_agents_are_listed_the_default_first(system: LocalSystem) -> None:
    base = await system.gateway(default_agent=f"{system.agent}-z")
    names = [f"{system.agent}-a", f"{system.agent}-z"]
    await system.runner([msgspec.structs.replace(build_demo_agent(), name=name) for name in names])
    listed = (await system.get(f"{base}/api/agents")).json
    demo = build_demo_agent()
    assert listed[0] == {
        "name": names[1], "description": demo.description, "suggestions": list(demo.suggestions)
    }  # fmt: skip
    assert names[0] in {one["name"] for one in listed}


async def test_the_log_is_read_page_by_page_with_attempts_marks_and_times(system: LocalSystem) -> None:
    """It contains each event of the stream, with the same cursors."""
    base, session = await system.gateway(), system.fresh("s")
    await system.runner()
    answer = await system.post(base, system.chat(session, "count 5"))
    run = answer.headers["x-workflow-run-id"]
    url = f"{base}/run/api/executions/{run}/log"
    whole = (await system.get(url)).json
    assert (whole["id"], whole["state"], whole["conversationId"]) == (run, "completed", session)
    assert "next" not in whole
    events = {entry["cursor"]: entry["chunk"] for one in whole["records"] for entry in one["events"]}
    told = [(frame.id, chunk) for frame, chunk in zip(answer.frames, answer.chunks, strict=False)]
    assert [(cursor, events[str(cursor)]) for cursor, _ in told] == told
    assert {one["attempt"] for one in whole["records"]} == {1}
    assert whole["records"][-1]["mark"] == "ended"
    times = [datetime.fromisoformat(one["time"]) for one in whole["records"]]
    assert times == sorted(times)
    pages, after = [], 0
    while True:
        page = (await system.get(f"{url}?limit=2&after={after}")).json
        pages += page["records"]
        after = page.get("next", 0)
        if not after:
            break
    assert pages == whole["records"]


async def test_the_log_says_who_decided_the_approvals_of_the_page(system: LocalSystem) -> None:
    base, session = await system.gateway(), system.fresh("s")
    await system.runner()
    asked = await system.post(base, system.chat(session, "delete notes.txt"))
    run = f"{base}/run/api/executions/{asked.headers['x-workflow-run-id']}"
    assert "decisions" not in (await system.get(f"{run}/log")).json
    [waiting] = (await system.get(run)).json["pendingApprovals"]
    decide = f"{run}/approvals/{waiting['toolCallId']}"
    async with system.http.post(decide, json={"approved": True}) as response:
        assert response.status == 200
    assert (await system.get(f"{run}/stream?follow=true")).complete
    page = (await system.get(f"{run}/log")).json
    [decision] = page["decisions"]
    assert decision["approvalId"] == waiting["approvalId"]
    assert decision["by"]
    assert datetime.fromisoformat(decision["at"]) > datetime.fromisoformat(page["createdAt"])
    assert "decisions" not in (await system.get(f"{run}/log?limit=1")).json  # it is on a later page


async def test_a_session_says_which_run_made_which_message(system: LocalSystem) -> None:
    base, session = await system.gateway(), system.fresh("s")
    await system.runner()
    answers = [await system.post(base, system.chat(session, text)) for text in ("count 2", "count 3")]
    made = (await system.get(f"{base}/run/v1/conversations/{session}/executions")).json["executions"]
    assert [one["id"] for one in made] == [one.headers["x-workflow-run-id"] for one in reversed(answers)]
    messages = (await system.get(f"{base}/api/agents/{system.agent}/{session}")).json["messages"]
    assert [one["messageId"] for one in made] == [messages[3]["id"], messages[1]["id"]]


async def test_a_log_is_refused_for_an_unknown_run_and_for_invalid_parameters(system: LocalSystem) -> None:
    base, session = await system.gateway(), system.fresh("s")
    await system.runner()
    run = (await system.post(base, system.chat(session, "count 2"))).headers["x-workflow-run-id"]
    for path, status in (
        ("run_nobody/log", 404),
        (f"{run}/log?after=x", 400),
        (f"{run}/log?limit=0", 400),
        (f"{run}/log?limit=257", 400),
    ):
        assert (await system.get(f"{base}/run/api/executions/{path}")).status == status, path
    assert (await system.get(f"{base}/run/v1/conversations/{system.fresh('s')}/executions")).status == 404
