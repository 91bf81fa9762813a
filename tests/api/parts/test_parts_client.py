"""What the client of the parts API reads: Pandora's `packages/sdk/src/client` and `api-types.ts`, as data."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from rejoin_adapters.embedded import Servers
from rejoin_adapters.store_types import Decision
from rejoin_gateway.api.parts import parts_chat
from rejoin_protocol.events.chunks import ToolInputAvailable
from rejoin_protocol.ids import ApprovalId
from tests.support.clients.api_families import PARTS, ApiClient, Script, event_types
from tests.support.clients.attacked_gateway import AttackedGateway, open_attacked_gateway
from tests.support.models.agent_teams import Calls, scripted_agent
from tests.support.models.approval_tools import ApprovalTools
from tests.support.system.local_system import LocalSystem

APPROVE = "/api/chat/approve"


class Thread(msgspec.Struct, rename="camel"):
    """`Thread`: `title` is text or absent, never null."""

    id: str
    created_at: datetime
    updated_at: datetime
    title: str = ""
    metadata: dict[str, Any] = {}


class ListedThread(Thread, rename="camel", kw_only=True):
    """What the list adds."""

    active_thread_id: str
    thread_ids: list[str]


class ThreadListResponse(msgspec.Struct, rename="camel"):
    """`ThreadListResponse`."""

    threads: list[ListedThread]
    total: int
    page: int
    per_page: int
    has_more: bool
    active_stream_ids: list[str]


class BranchRef(msgspec.Struct):
    """`BranchRef`."""

    id: str
    title: str = ""


class ForkInfo(msgspec.Struct, rename="camel"):
    """`ForkInfo`."""

    source_thread_id: str
    fork_point_index: int
    siblings: list[BranchRef]


class ServerMessage(msgspec.Struct):
    """`ServerMessage`."""

    id: str
    role: str
    parts: list[dict[str, Any]]
    metadata: dict[str, Any] = {}


class ThreadDetailResponse(msgspec.Struct, rename="camel"):
    """`ThreadDetailResponse`."""

    thread: Thread
    messages: list[ServerMessage]
    forks: dict[str, list[BranchRef]]
    fork_info: ForkInfo | None


class ThreadForkResponse(msgspec.Struct, rename="camel"):
    """`ThreadForkResponse`."""

    thread: Thread
    cloned_message_count: int


class AuthState(msgspec.Struct):
    """The member `auth` of `HealthResponse`."""

    setup: bool
    authenticated: bool


class HealthResponse(msgspec.Struct):
    """`HealthResponse`."""

    name: str
    version: str
    runtime: str
    serverless: bool
    auth: AuthState


class AuthTokenPair(msgspec.Struct, rename="camel"):
    """`AuthTokenPair`."""

    token: str
    refresh_token: str
    expires_at: datetime
    refresh_expires_at: datetime


async def read[T](client: ApiClient, path: str, kind: type[T]) -> T:
    answer = await client.get(path)
    assert answer.status == 200
    return msgspec.json.decode(answer.raw, type=kind)


async def fork(client: ApiClient, thread: str, message: str) -> ThreadForkResponse:
    answer = await client.post(f"/api/threads/{thread}/fork", {"messageId": message})
    return msgspec.json.decode(answer.raw, type=ThreadForkResponse)


@pytest.mark.feature("F78")
async def test_the_list_has_root_threads_with_their_forks(client: ApiClient) -> None:
    """A fork, and a fork of it, are named by their root; the one that changed last is the active one."""
    root = client.session()
    for number in (1, 2):
        await client.say(PARTS, root, f"count {number}", id=f"m{number}")
    made = (await fork(client, root, "m2")).thread.id
    await client.say(PARTS, made, "count 3", id="m3")
    inner = (await fork(client, made, "m3")).thread.id
    listed = await read(client, "/api/threads?limit=200", ThreadListResponse)
    ids = [one.id for one in listed.threads]
    assert root in ids
    assert not {made, inner} & set(ids)
    found = listed.threads[ids.index(root)]
    assert found.thread_ids == [root, made, inner]
    assert found.active_thread_id == inner
    assert listed.total >= len(ids)
    assert (listed.page, listed.per_page) == (0, 200)
    await client.say(PARTS, made, "count 4")
    [found] = [
        one
        for one in (await read(client, "/api/threads?limit=200", ThreadListResponse)).threads
        if one.id == root
    ]
    assert found.active_thread_id == made
    await client.ask("DELETE", f"/api/threads/{root}")
    listed = await read(client, "/api/threads?limit=200", ThreadListResponse)
    assert made in [one.id for one in listed.threads]


@pytest.mark.feature("F78")
async def test_the_list_counts_and_has_a_hundred_threads_on_a_page(client: ApiClient) -> None:
    for _ in range(3):
        await client.say(PARTS, None, "count 1")
    page = await read(client, "/api/threads", ThreadListResponse)
    assert page.per_page == 100
    short = await read(client, "/api/threads?limit=1", ThreadListResponse)
    assert (len(short.threads), short.has_more) == (1, True)
    assert short.total >= 3


@pytest.mark.feature("F78")
async def test_the_list_names_the_threads_that_are_being_answered(client: ApiClient) -> None:
    session = client.session()
    body = PARTS.body(session, "count 1000 every 5 ms", None)
    async with client.system.http.post(f"{client.base}/api/chat", json=body) as response:
        await response.content.readany()
        listed = await read(client, "/api/threads", ThreadListResponse)
        assert session in listed.active_stream_ids
        await client.post(f"/api/chat/{session}/stop")
        await response.read()
    assert session not in (await read(client, "/api/threads", ThreadListResponse)).active_stream_ids


@pytest.mark.feature("F78")
async def test_a_thread_has_its_forks_and_a_fork_its_origin(client: ApiClient) -> None:
    root = client.session()
    for number in (1, 2):
        await client.say(PARTS, root, f"count {number}", id=f"m{number}")
    first, second, other = [await fork(client, root, message) for message in ("m2", "m2", "m1")]
    assert (first.cloned_message_count, other.cloned_message_count) == (2, 0)
    detail = await read(client, f"/api/threads/{root}", ThreadDetailResponse)
    assert detail.fork_info is None
    assert [one.role for one in detail.messages] == ["user", "assistant"] * 2
    assert detail.forks == {
        "m2": [BranchRef(first.thread.id), BranchRef(second.thread.id)],
        "m1": [BranchRef(other.thread.id)],
    }
    await client.say(PARTS, first.thread.id, "count 3")
    branch = await read(client, f"/api/threads/{first.thread.id}", ThreadDetailResponse)
    assert branch.fork_info == ForkInfo(root, 2, [BranchRef(second.thread.id)])
    assert branch.forks == {}
    assert len(branch.messages) == 4
    empty = await read(client, f"/api/threads/{other.thread.id}", ThreadDetailResponse)
    assert empty.fork_info == ForkInfo(root, 0, [])


@pytest.mark.feature("F76")
async def test_a_thread_is_read_whole_without_a_limit(client: ApiClient) -> None:
    """The client finds a message to edit by its index, so a page would be the wrong messages."""
    session = client.session()
    for number in range(101):
        await client.say(PARTS, session, "count 1", id=f"m{number}")
    detail = await read(client, f"/api/threads/{session}", ThreadDetailResponse)
    assert len(detail.messages) == 202
    assert detail.messages[0].id == "m0"


@pytest.mark.feature("F37", "F78")
async def test_what_is_not_there_is_not_found_in_the_promised_words(client: ApiClient) -> None:
    unknown, session = client.session(), client.session()
    await client.say(PARTS, session, "count 1")
    for method, path, body, text in (
        ("GET", f"/api/threads/{unknown}", None, "Thread not found"),
        ("DELETE", f"/api/threads/{unknown}", None, "Thread not found"),
        ("POST", f"/api/threads/{unknown}/fork", {"messageId": "m"}, "Thread not found"),
        ("POST", f"/api/threads/{session}/fork", {"messageId": "m"}, "Message not found in thread"),
    ):
        answer = await client.ask(method, path, body)
        assert (answer.status, answer.json) == (404, {"error": text})
    wrong: list[Any] = [{}, {"messageId": 123}, {"messageId": ""}, {"messageId": None}, []]
    for bad in wrong:
        answer = await client.post(f"/api/threads/{session}/fork", bad)
        assert (answer.status, answer.json) == (400, {"error": "messageId is required"})


class Question(msgspec.Struct):
    """A thread whose run waits for two decisions, and two gateways."""

    both: ApprovalTools
    client: ApiClient
    other: ApiClient
    session: str
    run: str
    message: str
    approvals: dict[str, str]

    def body(self, call: str, *, approved: bool) -> dict[str, Any]:
        """As the client sends it: the approval is what it calls the run."""
        return {
            "runId": self.approvals[call],
            "toolCallId": call,
            "approved": approved,
            "threadId": self.session,
            "messageId": self.message,
        }


@pytest.fixture
async def question(system: LocalSystem) -> Question:
    both = ApprovalTools()
    lines: Script = {"go": [[Calls("left"), Calls("right")], ["{}"]]}
    await system.runner([scripted_agent(system.agent, lines, tools=both.tools())])
    client, other = [ApiClient(system, await system.gateway()) for _ in range(2)]
    session = client.session()
    asked = await client.say(PARTS, session, "go")
    approvals = {
        one["toolCallId"]: one["approvalId"] for one in asked.chunks if one["type"] == "tool-approval-request"
    }
    run, message = asked.headers["x-workflow-run-id"], asked.chunks[0]["messageId"]
    return Question(both, client, other, session, run, message, approvals)


@pytest.mark.feature("F57")
@pytest.mark.parametrize("approved", [True, False])
async def test_a_decision_beside_an_open_question_is_a_stream_of_the_call_alone(
    question: Question, approved: bool
) -> None:
    """For each id that `runId` may hold, through any gateway, and for repeated requests."""
    body = question.body("call_0_0", approved=approved)
    call = (
        {"type": "tool-input-available", "toolCallId": "call_0_0", "toolName": "left", "input": {}}
        if approved
        else {"type": "tool-output-denied", "toolCallId": "call_0_0"}
    )
    for client, wish in (
        (question.client, body),
        (question.other, body),
        (question.client, body | {"runId": question.run}),
    ):
        answer = await client.post(APPROVE, wish)
        assert (answer.status, answer.complete) == (200, True)
        assert answer.headers["content-type"] == "text/event-stream"
        assert answer.headers["x-workflow-run-id"] == question.run
        assert answer.headers["x-thread-id"] == question.session
        assert answer.chunks == [
            {"type": "start", "messageId": question.message},
            call,
            {"type": "finish", "finishReason": "tool-calls"},
        ]
        assert not [frame.id for frame in answer.frames if frame.id]
    assert (await question.client.post(APPROVE, body | {"approved": not approved})).status == 409
    assert question.both.ran == []
    last = await question.other.post(APPROVE, question.body("call_0_1", approved=True))
    assert last.complete
    assert "tool-output-available" in event_types(last)
    assert question.both.ran == (["left", "right"] if approved else ["right"])


@pytest.mark.feature("F57", "F82")
async def test_two_decisions_at_once_through_two_gateways_are_both_streams(question: Question) -> None:
    """Whichever comes first: exactly one of them completes the decisions, and each tool runs once."""
    async with asyncio.TaskGroup() as group:
        one = group.create_task(question.client.post(APPROVE, question.body("call_0_0", approved=True)))
        two = group.create_task(question.other.post(APPROVE, question.body("call_0_1", approved=True)))
    answers = [one.result(), two.result()]
    assert [(answer.status, answer.complete) for answer in answers] == [(200, True)] * 2
    assert any("tool-output-available" in event_types(answer) for answer in answers)
    assert sorted(question.both.ran) == ["left", "right"]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def guarded(servers: Servers) -> AsyncIterator[AttackedGateway]:
    """A gateway that wants credentials."""
    async with open_attacked_gateway(servers) as one:
        yield one


@pytest.mark.feature("F37", "F38")
@pytest.mark.parametrize(
    ("method", "path", "body", "is_text"),
    [
        ("POST", "/api/chat", b'{"parts":[{"type":"text","text":"the field \\"messages\\""}]}', True),
        ("POST", "/api/chat", b"{}", True),
        ("POST", "/api/chat", b"", True),
        ("POST", "/api/chat", b'{"parts":"%b"}' % (b"x" * 100_000), True),
        ("POST", "/api/chat", b'{"id":"s","messages":[{"parts":[]}]}', False),
        ("POST", "/api/chat", b'{"conversationId":"s","messages":[]}', False),
        ("POST", APPROVE, b"{}", True),
        ("GET", "/api/chat/s/stream", b"", True),
        ("GET", "/api/threads", b"", True),
        ("GET", "/api/threads/s", b"", True),
        ("DELETE", "/api/threads/s", b"", True),
        ("POST", "/api/threads/s/fork", b"{}", True),
    ],
)
async def test_an_error_is_text_wherever_this_client_may_read_it(
    guarded: AttackedGateway, method: str, path: str, body: bytes, is_text: bool
) -> None:
    """On a route that several families share, the body decides, also before authentication."""
    async with guarded.system.http.request(method, guarded.base + path, data=body or None) as response:
        assert response.status == 401
        assert response.headers["WWW-Authenticate"] == "Bearer"
        error = msgspec.json.decode(await response.read())["error"]
    assert isinstance(error, str) is is_text


@pytest.mark.feature("F80")
async def test_a_program_at_the_root_learns_what_this_is_and_a_browser_gets_the_page(
    guarded: AttackedGateway,
) -> None:
    """The client asks with a JSON content type and without `Accept`."""
    key = await guarded.key()
    for headers, authenticated in (
        ({}, False),
        ({"Authorization": "Bearer x"}, False),
        ({"Authorization": f"Bearer {key}"}, True),
    ):
        async with guarded.system.http.get(f"{guarded.base}/", headers=headers) as response:
            health = msgspec.json.decode(await response.read(), type=HealthResponse)
            assert "Accept" in response.headers["Vary"]
        assert (health.name, health.serverless, health.auth.setup) == ("Rejoin", False, True)
        assert health.auth.authenticated is authenticated
    accept = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    async with guarded.system.http.get(f"{guarded.base}/", headers=accept) as response:
        assert response.content_type == "text/html"


@pytest.mark.feature("F80")
@pytest.mark.parametrize(
    ("path", "field", "missing", "wrong"),
    [
        ("/api/auth/login", "password", "Password is required", "invalid_credentials"),
        ("/api/auth/refresh", "refreshToken", "refresh_token_required", "unauthorized"),
    ],
)
async def test_a_credential_needs_no_refresh_and_is_returned_if_it_is_valid(
    guarded: AttackedGateway, path: str, field: str, missing: str, wrong: str
) -> None:
    """The client keeps what it gets as both tokens and repeats its request once."""

    async def post(body: bytes) -> tuple[int, bytes]:
        async with guarded.system.http.post(guarded.base + path, data=body) as response:
            return response.status, await response.read()

    key = await guarded.key()
    status, raw = await post(msgspec.json.encode({field: key}))
    pair = msgspec.json.decode(raw, type=AuthTokenPair)
    assert (status, pair.token, pair.refresh_token) == (200, key, key)
    assert pair.expires_at == pair.refresh_expires_at
    for body in (b"{}", b"", b"{", msgspec.json.encode({field: ""}), msgspec.json.encode({field: 7})):
        assert await post(body) == (400, msgspec.json.encode({"error": missing}))
    for credential in ("x", key + "x", "a.b.c", "x\ny"):
        status, raw = await post(msgspec.json.encode({field: credential}))
        assert (status, msgspec.json.decode(raw)) == (401, {"error": wrong})
    status, raw = await post(msgspec.json.encode({field: "x" * 20_000}))
    assert (status, list(msgspec.json.decode(raw))) == (413, ["error"])


def test_a_call_whose_arguments_are_all_taken_away_is_shown_without_arguments() -> None:
    part = {"type": "tool-left", "toolCallId": "c", "input": {"a": 1}}
    shown = parts_chat._decided_chunk(part, Decision(ApprovalId("a"), True, input={}))
    assert isinstance(shown, ToolInputAvailable)
    assert shown.input == {}
