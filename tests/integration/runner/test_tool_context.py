"""What tools emit besides their results, in streams, in the history and in the artifact store."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from rejoin_runner.agent.agent import Agent
from rejoin_runner.tools.tool import Tool
from rejoin_runner.tools.tool_context import SyncToolContext, ToolContext
from rejoin_runner.tools.tool_decorator import tool
from rejoin_runner.tools.tool_error import ToolError
from tests.support.models.scripted_models import SingleCallModel
from tests.support.system.local_system import Answer, LocalSystem

REPORT = {"title": "Tides", "pages": 3, "body": "the secret of the sea"}


class Told:
    """A run of an agent that calls one tool."""

    def __init__(self, answer: Answer, message: dict[str, Any], base: str) -> None:
        self.answer = answer
        self.message = message
        self.base = base

    def said(self, kind: str) -> list[dict[str, Any]]:
        return [chunk for chunk in self.answer.chunks if chunk["type"] == kind]

    @property
    def part(self) -> dict[str, Any]:
        """The call as history has it."""
        [part] = [part for part in self.message["parts"] if part["type"].startswith("tool-")]
        return dict(part)


async def call(system: LocalSystem, made: Tool, **input: Any) -> Told:
    await system.runner([Agent(name=system.agent, model=SingleCallModel(made.name, input), tools=[made])])
    base, session = await system.gateway(), system.fresh("s")
    chat = system.chat(session, "go")
    async with system.http.post(
        f"{base}/api/chat", json=chat, headers={"x-emit-operations": "true"}
    ) as response:
        answer = await Answer.of(response)
    messages = (await system.get(f"{base}/api/agents/{system.agent}/{session}")).json["messages"]
    return Told(answer, messages[-1], base)


async def fetched(system: LocalSystem, told: Told, id: str) -> dict[str, Any]:
    found = await system.get(f"{told.base}/run/api/artifacts/{id}")
    assert found.status == 200, found.raw
    return dict(found.json)


@pytest.mark.feature("F31")
async def test_an_artifact_shows_its_preview_and_is_fetched_whole(system: LocalSystem) -> None:
    @tool
    async def research(ctx: ToolContext[None]) -> str:
        """Write a report."""
        return await ctx.emit_artifact(
            type="report", name="Tides", data=REPORT, preview=["title", "pages"], summary="About tides"
        )

    told = await call(system, research)
    [event] = told.said("data-artifact")
    id = told.part["output"]
    assert event["id"] == event["data"]["artifactId"] == id
    assert event["data"]["artifactSummary"] == {"title": "Tides", "pages": 3}
    assert event["data"]["description"] == "About tides"
    assert "secret" not in told.answer.raw.decode()
    assert (await fetched(system, told, id))["data"] == REPORT
    saved = [one["data"] for one in told.said("data-operation") if one["data"]["type"] == "artifact_saved"]
    assert event["data"]["summary"] == event["data"]["artifactSummary"]
    assert event["data"]["artifact_id"] == id
    assert event["data"]["task_id"] == told.answer.headers["x-workflow-run-id"]
    assert saved[0]["details"]["data"] == {
        "artifactId": id,
        "taskId": event["data"]["task_id"],
        "artifactType": "report",
        "summaryData": event["data"]["summary"],
    }


@pytest.mark.feature("F32")
async def test_a_component_is_whole_or_not_there(system: LocalSystem) -> None:
    @tool
    async def chart(ctx: ToolContext[None]) -> str:
        """Draw."""
        with pytest.raises(ValueError, match="name and props"):
            await ctx.emit_component("Chart", {})
        id = await ctx.emit_component("Chart", {"points": [1, 2]})
        await ctx.emit_component("Chart", {"points": [1, 2, 3]}, id=id)
        return id

    told = await call(system, chart)
    id = told.part["output"]
    events = told.said("data-component")
    assert [event["data"]["props"]["points"] for event in events] == [[1, 2], [1, 2, 3]]
    assert {event["id"] for event in events} == {event["data"]["id"] for event in events} == {id}
    [part] = [part for part in told.message["parts"] if part["type"] == "data-component"]
    assert part["data"] == {"id": id, "name": "Chart", "props": {"points": [1, 2, 3]}}


@pytest.mark.feature("F23")
async def test_a_status_is_shown_and_not_kept(system: LocalSystem) -> None:
    """Transient data of the application is not kept either; other data is."""

    @tool
    async def work(ctx: ToolContext[None]) -> str:
        """Work."""
        await ctx.emit_status("One moment")
        await ctx.emit_status("looks", type="searching")
        await ctx.emit_data("progress", {"done": 0.5}, transient=True)
        await ctx.emit_data("price", 12, id="p")
        await ctx.emit_operation("status_update", "Halfway", {"done": 0.5})
        await ctx.emit_summary("Looking into it", {"files": 3})
        return "done"

    told = await call(system, work)
    assert told.said("data-status") == [
        {"type": "data-status", "data": {"type": "thinking", "status": "One moment"}, "transient": True},
        {"type": "data-status", "data": {"type": "searching", "status": "looks"}, "transient": True},
    ]
    assert told.said("data-price") == [{"type": "data-price", "data": 12, "id": "p"}]
    [summary] = told.said("data-summary")
    assert summary["data"] == {"label": "Looking into it", "details": {"files": 3}}
    updates = [one["data"] for one in told.said("data-operation") if one["data"]["type"] == "status_update"]
    assert [update["label"] for update in updates] == ["One moment", "looks", "Halfway", "Looking into it"]
    assert updates[0]["ctx"].keys() == {"agent"}
    assert updates[2]["details"]["data"] == {"done": 0.5}
    assert updates[3]["ctx"]["files"] == 3
    kept = {part["type"] for part in told.message["parts"] if part["type"].startswith("data-")}
    assert kept == {"data-price", "data-summary"}


@pytest.mark.parametrize(
    "wrong",
    [
        lambda ctx: ctx.emit_data("summary", 1),
        lambda ctx: ctx.emit_data("No Name", 1),
        lambda ctx: ctx.emit_summary(" "),
        lambda ctx: ctx.emit_artifact(type="t", name="n", data=[1], preview=["a"]),
        lambda ctx: ctx.emit_artifact(type="t", name="n", data={"a": 1}, preview=["b"]),
    ],
)
async def test_a_wrong_use_is_told_to_the_developer_and_not_to_clients(
    system: LocalSystem, wrong: Callable[[ToolContext[None]], Any]
) -> None:
    @tool
    async def careless(ctx: ToolContext[None]) -> str:
        """Get it wrong."""
        await wrong(ctx)
        return "done"

    told = await call(system, careless)
    assert told.part["errorText"] == "the tool failed (ValueError)"
    assert not [part for part in told.message["parts"] if part["type"].startswith("data-")]


async def test_a_plain_function_says_the_same_from_its_thread(system: LocalSystem) -> None:
    @tool
    def work(ctx: SyncToolContext[None], what: str) -> str:
        """Work."""
        ctx.emit_status("thinking")
        ctx.emit_summary("Looking into it")
        ctx.emit_operation("status_update", "Halfway")
        ctx.emit_data("price", 12)
        ctx.emit_component("Chart", {"points": [1]})
        return ctx.emit_artifact(type="report", name=what, data=REPORT)

    told = await call(system, work, what="Tides")
    for kind in ("status", "summary", "price", "component", "artifact"):
        assert told.said(f"data-{kind}"), kind
    assert (await fetched(system, told, told.part["output"]))["data"] == REPORT


async def test_preliminary_results_are_shown_and_the_last_one_stays(system: LocalSystem) -> None:
    """What a generator yields is shown, and the last of it is the result."""

    @tool
    async def count(ctx: ToolContext[None], to: int) -> AsyncIterator[dict[str, int]]:
        """Count."""
        assert ctx.idempotency_key
        for number in range(1, to + 1):
            yield {"at": number}

    told = await call(system, count, to=3)
    shown = [(one["output"], one.get("preliminary", False)) for one in told.said("tool-output-available")]
    assert shown == [({"at": 1}, True), ({"at": 2}, True), ({"at": 3}, True), ({"at": 3}, False)]
    assert told.part["output"] == {"at": 3}


@pytest.mark.feature("F34")
async def test_a_tool_that_raises_is_told_to_the_model_and_the_run_goes_on(system: LocalSystem) -> None:
    @tool
    async def no() -> str:
        """Refuse."""
        raise ToolError("Not today.")

    told = await call(system, no)
    assert told.said("tool-output-error")[0]["errorText"] == "Not today."
    assert told.answer.text == "Done."


async def test_a_large_result_is_an_artifact_where_the_tool_says_so(system: LocalSystem) -> None:
    @tool(result_bytes_max=1_000, overflow="artifact")
    async def dump() -> list[str]:
        """Say a lot."""
        return ["x" * 100] * 50

    told = await call(system, dump)
    output = told.part["output"]
    assert output["sizeBytes"] > 5_000
    assert output["excerpt"].startswith('["xxx')
    assert (await fetched(system, told, output["artifactId"]))["data"] == ["x" * 100] * 50


async def test_an_interrupted_call_is_cancelled_and_says_nothing_more(system: LocalSystem) -> None:
    """A coroutine is cancelled. A thread continues, cannot emit any more, and its result is dropped."""
    started, cancelled = asyncio.Event(), asyncio.Event()
    release = threading.Event()
    said: list[str] = []
    loop = asyncio.get_running_loop()
    finished = asyncio.Event()

    @tool
    async def waits(ctx: ToolContext[None]) -> str:
        """Wait."""
        assert ctx.call
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return "never"

    @tool
    def works(ctx: SyncToolContext[None]) -> str:
        """Work on."""
        loop.call_soon_threadsafe(started.set)
        release.wait(20)
        try:
            ctx.emit_summary("too late")
        except RuntimeError as fault:
            said.append(str(fault))
        loop.call_soon_threadsafe(finished.set)
        return "dropped"

    for made, over in ((waits, cancelled), (works, None)):
        started.clear()
        await system.runner(
            [Agent(name=f"{system.agent}-{made.name}", model=SingleCallModel(made.name, {}), tools=[made])]
        )
        base, session = await system.gateway(default_agent=f"{system.agent}-{made.name}"), system.fresh("s")
        async with asyncio.TaskGroup() as group:
            streamed = group.create_task(system.post(base, system.chat(session, "go")))
            await started.wait()
            async with system.http.post(f"{base}/api/chat/{session}/stop") as response:
                assert (await response.json())["interrupted"]
        answer = streamed.result()
        assert answer.complete
        assert "tool-output-error" in [chunk["type"] for chunk in answer.chunks]
        if over is not None:
            await over.wait()
        else:
            release.set()
            await finished.wait()
            assert said == ["the call has ended: it cannot emit anything more"]
        assert (
            b"too late"
            not in (await system.get(f"{base}/api/agents/{system.agent}-{made.name}/{session}")).raw
        )


@pytest.mark.feature("F28")
async def test_progress_is_an_operation_with_a_label(system: LocalSystem) -> None:
    @tool
    async def copies(ctx: ToolContext[None]) -> str:
        """Copy."""
        for number in range(3):
            await ctx.emit_operation("status_update", f"{number + 1} of 3", {"done": number})
        return "done"

    told = await call(system, copies)
    updates = [one["data"] for one in told.said("data-operation") if one["data"]["type"] == "status_update"]
    assert [one["label"] for one in updates] == ["1 of 3", "2 of 3", "3 of 3"]
    assert [one["details"]["data"] for one in updates] == [{"done": 0}, {"done": 1}, {"done": 2}]
    assert {one["details"]["subAgentId"] for one in updates} == {system.agent}
    assert all(one["details"]["timestamp"] > 1_700_000_000_000 for one in updates)


async def test_a_call_is_asked_about_if_the_application_cannot_tell(system: LocalSystem) -> None:
    """Its function fails: the tool does not run, and the run does not end."""

    def says(input: dict[str, Any], ctx: ToolContext[None]) -> bool:
        raise KeyError(ctx.call, input)

    @tool(needs_approval=says)
    async def risky() -> str:
        """Do it."""
        raise AssertionError("it ran")

    told = await call(system, risky)
    assert told.part["state"] == "approval-requested"


async def test_approval_may_depend_on_the_context_and_nothing_is_said_there(system: LocalSystem) -> None:
    def says(input: dict[str, Any], ctx: ToolContext[None]) -> bool:
        assert ctx.context is None
        with pytest.raises(RuntimeError, match="before the call is made"):
            ctx.emit_status("x").send(None)
        return bool(input["ask"])

    @tool(needs_approval=says)
    async def risky(ask: bool) -> str:
        """Do it."""
        return f"asked: {ask}"

    assert (await call(system, risky, ask=False)).part["output"] == "asked: False"
