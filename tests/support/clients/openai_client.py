"""OpenAI's own client, and a gateway that accepts it."""

from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import openai
from openai import AsyncOpenAI

from tests.support.system.local_system import LocalSystem

SIGNING = "a secret that both sides know, long enough for every algorithm that there is"


def token(user: str) -> str:
    return jwt.encode({"sub": user, "exp": datetime.now(UTC) + timedelta(minutes=5)}, SIGNING, "HS256")


def client_of(base: str, user: str = "ann") -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{base}/run/v1", api_key=token(user), max_retries=0)


async def gateway(system: LocalSystem, **settings: Any) -> str:
    """A gateway that accepts OpenAI's client, which always sends a key."""
    return await system.gateway(jwt_key=SIGNING, jwt_algorithms="HS256", **settings)


def param(fault: openai.APIStatusError) -> str | None:
    found: str | None = fault.body["param"] if isinstance(fault.body, dict) else None
    return found
