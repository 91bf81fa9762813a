"""`chat`: a conversation with an agent, for tests."""

import asyncio
import itertools
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import msgspec

from rejoin.testing.answer import Answer, RecordedToolCall
from rejoin.testing.in_memory import InMemoryRejoin, open_in_memory
from rejoin.testing.scripted_model import ScriptedModel
from rejoin.testing.servers import open_on_servers
from rejoin_adapters.store_types import Owner
from rejoin_gateway.core.session import AgentSession
from rejoin_gateway.embed import DEFAULT_OWNER, ChatSession, MessageInput
from rejoin_gateway.library_stream import Stream
from rejoin_protocol.errors import Invalid
from rejoin_protocol.events.chunks import Chunk
from rejoin_protocol.ids import AgentName, session_id
from rejoin_runner.agent.agent import Agent
from rejoin_runner.models.model import Model

CHAT_TIMEOUT_S = 10.0


class Chat:
    """A session with an agent. Made by `chat`."""

    def __init__(
        self,
        open_session: Callable[[str], ChatSession],
        models: Sequence[Model],
        memory: InMemoryRejoin | None,
        context: Any,
        timeout_s: float,
        read_output: Callable[[Any], Any] | None = None,
    ) -> None:
        self._read_output = read_output
        self._open_session = open_session
        self._models = models
        self._memory = memory
        self._context = context
        self._timeout_s = timeout_s
        self._names = itertools.count(1)
        self.new_session()

    def new_session(self) -> None:
        """Begin another session. What was said before is unknown in it."""
        self.session = self._open_session(f"test-{next(self._names)}-{secrets.token_hex(4)}")
        self._answer = Answer([])
        self._cursor: str | None = None

    @property
    def answer(self) -> Answer:
        """The newest answer."""
        return self._answer

    async def send(
        self,
        message: MessageInput,
        *,
        context: Any = None,
        when_busy: Literal["enqueue", "interrupt", "reject"] = "enqueue",
    ) -> Answer:
        """Send a message and read the answer until it ends or waits for an approval.

        `context`: the context of this request in place of the chat's. Raises `TimeoutError` if the answer
        takes longer than the chat's `timeout_s`, and a `RejoinError` for a request that is refused.
        """
        return await self._read(lambda: self._send(message, context, when_busy), [])

    async def _send(self, message: MessageInput, context: Any, when_busy: Any) -> Stream | None:
        wanted = self._context if context is None else context
        plain = None if wanted is None else msgspec.to_builtins(wanted)
        return await self.session.send(message, context=plain, when_busy=when_busy, ui=7)

    async def steer(self, message: MessageInput, *, context: Any = None) -> bool:
        """Send a message to the run that works, while `send` reads its answer in another task.

        True: its model reads the message at its next step, and the answer has it. False: no run was at work;
        the message has a turn of its own, and `resume` reads its answer.
        """
        wanted = self._context if context is None else context
        plain = None if wanted is None else msgspec.to_builtins(wanted)
        return await self.session.steer(message, context=plain, ui=7) is None

    async def approve(
        self, tool: str | None = None, *, reason: str | None = None, input: dict[str, Any] | None = None
    ) -> Answer:
        """Approve the call that waits, and read what follows. `tool` names it if several wait. `input`: the
        arguments with which it runs.

        While other calls wait, the answer has no new events. Raises `AssertionError` if no call waits.
        """
        return await self._decide(tool, approved=True, reason=reason, input=input)

    async def deny(self, reason: str | None = None, *, tool: str | None = None) -> Answer:
        """Deny the call that waits, and read what follows. As `approve`."""
        return await self._decide(tool, approved=False, reason=reason)

    async def tool_output(
        self, output: Any = None, *, tool: str | None = None, error: str | None = None
    ) -> Answer:
        """Answer the call of a client's tool with an output or an error, and read what follows."""
        calls = [call for call in self._answer.waiting_for_output if tool in {None, call.name}]
        if len(calls) != 1:
            names = ", ".join(call.name for call in calls) or "no call"
            raise AssertionError(f"one call must wait for an output, but {names} waits; {self._answer}")
        plain = msgspec.to_builtins(output)
        return await self._read(
            lambda: self.session.tool_output(calls[0].id, plain, error=error, ui=7), self._answer.run_events
        )

    async def _decide(
        self, tool: str | None, *, approved: bool, reason: str | None, input: dict[str, Any] | None = None
    ) -> Answer:
        call = self._find_waiting(tool)

        async def decide() -> Stream | None:
            return await self.session.approve(
                call.approval_id or "", approved=approved, reason=reason, input=input, ui=7
            )

        return await self._read(decide, self._answer.run_events)

    def _find_waiting(self, tool: str | None) -> RecordedToolCall:
        waiting = [call for call in self._answer.waiting if tool in {None, call.name}]
        if len(waiting) != 1:
            names = ", ".join(call.name for call in waiting) or "no call"
            raise AssertionError(f"one call must wait for an approval, but {names} waits; {self._answer}")
        return waiting[0]

    async def interrupt(self) -> bool:
        """Interrupt the run. False if none was active."""
        return await self.session.interrupt()

    async def resume(self, cursor: str | None = None) -> Answer:
        """Read the session's newest answer again: from its start, or after a cursor (`Stream.cursor`)."""
        return await self._read(lambda: self.session.stream(cursor, ui=7), [])

    async def history(self) -> list[dict[str, Any]]:
        """The stored messages, oldest first."""
        return list((await self.session.history()).messages)

    # ------------------------------------------------------------------- in memory only

    def crash_at(self, event: str, *, stored: bool = False) -> None:
        """Let the runner crash at the next event of this type, once; another attempt takes the run over.

        `chat.crash_at("tool-output-available")`: the tool has run, and its result is lost. `stored`: the
        crash comes after the event was stored. In memory only.
        """
        crash = self._in_memory("a crash").crash
        crash.event, crash.stored = f'"type":"{event}"'.encode(), stored

    async def advance(self, by: timedelta) -> Answer:
        """Move the clock, let everything happen that is due then, and read what follows.

        `await chat.advance(timedelta(days=8))` after a question whose `approval_timeout_s` is a week. In
        memory only.
        """
        memory, cursor = self._in_memory("a moved clock"), self._cursor
        memory.clock.advance(by)
        await memory.worker.maintenance.sweep()
        if cursor is None:
            return self._answer
        return await self._read(lambda: self.session.stream(cursor, ui=7), self._answer.run_events)

    def _in_memory(self, what: str) -> InMemoryRejoin:
        if self._memory is None:
            raise Invalid(f"{what} is possible in memory only")
        return self._memory

    async def _read(self, ask: Callable[[], Any], earlier: Sequence[Chunk]) -> Answer:
        events: list[Chunk] = []
        async with asyncio.timeout(self._timeout_s):
            stream = await ask()
            if stream is not None:
                async with aclosing(stream.chunks()) as chunks:
                    events += [chunk async for chunk in chunks]
                self._cursor = stream.cursor or self._cursor
        for model in self._models:
            if isinstance(model, ScriptedModel) and model.error is not None:
                raise model.error
        self._answer = Answer(events, earlier, self._read_output)
        return self._answer


