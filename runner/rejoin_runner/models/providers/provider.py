"""Opens the models of real providers: from `openai:gpt-5` to a `Model`.

Owns the names of the providers and the HTTP connections that all models of a process share. `open_model`
imports pydantic-ai and the providers' clients; that takes seconds. So a runner opens its models before it
reports ready, and a runner with scripted models imports none of them.
"""

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Self, cast, get_args
from urllib.request import getproxies

from rejoin_adapters.extras import needs_extra
from rejoin_protocol.errors import Invalid
from rejoin_runner.models.chat_completions.services import (
    CHAT_SERVICES,
    NEEDS_BASE_URL,
    adapt_profile,
    describe_service,
    is_compatible,
    known_name,
)
from rejoin_runner.models.fallback import Fallback
from rejoin_runner.models.model import Model, ModelKeyLookup
from rejoin_runner.models.providers.request_rules import find_rules

if TYPE_CHECKING:
    import aiohttp
    import httpx2
    from pydantic_ai.models import Model as LibraryModel
    from pydantic_ai.profiles import ModelProfile
    from pydantic_ai.providers import Provider

    from rejoin_runner.models.chat_completions.client import ChatCompletions

    type MakeLibraryModel = Callable[[str], LibraryModel]

# Providers that the tests cover and that are asked through the library, with their base URLs.
LIBRARY_URLS = MappingProxyType(
    {"openai-responses": "https://api.openai.com/v1", "anthropic": "https://api.anthropic.com"}
)
# Further providers that need no extra package: all but one speak OpenAI's chat completions.
NO_EXTRA_PACKAGE = (*(name for name in CHAT_SERVICES if name != "openai"), "meta")
# Providers that need an extra package: an extra of `pydantic-ai-slim` with the same name.
NEEDS_EXTRA_PACKAGE = ("bedrock", "cohere", "google", "huggingface", "xai")
KNOWN_PROVIDERS = ("openai", *LIBRARY_URLS, *NO_EXTRA_PACKAGE, *NEEDS_EXTRA_PACKAGE)
KEYLESS = ("bedrock",)
"""Providers with other credentials than a key: Bedrock uses the environment of the AWS libraries."""
OWN_HTTP_CLIENT = ("cohere", "huggingface")
"""Providers whose packages use an HTTP client of their own."""


class ProviderConnections:
    """The HTTP connections that all models of a process share. Close it when no call is in progress."""

    def __init__(
        self, *, connect_timeout_s: float = 5.0, read_timeout_s: float = 300.0, connections_max: int = 1000
    ) -> None:
        """`read_timeout_s`: seconds that a provider may be silent, before and within its answer."""
        self._connect_timeout_s = connect_timeout_s
        self.read_timeout_s = read_timeout_s
        self._connections_max = connections_max
        self._client: httpx2.AsyncClient | None = None
        self._session: aiohttp.ClientSession | None = None

    def open_session(self) -> "aiohttp.ClientSession":
        """The session for chat completions, created on first use: it belongs to the loop that runs then."""
        if self._session is None:
            import aiohttp

            from rejoin_runner.models.providers.http_transport import IDLE_CONNECTION_S, provider_tls

            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=self._connections_max,
                    keepalive_timeout=IDLE_CONNECTION_S,
                    ssl=provider_tls(),
                ),
                cookie_jar=aiohttp.DummyCookieJar(),  # the requests of all tenants would share them
                timeout=aiohttp.ClientTimeout(sock_connect=self._connect_timeout_s),
                trust_env=bool(getproxies()),
            )
        return self._session

    def open(self) -> "httpx2.AsyncClient":
        """The HTTP client, created on first use."""
        if self._client is None:
            import httpx2  # a scripted model needs no HTTP

            from rejoin_runner.models.providers.http_transport import AiohttpTransport

            self._client = httpx2.AsyncClient(
                timeout=httpx2.Timeout(self.read_timeout_s, connect=self._connect_timeout_s),
                limits=httpx2.Limits(max_connections=self._connections_max),
                # Only httpx2's own transport supports proxies.
                transport=None if getproxies() else AiohttpTransport(self._connections_max),
            )
        return self._client

    async def close(self) -> None:
        """Close all connections, also those in use."""
        if self._client is not None:
            await self._client.aclose()
        if self._session is not None:
            await self._session.close()

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
    tenant_key_lookup: ModelKeyLookup | None = None,
    answer_timeout_s: float = 1800.0,
    retries_max: int = 2,
) -> Model:
    """The model `provider:name`, with the libraries that it needs imported.

    Several names separated by commas make a `Fallback`.

    `base_url` is the address of another service with the provider's protocol, which may need no key.
    `api_key`: one key for all, a mapping from provider to key, or that mapping as text:
    `openai=…,anthropic=…`. `tenant_key_lookup` returns a tenant's key at every call; where it returns None,
    `api_key` is used. A request is repeated up to `retries_max` times until its answer begins.
    `answer_timeout_s` limits the seconds of all attempts together.
    Raises `Invalid` if the name is unknown, a key or address is missing, or a package is not installed.
    """
    specs = [part.strip() for part in spec.split(",")]
    process_keys = _parse_process_keys(api_key)
    if len({model_spec.partition(":")[0] for model_spec in specs}) > 1 and (
        base_url is not None or isinstance(process_keys, str)
    ):
        what = "API key" if base_url is None else "base URL"
        raise Invalid(f"one {what} cannot serve the several providers of {spec!r}")
    models: list[Model] = []
    for model_spec in specs:
        provider, _, name = model_spec.partition(":")
        _check_spec(model_spec, provider, name, base_url)
        process_key = (
            process_keys
            if isinstance(process_keys, str) or process_keys is None
            else process_keys.get(provider)
        )
        keyless = base_url is not None or provider in KEYLESS
        if process_key is None and tenant_key_lookup is None and not keyless:
            raise Invalid(
                f"{provider} needs an API key: REJOIN_MODEL_API_KEY, or the agent's model_keys; `rejoin dev` "
                "also reads the provider's own variable, such as OPENAI_API_KEY"
            )
        models.append(
            _provider_model(
                provider,
                name,
                base_url,
                connections,
                process_key=process_key,
                tenant_key_lookup=tenant_key_lookup,
                keyless=keyless,
                answer_timeout_s=answer_timeout_s,
                retries_max=retries_max,
                address=base_url,
            )
        )
    return models[0] if len(models) == 1 else Fallback(models)


