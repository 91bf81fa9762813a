"""A run's inputs besides what its model reads: the context of its request, the agent's instructions, the data
parts of the user's message.

Owns the decryption of the context, its conversion to the agent's type, and the building of instructions. No
log line and no error has a value of a context.
"""

import inspect
from typing import Any

import msgspec

from rejoin_adapters import session_keys
from rejoin_adapters.process import redaction
from rejoin_adapters.process.exception_report import log_exception
from rejoin_adapters.store_types import Claim
from rejoin_protocol import json_input
from rejoin_protocol.errors import RejoinError
from rejoin_protocol.events.chunks import DATA_PREFIX
from rejoin_protocol.security.sealing import Sealer, UnsealError
from rejoin_runner.agent.agent import Agent
from rejoin_runner.application_code import RunningCode, application_code
from rejoin_runner.models.model import ModelError
from rejoin_runner.run.attempt import Attempt
from rejoin_runner.tools.tool_context import RunContext


class ContextUnavailable(RejoinError):
    """The run's context cannot be decrypted or does not fit the agent. Users see the text."""


def open_context(claim: Claim, agent: Agent, sealer: Sealer | None) -> Any:
    """The run's context as an instance of the agent's `context` type; None if the agent has no such type.

    A request without a context counts as an empty one. Raises `ContextUnavailable` if the runner has no key,
    or no right key, or if the value does not fit the type.
    """
    if agent.context is None:
        return None
    run, value = claim.run, {}
    if claim.context is not None:
        if sealer is None:
            raise ContextUnavailable("The run's context cannot be opened: its runner has no key.")
        try:
            value = sealer.open(claim.context, run.tenant, session_keys.sealing_name(run.session))
        except UnsealError as fault:
            raise ContextUnavailable(f"The run's context cannot be opened: {fault}.") from fault
        redaction.hide(value)  # in every line of this attempt
    try:
        return json_input.convert(value, agent.context)
    except msgspec.ValidationError as fault:
        _, _, path = str(fault).partition(" - at ")
        place = f" at {path}" if path else ""
        raise ContextUnavailable(
            f"The run's context is not what agent {agent.name} expects{place}."
        ) from None


async def build_instructions(attempt: Attempt) -> str:
    """The active agent's instructions: what the application wrote, and behind it what the request adds if
    the agent takes that. Raises `ModelError` if the application's function raises.
    """
    agent, run = attempt.agent, attempt.run
    text = agent.instructions
    if not isinstance(text, str):
        try:
            with application_code(RunningCode(f"the instructions of agent {agent.name}")):
                result = text(RunContext(run.id, run.session, agent.name, attempt.context))
                text = await result if inspect.isawaitable(result) else result
        except Exception as fault:
            log_exception(attempt.log, "instructions_failed", fault)
            raise ModelError(f"The agent's instructions failed ({type(fault).__name__}).") from fault
    return json_input.well_formed(attempt.callers.add_instructions(text, attempt.claim.request_options))


def user_data(claim: Claim) -> list[dict[str, Any]]:
    """The `data-…` parts of the user's newest message."""
    for message in reversed(claim.history):
        if message["role"] == "user":
            return [part for part in message["parts"] if part["type"].startswith(DATA_PREFIX)]
    return []
