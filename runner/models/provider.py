"""Real providers: from `openai:gpt-5` to a model.

Owns the names of the providers and the connections all models of a process share; never a single call, that
is `call`. Nothing here imports pydantic-ai or a provider's client before `open_model` is called: that takes
seconds, so a runner opens its models before it reports ready, and one with scripted models never pays.
"""

from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Self

from protocol.errors import Invalid
from runner.models.port import Model

if TYPE_CHECKING:
    import httpx2
    from openai import AsyncOpenAI
    from pydantic_ai.models import Model as LibraryModel
    from pydantic_ai.providers import Provider

# The providers known here, with their own addresses.
ADDRESSES = MappingProxyType(
    {
        "openai": "https://api.openai.com/v1",
        "openai-responses": "https://api.openai.com/v1",
        "anthropic": "https://api.anthropic.com",
    }
)


class Connections:
    """The HTTP connections that all models of a process share. Close it when no call is left."""

    def __init__(
        self, *, connect_timeout_s: float = 5.0, read_timeout_s: float = 300.0, connections_max: int = 1000
    ) -> None:
        """`read_timeout_s` bounds a provider's silence, before its answer and within it."""
        self._connect_timeout_s = connect_timeout_s
        self._read_timeout_s = read_timeout_s
        self._connections_max = connections_max
        self._client: httpx2.AsyncClient | None = None

    def open(self) -> "httpx2.AsyncClient":
        """The client behind them, made on first use."""
        if self._client is None:
            import httpx2  # noqa: PLC0415 - a scripted model needs no HTTP

            self._client = httpx2.AsyncClient(
                timeout=httpx2.Timeout(self._read_timeout_s, connect=self._connect_timeout_s),
                limits=httpx2.Limits(max_connections=self._connections_max),
            )
        return self._client

    async def close(self) -> None:
        """Break what is open."""
        if self._client is not None:
            await self._client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, cause: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def open_model(
    spec: str,
    connections: Connections,
    *,
    base_url: str | None = None,
    api_key: str | None = None,
    answer_timeout_s: float = 1800.0,
    retries_max: int = 2,
) -> Model:
    """The model that `provider:name` names, with its code loaded. Raises `Invalid` naming the fault.

    With `base_url` it is another service that speaks the provider's protocol; that one may need no key. A
    request is repeated up to `retries_max` times while no answer has begun; `answer_timeout_s` bounds it all.
    """
    provider, _, name = spec.partition(":")
    if provider not in ADDRESSES or not name:
        raise Invalid(f"unknown model {spec!r}; known are {', '.join(f'{one}:NAME' for one in ADDRESSES)}")
    if api_key is None and base_url is None:
        raise Invalid(f"{provider} needs an API key")
    connect = _anthropic if provider == "anthropic" else _openai
    try:
        from runner.models.call import ProviderModel  # noqa: PLC0415 - see the module's docstring

        # A key must be named, or the libraries look for one in the environment, and send it to `base_url`.
        model = connect(provider, name, base_url, api_key or "none", connections.open())
    except ImportError as fault:
        raise Invalid(f"the package that {provider} models need is not installed") from fault
    return ProviderModel(model, provider, answer_timeout_s=answer_timeout_s, retries_max=retries_max)


def _openai(
    provider: str, name: str, base_url: str | None, api_key: str, client: "httpx2.AsyncClient"
) -> "LibraryModel":
    from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel  # noqa: PLC0415
    from pydantic_ai.profiles.openai import OpenAIModelProfile  # noqa: PLC0415
    from pydantic_ai.providers.openai import OpenAIProvider  # noqa: PLC0415
    from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider  # noqa: PLC0415

    service: Provider[AsyncOpenAI]
    if base_url is None:
        service = OpenAIProvider(base_url=ADDRESSES[provider], api_key=api_key, http_client=client)
    else:
        service = OpenAICompatibleProvider(
            "openai-compatible", base_url=base_url, api_key=api_key, http_client=client
        )
    if provider == "openai-responses":
        return OpenAIResponsesModel(name, provider=service)
    # Without this the library takes an answer that was cut off for a complete one.
    profile = OpenAIModelProfile(openai_chat_streaming_requires_finish_reason=True)
    return OpenAIChatModel(name, provider=service, profile=profile)


def _anthropic(
    provider: str, name: str, base_url: str | None, api_key: str, client: "httpx2.AsyncClient"
) -> "LibraryModel":
    from pydantic_ai.models.anthropic import AnthropicModel  # noqa: PLC0415
    from pydantic_ai.providers.anthropic import AnthropicProvider  # noqa: PLC0415

    address = base_url or ADDRESSES[provider]
    return AnthropicModel(
        name, provider=AnthropicProvider(base_url=address, api_key=api_key, http_client=client)
    )
