"""Pairs of events that may happen in either order.

An interrupt and a clean-up; a stale request and the runner that holds the run; a stored approval and a policy
that has changed; a crash and an agent that must not start twice.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from rejoin.testing.crash import CrashingRunLog, RunnerCrashed
from rejoin_gateway.auth.authenticator import ANONYMOUS
from rejoin_gateway.http.gateway_service import SERVICE
from rejoin_protocol.events import chunks
from rejoin_protocol.ids import AgentName, RunId, SessionId
from rejoin_protocol.log.record import Head
from rejoin_protocol.run_request import RunRequest
from rejoin_runner.agent.agent_decorator import agent
from rejoin_runner.agent.custom_loop import CRASH_ERROR, LoopError, RunInput
from rejoin_runner.tools.tool_decorator import tool
from tests.support.clients.full_answer import collect_answer
from tests.support.faults.crashing_runners import crash_at_append
from tests.support.models.agent_teams import Calls
from tests.support.models.agent_teams import scripted_agent as part_of
from tests.support.system.local_system import LocalSystem
from tests.support.system.observation import wait_until


async def test_an_interrupted_loop_is_over_before_its_run_is(system: LocalSystem) -> None:
    """It is cut off at a `yield`, not at an `await`: its clean-up still happens inside of the run."""
    cleaning, cleaned = asyncio.Event(), asyncio.Event()

    @agent(name=system.agent, text_interval_s=60)
    async def says(run: RunInput[None]) -> AsyncIterator[Any]:
        try:
            yield f"{run.text} "
            yield "more"
            yield chunks.SourceUrl(source_id="1", url="https://example.org")  # the text's end is waited for
        finally:
            cleaning.set()
            await cleaned.wait()

    await system.runner([says], sweep_interval_s=0.1)
    base, session = await system.gateway(), SessionId(system.fresh("s"))
    async with asyncio.TaskGroup() as group:
        streamed = group.create_task(system.post(base, system.chat(session, "word")))

        async def speaks() -> bool:
            run = await system.apps[0][SERVICE].backend.store.current_run(ANONYMOUS.owner, session)
            last = await system.apps[0][SERVICE].backend.log.last(run.id) if run is not None else None
            return last is not None and b"text-delta" in last.payload

        await wait_until(speaks, "its first words")
        async with system.http.post(f"{base}/api/chat/{session}/stop") as response:
            assert (await response.json())["interrupted"]
        await cleaning.wait()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await asyncio.wait([streamed])
        cleaned.set()
    types = [chunk["type"] for chunk in streamed.result().chunks]
    assert types[-3:] == ["abort", "finish-step", "finish"]


async def test_an_error_during_an_interrupt_does_not_fail_the_run(system: LocalSystem) -> None:
    """An interrupted run is cancelled, whatever a loop makes of its cancellation."""
    started = asyncio.Event()

    @agent(name=system.agent)
    async def turns_it_into_an_error(run: RunInput[None]) -> AsyncIterator[str]:
        yield run.text
        try:
            started.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise LoopError("I was stopped.") from None

    await system.runner([turns_it_into_an_error])
    base, session = await system.gateway(), system.fresh("s")
    async with asyncio.TaskGroup() as group:
        streamed = group.create_task(system.post(base, system.chat(session, "word")))
        await started.wait()
        async with system.http.post(f"{base}/api/chat/{session}/stop") as response:
            assert (await response.json())["interrupted"]
    types = [chunk["type"] for chunk in streamed.result().chunks]
    assert types[-4:] == ["text-end", "abort", "finish-step", "finish"]


async def test_a_delegated_loop_that_may_not_restart_fails_for_its_caller(
    system: LocalSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The calling agent gets an error, as for any other failure, and continues."""
    crash_at_append(monkeypatch, word=b"half")
    begun: list[int] = []

    @agent(name="once", on_crash="fail", text_interval_s=0)
    async def once(run: RunInput[None]) -> AsyncIterator[str]:
        begun.append(run.attempt)
        yield "half"

    head = part_of(
        system.agent, {"go": [[Calls("delegate_to_once", {"task": "x"})], ["It said: {}"]]}, delegates=[once]
    )
    await system.runner([head], retry_delay_s=0.0)
    heard = await collect_answer(system, await system.gateway(), "go")
    said = [part["text"] for part in heard.message["parts"] if part["type"] == "text"]
    assert said == [f"It said: It failed: {CRASH_ERROR}"]
    assert begun == [1]


async def test_a_stale_request_does_not_take_the_place_of_the_runs_holder(system: LocalSystem) -> None:
    """An interrupt whose word is lost is found by the sweep of the runner that has the run."""
    waiting = asyncio.Event()

    @tool(needs_approval=True)
    async def delete() -> str:
        """Delete."""
        waiting.set()
        await asyncio.Event().wait()
        return "never"

    made = part_of(system.agent, {"go": [[Calls("delete")], ["Done."]]}, tools=[delete])
    base, session = await system.gateway(), SessionId(system.fresh("s"))
    store = system.apps[0][SERVICE].backend.store
    with capture_logs() as logs:
        worker = await system.runner([made], sweep_interval_s=0.1)
        asked = await system.post(base, system.chat(session, "go"))
        run = RunId(asked.headers["x-workflow-run-id"])
        decision = await system.decision(base, session, approved=True)
        async with asyncio.TaskGroup() as group:
            streamed = group.create_task(system.post(base, decision))
            await waiting.wait()
            await worker.ports.queue.publish(RunRequest(AgentName(system.agent), run, 0))
            await wait_until(
                lambda: any(line["event"] == "stale_request" for line in logs), "the stale request's end"
            )
            assert (
                await store.interrupt(ANONYMOUS.owner, session)
            ).interrupted  # and no runner gets a message
    types = [chunk["type"] for chunk in streamed.result().chunks]
    assert types[-3:] == ["tool-output-error", "abort", "finish"]  # it was approved, and may have begun


async def test_a_stored_approval_is_requested_even_if_the_policy_has_changed(
    system: LocalSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker crashes after it has stored two approvals and before it emits them. By the new policy only the
    second call needs one.
    """
    crash_at_append(monkeypatch, word=b"tool-approval-request")
    policy = {"one": True, "two": True}
    ran: list[str] = []

    def tool_of(name: str) -> Any:
        @tool(name=name, needs_approval=lambda _, __: policy[name])
        async def act() -> str:
            """Act."""
            ran.append(name)
            return name

        return act

    made = part_of(
        system.agent, {"go": [[Calls("one"), Calls("two")], ["{}"]]}, tools=[tool_of("one"), tool_of("two")]
    )
    monkeypatch.setattr(CrashingRunLog, "append", _then(CrashingRunLog.append, policy))
    await system.runner([made], retry_delay_s=0.0)
    base, session = await system.gateway(), SessionId(system.fresh("s"))
    asked = await system.post(base, system.chat(session, "go"))
    shown = [chunk["toolCallId"] for chunk in asked.chunks if chunk["type"] == "tool-approval-request"]
    pending = await system.apps[0][SERVICE].backend.store.pending_approvals(ANONYMOUS.owner, session)
    assert shown == [one.request.call for one in pending]
    assert len(shown) == 2
    assert ran == []
    answer = await system.post(base, await system.decision(base, session, approved=True))
    assert (answer.text, sorted(ran)) == ("one two", ["one", "two"])


def _then(append: Any, policy: dict[str, bool]) -> Any:
    async def changed(self: CrashingRunLog, run: RunId, head: Head, payload: bytes) -> int:
        try:
            return int(await append(self, run, head, payload))
        except RunnerCrashed:
            policy["one"] = False
            raise

    return changed
