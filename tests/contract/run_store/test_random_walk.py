"""`RunStore`: the adapter and the double return the same at each step of a random sequence of calls."""

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from rejoin_adapters.memory.database.run_store import MemoryRunStore
from rejoin_adapters.ports.run_store import RunStore
from rejoin_adapters.postgres.runs.run_store import open_run_store
from rejoin_adapters.store_types import (
    Admission,
    Admitted,
    Approval,
    ApprovalRequest,
    AskedCall,
    Claim,
    Decision,
    Regenerate,
    Submit,
    UserMessage,
    WhenBusy,
)
from rejoin_protocol.errors import RejoinError
from rejoin_protocol.events.fold import MessageDict
from rejoin_protocol.ids import ApprovalId, CallId, MessageId, RunId, SessionId
from rejoin_protocol.lifecycle import TERMINAL
from rejoin_protocol.run_request import RunRequest
from tests.support.data.store_session import AGENT, DEFAULT, user
from tests.support.system.databases import migrated_database

STEPS = 80
EXPIRIES = [None, None, datetime.now(UTC) - timedelta(days=1), datetime.now(UTC) + timedelta(days=1)]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def pair(database_url: str) -> AsyncIterator[Sequence[RunStore]]:
    async with migrated_database(database_url) as url, await open_run_store(url) as store:
        yield store, MemoryRunStore()


def without_times(found: Any) -> Any:
    """An approval, or the approvals in what was found, without the times at which they were decided."""
    match found:
        case list():
            return list(map(without_times, found))
        case AskedCall():
            return msgspec.structs.replace(found, approval=without_times(found.approval))
        case Approval():
            return msgspec.structs.replace(found, decided_at=None)
        case Claim():
            return msgspec.structs.replace(found, approvals=list(map(without_times, found.approvals)))
        case _:
            return found


