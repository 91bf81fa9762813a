"""`?ui=5|6`: clients that do not know `reset-step` and later event types.

Such a client must not keep the output of a crashed step. The first runner here sends no heartbeats but still
works, as in `tests/fault/takeover/test_takeover.py`.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec
import pytest

from rejoin_protocol.events.chunks import decode
from rejoin_protocol.events.fold import Fold, MessageDict
from rejoin_protocol.log.sse import SseFrame
from rejoin_runner.agent.agent import Agent
from tests.support.faults.takeover import ACK_WAIT_S, FIRST, SECOND, SILENT_RUNNER
from tests.support.models.scripted_models import GatedModel
from tests.support.system.local_system import Answer, LocalSystem, read_frames
from tests.support.system.observation import wait_until

WORDS = "".join(f" {number}" for number in range(FIRST))


def types(answer: Answer) -> list[str]:
    return [chunk["type"] for chunk in answer.chunks]


def folded(answer: Answer) -> MessageDict:
    fold = Fold()
    for frame in answer.frames[:-1]:
        fold.apply(decode(frame.data))
    return fold.message


class Rewound:
    """A run whose first runner was replaced in the middle of its text. The second waits before its end."""

    def __init__(self, system: LocalSystem, base: str, session: str) -> None:
        self.system, self.base, self.session = system, base, session
        self.gate = asyncio.Semaphore(0)
        self.seen: list[SseFrame] = []

    def url(self, query: str) -> str:
        return f"{self.base}/api/chat/{self.session}/stream{query}"

    async def get(self, query: str, **headers: str) -> Answer:
        """Read a response to its end, after releasing the run."""
        async with self.system.http.get(self.url(query), headers=headers) as response:
            self.gate.release()
            return await Answer.of(response)

    @property
    def text(self) -> str:
        """What the client saw of the first runner's words."""
        chunks = [msgspec.json.decode(frame.data) for frame in self.seen]
        return "".join(chunk.get("delta", "") for chunk in chunks)

    async def watch(self, response: aiohttp.ClientResponse, written: asyncio.Event) -> None:
        """Read a response that is to break, and tell when the first runner has written what it can."""
        try:
            async for frame in read_frames(response):
                self.seen.append(frame)
                if self.text == WORDS:
                    written.set()
        except (aiohttp.ClientPayloadError, aiohttp.ClientConnectionError):
            return
        pytest.fail("the response ended as if the answer were whole")


@contextlib.asynccontextmanager
async def rewound(system: LocalSystem, ui: str) -> AsyncIterator[Rewound]:
    """Entered once the stream of the client that had sent the message is broken."""
    one = Rewound(system, await system.gateway(), system.fresh("s"))
    gate = asyncio.Semaphore(FIRST)
    await system.runner(
        [Agent(name=system.agent, model=GatedModel(gate, 10), text_interval_s=0)],
        **SILENT_RUNNER,
    )
    written = asyncio.Event()
    async with (
        system.http.post(f"{one.base}/api/chat?ui={ui}", json=system.chat(one.session, "hello")) as response,
        asyncio.TaskGroup() as group,
    ):
        watching = group.create_task(one.watch(response, written))
        async with asyncio.timeout(20):
            await written.wait()
        one.gate = asyncio.Semaphore(SECOND)
        model = GatedModel(one.gate, SECOND + 1, [])
        await system.runner([Agent(name=system.agent, model=model, text_interval_s=0)], ack_wait_s=ACK_WAIT_S)
        async with asyncio.timeout(20):
            await watching
        yield one

        async def over() -> bool:
            history = await system.get(f"{one.base}/api/agents/{system.agent}/{one.session}")
            return "activeRunId" not in history.json

        await wait_until(over, "the end of the run")
    for _ in range(10):
        gate.release()


async def stored(one: Rewound) -> Any:
    """The answer in the history."""
    history = await one.system.get(f"{one.base}/api/agents/{one.system.agent}/{one.session}")
    return history.json["messages"][-1]


@pytest.mark.feature("F84")
@pytest.mark.parametrize("ui", ["5", "6"])
async def test_a_rewind_breaks_an_old_clients_stream_and_the_replay_has_nothing_of_it(
    system: LocalSystem, ui: str
) -> None:
    """For a client whose version has no event that drops a part."""
    async with rewound(system, ui) as one:
        whole = await one.get(f"?ui={ui}")
    assert whole.complete
    assert whole.text == " 0 1 2 3"
    assert "reset-step" not in types(whole)
    assert folded(whole) == await stored(one)
    assert one.text == WORDS
    again = await one.system.get(one.url("?ui=7&startIndex=0"))
    assert types(again).count("reset-step") == 1
    assert folded(again) == await stored(one)


