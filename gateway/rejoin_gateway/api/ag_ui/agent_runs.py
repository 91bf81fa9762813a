"""AG-UI 1.0: `POST /ag-ui/{agent}` runs an agent, as `HttpAgent` of npm `@ag-ui/client` asks for it.

`threadId` is the session, `runId` the idempotency key. Of a thread that exists only what is new is taken
(`run_input`): a client cannot change what is stored. A closed connection stops nothing. A request with the
same `runId` attaches to the run; with `Last-Event-ID` it continues where the client was cut. A page that was
loaded again gets its thread, and the run that is active or waits, from `GET /ag-ui/{agent}/threads/{id}`.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec
from aiohttp import web

from rejoin_adapters.store_types import Decision, Run
from rejoin_gateway.api.ag_ui.event_stream import (
    Turn,
    parse_place,
    stream_still,
    stream_thread,
    stream_turn,
)
from rejoin_gateway.api.ag_ui.run_input import (
    ReturnedOutput,
    RunAgentInput,
    answers_with_open_calls,
    check_context,
    client_message,
    content_places,
    parse_tools,
    returned_outputs,
    to_answers,
)
from rejoin_gateway.api.shared.answers import require_replay, store_decisions
from rejoin_gateway.api.shared.client_tools import with_tools
from rejoin_gateway.api.shared.lookup import find_run
from rejoin_gateway.auth.scope import Scope
from rejoin_gateway.core import message_input
from rejoin_gateway.core.agent_context import ContextInput
from rejoin_gateway.core.answered_calls import to_decisions
from rejoin_gateway.core.message_input import ClientMessage, MessageOptions
from rejoin_gateway.core.session import AgentSession
from rejoin_gateway.core.tool_outputs import OUTPUT_KIND, checked_decision
from rejoin_gateway.core.unread_answers import interrupt_unread_answer, replace_messages
from rejoin_gateway.http.gateway_service import PRINCIPAL, SERVICE, refuse_if_stopping
from rejoin_gateway.http.request import agent_of, decode_body, session_of
from rejoin_gateway.http.routes import EVENT_STREAM, Parameters, Route, RouteDoc
from rejoin_gateway.streaming.replay import Replay
from rejoin_protocol.errors import Conflict, Invalid, NotFound
from rejoin_protocol.events.fold import CONTEXT_KEY, MessageDict
from rejoin_protocol.ids import MessageId, RunId, parse_turn_id, run_of_approval, turn_id
from rejoin_protocol.lifecycle import BUSY, TERMINAL, State
from rejoin_protocol.log.record import View

NO_OPTIONS = MessageOptions()
REPEATED_OUTPUTS_MAX = 128
"""Results of tools in one request that are looked up although no call waits for them: a client repeats those
of the agent's tools too, so more of them are no error.
"""


class _Admitted(msgspec.Struct, frozen=True):
    """A request after its body is gone: its files must not stay in memory for as long as an answer takes.

    `is_known`: the client may have a part of the answer. `waits`: nothing happens before more is answered.
    """

    turn: Turn
    is_known: bool = False
    waits: bool = False


async def run_agent(request: web.Request) -> web.StreamResponse:
    """Answer the user's message, or go on with the run that waits."""
    after = parse_place(request.headers)
    admitted = await _admit(request)
    if admitted.waits:
        return await stream_still(request, admitted.turn, with_messages=False)
    return await stream_turn(request, admitted.turn, after, is_known=admitted.is_known)


async def resume_run(request: web.Request) -> web.StreamResponse:
    """The events of one run, from the client's position."""
    after, id = parse_place(request.headers), request.match_info["run"]
    async with request.app[SERVICE].resume_slots:
        refuse_if_stopping(request)  # the gateway may have begun to stop while the request waited for a slot
        summary, session = await find_run(request, RunId(id), f"run {id[:64]!r}")
    number = parse_turn_id(id)[1]
    if summary.run.agent != agent_of(request) or number > summary.run.turn:
        raise NotFound(f"there is no run {id[:64]!r}")
    turn = Turn(session, summary.run, number, request.query.get("runId") or id)
    return await stream_turn(request, turn, after, is_known=after is None)