def _provider_model(
    provider: str, name: str, base_url: str | None, connections: ProviderConnections, **options: Any
) -> Model:
    """The model on its wire, with the libraries that it needs imported."""
    try:
        from rejoin_runner.models.providers.provider_call import NO_KEY, ProviderModel

        if provider in CHAT_SERVICES:
            return ProviderModel(_chat_wire(provider, name, base_url, connections), provider, **options)
        from rejoin_runner.models.providers.library_call import RESPONSES, LibraryWire

        make_library_model = _bind_api_key(provider, name, base_url, connections.open())
        rules = find_rules(provider, name, own_address=base_url is not None)
        wire = LibraryWire(make_library_model, provider, options["process_key"] or NO_KEY, rules)
    except ImportError as fault:
        raise Invalid(_missing_package_message(provider)) from fault
    if provider in RESPONSES:
        _prepare_responses()
    return ProviderModel(wire, provider, **options)


def _chat_wire(
    provider: str, name: str, base_url: str | None, connections: ProviderConnections
) -> "ChatCompletions":
    from rejoin_runner.models.chat_completions.client import ChatCompletions
    from rejoin_runner.models.providers.file_support import refused_files
    from rejoin_runner.models.providers.model_profiles import find_profile

    vendor_name = known_name(provider, name)
    compatible = vendor_name is not None or is_compatible(provider, base_url)
    profile = adapt_profile(provider, find_profile(provider, vendor_name or name, is_compatible=compatible))
    return ChatCompletions(
        provider,
        name,
        describe_service(provider, base_url, profile),
        connections.open_session,
        silence_s=connections.read_timeout_s,
        refused_files=refused_files(provider, cast("ModelProfile", profile)),
        rules=find_rules(provider, name, own_address=base_url is not None),
        headers=_account_headers(provider, connections),
    )


def _account_headers(provider: str, connections: ProviderConnections) -> dict[str, str]:
    """The organization and the project that OpenAI's own client would name: it reads their variables."""
    if provider != "openai":
        return {}
    from openai import AsyncOpenAI

    client = AsyncOpenAI(api_key="none", http_client=connections.open())
    named = {"openai-organization": client.organization, "openai-project": client.project}
    return {name: value for name, value in named.items() if value}


