"""Requests to `POST /api/chat` as bytes, and the problems (RFC 9457) that refuse them."""

import io
from typing import Any

from tests.support.system.local_system import Answer, LocalSystem


async def post_bytes(system: LocalSystem, base: str, data: bytes, **headers: str) -> Answer:
    """POST a body as JSON, unless a header names another type. Returns the whole response."""
    headers = {"content-type": "application/json"} | headers
    async with system.http.post(f"{base}/api/chat", data=io.BytesIO(data), headers=headers) as response:
        return await Answer.of(response)


def assert_problem(answer: Answer, status: int, *, with_text: bool = False) -> Any:
    """The decoded problem. Fails if the response is no complete problem with this status. `with_text`: its
    `error` is the text.
    """
    assert answer.status == status, answer.raw
    assert answer.headers["content-type"].startswith("application/problem+json")
    problem = answer.json
    assert problem["status"] == status
    assert problem["title"]
    assert problem["detail"]
    details = {"code": problem["code"], "message": problem["detail"]}
    assert problem["error"] == (problem["detail"] if with_text else details)
    return problem
