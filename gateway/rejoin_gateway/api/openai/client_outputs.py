"""Client tools in both of OpenAI's APIs: gives a session what a request sets, and a run the outputs."""

from collections.abc import Sequence

import msgspec
from aiohttp import web

from rejoin_adapters.store_types import Decision, Run
from rejoin_adapters.usage_types import RunUsage
from rejoin_gateway.api.openai import tool_calls
from rejoin_gateway.api.openai.caller_options import CallerRequest
from rejoin_gateway.api.openai.completion_format import CompletionMetadata
from rejoin_gateway.api.openai.tool_calls import SentOutput, wire_call_id
from rejoin_gateway.api.shared.client_tools import with_tools
from rejoin_gateway.api.shared.lookup import find_run
from rejoin_gateway.core.session import AgentSession, Session
from rejoin_gateway.core.tool_outputs import OUTPUT_KIND, checked_decision
from rejoin_gateway.streaming.replay import Replay
from rejoin_protocol.errors import Invalid, NotFound
from rejoin_protocol.lifecycle import BUSY


async def with_request(session: AgentSession, asked: CallerRequest) -> AgentSession:
    """The session, whose new runs have the options and tools of a request. Raises `Invalid`."""
    session = msgspec.structs.replace(session, options=asked.options)
    return await with_tools(session, asked.tools) if asked.tools else session


async def find_asking_run(request: web.Request, outputs: Sequence[SentOutput]) -> tuple[Run, Session]:
    """The run that waits, or has waited, for the outputs, and its session. Raises `Invalid`, `NotFound`."""
    tool_calls.check_together(outputs)
    first = outputs[0]
    called = f"call {wire_call_id(first.run, first.output.call)[:64]!r}"
    summary, session = await find_run(request, first.run, called)
    return summary.run, session


async def output_decisions(
    session: Session, run: Run, outputs: Sequence[SentOutput], pointer: str
) -> list[Decision]:
    """The outputs as they are stored. Raises `Invalid` at `pointer` unless they answer all open calls of the
    run, `NotFound` for a call that asked for none.
    """
    given = {one.output.call for one in outputs}
    waiting = [one.request.call for one in await session.pending_tool_outputs(run.id)]
    if missing := [wire_call_id(run.id, call) for call in waiting if call not in given]:
        raise Invalid(f"answer all open calls at once: {', '.join(missing)}", pointer)
    return [await _to_decision(session, run, one) for one in outputs]


async def _to_decision(session: Session, run: Run, sent: SentOutput) -> Decision:
    asked = await session.find_approval(run.id, sent.output.call)
    if asked is None or asked.request.kind != OUTPUT_KIND:
        raise NotFound(f"call {wire_call_id(run.id, sent.output.call)[:64]!r} does not wait for an output")
    try:
        return await checked_decision(session, asked.request, sent.output)
    except Invalid as fault:
        raise Invalid(fault.detail, sent.place) from fault


def metadata_of_turn(replay: Replay) -> CompletionMetadata:
    """The metadata of the answer that a continued run gives from this turn on."""
    run, turn = replay.run, replay.until or 0
    # Once the run has gone further, its usage is a later one: the answer then tells the sum.
    earlier = run.usage if run.state in BUSY and run.turn == turn else RunUsage()
    return CompletionMetadata(run.id, run.session, run.agent, turn, earlier)
