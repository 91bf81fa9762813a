"""`/openapi.json` lists the context headers of agents, for callers who may see the agents."""

import time
from typing import Any

import jwt
import msgspec

from rejoin_gateway.http.gateway_service import SERVICE
from rejoin_protocol.ids import AgentName
from rejoin_protocol.run_request import AgentEntry
from tests.support.system.local_system import LocalSystem

SIGNING = "signed with more than thirty-two characters"
SEND = "/api/agents/{agent}/{session}"
SCHEMA = {"type": "object", "properties": {"tenant_id": {"type": "string"}}, "required": ["tenant_id"]}


def header_names(document: Any) -> set[str]:
    parameters = document["paths"][SEND]["post"]["parameters"]
    return {parameter["name"] for parameter in parameters if parameter["in"] == "header"}


async def announce(system: LocalSystem) -> None:
    """An agent with a context, as a runner announces it."""
    entry = AgentEntry(
        AgentName(system.agent), context_schema=SCHEMA, announced_at_ms=int(time.time() * 1000)
    )
    await system.apps[0][SERVICE].backend.agents.announce(entry)


async def test_a_gateway_without_credentials_shows_the_context_headers(system: LocalSystem) -> None:
    base = await system.gateway()
    await announce(system)
    assert "tenant-id" in header_names((await system.get(f"{base}/openapi.json")).json)
    page = await system.get(f"{base}/openapi.json", Origin="https://elsewhere.example")
    assert "tenant-id" not in header_names(page.json)


async def test_other_gateways_show_them_with_a_credential_only(system: LocalSystem) -> None:
    base = await system.gateway(allow_anonymous=False, jwt_key=SIGNING, jwt_algorithms="HS256")
    await announce(system)
    claims = {"sub": "ann", "exp": int(time.time()) + 60}
    for authorization, is_shown in ((jwt.encode(claims, SIGNING, "HS256"), True), ("invalid", False)):
        answer = await system.get(f"{base}/openapi.json", Authorization=f"Bearer {authorization}")
        assert answer.status == 200
        assert ("tenant-id" in header_names(answer.json)) == is_shown
    anonymous = await system.get(f"{base}/openapi.json")
    assert "tenant-id" not in header_names(anonymous.json)
    assert msgspec.json.encode(anonymous.json).find(system.agent.encode()) == -1
