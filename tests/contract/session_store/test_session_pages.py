"""What `SessionStore` promises of numbered pages, counts and openings, of the adapter and of the double."""

import pytest

from rejoin_adapters.ports.session_store import SessionStore
from rejoin_adapters.store_types import Owner, Submit, UserMessage
from rejoin_protocol.errors import NotFound
from rejoin_protocol.events.fold import MessageDict
from rejoin_protocol.ids import AgentName, SessionId, TenantId
from tests.support.data.database_ports import DatabasePorts
from tests.support.data.store_session import AGENT, ANN, BEN, Chat, fresh, text_of

pytest_plugins = ("tests.support.data.store_fixtures",)


@pytest.fixture
def sessions(ports: DatabasePorts) -> SessionStore:
    return ports.session_store


@pytest.mark.feature("F78")
async def test_sessions_are_counted_and_their_pages_have_numbers(
    ports: DatabasePorts, sessions: SessionStore
) -> None:
    owner = Owner(TenantId(fresh("ten")))
    chats = [Chat(ports.run_store, owner) for _ in range(5)]
    for chat in chats:
        await chat.send("hello")
    expected = [chat.id for chat in reversed(chats)]
    pages = [(await sessions.list(owner, limit=2, skip=skip)).sessions for skip in (0, 2, 4, 6)]
    assert [[one.id for one in page] for page in pages] == [expected[:2], expected[2:4], expected[4:], []]
    assert await sessions.count(owner, count_max=100) == 5
    assert await sessions.count(owner, count_max=3) == 3
    assert await sessions.count(owner, agent=AGENT, count_max=100) == 5
    assert await sessions.count(owner, agent=AgentName("other"), count_max=100) == 0


@pytest.mark.feature("F78")
async def test_pages_of_messages_have_numbers_from_the_newest_on(
    ports: DatabasePorts, sessions: SessionStore
) -> None:
    chat = Chat(ports.run_store)
    for text in ("1", "2", "3"):
        await chat.send(text)
    pages = [await sessions.messages(chat.owner, chat.id, limit=2, skip=skip) for skip in (0, 2, 4)]
    assert [[text_of(one) for one in page.messages] for page in pages] == [["2", "3"], ["1"], []]
    assert [len(page.times) for page in pages] == [2, 1, 0]
    assert pages[1].times[0] < pages[0].times[0] < pages[0].times[1]
    with pytest.raises(NotFound):
        await sessions.messages(chat.owner, SessionId(fresh("ses")), skip=1)


async def say(chat: Chat, *texts: str) -> None:
    """A message with several parts."""
    parts = [{"type": "file", "mediaType": "image/png", "url": "/api/files/x"}]
    parts += [{"type": "text", "text": text} for text in texts]
    message: MessageDict = {"id": fresh("msg"), "role": "user", "parts": parts}
    await chat.admit(Submit(UserMessage(message, b"digest")))


@pytest.mark.parametrize(
    ("texts", "opening"),
    [
        (["hello"], "hello"),
        (["one ", "two"], "one two"),
        (['NUL \u0000, "quotes", back\\slash and 🦉'], 'NUL \ufffd, "quotes", back\\slash and 🦉'),
        (["\u0000" * 300], "\ufffd" * 200),
        (["🦉" * 300], "🦉" * 200),
        (["x" * 100_000, "y"], "x" * 200 + "y"),
        (["line\nbreak\ttab"], "line\nbreak\ttab"),
        ([""], None),
        ([], None),
    ],
    ids=lambda value: repr(value)[:20],
)
async def test_the_opening_is_the_beginning_of_the_first_message(
    ports: DatabasePorts, sessions: SessionStore, texts: list[str], opening: str | None
) -> None:
    chat = Chat(ports.run_store, ANN)
    await say(chat, *texts)
    await chat.send("later")
    found = await sessions.openings(ANN, [chat.id, SessionId(fresh("ses"))])
    assert found == ({} if opening is None else {chat.id: opening})
    assert await sessions.openings(BEN, [chat.id]) == {}
    assert await sessions.openings(ANN, []) == {}
