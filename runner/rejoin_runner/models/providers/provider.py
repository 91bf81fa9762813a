"""Opens the models of real providers: from `openai:gpt-5` to a `Model`.

Owns the names of the providers and the HTTP connections that all models of a process share. pydantic-ai and
the providers' clients are imported by `open_model`, which takes seconds: a runner opens its models before it
reports ready, and a runner with scripted models never imports them.
"""

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Self, get_args
from urllib.request import getproxies

from rejoin_protocol.errors import Invalid

from rejoin_runner.models.fallback import Fallback
from rejoin_runner.models.model import Model, ModelKeyLookup

if TYPE_CHECKING:
    import httpx2
    from openai import AsyncOpenAI
    from pydantic_ai.models import Model as LibraryModel
    from pydantic_ai.providers import Provider

    type Connect = Callable[[str], LibraryModel]

# Providers that the tests cover, with their addresses.
ADDRESSES = MappingProxyType(
    {
        "openai": "https://api.openai.com/v1",
        "openai-responses": "https://api.openai.com/v1",
        "anthropic": "https://api.anthropic.com",
    }
)
# Providers that the library knows and that need no further package.
COMPATIBLE = (
    "alibaba",
    "cerebras",
    "deepseek",
    "fireworks",
    "heroku",
    "litellm",
    "meta",
    "moonshotai",
    "nebius",
    "ollama",
    "openrouter",
    "ovhcloud",
    "sambanova",
    "together",
    "vercel",
    "vllm",
    "zai",
)
# Providers that need a further package.
EXTRAS = ("bedrock", "cohere", "google", "groq", "huggingface", "mistral", "xai")
KNOWN = (*ADDRESSES, *COMPATIBLE, *EXTRAS)
ADDRESS_NEEDED = ("litellm", "ollama", "vllm")
KEYLESS = ("bedrock",)
"""Providers with other credentials than a key: Bedrock uses the environment of the AWS libraries."""
LEGACY_HTTP = ("cohere", "groq", "huggingface")
"""Providers whose packages use an HTTP client of their own."""


class ProviderConnections:
    """The HTTP connections that all models of a process share. Close it when no call is in progress."""

    def __init__(
        self, *, connect_timeout_s: float = 5.0, read_timeout_s: float = 300.0, connections_max: int = 1000
    ) -> None:
        """`read_timeout_s`: seconds that a provider may be silent, before and within its answer."""
        self._connect_timeout_s = connect_timeout_s
        self._read_timeout_s = read_timeout_s
        self._connections_max = connections_max
        self._client: httpx2.AsyncClient | None = None

    def open(self) -> "httpx2.AsyncClient":
        """The HTTP client, made on first use."""
        if self._client is None:
            import httpx2  # a scripted model needs no HTTP

            from rejoin_runner.models.providers.http_transport import AiohttpTransport

            self._client = httpx2.AsyncClient(
                timeout=httpx2.Timeout(self._read_timeout_s, connect=self._connect_timeout_s),
                limits=httpx2.Limits(max_connections=self._connections_max),
                # Only httpx2's own transport supports proxies.
                transport=None if getproxies() else AiohttpTransport(self._connections_max),
            )
        return self._client

    async def close(self) -> None:
        """Close all connections, also those in use."""
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
    connections: ProviderConnections,
    *,
    base_url: str | None = None,
    api_key: str | Mapping[str, str] | None = None,
    keys: ModelKeyLookup | None = None,
    answer_timeout_s: float = 1800.0,
    retries_max: int = 2,
) -> Model:
    """The model `provider:name`, with the libraries that it needs imported.

    Several names separated by commas make a `Fallback`.

    `base_url` is the address of another service with the provider's protocol, which may need no key.
    `api_key` is the process's key, or one by provider, also as a text `openai=…,anthropic=…`. `keys` looks up
    the tenant's key at every call; None falls back to `api_key`. A request is repeated up to `retries_max`
    times until its answer begins. `answer_timeout_s` limits the seconds of all attempts together.
    Raises `Invalid` if the name is unknown, a key or address is missing, or a package is not installed.
    """
    specs = [part.strip() for part in spec.split(",")]
    keys_by_provider = _by_provider(api_key)
    if len({single.partition(":")[0] for single in specs}) > 1 and (
        base_url is not None or isinstance(keys_by_provider, str)
    ):
        what = "API key" if base_url is None else "base URL"
        raise Invalid(f"one {what} cannot serve the several providers of {spec!r}")
    models: list[Model] = []
    for single in specs:
        provider, _, name = single.partition(":")
        _check(single, provider, name, base_url)
        own_key = (
            keys_by_provider
            if isinstance(keys_by_provider, str) or keys_by_provider is None
            else keys_by_provider.get(provider)
        )
        keyless = base_url is not None or provider in KEYLESS
        if own_key is None and keys is None and not keyless:
            raise Invalid(f"{provider} needs an API key: REJOIN_MODEL_API_KEY, or the agent's model_keys")
        connect = _connect(provider, name, base_url, connections.open())
        try:
            from rejoin_runner.models.providers.provider_call import RESPONSES, ProviderModel

            model = ProviderModel(
                connect,
                provider,
                api_key=own_key,
                keys=keys,
                keyless=keyless,
                answer_timeout_s=answer_timeout_s,
                retries_max=retries_max,
            )
        except ImportError as fault:
            raise Invalid(_missing(provider)) from fault
        if provider in RESPONSES:
            _prepare_responses()
        models.append(model)
    return models[0] if len(models) == 1 else Fallback(models)