async def read_thread(request: web.Request) -> web.StreamResponse:
    """The thread as it is, and what its active run says."""
    session = session_of(request, request.match_info["id"])
    async with request.app[SERVICE].resume_slots:
        refuse_if_stopping(request)
        run = await session.current_run()
    if run is None or run.agent != session.agent:
        raise NotFound(f"there is no thread {session.id!r}")
    turn = Turn(session, run, run.turn, request.query.get("runId") or turn_id(run.id, run.turn))
    if run.state in BUSY:
        return await stream_thread(request, turn)
    return await stream_still(request, turn, with_messages=True)


async def _admit(request: web.Request) -> _Admitted:
    body = await decode_body(request, RunAgentInput)
    try:
        session = session_of(request, body.thread_id)
    except Invalid as fault:
        raise Invalid(fault.detail, "/threadId") from fault
    if body.request_context is not None:
        session = msgspec.structs.replace(
            session, context=ContextInput(request.headers, body.request_context)
        )
    await session.check_agent()
    if body.resume:
        return await _resume(request, session, body)
    return await _answer(request, session, body)


async def _answer(
    request: web.Request, session: AgentSession, body: RunAgentInput, abandoned: Collection[RunId] = ()
) -> _Admitted:
    """Send the message at the end, or give the run that waits the outputs of the client's tools, or else
    attach to the run that has answered. `abandoned`: see `_send`.
    """
    if not body.messages:
        raise Invalid("messages holds at least one message", "/messages")
    if body.messages[-1].get("role") == "user":
        return await _send(request, await _with_tools(session, body), body, abandoned)
    decisions = await _find_outputs(session, returned_outputs(body.messages))
    return await (_continue(request, session, body, decisions) if decisions else _attach(session, body))


async def _attach(session: AgentSession, body: RunAgentInput) -> _Admitted:
    """The turn of which the client has a part, perhaps: it asks again, and says nothing new."""
    asked = [message.get("id") for message in body.messages if message.get("role") == "user"]
    newest = await session.current_run()
    if newest is None or not asked or newest.user_message != asked[-1]:
        raise Invalid(
            "the last message is not the user's, and no tool of the client is answered", "/messages"
        )
    return _Admitted(Turn(session, newest, newest.turn, body.run_id, body.is_old), is_known=True)


async def _with_tools(session: AgentSession, body: RunAgentInput) -> AgentSession:
    entry = await session.backend.agent(session.agent)
    if not (body.tools and entry.takes_tools):
        return session  # clients send their tools with each request, to any agent
    return await with_tools(session, parse_tools(body.tools, entry.reserved_tools))


# ---------------------------------------------------------------------------------------------- messages


async def _send(
    request: web.Request, session: AgentSession, body: RunAgentInput, abandoned: Collection[RunId]
) -> _Admitted:
    """`abandoned`: runs that wait, which the message interrupts once nothing in the request is wrong."""
    *earlier, last = [client_message(message) for message in body.messages]
    number = len(earlier)
    place = f"/messages/{number}"
    with message_input.relocate_errors(place, content_places(body.messages, number, len(last.parts))):
        message = message_input.build_user_message(last, place)
    if body.context:
        message |= {CONTEXT_KEY: check_context(body.context)}
    stored = await session.message(MessageId(last.id))
    if stored is not None:
        return await _send_again(session, body, message, stored.message)
    outputs = await _find_outputs(session, returned_outputs(body.messages), only_open=True)
    for run in abandoned:
        await session.interrupt(run)
    if waiting := await session.pending_approvals():
        ids = ", ".join(one.request.id for one in waiting)
        raise Conflict(f"the thread waits for answers to interrupts, give them in `resume`: {ids}")
    await store_decisions(
        request, session, [one for one in outputs if run_of_approval(one.approval) not in abandoned]
    )
    undecided = answers_with_open_calls(body.messages)
    await interrupt_unread_answer(session, NO_OPTIONS, last.id, earlier, undecided=undecided)
    return _admitted(session, body, await _send_message(session, body, message, earlier))