@pytest.mark.feature("F84")
async def test_a_position_before_the_rewind_continues_without_voided_events(system: LocalSystem) -> None:
    """Up to the step's start the client has nothing wrong; behind it, it must begin again."""
    async with rewound(system, "6") as one:
        whole = await one.get("?ui=6")
    begin = next(place for place, frame in enumerate(one.seen) if b"start-step" in frame.data)
    for place, frame in enumerate(one.seen):
        rest = await one.system.get(one.url("?ui=6"), **{"Last-Event-ID": frame.id})
        counted = await one.system.get(one.url(f"?ui=6&startIndex={place + 1}"))
        if place <= begin:
            assert rest.frames == counted.frames == whole.frames[place + 1 :]
        else:
            assert (rest.status, counted.status) == (410, 410)
            assert "no longer part of the message" in rest.json["detail"]
    known = await one.system.get(one.url("?ui=7"), **{"Last-Event-ID": one.seen[-1].id})
    assert types(known)[:2] == ["reset-step", "text-start"]


@pytest.mark.feature("F84")
async def test_a_position_behind_the_rewind_is_exact(system: LocalSystem) -> None:
    """By cursor and by number, also from the end."""
    async with rewound(system, "6") as one:
        whole = await one.get("?ui=6")
    begin = types(whole).index("start-step")
    events = len(whole.frames) - 1
    for place in range(begin, events - 1):  # behind the last event there is nothing
        rest = await one.system.get(one.url("?ui=6"), **{"Last-Event-ID": whole.frames[place].id})
        assert rest.frames == whole.frames[place + 1 :]
    for back in range(1, events - begin):
        last = await one.system.get(one.url(f"?ui=6&startIndex=-{back}"))
        assert last.frames == whole.frames[events - back :]
        assert last.headers["x-workflow-stream-tail-index"] == str(events - 1)
    for count in range(len(one.seen) + 1, events + 1):  # beyond what the cut stream had
        counted = await one.system.get(one.url(f"?ui=6&startIndex={count}"))
        assert counted.frames == whole.frames[count:]


@pytest.mark.feature("F95")
async def test_approvals_are_shown_to_those_who_know_them(system: LocalSystem) -> None:
    """An unknown type ends a client's stream: v5 gets none of them, v6 and one that states no version all but
    the decision.
    """
    base = await system.gateway()
    await system.runner()
    session = system.fresh("s")
    await system.post(base, system.chat(session, "delete notes.txt"))
    await system.post(base, await system.decision(base, session, approved=False))
    asked = {}
    for ui in ("ui=5", "ui=6", "ui=7", "none=stated"):
        url = f"{base}/api/chat/{session}/stream?{ui}&startIndex="
        answer = await system.get(f"{url}0")
        asked[ui] = {name for name in types(answer) if "approval" in name or "denied" in name}
        for place, frame in enumerate(answer.frames[:-1], 1):
            assert (await system.get(f"{url}{place}")).frames == answer.frames[place:]
            behind = await system.get(f"{url}0&cursor={frame.id}")  # a cursor goes before a count
            if place == len(answer.frames) - 1:
                assert behind.status == 204
            else:
                assert behind.frames == answer.frames[place:]
    assert asked["ui=5"] == set()
    assert asked["ui=6"] == asked["none=stated"] == {"tool-approval-request", "tool-output-denied"}
    assert asked["ui=7"] == {"tool-approval-request", "tool-approval-response", "tool-output-denied"}


@pytest.mark.parametrize("ui", ["", "4", "8", "v6", "6.0"])
async def test_an_unknown_version_is_refused_and_nothing_is_stored(system: LocalSystem, ui: str) -> None:
    base = await system.gateway()
    session = system.fresh("s")
    async with system.http.post(f"{base}/api/chat?ui={ui}", json=system.chat(session, "hello")) as response:
        answer = await Answer.of(response)
    assert answer.status == 400
    assert "ui is 5, 6 or 7" in answer.json["detail"]
    assert (await system.get(f"{base}/api/agents/{system.agent}/{session}")).status == 404
