"""`RunStore`: data of another owner is treated as missing, by every method."""

import inspect
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import msgspec
import pytest

from rejoin_adapters.console_types import OverviewFilter, RunPeriod
from rejoin_adapters.ports.run_store import RunStore
from rejoin_adapters.store_types import Admission, Decision, Owner, Regenerate, Submit, UserMessage
from rejoin_protocol.errors import NotFound
from rejoin_protocol.ids import AgentName, ApprovalId, CallId, MessageId, RunId, SessionId
from tests.support.data.store_session import AGENT, ANN, BEN, DEFAULT, OTHER, Chat, fresh, user

pytest_plugins = ("tests.support.data.store_fixtures",)


class Seen(msgspec.Struct, frozen=True):
    """Ids that another user has learned."""

    session: SessionId
    run: RunId
    approval: ApprovalId
    answer: MessageId


NOTHING = Seen(SessionId("ses_none"), RunId("run_none"), ApprovalId("apr_none"), MessageId("msg_none"))


async def counted(store: RunStore, owner: Owner) -> Sequence[RunPeriod]:
    """What an overview counts, without the times, which pass."""
    day = timedelta(days=1)
    return (await store.overview(owner, OverviewFilter(since=datetime.now(UTC) - day, period=day))).periods


type Ask = Callable[[RunStore, Owner, Seen], Awaitable[Any]]

METHODS: dict[str, Ask] = {
    "interrupt": lambda store, owner, ids: store.interrupt(owner, ids.session),
    "interrupt a message's run": lambda store, owner, ids: store.interrupt(
        owner, ids.session, message=ids.answer
    ),
    "interrupt a run": lambda store, owner, ids: store.interrupt(owner, ids.session, ids.run),
    "find_run": lambda store, owner, ids: store.find_run(owner, ids.run),
    "has_ended": lambda store, owner, ids: store.has_ended(owner, ids.run),
    "current_run": lambda store, owner, ids: store.current_run(owner, ids.session),
    "history": lambda store, owner, ids: store.history(owner, ids.session),
    "find_message": lambda store, owner, ids: store.find_message(owner, ids.session, ids.answer),
    "messages_before": lambda store, owner, ids: store.messages_before(owner, ids.session, ids.answer),
    "session_context": lambda store, owner, ids: store.session_context(owner, ids.session),
    "find_duplicate": lambda store, owner, ids: store.find_duplicate(
        owner, ids.session, AGENT, MessageId(f"m_{ids.session}"), sha256(b"secret").digest()
    ),
    "decide": lambda store, owner, ids: store.decide(owner, ids.session, [Decision(ids.approval, True)]),
    "pending_approvals": lambda store, owner, ids: store.pending_approvals(owner, ids.session),
    "answered_calls": lambda store, owner, ids: store.answered_calls(owner, ids.session),
    "find_approval": lambda store, owner, ids: store.find_approval(owner, ids.run, CallId("call_0")),
    "find_calls": lambda store, owner, _: store.find_calls(owner, CallId("call_0")),
    "waiting_calls": lambda store, owner, _: store.waiting_calls(owner),
    "list_runs": lambda store, owner, _: store.list_runs(owner),
    "overview": lambda store, owner, _: counted(store, owner),
    "run_summary": lambda store, owner, ids: store.run_summary(owner, ids.run),
    "admit": lambda store, owner, ids: store.admit(
        Admission(owner, ids.session, AGENT, RunId(fresh("run")), MessageId(fresh("msg")), Regenerate())
    ),
}


async def outcome(answer: Awaitable[Any]) -> Any:
    try:
        return await answer
    except NotFound:
        return NotFound


async def secret(store: RunStore, owner: Owner) -> Seen:
    """A suspended run with an open question, and with one that is answered."""
    chat = Chat(store, owner)
    admitted = await chat.submit("secret", f"m_{chat.id}", context=b"sealed", remember=True)
    run = (await chat.claim(admitted.run)).run
    [approval, answered] = await chat.ask(run, 2)
    await chat.suspend(run)
    await chat.decide(answered)
    return Seen(chat.id, run.id, approval, run.answer)


def test_every_method_of_the_store_is_asked_below() -> None:
    takes_owner = {
        name
        for name, method in inspect.getmembers(RunStore, inspect.isfunction)
        if "owner" in inspect.signature(method).parameters and name != "check_limits"  # tells nothing
    }
    assert takes_owner | {"admit"} == {name.split()[0] for name in METHODS}


@pytest.mark.feature("F40")
@pytest.mark.parametrize("stranger", [OTHER, BEN, Owner(OTHER.tenant, ANN.user)], ids=str)
@pytest.mark.parametrize("ask", METHODS.values(), ids=METHODS)
async def test_a_stranger_learns_what_he_would_of_an_id_that_is_nobodys(
    store: RunStore, ask: Ask, stranger: Owner
) -> None:
    anns = await secret(store, ANN)
    before = [await store.history(ANN, anns.session), await store.run_summary(ANN, anns.run)]
    learned = await outcome(ask(store, stranger, anns))
    assert learned == await outcome(ask(store, stranger, NOTHING))
    assert anns.run not in repr(learned)
    assert [await store.history(ANN, anns.session), await store.run_summary(ANN, anns.run)] == before


@pytest.mark.parametrize("owner", [ANN, DEFAULT], ids=str)
@pytest.mark.parametrize("ask", METHODS.values(), ids=METHODS)
async def test_the_user_and_a_credential_without_one_see_it(store: RunStore, ask: Ask, owner: Owner) -> None:
    assert await outcome(ask(store, owner, await secret(store, ANN))) not in (NotFound, None, [])


async def test_a_user_does_not_see_the_tenants_own_sessions(store: RunStore) -> None:
    ids = await secret(store, DEFAULT)
    for name, ask in METHODS.items():
        assert await outcome(ask(store, ANN, ids)) == await outcome(ask(store, ANN, NOTHING)), name


async def test_another_users_session_takes_no_message(store: RunStore) -> None:
    """The message begins a session of the same name. See `session_store/test_session_names`."""
    anns = await secret(store, ANN)
    turn = UserMessage(user("mine"), b"1")
    await Chat(store, BEN, anns.session).admit(Submit(turn))
    assert await Chat(store, ANN, anns.session).texts() == ["secret", "may I?"]
    assert await Chat(store, BEN, anns.session).texts() == ["mine"]


async def test_a_run_is_its_sessions_users_whoever_asks_for_it(store: RunStore) -> None:
    chat = Chat(store, ANN)
    assert (await chat.send("one")).owner == ANN
    assert (await Chat(store, DEFAULT, chat.id).send("two")).owner == ANN
    assert (await Chat(store, DEFAULT).send("three")).owner == DEFAULT
    assert len(await store.list_runs(ANN)) >= 2
    assert {one.run.user for one in await store.list_runs(ANN)} == {ANN.user}


@pytest.mark.parametrize("again", [Submit(UserMessage(user("more"), b"more")), Regenerate()], ids=type)
async def test_a_session_is_with_one_agent(store: RunStore, again: Submit | Regenerate) -> None:
    """A request for another agent gets the error of an unknown session, and nothing is stored."""
    chat = Chat(store)
    await chat.complete("hello")
    before = await store.history(DEFAULT, chat.id)
    admission = Admission(
        DEFAULT, chat.id, AgentName("another"), RunId(fresh("run")), MessageId(fresh("msg")), again
    )
    with pytest.raises(NotFound):
        await store.admit(admission)
    assert await store.history(DEFAULT, chat.id) == before
