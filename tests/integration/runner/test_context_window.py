"""Long conversations: what the model receives, how the rest is summarised, and that no summary is requested
twice.
"""

from collections.abc import AsyncGenerator, Sequence

import msgspec

from rejoin_protocol.events import chunks
from rejoin_protocol.events.fold import MessageDict
from rejoin_runner.agent.agent import Agent
from rejoin_runner.models.compaction import COMPACTION_INSTRUCTIONS
from rejoin_runner.models.context_window import ContextWindow
from rejoin_runner.models.model import Done, ModelChunk, ModelRequest, Usage
from tests.support.system.local_system import Answer, LocalSystem


class Listens(msgspec.Struct):
    """Emits the number of messages that it received. Writes a summary if the instructions want one."""

    shown: list[list[str]] = []
    summaries: int = 0

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk | Done]:
        """See `port.Model`."""
        text, usage = "ok", Usage(1, 1)
        if request.instructions == COMPACTION_INSTRUCTIONS:
            self.summaries += 1
            text, usage = "They said hello.", Usage(100, 10)
        else:
            self.shown.append(words(request.history))
        yield chunks.TextStart(id="t")
        yield chunks.TextDelta(id="t", delta=text)
        yield chunks.TextEnd(id="t")
        yield Done("stop", usage)


def words(messages: Sequence[MessageDict]) -> list[str]:
    return [part["text"] for message in messages for part in message["parts"] if part["type"] == "text"]


async def talk(system: LocalSystem, agent: Agent, turns: int) -> list[Answer]:
    await system.runner([agent])
    base, session = await system.gateway(), system.fresh("s")
    answers = []
    for number in range(turns):
        chat = system.chat(session, f"turn {number}")
        async with system.http.post(
            f"{base}/api/chat", json=chat, headers={"x-emit-operations": "true"}
        ) as response:
            answers.append(await Answer.of(response))
    return answers


def compressions(answer: Answer) -> int:
    return [chunk.get("data", {}).get("type") for chunk in answer.chunks].count("compression")


async def test_the_oldest_turns_are_left_out(system: LocalSystem) -> None:
    model = Listens(shown=[])
    agent = Agent(name=system.agent, model=model, context_window=ContextWindow(messages_max=3))
    answers = await talk(system, agent, 3)
    assert model.shown[-1] == ["turn 1", "ok", "turn 2"]
    assert [compressions(answer) for answer in answers] == [0, 0, 1]


async def test_a_summary_stands_for_them_and_is_written_and_paid_once(system: LocalSystem) -> None:
    """It is kept with the answer, whose cost has its own; the next turn uses it as long as it suffices."""
    model = Listens(shown=[])
    agent = Agent(
        name=system.agent, model=model, context_window=ContextWindow(messages_max=6), summarize_history=True
    )
    answers = await talk(system, agent, 5)
    assert model.summaries == 1
    assert [compressions(answer) for answer in answers] == [0, 0, 0, 1, 0]
    spent = [answer.chunks[-1]["messageMetadata"]["usage"]["totalTokens"] for answer in answers]
    assert spent == [2, 2, 2, 112, 2]
    assert "They said hello." in " ".join(model.shown[3])
    assert "They said hello." in " ".join(model.shown[4])
    assert "turn 0" not in model.shown[4]
