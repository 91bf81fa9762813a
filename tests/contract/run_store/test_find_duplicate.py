"""`RunStore.find_duplicate` and `check_limits` give the same answer as `admit`, before any expensive work."""

from hashlib import sha256

import pytest

from rejoin_adapters.ports.run_store import RunStore
from rejoin_adapters.store_types import Owner, Run
from rejoin_protocol.errors import Conflict, Limited
from rejoin_protocol.ids import AgentName, MessageId, TenantId
from tests.contract.run_store.test_limits import limited
from tests.support.data.store_session import AGENT, ANN, BEN, Chat, fresh

pytest_plugins = ("tests.support.data.store_fixtures",)


async def repeated(
    chat: Chat,
    text: str,
    id: str,
    key: str | None = None,
    agent: AgentName = AGENT,
    owner: Owner | None = None,
) -> Run | None:
    digest = sha256(text.encode()).digest()
    return await chat.store.find_duplicate(owner or chat.owner, chat.id, agent, MessageId(id), digest, key)


async def test_the_same_request_is_known_by_its_message_and_by_its_key(store: RunStore) -> None:
    """And nothing else is: neither other content, nor another user's session, nor another agent's."""
    chat = Chat(store, ANN)
    assert await repeated(chat, "hello", "m") is None
    admitted = await chat.submit("hello", "m", key="k")
    run = admitted.run
    for key in (None, "k", "new"):
        assert await repeated(chat, "hello", "m", key) == run
        assert (await chat.submit("hello", "m", key=key)).run == run
    assert await repeated(chat, "other", "m") is None
    assert await repeated(chat, "hello", "n") is None
    assert await repeated(chat, "hello", "m", owner=BEN) is None
    assert await repeated(chat, "hello", "m", agent=AgentName("other")) is None


async def test_a_key_of_another_request_is_refused_as_it_is_when_it_is_admitted(store: RunStore) -> None:
    chat = Chat(store)
    await chat.submit("hello", "m", key="k")
    for text, id in (("other", "m"), ("hello", "n")):
        with pytest.raises(Conflict, match="idempotency"):
            await repeated(chat, text, id, "k")
        with pytest.raises(Conflict, match="idempotency"):
            await chat.submit(text, id, key="k")


async def test_a_tenant_at_its_limit_hears_so_beforehand(store: RunStore) -> None:
    owner = await limited(store, queued_max=1)
    chat = Chat(store, owner)
    await store.check_limits(owner)
    run = await chat.send("one")
    with pytest.raises(Limited) as early:
        await store.check_limits(owner)
    with pytest.raises(Limited) as late:
        await Chat(store, owner).send("two")
    assert str(early.value) == str(late.value)
    await store.check_limits(Owner(TenantId(fresh("ten"))))
    await chat.claim(run)
    await store.check_limits(owner)
