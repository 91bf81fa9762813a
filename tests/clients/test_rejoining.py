"""The Python client on a bad connection receives every event once, in order; its credential is refreshed when
it expires.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from rejoin_client import (
    Client,
    Data,
    Event,
    Gone,
    Lost,
    Malformed,
    NotFound,
    Restarted,
    Retry,
    TextDelta,
    ToolApprovalRequest,
    Unauthenticated,
    Unavailable,
)
from tests.support.faults.cutting_proxy import cut_connections
from tests.support.system.local_system import LocalSystem

CUTS = 50
QUICK = Retry(first_delay_s=0.005, delay_max_s=0.05, stream_retry_for_s=20, call_retry_for_s=5)
NUMBERS = 1000


async def whole(client: Client, run: str) -> list[Event]:
    """A run's events over a good line, without the operations that only the run API sends."""
    async with await client.executions.stream(run, follow=True) as answer:
        return [event async for event in answer if not is_operation(event)]


def is_operation(event: Event) -> bool:
    return isinstance(event, Data) and event.type == "data-operation"


async def test_every_event_comes_once_and_in_order_through_50_cuts(system: LocalSystem) -> None:
    """From the POST on: a request whose answer never came is made again and is the same request."""
    await system.runner()
    base = await system.gateway()
    session = system.fresh("s")
    async with cut_connections(base, cuts_max=CUTS, bytes_max=2000) as line, Client(base) as direct:
        async with Client(line.url, retry=QUICK) as client:
            answer = await client.chat.send(session, f"count {NUMBERS} every 1 ms")
            events = [event async for event in answer]
        assert line.cuts == CUTS
        assert answer.breaks > CUTS / 2  # the others met a request whose answer had not begun
        assert events == await whole(direct, answer.run)
        text = "".join(event.delta for event in events if isinstance(event, TextDelta))
        assert text == " ".join(str(number) for number in range(1, NUMBERS + 1))
        assert len((await direct.threads.get(session)).messages) == 2


async def test_a_decision_goes_on_through_cuts(system: LocalSystem) -> None:
    """The continuation alone, once: also if the decision has to be sent again."""
    await system.runner()
    base = await system.gateway()
    session = system.fresh("s")
    async with Client(base) as direct:
        first = await direct.chat.send(session, "delete notes.txt")
        before = [event async for event in first]
        [question] = [event for event in before if isinstance(event, ToolApprovalRequest)]
        async with (
            cut_connections(base, cuts_max=8, bytes_max=700) as line,
            Client(line.url, retry=QUICK) as client,
        ):
            answer = await client.chat.approve(session, question.approval_id, approved=True)
            assert answer is not None
            after = [event async for event in answer]
            assert before + after == await whole(direct, first.run)
            assert line.cuts >= 3


# ------------------------------------------------------------------------------------- a server with a script

type Script = list[Callable[[web.Request], web.StreamResponse | bytes]]


@asynccontextmanager
async def server(script: Script) -> AsyncIterator[tuple[str, list[web.Request]]]:
    """Answers requests one after the other; bytes are a stream that breaks, or ends with `[DONE]`."""
    asked: list[web.Request] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(request)
        said = script[min(len(asked), len(script)) - 1](request)
        if isinstance(said, web.StreamResponse):
            return said
        headers = {"Content-Type": "text/event-stream", "x-workflow-run-id": "run_1"}
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        await response.write(said)
        return response

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}", asked
    finally:
        await runner.cleanup()


def frame(number: int) -> bytes:
    return b'id: 0-%d\ndata: {"type":"text-delta","id":"t","delta":"%d"}\n\n' % (number, number)


def status(code: int) -> Callable[[web.Request], web.Response]:
    return lambda _: web.json_response({"detail": f"no: {code}"}, status=code)


def says(*frames: bytes) -> Callable[[web.Request], bytes]:
    return lambda _: b"".join(frames)


DONE = b"data: [DONE]\n\n"


async def test_a_position_that_is_gone_restarts_the_answer_and_reports_it() -> None:
    script: Script = [says(frame(1)), status(410), says(frame(1), frame(2), DONE)]
    async with server(script) as (url, asked), Client(url, retry=QUICK) as client:
        answer = await client.executions.stream("run_1")
        assert [event async for event in answer] == [
            TextDelta("t", "1"),
            Restarted(),
            TextDelta("t", "1"),
            TextDelta("t", "2"),
        ]
        assert [request.headers.get("Last-Event-ID") for request in asked] == [None, "0-1", None]
        assert answer.cursor == "0-2"


async def test_an_answer_of_which_only_its_end_was_cut_off_is_complete() -> None:
    """The server says 204 behind the last event of a run that has ended."""
    script: Script = [says(frame(1)), lambda _: web.Response(status=204)]
    async with server(script) as (url, asked), Client(url, retry=QUICK) as client:
        answer = await client.executions.stream("run_1")
        assert [event async for event in answer] == [TextDelta("t", "1")]
        assert (answer.complete, answer.breaks, len(asked)) == (True, 1, 2)


async def test_a_callers_cursor_that_is_gone_starts_over_too() -> None:
    async with (
        server([status(410), says(frame(1), DONE)]) as (url, _),
        Client(url, retry=QUICK) as client,
    ):
        answer = await client.executions.stream("run_1", cursor="9-9")
        assert [event async for event in answer] == [Restarted(), TextDelta("t", "1")]


