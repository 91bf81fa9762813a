"""`Client`: the address of a server, the credential, and the parts of the API."""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Self

import aiohttp

from rejoin_client.artifacts import Artifacts
from rejoin_client.chat import Chat
from rejoin_client.executions import Executions
from rejoin_client.feedback import FeedbackBook
from rejoin_client.threads import Threads
from rejoin_client.transport import Credential, HttpTransport, Retry, Token

_DEFAULT = Retry()


class Client:
    """`async with Client("https://chat.example", token=…, agent="support") as client:`

    `token`: a string, or an async function that fetches one. `agent`: the agent that answers; None means the
    server's default. `headers`: sent with every request. `http`: a session of the application; the
    client uses it and does not close it.
    """

    chat: Chat
    executions: Executions
    threads: Threads
    artifacts: Artifacts
    feedback: FeedbackBook

    def __init__(
        self,
        base_url: str,
        *,
        token: Token | None = None,
        agent: str | None = None,
        headers: Mapping[str, str] | None = None,
        retry: Retry = _DEFAULT,
        http: aiohttp.ClientSession | None = None,
    ) -> None:
        self._base_url = base_url
        self._credential = Credential(token)
        self._headers = {**(headers or {}), **({} if agent is None else {"x-agent-id": agent})}
        self._retry = retry
        self._http = http
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        http = self._http
        if http is None:
            session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
            http = await self._stack.enter_async_context(session)
        transport = HttpTransport(
            http, self._base_url, credential=self._credential, headers=self._headers, retry=self._retry
        )
        self.chat, self.executions, self.threads = Chat(transport), Executions(transport), Threads(transport)
        self.artifacts, self.feedback = Artifacts(transport), FeedbackBook(transport)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()
