"""A person changes the arguments of a call while approving it; the tool and the model find out what ran."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from rejoin import Agent, CallApproval, Owner, SyncToolContext, TenantId, ToolContext, UserId, testing, tool
from rejoin.dev.config_file import SharedSettings, write_config
from rejoin.testing import Chat, ScriptedModel, call
from rejoin_protocol.errors import Conflict, Invalid
from tests.integration.gateway.test_request_context import KEYS
from tests.support.system.local_system import LocalSystem

ANN = Owner(TenantId("acme"), UserId("ann"))
SEEN: list[CallApproval | None] = []


@tool(needs_approval=True, approval_edits=True)
async def refund(ctx: ToolContext[None], order: str, cents: int) -> str:
    """Refund an order."""
    SEEN.append(ctx.approval)
    return f"Refunded {cents} for {order}."


@tool(needs_approval=True, isolate=True)
def delete(ctx: SyncToolContext[None], file: str) -> str:
    """Delete a file."""
    by = ctx.approval and ctx.approval.by
    return f"{file} is deleted for {by}."


@tool
async def look(ctx: ToolContext[None]) -> str:
    """Look."""
    SEEN.append(ctx.approval)
    return "seen"


agent = Agent(name="shop", model="openai:gpt-5-mini", tools=[refund, delete, look])
type OpenChat = Callable[[ScriptedModel], AbstractAsyncContextManager[Chat]]
REFUND = call("refund", order="A-17", cents=49_900)
SHOWN = {"order": "A-17", "cents": 49_900}
EDITED = {"order": "A-17", "cents": 900}


@pytest.fixture(params=["memory", "servers"])
def open_chat(request: pytest.FixtureRequest, system: LocalSystem, tmp_path: Path) -> OpenChat:
    SEEN.clear()
    if request.param == "memory":
        return lambda model: testing.chat(agent, model=model, owner=ANN, timeout_s=60)
    shared = SharedSettings(
        nats_url=system.nats_url, database_url=system.database_url, context_encryption_keys=KEYS
    )
    write_config(tmp_path, shared)
    return lambda model: testing.chat(
        agent, model=model, owner=ANN, config=tmp_path / "rejoin.toml", timeout_s=60
    )


@pytest.mark.feature("F121")
async def test_a_call_runs_with_the_changed_arguments_and_everybody_sees_both(open_chat: OpenChat) -> None:
    model = ScriptedModel(REFUND, "Done.")
    async with open_chat(model) as chat:
        asked = await chat.send("My money back!")
        assert asked.tool("refund").input == SHOWN
        answer = await chat.approve(reason="only the fee", input=EDITED)
        refunded = answer.tool("refund")
        assert (refunded.input, refunded.output) == (EDITED, "Refunded 900 for A-17.")
        [part] = [part for part in (await chat.history())[-1]["parts"] if part["type"] == "tool-refund"]
        assert part == next(part for part in answer.message["parts"] if part["type"] == "tool-refund")
        assert part["approval"]["reason"] == "only the fee"
        edit = part["callProviderMetadata"]["rejoin"]["edit"]
        assert (edit["shownInput"], edit["by"]) == (SHOWN, "ann")
        [approval] = SEEN
        assert approval is not None
        assert (approval.by, approval.reason, approval.shown_input) == ("ann", "only the fee", SHOWN)
        assert abs(datetime.now(UTC) - approval.at) < timedelta(minutes=1)
        assert datetime.fromisoformat(edit["at"]) == approval.at
        [shown] = [one for one in model.requests[-1].answer["parts"] if one["type"] == "tool-refund"]
        assert shown == part


async def test_a_tool_in_a_process_of_its_own_knows_who_approved(open_chat: OpenChat) -> None:
    async with open_chat(ScriptedModel(call("delete", file="a.txt"), "Done.")) as chat:
        await chat.send("Delete it")
        assert (await chat.approve()).tool("delete").output == "a.txt is deleted for ann."


async def test_a_call_without_an_approval_has_none_and_arguments_that_are_kept_are_not_changed(
    open_chat: OpenChat,
) -> None:
    async with open_chat(ScriptedModel([REFUND, call("look")], "Done.")) as chat:
        await chat.send("My money back!")
        assert SEEN == [None]
        answer = await chat.approve(input=dict(reversed(SHOWN.items())))
        assert answer.tool("refund").output == "Refunded 49900 for A-17."
        assert SEEN[1] is not None
        assert SEEN[1].shown_input is None
        assert "edit" not in str(answer.message)


@pytest.mark.parametrize(
    ("wrong", "pointer"),
    [
        ({"order": "A-17", "cents": "all"}, "/input/cents"),
        ({"order": "A-17"}, "/input"),
        (EDITED | {"to": "me"}, "/input"),
    ],
)
async def test_arguments_that_do_not_fit_are_refused_and_the_call_stays_open(
    open_chat: OpenChat, wrong: dict[str, Any], pointer: str
) -> None:
    async with open_chat(ScriptedModel(REFUND, "Done.")) as chat:
        await chat.send("My money back!")
        with pytest.raises(Invalid, match="the arguments of refund do not fit") as refused:
            await chat.approve(input=wrong)
        assert refused.value.pointer == pointer
        assert (await chat.approve(input=EDITED)).tool("refund").output == "Refunded 900 for A-17."


async def test_a_tool_that_does_not_allow_it_keeps_its_arguments(open_chat: OpenChat) -> None:
    async with open_chat(ScriptedModel(call("delete", file="a.txt"), "Done.")) as chat:
        asked = await chat.send("Delete it")
        with pytest.raises(Invalid, match="the arguments of delete cannot be changed"):
            await chat.approve(input={"file": "b.txt"})
        id = asked.tool("delete").approval_id or ""
        with pytest.raises(Invalid, match="a denied call does not run"):
            await chat.session.approve(id, approved=False, input={"file": "b.txt"})
        assert (await chat.deny()).tool("delete").state == "output-denied"


async def test_a_change_holds_once_and_another_one_is_a_conflict(open_chat: OpenChat) -> None:
    async with open_chat(ScriptedModel(REFUND, "Done.")) as chat:
        id = (await chat.send("My money back!")).tool("refund").approval_id or ""
        await chat.approve(input=EDITED)
        again = await chat.session.approve(id, approved=True, input=dict(reversed(EDITED.items())))
        assert again is not None
        for other in (EDITED | {"cents": 1}, None):
            with pytest.raises(Conflict):
                await chat.session.approve(id, approved=True, input=other)
        with pytest.raises(Conflict):
            await chat.session.approve(id, approved=False)
    assert len(SEEN) == 1


async def test_two_calls_are_changed_one_by_one(open_chat: OpenChat) -> None:
    second = call("refund", order="B-2", cents=7)
    async with open_chat(ScriptedModel([REFUND, second], "Done.")) as chat:
        first, last = [one.approval_id or "" for one in (await chat.send("Both")).tools]
        assert await chat.session.approve(first, approved=True, input=EDITED, by="a supervisor") is None
        rest = await chat.session.approve(last, approved=True)
        assert rest is not None
        async for _ in rest.chunks():
            pass
        outputs = [part["output"] for part in (await chat.history())[-1]["parts"] if "output" in part]
        assert outputs == ["Refunded 900 for A-17.", "Refunded 7 for B-2."]
        assert [one and one.by for one in SEEN] == ["a supervisor", "ann"]


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("event", ["tool-input-available", "tool-approval-response", "tool-output-available"])
async def test_a_change_survives_a_crash_at_each_of_its_events(event: str, *, stored: bool) -> None:
    SEEN.clear()
    async with testing.chat(agent, model=ScriptedModel(REFUND, "Done."), owner=ANN) as chat:
        await chat.send("My money back!")
        chat.crash_at(event, stored=stored)
        answer = await chat.approve(input=EDITED)
        assert answer.tool("refund").input == EDITED
        assert len(SEEN) == 1
        assert answer.tool("refund").output == "Refunded 900 for A-17." or event == "tool-output-available"
        assert (await chat.history())[-1]["parts"] == answer.message["parts"]


@pytest.mark.feature("F52")
async def test_the_library_names_what_waits_reads_texts_and_forks(open_chat: OpenChat) -> None:
    async with open_chat(ScriptedModel(REFUND, "Done.", "Hi.")) as chat:
        await chat.send("My money back!")
        [waiting] = await chat.session.pending_approvals()
        assert (waiting.tool, waiting.input) == ("refund", SHOWN)
        rest = await chat.session.approve(waiting.id, approved=True)
        assert rest is not None
        assert await rest.text() == "Done."
        assert list(await chat.session.pending_approvals()) == []
        answered = (await chat.history())[-1]["id"]
        copy = await chat.session.fork(answered, f"{chat.session.session.id}-copy")
        assert [message["role"] for message in (await copy.history()).messages] == ["user"]
        assert await (await copy.send("Hello")).text() == "Hi."
