"""The session API: `/api/agents/{agent}/{session}`."""

from aiohttp import web

from gateway.web import SERVICE, TENANT, agent_of, json
from protocol.ids import session_id


async def history(request: web.Request) -> web.StreamResponse:
    """The stored messages. A busy run's answer is not among them: its stream rebuilds it whole."""
    id = session_id(request.match_info["session"])
    found = await request.app[SERVICE].backend.agent(agent_of(request), TENANT).session(id).history()
    answer: dict[str, object] = {
        "id": id,
        "agent": found.agent,
        "messages": found.messages,
        "createdAt": found.created_at,
        "updatedAt": found.updated_at,
    }
    if found.busy is not None:
        answer["activeRunId"] = found.busy.id
    return json(answer)
