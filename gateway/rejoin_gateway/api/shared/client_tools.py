"""The client tools that a request brings, as the families take them: read from the body, checked against the
agent, given to the session. Their rules are in `rejoin_protocol.request_tools`.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from rejoin_gateway.core.session import AgentSession
from rejoin_protocol.errors import Invalid
from rejoin_protocol.request_tools import RequestTool, check_bytes, check_tools, find_reserved, parse_tool

TOOLS = "/tools"


async def takes_tools(session: AgentSession) -> bool:
    """Whether the session's agent lets requests bring tools. Raises `NotFound` if there is no such agent."""
    return (await session.backend.agent(session.agent)).takes_tools


async def with_named_tools(session: AgentSession, tools: Any, pointer: str = TOOLS) -> AgentSession:
    """The session, whose new runs have the tools of a body, see `parse_named_tools`, as `with_tools`.

    Raises `Invalid` also if the agent takes no tools.
    """
    if not tools:
        return session
    if not await takes_tools(session):
        raise Invalid(f"agent {session.agent} takes no tools from requests", pointer)
    return await with_tools(session, parse_named_tools(tools, pointer), pointer)


async def with_tools(
    session: AgentSession, tools: Sequence[RequestTool], pointer: str = TOOLS
) -> AgentSession:
    """The session, whose new runs have these tools. Its agent takes some.

    Raises `Invalid` with their place in the body if they are too many, or one has the name of a tool that the
    agent runs itself.
    """
    check_tools(tools, pointer)
    entry = await session.backend.agent(session.agent)
    if (name := find_reserved(tools, entry.reserved_tools)) is not None:
        raise Invalid(f"agent {session.agent} has a tool {name} itself: give yours another name", pointer)
    return msgspec.structs.replace(session, tools=tools)


def parse_named_tools(tools: Any, pointer: str = TOOLS) -> list[RequestTool]:
    """The tools of a body: an object of `{description?, parameters?}` by name. Raises `Invalid`."""
    if tools is None:
        return []
    if not isinstance(tools, dict):
        raise Invalid("the tools of a request are an object of {description, parameters} by name", pointer)
    for name, fields in tools.items():
        if not isinstance(fields, dict):
            raise Invalid("a tool is an object {description, parameters}", _place(pointer, name))
    check_bytes(tools, pointer)
    return [parse_tool(name, fields, _place(pointer, name)) for name, fields in tools.items()]


def _place(pointer: str, name: str) -> str:
    return f"{pointer}/{name[:64].replace('~', '~0').replace('/', '~1')}"
