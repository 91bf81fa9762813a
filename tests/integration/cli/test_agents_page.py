"""`docs/agents.md` is true: its code runs, its agents can be served, and they do what the page says."""

import re
from pathlib import Path
from typing import Any

import msgspec

from rejoin_runner import app
from rejoin_runner.agent.agent import Agent
from rejoin_runner.agent.team import collect_agents
from rejoin_runner.models.providers.provider import ProviderConnections
from rejoin_runner.settings import RunnerSettings
from tests.integration.gateway.test_request_context import KEYS
from tests.support.models.agent_teams import Calls, ScriptedPart
from tests.support.providers.server import FakeProvider, ProviderReply, call, delta, text
from tests.support.system.local_system import Answer, LocalSystem

DOCUMENT = Path(__file__).parents[3] / "docs" / "agents.md"
TEXT = DOCUMENT.read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
CONTEXT = {"tenant-id": "acme", "auth-token": "secret"}


def written() -> dict[str, Any]:
    """What all of the document's code makes, one block after the other."""
    names: dict[str, Any] = {}
    for block in BLOCKS:
        exec(block, names)  # noqa: S102  # our own document
    return names


def renamed(agent: Agent, name: str, **fields: Any) -> Agent:
    return msgspec.structs.replace(agent, name=name, **fields)


def agents() -> dict[str, Agent]:
    return {name: one for name, one in written().items() if isinstance(one, Agent)}


def test_every_section_has_code() -> None:
    sections = TEXT.split("\n## ")
    assert len(sections) == 14
    assert all("```python" in section for section in sections)


async def test_every_agent_can_be_served() -> None:
    """With keys for their models; and each model that a name names is opened."""
    settings = RunnerSettings(
        nats_url="nats://x",
        database_url="postgresql://x",
        model_api_key="openai=1,openai-responses=2,anthropic=3",
    )
    found = agents()
    assert len(found) > 10
    async with ProviderConnections() as connections:
        for agent in found.values():
            serving = app._prepare_agent(agent, settings, connections, None)
            assert set(serving.team.members) == set(collect_agents(agent))


async def test_the_first_agent_works_as_it_is_written(system: LocalSystem, provider: FakeProvider) -> None:
    """A file that may go goes; another one is asked about, and goes once a person agrees."""

    def delete(path: str) -> ProviderReply:
        arguments = msgspec.json.encode({"path": path}).decode()
        return ProviderReply(
            [call(0, arguments, name="delete_file", call_id=path), delta(finish="tool_calls")]
        )

    support = renamed(agents()["support"], system.agent, model="openai:fake", handoffs=[])
    await system.runner([support], model_base_url=provider.base_url, context_encryption_keys=KEYS)
    base, session = await system.gateway(context_encryption_keys=KEYS), system.fresh("s")
    provider.queue(delete("tmp.txt"), delete("a.txt"), text("Gone."))
    async with system.http.post(
        f"{base}/api/chat", json=system.chat(session, "go"), headers=CONTEXT
    ) as response:
        asked = await Answer.of(response)
    assert [one["output"] for one in asked.chunks if "output" in one] == ["tmp.txt of acme is deleted."]
    assert [one["toolCallId"] for one in asked.chunks if one["type"] == "tool-approval-request"] == ["a.txt"]
    answer = await system.post(base, await system.decision(base, session, approved=True))
    assert [one["output"] for one in answer.chunks if "output" in one] == ["a.txt of acme is deleted."]
    assert answer.text == "Gone."


async def test_its_tools_and_events_work(system: LocalSystem) -> None:
    """Each tool is called once, and each of its events arrives."""
    names = written()
    calls = [
        Calls("find", {"text": "A"}),
        Calls("find", {"text": " "}),
        Calls("count", {"rows": 3}),
        Calls("report", {"months": 2}),
        Calls("plan", {"city": "Oslo"}),
        Calls("pay", {"cents": 5}),
    ]
    tools = [names[one] for one in ("find", "count", "report", "plan", "pay")]
    agent = Agent(name=system.agent, model=ScriptedPart({"go": [calls, ["Done."]]}, []), tools=tools)
    await system.runner([agent])
    answer = await system.post(await system.gateway(), system.chat(system.fresh("s"), "go"))
    kinds = {one["type"] for one in answer.chunks}
    assert {f"data-{kind}" for kind in ("status", "summary", "component", "price", "artifact")} <= kinds
    outputs = [str(one["output"]) for one in answer.chunks if one["type"] == "tool-output-available"]
    assert {"['order of A']", "3", "{'done': 1}", "{'done': 2}"} <= set(outputs)
    [error] = [one["errorText"] for one in answer.chunks if one["type"] == "tool-output-error"]
    assert error == "say what to look for"


async def test_a_custom_loop_streams_what_it_yields(system: LocalSystem) -> None:
    await system.runner([renamed(agents()["echo"], system.agent)])
    base = await system.gateway()
    answer = await system.post(base, system.chat(system.fresh("s"), "hi"))
    assert answer.text == "You said hi, in message 1."
    assert answer.chunks[-1]["messageMetadata"]["usage"]["totalTokens"] == 10
    failed = await system.post(base, system.chat(system.fresh("s"), ""))
    assert [one["errorText"] for one in failed.chunks if one["type"] == "error"] == ["Say something."]


async def test_its_tests_pass() -> None:
    tests = [value for name, value in written().items() if name.startswith("test_")]
    assert len(tests) == 4
    for shown in tests:
        await shown()