async def _send_message(
    session: AgentSession, body: RunAgentInput, message: MessageDict, earlier: Sequence[ClientMessage] = ()
) -> Replay:
    number = len(body.messages) - 1
    place = f"/messages/{number}"
    with message_input.relocate_errors(place, content_places(body.messages, number, len(message["parts"]))):
        sent = await session.send(
            message,
            View(),
            pointer=place,
            imports=message_input.build_imported_turns(
                earlier, lambda one: content_places(body.messages, one, len(earlier[one].parts))
            ),
            key=body.run_id,
        )
    return await require_replay(session, sent, View())


async def _send_again(
    session: AgentSession, body: RunAgentInput, message: MessageDict, stored: MessageDict
) -> _Admitted:
    """A message that the thread has: the same request again, an edit, or a wish for another answer."""
    if stored["role"] != "user":
        raise Conflict("the message id is taken by a message that is not the user's")
    if _texts(message) != _texts(stored):
        edited = await replace_messages(
            session, NO_OPTIONS, lambda: session.send(message, View(), edit=True, key=body.run_id)
        )
        return _admitted(session, body, await require_replay(session, edited, View()))
    id, key = MessageId(message["id"]), body.run_id
    newest = await session.current_run()

    async def attach() -> Replay:
        return await _send_message(session, body, message)

    async def answer_anew() -> Replay:
        return await session.regenerate(id, View(), key=key)

    wants_another = newest is not None and newest.user_message == id and newest.state in TERMINAL
    first, other = (answer_anew, attach) if wants_another else (attach, answer_anew)
    try:
        replay = await first()
    except Conflict:  # a run has this key: the other request made it, which is sent again
        replay = await other()
    return _admitted(session, body, replay, is_known=True)


def _texts(message: MessageDict) -> list[str]:
    return [part["text"] for part in message["parts"] if part["type"] == "text"]


def _admitted(
    session: AgentSession, body: RunAgentInput, replay: Replay, *, is_known: bool = False
) -> _Admitted:
    return _Admitted(Turn(session, replay.run, 0, body.run_id, body.is_old), is_known=is_known)


# ----------------------------------------------------------------------------------- runs that wait


async def _resume(request: web.Request, session: AgentSession, body: RunAgentInput) -> _Admitted:
    """Answer the interrupts of the thread. Raises `Invalid` unless all are answered."""
    entries, answers = body.resume or [], to_answers(body.resume or [])
    request[PRINCIPAL].require_scope(Scope.APPROVE)
    given = {answer.approval for answer in answers}
    asked = await session.pending_approvals()
    if missing := [one.request.id for one in asked if one.request.id not in given]:
        raise Invalid(f"answer all interrupts at once: {', '.join(missing)}", "/resume")
    if body.messages and await _is_new(session, body.messages[-1]):
        if any(entry.status != "cancelled" for entry in entries):
            raise Invalid("send the new message when the run that goes on has ended", "/messages")
        runs = {run for one in asked if (run := run_of_approval(one.request.id)) is not None}
        return await _answer(request, session, body, runs)
    outputs = await _find_outputs(session, returned_outputs(body.messages))
    return await _continue(request, session, body, [*await to_decisions(session, answers), *outputs])


async def _is_new(session: AgentSession, message: Mapping[str, Any]) -> bool:
    id = message.get("id")
    is_said = message.get("role") == "user" and isinstance(id, str)
    return is_said and await session.message(MessageId(str(id))) is None


