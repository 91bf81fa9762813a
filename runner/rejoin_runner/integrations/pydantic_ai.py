"""A pydantic-ai agent as a Rejoin agent: pydantic-ai's loop and tools, Rejoin's log.

Owns the translation of its events to chunks. The tools and toolsets run inside pydantic-ai and are shown as
executed by the provider; calls that it defers are Rejoin's (`deferred_tools`). After a crash the step starts
again, unless `on_crash="fail"`. An output that is not text is shown as JSON text.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import msgspec
from pydantic_ai import Agent as LibraryAgent
from pydantic_ai import AgentRunResult, AgentRunResultEvent, DeferredToolRequests
from pydantic_ai.messages import (
    FunctionToolCallEvent,
    FunctionToolResultEvent,
    ModelMessage,
    ModelResponse,
    PartDeltaEvent,
    PartEndEvent,
    PartStartEvent,
    RetryPromptPart,
    TextPart,
    TextPartDelta,
    ThinkingPart,
    ThinkingPartDelta,
    ToolReturnPart,
)
from pydantic_core import to_jsonable_python

from rejoin_protocol.events import chunks
from rejoin_protocol.events.fold import MessageDict
from rejoin_runner.agent.agent import Agent
from rejoin_runner.agent.agent_decorator import agent
from rejoin_runner.agent.custom_loop import CrashPolicy, LoopOutput, OwnCall, RunInput
from rejoin_runner.integrations.deferred_tools import deferred_tools
from rejoin_runner.models.model import ModelName, ModelUsage, Usage
from rejoin_runner.models.providers.conversation import build_conversation
from rejoin_runner.models.providers.history import to_messages
from rejoin_runner.models.providers.model_origin import ModelOrigin

ORIGIN = ModelOrigin("pydantic-ai", "foreign", "foreign")
"""For whom the history is built. No stored answer has this origin, so no provider signatures are sent."""


def adapt_pydantic_ai[D](
    library_agent: "LibraryAgent[D, Any]",
    *,
    name: str,
    deps: Callable[[RunInput[Any]], D] | None = None,
    on_crash: CrashPolicy = "restart",
    context: type[msgspec.Struct] | None = None,
    description: str = "",
) -> Agent:
    """Make a pydantic-ai agent a Rejoin agent.

    The agent keeps its model, tools, toolsets and output type. With `DeferredToolRequests` in its output
    type, the calls that it defers wait in Rejoin: for an approval, with changed arguments if the person
    likes, or for the output of the client.

    `deps` builds its dependencies from the `RunInput`, which has no messages for an approved call. For the
    other arguments see the decorator `agent`.
    """

    @agent(name=name, on_crash=on_crash, context=context, description=description)
    async def loop(run: RunInput[Any]) -> AsyncIterator[LoopOutput]:
        dependencies = None if deps is None else deps(run)
        history = to_history(run.messages)
        async with library_agent.run_stream_events(message_history=history, deps=dependencies) as events:  # type: ignore[arg-type]
            translator = ChunkTranslator()
            async for event in events:
                for output in translator.translate(event):
                    yield output

    return msgspec.structs.replace(loop, tools=deferred_tools(library_agent, deps))


def to_history(messages: Sequence[MessageDict]) -> list[ModelMessage]:
    """The conversation as pydantic-ai's messages, the user's last. The tool calls in it are its own."""
    own_calls = [
        message | {"parts": [_as_own_call(part) for part in message["parts"]]} for message in messages
    ]
    return to_messages("", build_conversation(own_calls, ORIGIN), ORIGIN)


def _as_own_call(part: dict[str, Any]) -> dict[str, Any]:
    """The part without `providerExecuted`: `build_conversation` leaves calls of a provider out, and these are
    pydantic-ai's own.
    """
    return {name: value for name, value in part.items() if name != "providerExecuted"}


class ChunkTranslator:
    """Translates the events of one run to chunks."""

    def __init__(self) -> None:
        self._parts_started = 0
        self._part_ids: dict[int, str] = {}
        """The ids of the open parts, by pydantic-ai's index."""

    def translate(self, event: object) -> Iterator[LoopOutput]:
        """The parts that an event adds to the message."""
        match event:
            case PartStartEvent(index=index, part=TextPart() | ThinkingPart() as part):
                yield from self._start_part(index, part)
            case PartDeltaEvent(index=index, delta=TextPartDelta(content_delta=text)) if text:
                yield chunks.TextDelta(id=self._part_ids[index], delta=text)
            case PartDeltaEvent(index=index, delta=ThinkingPartDelta(content_delta=str(text))) if text:
                yield chunks.ReasoningDelta(id=self._part_ids[index], delta=text)
            case PartEndEvent(index=index, part=TextPart()):
                yield chunks.TextEnd(id=self._part_ids.pop(index))
            case PartEndEvent(index=index, part=ThinkingPart()):
                yield chunks.ReasoningEnd(id=self._part_ids.pop(index))
            case FunctionToolCallEvent(part=call):
                yield chunks.ToolInputAvailable(
                    tool_call_id=call.tool_call_id, tool_name=call.tool_name, input=call.args_as_dict()
                )
            case FunctionToolResultEvent(part=result):
                yield _tool_result(result)
            case AgentRunResultEvent(result=result) if isinstance(result.output, DeferredToolRequests):
                for call in (*result.output.approvals, *result.output.calls):
                    yield OwnCall(call.tool_call_id, call.tool_name, call.args_as_dict())
                yield from _usages(result)
            case AgentRunResultEvent(result=result):
                if not isinstance(result.output, str):
                    yield msgspec.json.encode(_to_json(result.output)).decode()
                yield from _usages(result)
            case _:
                pass

    def _start_part(self, index: int, part: TextPart | ThinkingPart) -> Iterator[LoopOutput]:
        self._parts_started += 1
        id = self._part_ids[index] = f"p{self._parts_started}"
        if isinstance(part, TextPart):
            yield chunks.TextStart(id=id)
            if part.content:
                yield chunks.TextDelta(id=id, delta=part.content)
        else:
            yield chunks.ReasoningStart(id=id)
            if part.content:
                yield chunks.ReasoningDelta(id=id, delta=part.content)


def _usages(result: AgentRunResult[Any]) -> Iterator[Usage]:
    """The usage of each model that has answered, and of what is not in the run's own messages: of agents that
    its tools have called with the same usage.
    """
    total, named = result.usage, Usage()
    for message in result.new_messages():
        if not isinstance(message, ModelResponse) or not message.model_name or not message.provider_name:
            continue
        usage = message.usage
        counts = usage.input_tokens, usage.output_tokens, usage.cache_read_tokens
        model = ModelName(message.provider_name, message.model_name, message.provider_url)
        one = ModelUsage(*counts, usage.output_reasoning_tokens, model=model)
        named += one
        yield one
    rest = Usage(
        max(0, total.input_tokens - named.input_tokens),
        max(0, total.output_tokens - named.output_tokens),
        max(0, total.cache_read_tokens - named.cached_input_tokens),
        max(0, total.output_reasoning_tokens - named.reasoning_tokens),
    )
    if rest.total_tokens or not named.total_tokens:
        yield rest


def _tool_result(result: ToolReturnPart | RetryPromptPart) -> LoopOutput:
    if isinstance(result, RetryPromptPart):
        return chunks.ToolOutputError(tool_call_id=result.tool_call_id, error_text=result.model_response())
    return chunks.ToolOutputAvailable(tool_call_id=result.tool_call_id, output=_to_json(result.content))


def _to_json(value: Any) -> Any:
    """Any value as JSON values."""
    return to_jsonable_python(value, fallback=str)