def _by_provider(api_key: str | Mapping[str, str] | None) -> str | Mapping[str, str] | None:
    """The key for all providers, or the keys by provider if the text has the form `provider=key,…`."""
    if not isinstance(api_key, str):
        return api_key
    pairs = [pair.strip().partition("=") for pair in api_key.split(",")]
    if not all(separator and provider in KNOWN for provider, separator, _ in pairs):
        return api_key
    return {provider: key for provider, _, key in pairs if key}


def _check(spec: str, provider: str, name: str, base_url: str | None) -> None:
    if provider not in KNOWN or not name:
        raise Invalid(f"unknown model {spec!r}; known are {', '.join(f'{one}:NAME' for one in KNOWN)}")
    if provider in ADDRESS_NEEDED and base_url is None:
        raise Invalid(f"{provider} needs a base URL")


def _missing(provider: str) -> str:
    extra = "anthropic" if provider == "anthropic" else provider if provider in EXTRAS else "openai"
    return (
        f"the package that {provider} models need is not installed: pip install 'pydantic-ai-slim[{extra}]'"
    )


def _connect(provider: str, name: str, base_url: str | None, client: "httpx2.AsyncClient") -> "Connect":
    """A function that makes the library's model for an API key."""
    if provider == "anthropic":
        return lambda api_key: _anthropic(name, base_url, api_key, client)
    if provider in ADDRESSES:
        return lambda api_key: _openai(provider, name, base_url, api_key, client)
    return lambda api_key: _other(provider, name, base_url, api_key, client)


def _openai(
    provider: str, name: str, base_url: str | None, api_key: str, client: "httpx2.AsyncClient"
) -> "LibraryModel":
    from pydantic_ai.models.openai import OpenAIResponsesModel
    from pydantic_ai.profiles.openai import OpenAIModelProfile
    from pydantic_ai.providers.openai import OpenAIProvider
    from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider

    from rejoin_runner.models.providers.openai_hooks import openai_classes

    client_class, chat_model_class = openai_classes()
    openai_client = client_class(
        base_url=base_url or ADDRESSES[provider], api_key=api_key, http_client=client
    )
    service: Provider[AsyncOpenAI]
    if base_url is None:
        service = OpenAIProvider(openai_client=openai_client)
    else:
        service = OpenAICompatibleProvider("openai-compatible", openai_client=openai_client)
    if provider == "openai-responses":
        return OpenAIResponsesModel(name, provider=service)
    # Without this the library takes a truncated answer for a complete one.
    profile = OpenAIModelProfile(openai_chat_streaming_requires_finish_reason=True)
    return chat_model_class(name, provider=service, profile=profile)


def _prepare_responses() -> None:
    """Build the parsers of the stream's events now. Built in the first run, they would block the event loop
    for half a second.
    """
    from openai.types.responses import ResponseStreamEvent

    for union in get_args(ResponseStreamEvent)[:1]:
        for event in get_args(union):
            event.model_rebuild()


def _anthropic(name: str, base_url: str | None, api_key: str, client: "httpx2.AsyncClient") -> "LibraryModel":
    from pydantic_ai.models.anthropic import AnthropicModel
    from pydantic_ai.providers.anthropic import AnthropicProvider

    address = base_url or ADDRESSES["anthropic"]
    return AnthropicModel(
        name, provider=AnthropicProvider(base_url=address, api_key=api_key, http_client=client)
    )


def _other(
    provider: str, name: str, base_url: str | None, api_key: str, client: "httpx2.AsyncClient"
) -> "LibraryModel":
    """A model that the library knows by name, with the arguments that its provider takes."""
    from pydantic_ai.exceptions import UserError
    from pydantic_ai.models import infer_model
    from pydantic_ai.providers import infer_provider_class

    service: Callable[..., Provider[Any]] = infer_provider_class(provider)
    parameters = inspect.signature(service).parameters
    arguments: dict[str, Any] = {} if provider in KEYLESS and api_key == "none" else {"api_key": api_key}
    if "http_client" in parameters and provider not in LEGACY_HTTP:
        arguments["http_client"] = client
    if base_url is not None:
        address = next((one for one in ("base_url", "api_base", "api_host") if one in parameters), None)
        if address is None:
            raise Invalid(f"{provider} has one address; for another one take openai:NAME with its base URL")
        arguments[address] = base_url
    try:
        return infer_model(f"{provider}:{name}", lambda _: service(**arguments))
    except UserError as fault:
        raise Invalid(f"{provider} cannot be used: {fault}") from fault
