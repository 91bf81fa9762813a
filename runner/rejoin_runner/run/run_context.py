"""What a run is told besides its messages: the context that its request brought, and its instructions.

Owns the opening of the sealed context, into the agent's own type, and the making of instructions. A value of
a context is never logged and never part of an error.
"""

import inspect
from typing import Any

import msgspec
from rejoin_adapters.records import Claim
from rejoin_adapters.service import redaction
from rejoin_protocol.errors import RejoinError
from rejoin_protocol.security.sealing import Sealer, UnsealError

from rejoin_runner.agent.agent import Agent
from rejoin_runner.models.model import ModelError
from rejoin_runner.run.attempt import Attempt
from rejoin_runner.tools.tool_context import RunContext

PAGE_CHARS_MAX = 2_000


class ContextUnavailable(RejoinError):
    """The run cannot have its context. The text is shown to people."""


def open_context(claim: Claim, agent: Agent, sealer: Sealer | None) -> Any:
    """The run's context as the agent's type; None for an agent that wants none. Raises
    `ContextUnavailable`.
    """
    if agent.context is None:
        return None
    run, value = claim.run, {}
    if claim.context is not None:
        if sealer is None:
            raise ContextUnavailable("The run's context cannot be opened: its runner has no key.")
        try:
            value = sealer.open(claim.context, run.tenant, run.session)
        except UnsealError as fault:
            raise ContextUnavailable(f"The run's context cannot be opened: {fault}.") from fault
        redaction.hide(value)  # in every line of this attempt
    try:
        return msgspec.convert(value, agent.context)
    except msgspec.ValidationError as fault:
        _, _, path = str(fault).partition(" - at ")
        place = f" at {path}" if path else ""
        raise ContextUnavailable(
            f"The run's context is not what agent {agent.name} expects{place}."
        ) from None


async def instructions(attempt: Attempt) -> str:
    """The instructions of the agent that works, with the page that the user is looking at. Raises
    `ModelError` if the application's function fails.
    """
    agent, run = attempt.agent, attempt.run
    text = agent.instructions
    if not isinstance(text, str):
        try:
            made = text(RunContext(run.id, run.session, agent.name, attempt.context))
            text = await made if inspect.isawaitable(made) else made
        except Exception as fault:
            attempt.log.exception("instructions_failed")
            raise ModelError(f"The agent's instructions failed ({type(fault).__name__}).") from fault
    page = None if attempt.state.frames.top.call is not None else current_page(attempt.claim)
    return text if page is None else f"{text}\n\nThe user is looking at this page: {page}".strip()


def current_page(claim: Claim) -> str | None:
    """What the user's newest message says about where it was written."""
    for message in reversed(claim.history):
        if message["role"] == "user":
            metadata = message.get("metadata")
            page = metadata.get("currentPage") if isinstance(metadata, dict) else None
            return page[:PAGE_CHARS_MAX] if isinstance(page, str) and page.strip() else None
    return None