class Walk:
    """One session in two stores. Whatever is done is done to both."""

    def __init__(self, pair: Sequence[RunStore], seed: int) -> None:
        self.pair = pair
        self.session = SessionId(f"ses_{seed}")
        self.seed = seed
        self.random = random.Random(seed)
        self.runs: list[RunId] = []
        self.approvals: list[ApprovalId] = []
        self.attempts: dict[RunId, int] = {}
        self.done: set[str] = set()

    async def both(self, ask: Callable[[RunStore], Awaitable[Any]]) -> Any:
        """What both answer; None if both refuse it in one word."""
        real, double = [await said(ask(store)) for store in self.pair]
        assert without_times(real) == without_times(double)
        return None if isinstance(real, type) else real

    async def step(self) -> None:
        weighted = {
            self.submit: 3,
            self.regenerate: 1,
            self.claim: 6,
            self.ask: 3,
            self.suspend: 3,
            self.decide: 3,
            self.end: 2,
            self.interrupt: 1,
            self.expire: 1,
        }
        [chosen] = self.random.choices(list(weighted), list(weighted.values()))
        if await chosen() is not None:
            self.done.add(chosen.__name__)

    async def admit(self, ask: Submit | Regenerate) -> Admitted | None:
        run = RunId(f"run_{self.seed}_{len(self.runs)}")
        self.runs.append(run)
        key = self.random.choice([None, None, None, "k1", "k2"])
        busy = self.random.choice(list(WhenBusy))
        admission = Admission(DEFAULT, self.session, AGENT, run, self.answer(run), ask, busy, key)
        admitted: Admitted | None = await self.both(lambda store: store.admit(admission))
        assert admitted == await self.both(lambda store: store.admit(admission))
        return admitted

    async def submit(self) -> Admitted | None:
        text, id = self.random.choice("ab"), self.random.choice(["m1", "m2", "m3", f"m_{len(self.runs)}"])
        return await self.admit(
            Submit(UserMessage(user(text, id), text.encode()), edit=self.random.random() < 0.5)
        )

    async def regenerate(self) -> Admitted | None:
        targets = [None, MessageId("m1"), *(self.answer(run) for run in self.runs[-4:])]
        return await self.admit(Regenerate(self.random.choice(targets)))

    async def claim(self) -> Claim | None:
        current = await self.both(lambda store: store.current_run(DEFAULT, self.session))
        request = current.request if current is not None else RunRequest(AGENT, RunId("none"))
        claim: Claim | None = await self.both(lambda store: store.claim(request, "runner"))
        if claim is not None:
            self.attempts[claim.run.id] = claim.run.attempt
        return claim

    async def held(self) -> tuple[RunId, int]:
        """The run that a runner has, nearly always, and its attempt, nearly always."""
        current = await self.both(lambda store: store.current_run(DEFAULT, self.session))
        run = RunId("none") if current is None else current.id
        run = self.random.choice([run] * 9 + self.runs[-1:])
        return run, self.attempts.get(run, 0) - (self.random.random() < 0.1)

    async def ask(self) -> Any:
        run, attempt = await self.held()
        numbers = range(self.random.randint(1, 2))
        questions = [
            ApprovalRequest(
                ApprovalId(f"{run}_{attempt}_{n}"),
                CallId(f"c{n}"),
                "rm",
                n,
                self.random.choice(EXPIRIES),
                edit_schema=self.random.choice([None, {}]),
            )
            for n in numbers
        ]
        self.approvals += [question.id for question in questions]
        await self.both(lambda store: store.request_approvals(run, attempt, questions))
        return await self.both(lambda store: store.find_approval(DEFAULT, run, CallId("c0")))

    async def suspend(self) -> Any:
        run, attempt = await self.held()
        return await self.both(lambda store: store.suspend(run, attempt, self.message(run, "so far")))

    async def decide(self) -> Any:
        approvals = self.random.choices(self.approvals[-3:], k=self.random.randint(1, 2))
        inputs = self.random.choices([None, {"n": 1}, {"n": 2}], [4, 1, 1], k=len(approvals))
        decisions = [
            Decision(approval, self.random.random() < 0.7 or input is not None, input=input)
            for approval, input in zip(approvals, inputs, strict=True)
        ]
        return await self.both(lambda store: store.decide(DEFAULT, self.session, decisions))

    async def end(self) -> Any:
        run, attempt = await self.held()
        state = self.random.choice(sorted(TERMINAL))
        await self.both(lambda store: store.end(run, attempt, state, self.message(run, state), None))
        return await self.both(lambda store: store.find_run(DEFAULT, run))

    async def interrupt(self) -> Any:
        run = self.random.choice([None, None, *self.runs[-3:]])
        return await self.both(lambda store: store.interrupt(DEFAULT, self.session, run))

    async def expire(self) -> Any:
        return await self.both(lambda store: unordered(store.expire_approvals()))

    async def look(self) -> None:
        await self.both(lambda store: store.pending_approvals(DEFAULT, self.session))
        await self.both(lambda store: store.answered_calls(DEFAULT, self.session))
        await self.both(lambda store: unordered(store.recover_stranded(0)))
        for run in self.runs:
            await self.both(lambda store, run=run: store.find_run(DEFAULT, run))  # type: ignore[misc]
        [real, double] = [await store.history(DEFAULT, self.session) for store in self.pair]
        if real is None or double is None:
            assert real == double
            return
        assert (real.messages, real.active_run) == (double.messages, double.active_run)

    @staticmethod
    def answer(run: RunId) -> MessageId:
        return MessageId(f"answer_{run}")

    def message(self, run: RunId, text: str) -> MessageDict:
        return {"id": self.answer(run), "role": "assistant", "parts": [{"type": "text", "text": text}]}


async def said(answer: Awaitable[Any]) -> Any:
    try:
        return await answer
    except RejoinError as fault:
        return type(fault)


async def unordered(requests: Awaitable[Sequence[RunRequest]]) -> list[RunRequest]:
    return sorted(await requests, key=lambda request: request.run)


@pytest.mark.parametrize("seed", range(12))
async def test_the_double_is_the_store_s_equal(pair: Sequence[RunStore], seed: int) -> None:
    walk = Walk(pair, seed)
    await walk.submit()
    walk.approvals.append(ApprovalId("none"))
    for _ in range(STEPS):
        await walk.step()
        await walk.look()
    assert walk.done >= {"submit", "claim"}
