"""A session in a store, spoken to in few words: what the store's tests share."""

import secrets
import time
from collections.abc import Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any

from rejoin_adapters.ports.run_store import RunStore
from rejoin_adapters.store_types import (
    Admission,
    Admitted,
    ApprovalRequest,
    Claim,
    Decided,
    Decision,
    Interrupted,
    Owner,
    Regenerate,
    Run,
    Submit,
    UserMessage,
    WhenBusy,
)
from rejoin_protocol.events.fold import MessageDict
from rejoin_protocol.ids import (
    AgentName,
    ApprovalId,
    CallId,
    MessageId,
    SessionId,
    TenantId,
    UserId,
    new_run_id,
)
from rejoin_protocol.lifecycle import State
from rejoin_protocol.run_request import RunRequest

DEFAULT = Owner(TenantId("default"))
OTHER = Owner(TenantId("other"))
ANN = Owner(TenantId("default"), UserId("ann"))
BEN = Owner(TenantId("default"), UserId("ben"))
AGENT = AgentName("demo")


def fresh(kind: str) -> str:
    return f"{kind}_{secrets.token_hex(8)}"


def user(text: str, id: str | None = None) -> MessageDict:
    return {"id": id or fresh("msg"), "role": "user", "parts": [{"type": "text", "text": text}]}


def text_of(message: MessageDict) -> str:
    text: str = message["parts"][0]["text"]
    return text


class Chat:
    """A session, spoken to in few words."""

    def __init__(self, store: RunStore, owner: Owner = DEFAULT, id: SessionId | None = None) -> None:
        self.store = store
        self.owner = owner
        self.id = id or SessionId(fresh("ses"))

    async def admit(
        self,
        ask: Submit | Regenerate,
        when_busy: WhenBusy = WhenBusy.ENQUEUE,
        key: str | None = None,
        **extra: Any,
    ) -> Admitted:
        run = new_run_id(time.time_ns() // 1_000_000, secrets.token_bytes(10))
        answer = MessageId(fresh("msg"))
        return await self.store.admit(
            Admission(self.owner, self.id, AGENT, run, answer, ask, when_busy, key, **extra)
        )

    async def submit(
        self,
        text: str,
        id: str | None = None,
        *,
        edit: bool = False,
        imports: Sequence[MessageDict] = (),
        when_busy: WhenBusy = WhenBusy.ENQUEUE,
        key: str | None = None,
        **extra: Any,
    ) -> Admitted:
        turn = UserMessage(user(text, id), sha256(text.encode()).digest())
        return await self.admit(Submit(turn, edit=edit, imports=imports), when_busy, key, **extra)

    async def send(self, text: str, id: str | None = None) -> Run:
        return (await self.submit(text, id)).run

    async def regenerate(self, target: str | None = None) -> Run:
        return (await self.admit(Regenerate(MessageId(target) if target else None))).run

    async def claim(self, run: Run | RunRequest) -> Claim:
        claim = await self.store.claim(run.request if isinstance(run, Run) else run, "runner")
        assert claim is not None
        return claim

    def answer(self, run: Run, text: str) -> MessageDict:
        return {"id": run.answer, "role": "assistant", "parts": [{"type": "text", "text": text}]}

    async def end(self, run: Run, text: str = "done", state: State = State.COMPLETED) -> RunRequest | None:
        return await self.store.end(run.id, run.attempt, state, self.answer(run, text), None)

    async def complete(self, text: str, answer: str = "done") -> Run:
        """A whole turn."""
        run = (await self.claim(await self.send(text))).run
        await self.end(run, answer)
        return run

    async def ask(
        self, run: Run, count: int = 1, expires_at: datetime | None = None, first: int = 0
    ) -> list[ApprovalId]:
        questions = [
            ApprovalRequest(
                ApprovalId(f"{run.id}_{run.turn}_{n}"), CallId(f"call_{n}"), "rm", {"path": n}, expires_at
            )
            for n in range(first, first + count)
        ]
        await self.store.request_approvals(run.id, run.attempt, questions)
        return [question.id for question in questions]

    async def suspend(self, run: Run, text: str = "may I?") -> RunRequest | None:
        return await self.store.suspend(run.id, run.attempt, self.answer(run, text))

    async def wait_for_decision(
        self, text: str, count: int = 1, expires_at: datetime | None = None
    ) -> tuple[Run, list[ApprovalId]]:
        """A turn that is suspended."""
        run = (await self.claim(await self.send(text))).run
        approvals = await self.ask(run, count, expires_at)
        await self.suspend(run)
        return run, approvals

    async def decide(
        self, *approvals: ApprovalId, approved: bool = True, reason: str | None = None
    ) -> Decided:
        return await self.store.decide(
            self.owner, self.id, [Decision(approval, approved, reason) for approval in approvals]
        )

    async def interrupt(self, run: Run | None = None) -> Interrupted:
        return await self.store.interrupt(self.owner, self.id, run.id if run is not None else None)

    async def pending(self) -> list[ApprovalId]:
        return [one.request.id for one in await self.store.pending_approvals(self.owner, self.id)]

    async def found(self, run: Run) -> Run:
        found = await self.store.find_run(self.owner, run.id)
        assert found is not None
        return found

    async def texts(self) -> list[str]:
        history = await self.store.history(self.owner, self.id)
        return [text_of(message) for message in history.messages] if history is not None else []

    async def state(self, run: Run) -> State:
        return (await self.found(run)).state


def through(stores: Sequence[RunStore]) -> list[Chat]:
    """One session, spoken to through each of the stores."""
    session = SessionId(fresh("ses"))
    return [Chat(store, id=session) for store in stores]
