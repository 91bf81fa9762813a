"""The client: an address, a credential, and the three things one talks to."""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Self

import aiohttp

from rejoin_client.chat import Chat
from rejoin_client.executions import Executions
from rejoin_client.threads import Threads
from rejoin_client.wire import Credential, Retry, Token, Wire

_DEFAULT = Retry()


class Client:
    """`async with Client("https://chat.example", token=…, agent="support") as client:`

    `token` is a string, or an async function that fetches one. `agent` is who answers, if the server is not
    to choose. `headers` go with every request. `http`: the application's own session, which stays open.
    """

    chat: Chat
    executions: Executions
    threads: Threads

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
            made = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
            http = await self._stack.enter_async_context(made)
        wire = Wire(
            http, self._base_url, credential=self._credential, headers=self._headers, retry=self._retry
        )
        self.chat, self.executions, self.threads = Chat(wire), Executions(wire), Threads(wire)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()
