"""`McpSessions`: the adapter and the double pass the same tests."""

import pytest

from rejoin_adapters.ports.mcp_sessions import EMPTY_MAX, McpSessions, request_key
from rejoin_adapters.store_types import Admission, Owner, Submit, UserMessage
from rejoin_protocol.errors import Conflict
from rejoin_protocol.ids import AgentName, MessageId, RunId, SessionId, TenantId, UserId
from tests.support.data.database_ports import DatabasePorts
from tests.support.data.store_session import fresh

pytest_plugins = ("tests.support.data.store_fixtures",)

AGENT = AgentName("a")


@pytest.fixture
def dialogues(ports: DatabasePorts) -> McpSessions:
    return ports.mcp_sessions


@pytest.fixture
def ann() -> Owner:
    return Owner(TenantId(fresh("ten")), UserId("ann"))


async def say(ports: DatabasePorts, owner: Owner, session: SessionId, request: str) -> RunId:
    words = fresh("m")
    message = {"id": words, "role": "user", "parts": [{"type": "text", "text": words}]}
    ask = Submit(UserMessage(message, words.encode()))
    key = request_key(request, words)
    admission = Admission(owner, session, AGENT, RunId(fresh("run")), MessageId(fresh("msg")), ask, key=key)
    return (await ports.run_store.admit(admission)).run.id


async def test_an_open_session_is_its_owners_and_no_other_session_is_one(
    ports: DatabasePorts, dialogues: McpSessions, ann: Owner
) -> None:
    id, other = SessionId(fresh("s")), SessionId(fresh("s"))
    await dialogues.open(ann, id, AGENT)
    assert await dialogues.find_agent(ann, id) == AGENT
    assert await dialogues.find_agent(Owner(ann.tenant, UserId("ben")), id) is None
    assert await dialogues.find_agent(Owner(TenantId("default")), id) is None
    with pytest.raises(Conflict):
        await dialogues.open(ann, id, AGENT)
    await say(ports, ann, other, "1")
    assert await dialogues.find_agent(ann, other) is None
    assert not await dialogues.end(ann, other)


async def test_an_ended_session_keeps_what_was_said_and_an_empty_one_leaves_nothing(
    ports: DatabasePorts, dialogues: McpSessions, ann: Owner
) -> None:
    said, silent = SessionId(fresh("s")), SessionId(fresh("s"))
    for id in (said, silent):
        await dialogues.open(ann, id, AGENT)
    await say(ports, ann, said, "1")
    assert not await dialogues.end(Owner(ann.tenant, UserId("ben")), said)
    for id in (said, silent):
        assert await dialogues.end(ann, id)
        assert not await dialogues.end(ann, id)
        assert await dialogues.find_agent(ann, id) is None
    threads = ports.session_store
    assert (await threads.get(ann, said)) is not None
    assert (await threads.get(ann, silent)) is None


async def test_a_run_is_found_by_its_requests_name_the_newest_first(
    ports: DatabasePorts, dialogues: McpSessions, ann: Owner
) -> None:
    id = SessionId(fresh("s"))
    await dialogues.open(ann, id, AGENT)
    await say(ports, ann, id, "1")
    other, newest = await say(ports, ann, id, '"1"'), await say(ports, ann, id, "1")
    assert await dialogues.find_run(ann, id, "1") == newest
    assert await dialogues.find_run(ann, id, '"1"') == other
    assert await dialogues.find_run(ann, id, "2") is None
    assert await dialogues.find_run(Owner(ann.tenant, UserId("ben")), id, "1") is None


async def test_of_sessions_that_nobody_uses_the_newest_are_kept(
    ports: DatabasePorts, dialogues: McpSessions, ann: Owner
) -> None:
    """A client that opens a thousand sessions leaves a hundred; those with messages, and others', stay."""
    used, others = SessionId(fresh("s")), SessionId(fresh("s"))
    await dialogues.open(ann, used, AGENT)
    await say(ports, ann, used, "1")
    await dialogues.open(Owner(ann.tenant, UserId("ben")), others, AGENT)
    ids = [SessionId(fresh("s")) for _ in range(EMPTY_MAX + 20)]
    for id in ids:
        await dialogues.open(ann, id, AGENT)
    kept = [await dialogues.find_agent(ann, id) is not None for id in ids]
    assert kept == [False] * 20 + [True] * EMPTY_MAX
    assert await dialogues.find_agent(ann, used) == AGENT
    assert await dialogues.find_agent(Owner(ann.tenant, UserId("ben")), others) == AGENT