async def test_a_log_that_is_gone_altogether_is_an_error() -> None:
    async with server([says(frame(1)), status(410)]) as (url, _), Client(url, retry=QUICK) as client:
        answer = await client.executions.stream("run_1")
        with pytest.raises(Gone):
            _ = [event async for event in answer]


async def test_a_break_before_the_first_event_is_not_a_start_over() -> None:
    script: Script = [says(), says(b": keep-alive\n\n"), says(frame(1), DONE)]
    async with server(script) as (url, _), Client(url, retry=QUICK) as client:
        answer = await client.executions.stream("run_1")
        assert [event async for event in answer] == [TextDelta("t", "1")]
        assert answer.breaks == 2


async def test_an_answer_that_was_not_read_to_its_end_does_not_look_like_one() -> None:
    async with server([says(frame(1), frame(2), DONE)]) as (url, _), Client(url, retry=QUICK) as client:
        answer = await client.executions.stream("run_1")
        async with answer:
            assert await anext(answer) == TextDelta("t", "1")
        assert not answer.complete
        with pytest.raises(Lost, match="0-1"):
            await anext(answer)
        again = await client.executions.stream("run_1")
        assert await again.text() == "12"
        assert again.complete


async def test_a_server_that_is_not_rejoin_is_recognised() -> None:
    def page(_: web.Request) -> web.Response:
        return web.Response(text="<html>", content_type="text/html")

    async with server([page]) as (url, _), Client(url, retry=QUICK) as client:
        with pytest.raises(Malformed):
            await client.threads.list()
        with pytest.raises(Malformed):
            await client.executions.stream("run_1")


async def test_a_busy_server_is_retried_and_a_refusal_is_not() -> None:
    async with server([status(503), status(429), status(502), status(404)]) as (url, asked):
        async with Client(url, retry=QUICK) as client:
            with pytest.raises(NotFound, match="no: 404"):
                await client.threads.get("t")
        assert len(asked) == 4


async def test_a_request_that_may_have_taken_effect_is_not_repeated() -> None:
    """A deletion whose answer is lost is not repeated; one that was refused for the moment is."""
    async with server([status(503), status(502)]) as (url, asked), Client(url, retry=QUICK) as client:
        with pytest.raises(Exception, match="no: 502"):
            await client.threads.delete("t")
        assert len(asked) == 2


async def test_retries_end_after_their_time_with_the_last_error() -> None:
    brief = Retry(first_delay_s=0.005, delay_max_s=0.01, stream_retry_for_s=0.05, call_retry_for_s=0.05)
    async with server([status(503)]) as (url, _), Client(url, retry=brief) as client:
        with pytest.raises(Unavailable):
            await client.threads.list()
        with pytest.raises(Unavailable):
            await client.chat.send("s", "hello")
    async with Client(url, retry=brief) as client:  # the server is closed
        with pytest.raises(Lost):
            await client.threads.list()


class Tokens:
    """Fetches tokens, slowly enough for everybody to come."""

    def __init__(self) -> None:
        self.fetched = 0
        self.valid = 1

    async def __call__(self) -> str:
        await asyncio.sleep(0)
        self.fetched += 1
        return f"token-{self.fetched}"

    def answer(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer token-{self.valid}":
            return web.json_response({"detail": "who?"}, status=401)
        return web.json_response({"threads": [], "total": 0, "activeStreamIds": []})


@pytest.mark.feature("F80")
async def test_a_401_refreshes_once_for_five_parallel_calls() -> None:
    tokens = Tokens()
    async with server([tokens.answer]) as (url, asked), Client(url, token=tokens, retry=QUICK) as client:
        await client.threads.list()
        assert tokens.fetched == 1
        tokens.valid = 2
        async with asyncio.TaskGroup() as group:
            calls = [group.create_task(client.threads.list()) for _ in range(5)]
        assert [call.result().threads for call in calls] == [[]] * 5
        assert tokens.fetched == 2
        assert len(asked) == 1 + 5 + 5


async def test_a_token_that_is_refused_twice_is_not_fetched_for_ever() -> None:
    tokens = Tokens()
    tokens.valid = 9
    async with server([tokens.answer]) as (url, _), Client(url, token=tokens, retry=QUICK) as client:
        with pytest.raises(Unauthenticated, match="who"):
            await client.threads.list()
        assert tokens.fetched == 2
    fixed = await tokens()
    async with server([tokens.answer]) as (url, asked), Client(url, token=fixed) as client:
        with pytest.raises(Unauthenticated):
            await client.threads.list()
        assert len(asked) == 1


async def test_an_answer_goes_on_with_a_fresh_token() -> None:
    """The token runs out while the answer is read."""
    tokens = Tokens()

    def rest(request: web.Request) -> web.StreamResponse | bytes:
        refused = tokens.answer(request)
        return refused if refused.status == 401 else frame(2) + DONE

    def first(_: web.Request) -> bytes:
        tokens.valid = 2
        return frame(1)

    async with server([first, rest]) as (url, _), Client(url, token=tokens, retry=QUICK) as client:
        answer = await client.executions.stream("run_1")
        assert [event async for event in answer] == [TextDelta("t", "1"), TextDelta("t", "2")]
        assert tokens.fetched == 2
