"""Logs of real processes at the most verbose level, and their metrics, hold no credential and no context."""

import re
from base64 import b64encode
from pathlib import Path

import aiohttp
import msgspec

from rejoin_adapters.embedded import Servers
from rejoin_runner.agent.agent import Agent
from rejoin_runner.tools.tool_context import ToolContext
from rejoin_runner.tools.tool_decorator import tool
from tests.support.models.scripted_models import SingleCallModel
from tests.support.system.observation import wait_until
from tests.support.system.processes import HOST, Command, free_ports

SECRET = "hunter2-hunter2"  # noqa: S105 - that is what is looked for
PEPPER = "pepper-pepper-pepper"
SEALING = b64encode(b"s" * 32).decode()


class Tenant(msgspec.Struct):
    auth_token: str
    account: int


@tool
async def careless(ctx: ToolContext[Tenant]) -> str:
    """Say everything in an exception."""
    raise RuntimeError(f"{ctx.context.auth_token} may not see account {ctx.context.account}")


agent = Agent(name="careless", model=SingleCallModel("careless", {}), tools=[careless], context=Tenant)


async def test_no_secret_is_in_any_line(servers: Servers, tmp_path: Path) -> None:
    """A valid key, a wrong one, a context, and a tool that puts it into its exception."""
    port = free_ports(3)
    shared = {
        "REJOIN_NATS_URL": servers.nats_url,
        "REJOIN_DATABASE_URL": servers.database_url,
        "REJOIN_API_KEY_PEPPER": PEPPER,
        "REJOIN_CONTEXT_ENCRYPTION_KEYS": f"k1:{SEALING}",
        "REJOIN_LOG_LEVEL": "debug",
        "REJOIN_LOG_FORMAT": "json",
        "REJOIN_PORT": str(port),
        "REJOIN_DRAIN_GRACE_S": "0.1",
    }
    async with await Command.start(tmp_path / "keys", "keys", "create", variables=shared) as made:
        assert await made.end() == 0, made.err
        key = made.out.strip()
    async with (
        await Command.start(
            tmp_path / "runner",
            "runner",
            f"{__name__}:agent",
            variables=shared | {"REJOIN_METRICS_PORT": str(port + 2)},
        ) as runner,
        await Command.start(
            tmp_path / "gateway", "gateway", variables=shared | {"REJOIN_METRICS_PORT": str(port + 1)}
        ) as gateway,
        aiohttp.ClientSession(f"http://{HOST}:{port}") as http,
    ):
        await runner.says('"serving"')
        await gateway.says('"listening"')
        said = {"id": "u1", "role": "user", "parts": [{"type": "text", "text": "go"}]}
        body = {"id": "quiet", "messages": [said]}
        wrong = key[:-1] + ("A" if key[-1] != "A" else "B")
        headers = {"x-agent-id": "careless", "auth-token": SECRET, "account": "987654321"}
        for credential, status in ((f"{key}x", 401), (wrong, 401), (key, 200)):
            told = headers | {"Authorization": f"Bearer {credential}"}
            async with http.post("/api/chat", json=body, headers=told) as response:
                assert response.status == status, await response.text()
                await response.read()
        logs = (runner, gateway)
        await wait_until(lambda: '"tool_failed"' in runner.err)
        metrics = ""
        for number, name in ((1, "rejoin_http_requests_total"), (2, "rejoin_tool_calls_total")):
            async with http.get(f"http://{HOST}:{port + number}/metrics") as response:
                metrics += await response.text()
                assert name in metrics
        async with http.get("/metrics") as response:
            assert response.status == 404
        lines = "".join(one.err for one in logs)
        [failed] = [line for line in runner.err.splitlines() if '"tool_failed"' in line]
        report = msgspec.json.decode(failed)
        assert report["error"] == "RuntimeError"
        assert re.search(r"test_secrets_in_logs.py:\d+ careless$", report["frames"][-1])
        assert "may not see" not in lines
        for secret in (SECRET, "987654321", key.partition(".")[2], PEPPER, SEALING):
            assert secret not in lines + metrics
        for line in lines.splitlines():
            assert "event" in msgspec.json.decode(line)
