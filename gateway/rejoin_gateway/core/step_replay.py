"""Answers the message of a run again from one of the steps of its answer, in a fork of the session.

The steps before it are given: the new run's answer begins with them as they are, and none of their tools is
called again. From that step on the agent goes on with its present code. The session itself stays as it is.
"""

from typing import Any

import structlog

from rejoin_adapters.process import redaction
from rejoin_adapters.session_keys import sealing_name
from rejoin_adapters.store_types import Owner, Regenerate, Run, WhenBusy
from rejoin_gateway.core.agent_context import ContextInput, SealedContext, seal_context
from rejoin_gateway.core.session import Session
from rejoin_gateway.streaming.finished_steps import read_message_before, to_kept_steps
from rejoin_protocol.errors import Conflict, Gone, Invalid, Limited, NotFound
from rejoin_protocol.ids import SessionId
from rejoin_protocol.request_options import RequestOptions
from rejoin_protocol.security.sealing import UnsealError

log = structlog.get_logger("rejoin.sessions")


async def replay_from_step(
    session: Session, run: Run, step: int, into: SessionId, *, key: str | None, context: Any = None
) -> Run:
    """The new run, in the fork `into`. `context`: the request's; None: the one that the session keeps. What
    else the run's request had set for the run is gone. The same call again, with the same `key`, returns
    the same run, or goes on with the fork if only that was made. Without a key a refused replay leaves no
    fork behind.

    Raises `Invalid`, `NotFound`, `Conflict`, `Gone`, `Limited`, `Unavailable`.
    """
    backend, owner = session.backend, session.owner
    kept = None
    if step > 1:  # else its log is not needed
        message = await read_message_before(backend.log, run.id, step)
        kept = await backend.check(owner.tenant, to_kept_steps, message)
    sealed = await _seal_context(session, run, into, context)
    # Before the fork, which would stay without its run. A fork that is there already may have it.
    backend.broker.require_writable()
    if key is None or await backend.sessions.get(owner, into) is None:
        await backend.store.check_limits(Owner(owner.tenant, run.user))
    try:
        await session.fork(run.answer, into)
    except NotFound:
        raise NotFound("the answer of the run is not in its session any more") from None
    try:
        made = await backend.admit(
            owner,
            into,
            run.agent,
            Regenerate(kept=kept),
            WhenBusy.ENQUEUE,
            key,
            sealed,
            run.operation_set,
            (),
            RequestOptions(),
        )
    except (Invalid, NotFound, Conflict, Gone, Limited):
        # With a key another request for the same fork may have been admitted meanwhile. And not if the broker
        # or the database cannot be reached: the run may be stored.
        if key is None:
            await backend.sessions.delete(owner, into)
        raise
    await backend.forget_stream(made)
    log.info("run_replayed", session=session.id, run=run.id, step=step, into=made.id)
    return made


async def _seal_context(session: Session, run: Run, into: SessionId, context: Any) -> SealedContext:
    backend, tenant = session.backend, session.owner.tenant
    schema = (await backend.agent(run.agent)).context_schema
    if schema is not None and context is None and backend.sealer is not None:
        remembered = await backend.store.session_context(session.owner, session.id)
        try:
            if remembered is not None:
                context = backend.sealer.open(remembered, tenant, sealing_name(session.id))
        except UnsealError:
            context = None  # the key that encrypted it is gone: the caller must send it again
        redaction.hide(context)
    given = ContextInput(body=context)
    return await seal_context(given, schema, backend.sealer, tenant, into, None, backend.check)