async def _continue(
    request: web.Request, session: AgentSession, body: RunAgentInput, decisions: Sequence[Decision]
) -> _Admitted:
    """Store decisions and outputs; the turn that follows of the newest of their runs."""
    newest = max(str(run_of_approval(decision.approval) or "") for decision in decisions)
    own = [one for one in decisions if str(run_of_approval(one.approval) or "") == newest]
    await store_decisions(request, session, [one for one in decisions if one not in own])
    if any(one.kind == "approval" for one in own):
        request[PRINCIPAL].require_scope(Scope.APPROVE)
    decided = await session.decide(own)
    run = decided.run
    if run.turn < decided.turn and (run.state is State.SUSPENDED or await _is_asked(session, run)):
        return _Admitted(Turn(session, run, run.turn, body.run_id, body.is_old), waits=True)
    return _Admitted(Turn(session, run, decided.turn, body.run_id, body.is_old))


async def _is_asked(session: AgentSession, run: Run) -> bool:
    return bool(await session.pending_approvals(run.id) or await session.pending_tool_outputs(run.id))


async def _find_outputs(
    session: AgentSession, outputs: Sequence[ReturnedOutput], *, only_open: bool = False
) -> list[Decision]:
    """The outputs of client tools among these, unless `only_open` also those that are stored already: the
    response to them was lost, perhaps, and of these the newest `REPEATED_OUTPUTS_MAX`. Raises `Invalid` for
    one that does not fit.
    """
    if not outputs:
        return []
    waiting = {one.request.call: one.request for one in await session.pending_tool_outputs()}
    others = [] if only_open else [one for one in outputs if one.output.call not in waiting]
    repeated = {one.output.call for one in others[-REPEATED_OUTPUTS_MAX:]}
    decisions = []
    for one in outputs:
        request = waiting.get(one.output.call)
        if one.output.call in repeated:
            stored = await session.find_call(one.output.call)
            request = stored.request if stored is not None and stored.request.kind == OUTPUT_KIND else None
        run = None if request is None else run_of_approval(request.id)
        if request is not None and run is not None and (await session.find_run(run)).answer == one.answer:
            decisions.append(await checked_decision(session, request, one.output))
    return decisions


_RUN_QUERY: Parameters = {"runId": "How the events call the run. Without it by its id here."}
_EVENT_HEADER: Parameters = {
    "Last-Event-ID": "The id of the last event that arrived. The stream continues behind it."
}
_STREAM = {200: EVENT_STREAM}
ROUTES = (
    Route(
        "POST",
        "/ag-ui/{agent}",
        run_agent,
        Scope.CHAT,
        RouteDoc(
            "Run an agent",
            description="AG-UI 1.0, for `HttpAgent` and CopilotKit. Answers the user's message at the end of "
            "`messages`, or goes on with a run that waits: for results of the client's tools, as messages "
            "with the role `tool`, or for approvals, in `resume`. The thread's stored messages count, not "
            "those that are sent again. Returns AG-UI events. A request with the same `runId` attaches to "
            "its run.",
            body=RunAgentInput,
            responses=_STREAM,
            headers=_EVENT_HEADER,
            takes_context=True,
            tag="ag-ui",
            error_statuses=(403, 409, 410),
            example={
                "threadId": "trip-1",
                "runId": "run-1",
                "messages": [{"id": "m1", "role": "user", "content": "hello"}],
                "tools": [],
                "context": [],
            },
        ),
    ),
    Route(
        "GET",
        "/ag-ui/{agent}/threads/{id}",
        read_thread,
        Scope.CHAT,
        RouteDoc(
            "Read a thread",
            description="For a page that was loaded again. Returns AG-UI events: a snapshot of the messages, "
            "then what the active run says, and at the end the interrupts that wait for answers.",
            responses=_STREAM,
            query=_RUN_QUERY,
            tag="ag-ui",
        ),
    ),
    Route(
        "GET",
        "/ag-ui/{agent}/runs/{run}",
        resume_run,
        Scope.CHAT,
        RouteDoc(
            "Stream a run's AG-UI events",
            description="The run is named by `x-workflow-run-id` of its stream. Returns its AG-UI events, "
            "from the first one or from behind `Last-Event-ID`.",
            responses=_STREAM,
            query=_RUN_QUERY,
            headers=_EVENT_HEADER,
            tag="ag-ui",
            error_statuses=(410,),
        ),
    ),
)