def _parse_process_keys(api_key: str | Mapping[str, str] | None) -> str | Mapping[str, str] | None:
    """The key for all providers, or the keys by provider if the text has the form `provider=key,…`."""
    if not isinstance(api_key, str):
        return api_key
    pairs = [pair.strip().partition("=") for pair in api_key.split(",")]
    if not all(separator and provider in KNOWN_PROVIDERS for provider, separator, _ in pairs):
        return api_key
    return {provider: key for provider, _, key in pairs if key}


def _check_spec(spec: str, provider: str, name: str, base_url: str | None) -> None:
    if provider not in KNOWN_PROVIDERS or not name:
        raise Invalid(
            f"unknown model {spec!r}; known are {', '.join(f'{known}:NAME' for known in KNOWN_PROVIDERS)}"
        )
    if provider in NEEDS_BASE_URL and base_url is None:
        raise Invalid(f"{provider} needs a base URL")


def _missing_package_message(provider: str) -> str:
    if provider in NEEDS_EXTRA_PACKAGE:
        return (
            f"the package that {provider} models need is not installed: "
            f"pip install 'pydantic-ai-slim[{provider}]'"
        )
    return needs_extra(f"the model provider {provider}", "anthropic" if provider == "anthropic" else "runner")


def _bind_api_key(
    provider: str, name: str, base_url: str | None, client: "httpx2.AsyncClient"
) -> "MakeLibraryModel":
    """A function that makes the library's model for an API key."""
    if provider == "anthropic":
        return lambda api_key: _anthropic_model(name, base_url, api_key, client)
    if provider == "openai-responses":
        return lambda api_key: _responses_model(name, base_url, api_key, client)
    return lambda api_key: _library_model(provider, name, base_url, api_key, client)


def _responses_model(
    name: str, base_url: str | None, api_key: str, client: "httpx2.AsyncClient"
) -> "LibraryModel":
    from openai import AsyncOpenAI
    from pydantic_ai.models.openai import OpenAIResponsesModel
    from pydantic_ai.providers.openai import OpenAIProvider
    from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider

    address = base_url or LIBRARY_URLS["openai-responses"]
    openai_client = AsyncOpenAI(base_url=address, api_key=api_key, http_client=client)
    if base_url is None:
        return OpenAIResponsesModel(name, provider=OpenAIProvider(openai_client=openai_client))
    return OpenAIResponsesModel(
        name, provider=OpenAICompatibleProvider("openai-compatible", openai_client=openai_client)
    )


def _prepare_responses() -> None:
    """Build the parsers of the stream's events now. Built in the first run, they would block the event loop
    for half a second.
    """
    from openai.types.responses import ResponseStreamEvent

    for union in get_args(ResponseStreamEvent)[:1]:
        for event in get_args(union):
            event.model_rebuild()


def _anthropic_model(
    name: str, base_url: str | None, api_key: str, client: "httpx2.AsyncClient"
) -> "LibraryModel":
    from pydantic_ai.models.anthropic import AnthropicModel
    from pydantic_ai.providers.anthropic import AnthropicProvider

    address = base_url or LIBRARY_URLS["anthropic"]
    return AnthropicModel(
        name, provider=AnthropicProvider(base_url=address, api_key=api_key, http_client=client)
    )


def _library_model(
    provider: str, name: str, base_url: str | None, api_key: str, client: "httpx2.AsyncClient"
) -> "LibraryModel":
    """A model that the library knows by name. Passes the arguments that the provider's class accepts."""
    from pydantic_ai.exceptions import UserError
    from pydantic_ai.models import infer_model
    from pydantic_ai.providers import infer_provider_class

    provider_class: Callable[..., Provider[Any]] = infer_provider_class(provider)
    parameters = inspect.signature(provider_class).parameters
    arguments: dict[str, Any] = {} if provider in KEYLESS and api_key == "none" else {"api_key": api_key}
    if "http_client" in parameters and provider not in OWN_HTTP_CLIENT:
        arguments["http_client"] = client
    if base_url is not None:
        url_parameter = next(
            (name for name in ("base_url", "api_base", "api_host") if name in parameters), None
        )
        if url_parameter is None:
            raise Invalid(f"{provider} has one address; for another one take openai:NAME with its base URL")
        arguments[url_parameter] = base_url
    try:
        return infer_model(f"{provider}:{name}", lambda _: provider_class(**arguments))
    except UserError as fault:
        raise Invalid(f"{provider} cannot be used: {fault}") from fault
