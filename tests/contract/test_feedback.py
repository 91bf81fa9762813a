"""What `FeedbackStore` promises, of the adapter and of the double."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from rejoin_adapters.feedback_types import ClientEvent, Feedback
from rejoin_adapters.memory.database import feedback as double
from rejoin_adapters.ports import feedback as limits
from rejoin_adapters.ports.feedback import FeedbackStore
from rejoin_adapters.postgres import feedback as adapter
from rejoin_adapters.store_types import Owner
from rejoin_protocol.errors import Conflict, Invalid, NotFound
from rejoin_protocol.ids import AgentName, MessageId, SessionId, TenantId, UserId
from tests.support.data.database_ports import DatabasePorts
from tests.support.data.store_session import AGENT, ANN, BEN, DEFAULT, OTHER, Chat, fresh

pytest_plugins = ("tests.support.data.store_fixtures",)

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
ODD_TEXT = 'NUL \u0000, "quotes" and 🦉'


@pytest.fixture
def store(ports: DatabasePorts) -> FeedbackStore:
    return ports.feedback


def thumb(session: str, message: str | None = None, **fields: Any) -> Feedback:
    """Feedback that is not stored yet."""
    given = Feedback(
        fresh("fb"), SessionId(session), MessageId(message) if message else None, "positive", None, NOW
    )
    return msgspec.structs.replace(given, **fields)


def event(session: str | None, **fields: Any) -> ClientEvent:
    """An event that is not stored yet."""
    reported = ClientEvent(fresh("ev"), "shown", None, session, None, None, None, None, NOW)
    return msgspec.structs.replace(reported, **fields)


@pytest.mark.feature("F119")
async def test_feedback_comes_back_as_it_was_newest_first(ports: DatabasePorts, store: FeedbackStore) -> None:
    chat = Chat(ports.run_store, ANN)
    run = await chat.send("hello", "m1")
    first = thumb(chat.id, run.answer, type="negative", details=ODD_TEXT)
    second = thumb(chat.id)
    expected = [msgspec.structs.replace(one, agent=AGENT, user=ANN.user) for one in (second, first)]
    assert await store.add_feedback(ANN, first) == (expected[1], True)
    assert await store.add_feedback(ANN, second) == (expected[0], True)
    page = await store.list_feedback(ANN, session=chat.id)
    assert (page.entries, page.next) == (expected, None)
    page = await store.list_feedback(ANN, session=chat.id, limit=1)
    assert page.entries == expected[:1]
    page = await store.list_feedback(ANN, session=chat.id, limit=1, before=page.next)
    assert (page.entries, page.next) == (expected[1:], None)
    with pytest.raises(Invalid, match="page token"):
        await store.list_feedback(ANN, before="odd")


async def test_the_same_id_again_stores_nothing_and_says_nothing_of_others(
    ports: DatabasePorts, store: FeedbackStore
) -> None:
    chat, theirs = Chat(ports.run_store, ANN), Chat(ports.run_store, BEN)
    await chat.send("hello")
    await theirs.send("hello")
    given = thumb(chat.id)
    [stored, _] = await store.add_feedback(ANN, given)
    assert await store.add_feedback(ANN, thumb(chat.id, id=given.id, type="negative")) == (stored, False)
    [_, is_new] = await store.add_feedback(BEN, thumb(theirs.id, id=given.id))
    assert is_new
    reported = event(chat.id)
    [logged, _] = await store.add_event(ANN, reported)
    assert await store.add_event(ANN, event(None, id=reported.id, type="other")) == (logged, False)
    assert (await store.add_event(BEN, event(None, id=reported.id)))[1]


@pytest.mark.feature("F40")
@pytest.mark.parametrize("stranger", [OTHER, BEN, Owner(OTHER.tenant, ANN.user)], ids=str)
async def test_a_stranger_gives_no_feedback_and_reads_none(
    ports: DatabasePorts, store: FeedbackStore, stranger: Owner
) -> None:
    chat = Chat(ports.run_store, ANN)
    await chat.send("hello")
    await store.add_feedback(ANN, thumb(chat.id))
    await store.add_event(ANN, event(chat.id))
    with pytest.raises(NotFound):
        await store.add_feedback(stranger, thumb(chat.id))
    assert (await store.list_feedback(stranger, session=chat.id)).entries == []
    assert (await store.list_events(stranger, session=chat.id)).events == []
    assert len((await store.list_feedback(DEFAULT, session=chat.id)).entries) == 1
    assert len((await store.list_events(DEFAULT, session=chat.id)).events) == 1


async def test_of_another_agent_there_is_none(ports: DatabasePorts, store: FeedbackStore) -> None:
    chat, other = Chat(ports.run_store), AgentName("other")
    await chat.send("hello")
    with pytest.raises(NotFound):
        await store.add_feedback(DEFAULT, thumb(chat.id), agent=other)
    await store.add_feedback(DEFAULT, thumb(chat.id), agent=AGENT)
    assert (await store.list_feedback(DEFAULT, session=chat.id, agent=other)).entries == []
    assert len((await store.list_feedback(DEFAULT, session=chat.id, agent=AGENT)).entries) == 1
    await store.add_event(DEFAULT, event(chat.id, agent="other"))
    assert len((await store.list_events(DEFAULT, session=chat.id, agent=other)).events) == 1
    assert (await store.list_events(DEFAULT, session=chat.id, agent=AGENT)).events == []


async def test_feedback_needs_its_session_and_message_and_stays_when_the_message_goes(
    ports: DatabasePorts, store: FeedbackStore
) -> None:
    chat = Chat(ports.run_store)
    with pytest.raises(NotFound):
        await store.add_feedback(DEFAULT, thumb(chat.id))
    await chat.send("one", "m1")
    with pytest.raises(NotFound, match="message"):
        await store.add_feedback(DEFAULT, thumb(chat.id, "m2"))
    await store.add_feedback(DEFAULT, thumb(chat.id, "m1"))
    await ports.session_store.delete(DEFAULT, chat.id)
    assert (await store.list_feedback(DEFAULT, session=chat.id)).entries == []


@pytest.mark.feature("F103")
async def test_a_session_has_a_bounded_amount_of_feedback(
    ports: DatabasePorts, store: FeedbackStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "FEEDBACK_MAX", 2)
    monkeypatch.setattr(double, "FEEDBACK_MAX", 2)
    chat = Chat(ports.run_store)
    await chat.send("hello")
    first = thumb(chat.id)
    await store.add_feedback(DEFAULT, first)
    await store.add_feedback(DEFAULT, thumb(chat.id))
    with pytest.raises(Conflict):
        await store.add_feedback(DEFAULT, thumb(chat.id))
    assert not (await store.add_feedback(DEFAULT, first))[1]
    assert limits.FEEDBACK_MAX == 1_000


@pytest.mark.feature("F119")
async def test_an_event_comes_back_as_it_was_before_its_session_exists(
    ports: DatabasePorts, store: FeedbackStore
) -> None:
    chat = Chat(ports.run_store, ANN)
    reported = event(
        chat.id,
        agent="demo",
        message="not sent yet",
        properties={},
        user_properties={"z": ODD_TEXT, "a": [None, 1e300]},
        metadata={"n": 2**53 + 1},
    )
    stored = msgspec.structs.replace(reported, user=ANN.user)
    assert await store.add_event(ANN, reported) == (stored, True)
    anywhere = event(None)
    await store.add_event(ANN, anywhere)
    assert (await store.list_events(ANN, session=chat.id)).events == [stored]
    assert [one.id for one in (await store.list_events(ANN, limit=2)).events] == [anywhere.id, reported.id]
    await chat.send("hello")
    await ports.session_store.delete(ANN, chat.id)
    assert (await store.list_events(ANN, session=chat.id)).events == []


@pytest.mark.feature("F103")
async def test_a_tenant_keeps_its_newest_events(
    ports: DatabasePorts, store: FeedbackStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "EVENTS_KEPT", 3)
    monkeypatch.setattr(adapter, "PRUNE_INTERVAL", 1)
    monkeypatch.setattr(double, "EVENTS_KEPT", 3)
    owner = Owner(TenantId(fresh("ten")))
    await Chat(ports.run_store, owner).send("the tenant's first message")
    reported = [event(None, type=str(number)) for number in range(5)]
    for one in reported:
        await store.add_event(owner, one)
    assert [one.type for one in (await store.list_events(owner)).events] == ["4", "3", "2"]


async def test_events_go_with_their_user_and_with_age(ports: DatabasePorts, store: FeedbackStore) -> None:
    user = Owner(ANN.tenant, UserId(fresh("user")))
    old, new = (
        event(None, created_at=datetime.now(UTC) - timedelta(days=9)),
        event(None, created_at=datetime.now(UTC)),
    )
    await store.add_event(user, old)
    await store.add_event(user, new)
    await ports.session_store.delete_untouched(timedelta(days=8).total_seconds())
    assert [one.id for one in (await store.list_events(user)).events] == [new.id]
    assert user.user is not None
    await ports.session_store.delete_user(user.tenant, user.user)
    assert (await store.list_events(user)).events == []