@asynccontextmanager
async def chat(
    agent: Agent,
    *,
    model: Model | Mapping[str, Model] | None = None,
    context: Any = None,
    owner: Owner = DEFAULT_OWNER,
    config: str | Path | None = None,
    timeout_s: float = CHAT_TIMEOUT_S,
) -> AsyncIterator[Chat]:
    """A chat with an agent whose gateway and runner live in this process, in memory.

        async with testing.chat(support, model=ScriptedModel("Hello!")) as chat:
            answer = await chat.send("Hi")
            assert answer.text == "Hello!"

    Args:
        agent: As the application declares it.
        model: A model in place of the agent's, or one for each agent of a team, by name. Default: the
            agents' own, which must be `Model` objects.
        context: The context of all requests: an instance of the agent's `context` type, or a dict.
        owner: Whose session it is. Default: one user.
        config: `.rejoin/rejoin.toml` of a running `rejoin dev`: the same chat on its real servers.
        timeout_s: How long one answer may take.

    Raises `Invalid` if the agent has no model for the test.
    """
    models = model if isinstance(model, Mapping) else {} if model is None else {agent.name: model}
    async with AsyncExitStack() as stack:
        memory: InMemoryRejoin | None = None
        if config is None:
            memory = await stack.enter_async_context(open_in_memory(agent, models))
            backend = memory.backend

            def open_session(id: str) -> ChatSession:
                return ChatSession(AgentSession(backend, owner, session_id(id), AgentName(agent.name)))

        else:
            served = _with_models(agent, models)
            real = await stack.enter_async_context(open_on_servers(served, Path(config)))
            sessions = real.rejoin.agent(served.name, owner)
            open_session = sessions.session
        called = [*models.values()] if memory is None else memory.models
        output = agent.output_type
        read_output = None if output is None else output.read
        yield Chat(open_session, called, memory, context, timeout_s, read_output)


def _with_models(agent: Agent, models: Mapping[str, Model]) -> Agent:
    """The agent under a name of its own, so that it does not take the runs of a served one."""
    if set(models) - {agent.name}:
        raise Invalid("on real servers only the model of the first agent can be replaced")
    name = f"{agent.name[:50]}-{secrets.token_hex(4)}"
    return msgspec.structs.replace(agent, name=name, model=models.get(agent.name, agent.model))
