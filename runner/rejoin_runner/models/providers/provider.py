"""Real providers: from `openai:gpt-5` to a model.

Owns the names of the providers and the connections all models of a process share; never a single call, that
is `call`. Nothing here imports pydantic-ai or a provider's client before `open_model` is called: that takes
seconds, so a runner opens its models before it reports ready, and one with scripted models never pays.
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

# The providers that are tested here, with their own addresses.
ADDRESSES = MappingProxyType(
    {
        "openai": "https://api.openai.com/v1",
        "openai-responses": "https://api.openai.com/v1",
        "anthropic": "https://api.anthropic.com",
    }
)
# Those that the library knows beside them: they need no package of their own,
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
# or one that is to be installed.
EXTRAS = ("bedrock", "cohere", "google", "groq", "huggingface", "mistral", "xai")
KNOWN = (*ADDRESSES, *COMPATIBLE, *EXTRAS)
ADDRESS_NEEDED = ("litellm", "ollama", "vllm")
KEYLESS = ("bedrock",)
"""Who is known by other means than a key: here the environment of the AWS libraries."""
LEGACY_HTTP = ("cohere", "groq", "huggingface")
"""Whose packages bring an HTTP client of their own and do not take ours."""


class ProviderConnections:
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
            import httpx2  # a scripted model needs no HTTP

            from rejoin_runner.models.providers.http_transport import AiohttpTransport

            self._client = httpx2.AsyncClient(
                timeout=httpx2.Timeout(self._read_timeout_s, connect=self._connect_timeout_s),
                limits=httpx2.Limits(max_connections=self._connections_max),
                # httpx2's own connections know the way through proxies.
                transport=None if getproxies() else AiohttpTransport(self._connections_max),
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
    connections: ProviderConnections,
    *,
    base_url: str | None = None,
    api_key: str | Mapping[str, str] | None = None,
    keys: ModelKeyLookup | None = None,
    answer_timeout_s: float = 1800.0,
    retries_max: int = 2,
) -> Model:
    """The model that `provider:name` names, with its code loaded. Raises `Invalid` naming the fault.

    Several, separated by commas, are a `Fallback`: each is asked when the one before it cannot begin.

    With `base_url` it is another service that speaks the provider's protocol; that one may need no key.
    `api_key` is the process's key, or one by provider, also as a text `openai=…,anthropic=…`; `keys(tenant,
    provider)` is asked before it at every call. A request is repeated up to `retries_max` times while no
    answer has begun; `answer_timeout_s` bounds it all.
    """
    specs = [one.strip() for one in spec.split(",")]
    named = _by_provider(api_key)
    if len({one.partition(":")[0] for one in specs}) > 1 and (base_url is not None or isinstance(named, str)):
        what = "API key" if base_url is None else "base URL"
        raise Invalid(f"one {what} cannot serve the several providers of {spec!r}")
    models: list[Model] = []
    for one in specs:
        provider, _, name = one.partition(":")
        _check(one, provider, name, base_url)
        own = named if isinstance(named, str) or named is None else named.get(provider)
        keyless = base_url is not None or provider in KEYLESS
        if own is None and keys is None and not keyless:
            raise Invalid(f"{provider} needs an API key: REJOIN_MODEL_API_KEY, or the agent's model_keys")
        connect = _connect(provider, name, base_url, connections.open())
        try:
            from rejoin_runner.models.providers.provider_call import RESPONSES, ProviderModel

            model = ProviderModel(
                connect,
                provider,
                api_key=own,
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
    """One key for all, or one by provider if the text names providers."""
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
    """What makes the library's model for a key."""
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
    # Without this the library takes an answer that was cut off for a complete one.
    profile = OpenAIModelProfile(openai_chat_streaming_requires_finish_reason=True)
    return chat_model_class(name, provider=service, profile=profile)


def _prepare_responses() -> None:
    """Build what reads the stream's events now: the first run would wait half a second for it, and all the
    others with it.
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
    """One that the library knows by name, with what its provider takes of address, key and connections."""
    from pydantic_ai.exceptions import UserError
    from pydantic_ai.models import infer_model
    from pydantic_ai.providers import infer_provider_class

    service: Callable[..., Provider[Any]] = infer_provider_class(provider)
    takes = inspect.signature(service).parameters
    given: dict[str, Any] = {} if provider in KEYLESS and api_key == "none" else {"api_key": api_key}
    if "http_client" in takes and provider not in LEGACY_HTTP:
        given["http_client"] = client
    if base_url is not None:
        address = next((one for one in ("base_url", "api_base", "api_host") if one in takes), None)
        if address is None:
            raise Invalid(f"{provider} has one address; for another one take openai:NAME with its base URL")
        given[address] = base_url
    try:
        return infer_model(f"{provider}:{name}", lambda _: service(**given))
    except UserError as fault:
        raise Invalid(f"{provider} cannot be used: {fault}") from fault
