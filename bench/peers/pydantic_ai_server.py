"""A chat server with pydantic-ai's adapter for the AI SDK, which keeps nothing: one process of uvicorn.

`python pydantic_ai_server.py PORT PROVIDER_URL`, in an environment of its own (`requirements.txt`).
"""

import sys

import uvicorn
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.ui.vercel_ai import VercelAIAdapter
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


def build_app(provider_url: str) -> Starlette:
    """The routes: the chat, and one that answers as soon as the server listens."""
    provider = OpenAIProvider(base_url=provider_url, api_key="none")
    agent = Agent(OpenAIChatModel("gpt-bench", provider=provider))

    async def chat(request: Request) -> Response:
        return await VercelAIAdapter.dispatch_request(request, agent=agent, sdk_version=6)

    async def ready(_: Request) -> Response:
        return Response()

    return Starlette(routes=[Route("/api/chat", chat, methods=["POST"]), Route("/", ready)])


if __name__ == "__main__":
    uvicorn.run(build_app(sys.argv[2]), host="127.0.0.1", port=int(sys.argv[1]), log_level="error")
