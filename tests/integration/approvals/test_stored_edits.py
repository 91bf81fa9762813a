"""Decisions with changed arguments: stored once, with who decided, refused where a call allows none."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from rejoin_adapters.store_types import ApprovalRequest, Decided, Decision
from rejoin_protocol.errors import Conflict, Invalid
from rejoin_protocol.ids import ApprovalId, CallId
from rejoin_protocol.lifecycle import State
from tests.support.data.store_session import Chat

pytest_plugins = ("tests.support.data.store_fixtures",)
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"path": {"type": "string"}}}
EDIT = {"path": "b\0.txt", "number": 2**60}


async def ask(chat: Chat, *, editable: bool = True) -> ApprovalId:
    run = (await chat.claim(await chat.send("one"))).run
    id = ApprovalId(f"{run.id}_0")
    request = ApprovalRequest(
        id, CallId("c"), "rm", {"path": "a.txt"}, edit_schema=SCHEMA if editable else None
    )
    await chat.store.request_approvals(run.id, run.attempt, [request])
    await chat.suspend(run)
    return id


async def decide(
    chat: Chat, id: ApprovalId, edit: Mapping[str, Any] | None, *, approved: bool = True, by: str = "Ann\0"
) -> Decided:
    decision = Decision(id, approved, "fine", input=None if edit is None else dict(edit), by=by)
    return await chat.store.decide(chat.owner, chat.id, [decision])


async def test_a_claim_has_what_was_shown_what_was_changed_by_whom_and_when(chat: Chat) -> None:
    id = await ask(chat)
    [pending] = await chat.store.pending_approvals(chat.owner, chat.id)
    assert (pending.request.edit_schema, pending.decision, pending.decided_at) == (SCHEMA, None, None)
    decided = await decide(chat, id, EDIT)
    claim = await chat.claim(decided.run)
    [approval] = claim.approvals
    assert approval.request == pending.request
    assert approval.decision == Decision(id, approved=True, reason="fine", input=EDIT, by="Ann\0")
    assert approval.decided_at is not None
    assert abs(datetime.now(UTC) - approval.decided_at) < timedelta(minutes=1)
    assert list(await chat.store.pending_approvals(chat.owner, chat.id)) == []
    assert list(await chat.store.pending_approvals(chat.owner, chat.id, [id])) == [approval]
    assert list(await chat.store.pending_approvals(chat.owner, chat.id, [ApprovalId("none")])) == []


async def test_a_repeated_change_has_no_effect_and_another_one_is_a_conflict(chat: Chat) -> None:
    id = await ask(chat)
    first = await decide(chat, id, EDIT)
    again = await decide(chat, id, EDIT, by="Bob")
    assert (again.run.turn, again.turn) == (first.run.turn, first.turn)
    for other in (None, {"path": "c.txt"}):
        with pytest.raises(Conflict):
            await decide(chat, id, other)
    [approval] = await chat.store.pending_approvals(chat.owner, chat.id, [id])
    assert approval.decision == Decision(id, approved=True, reason="fine", input=EDIT, by="Ann\0")


async def test_an_approval_that_is_decided_as_shown_is_not_changed_later(chat: Chat) -> None:
    id = await ask(chat)
    await decide(chat, id, None)
    with pytest.raises(Conflict):
        await decide(chat, id, EDIT)
    with pytest.raises(Conflict):
        await decide(chat, id, None, approved=False)


async def test_a_call_that_allows_no_change_stays_open_when_one_is_refused(chat: Chat) -> None:
    id = await ask(chat, editable=False)
    with pytest.raises(Invalid, match="cannot be changed"):
        await decide(chat, id, EDIT)
    assert await chat.pending() == [id]
    assert (await decide(chat, id, None)).run.state is State.QUEUED


async def test_two_different_changes_in_one_request_are_refused(chat: Chat) -> None:
    id = await ask(chat)
    twice = [Decision(id, approved=True, input={"path": name}) for name in ("b", "c")]
    with pytest.raises(Conflict):
        await chat.store.decide(chat.owner, chat.id, twice)
    assert await chat.pending() == [id]


async def test_a_request_that_is_stored_again_keeps_its_schema(chat: Chat) -> None:
    """The agent has changed since: what the person was told holds."""
    id = await ask(chat)
    run = await chat.store.current_run(chat.owner, chat.id)
    assert run is not None
    decided = await decide(chat, id, EDIT)
    claim = await chat.claim(decided.run)
    again = ApprovalRequest(id, CallId("c"), "rm", {"path": "a.txt"}, edit_schema={"type": "object"})
    await chat.store.request_approvals(run.id, claim.run.attempt, [again])
    [approval] = await chat.store.pending_approvals(chat.owner, chat.id, [id])
    assert approval.request.edit_schema == SCHEMA
