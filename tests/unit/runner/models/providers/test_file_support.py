"""Which files a model cannot take, by the library's profile and by the provider's name."""

import pytest
from pydantic_ai.profiles import ModelProfile

from rejoin_protocol.file_formats import BINARY_TYPES, GIF, PDF, WEBP
from rejoin_runner.models.providers.file_support import refused_files
from rejoin_runner.models.providers.provider import ProviderConnections, open_model
from rejoin_runner.models.providers.provider_call import ProviderModel

IMAGES = BINARY_TYPES - {PDF}


@pytest.mark.feature("F120")
def test_a_profile_that_says_nothing_takes_everything() -> None:
    assert refused_files("openai", ModelProfile()) == frozenset()


@pytest.mark.feature("F120")
@pytest.mark.parametrize(
    ("profile", "refused"),
    [
        (ModelProfile(supports_image_input=False), IMAGES),
        (ModelProfile(supports_document_input=False), {PDF}),
        (ModelProfile(supported_document_media_types=frozenset({"text/plain"})), {PDF}),
        (ModelProfile(supported_document_media_types=frozenset({"application/pdf"})), set()),
        (ModelProfile(supports_image_input=False, supports_document_input=False), BINARY_TYPES),
    ],
)
def test_a_profile_tells_what_a_model_cannot_take(profile: ModelProfile, refused: set[str]) -> None:
    assert refused_files("openai", profile) == refused


@pytest.mark.feature("F120")
@pytest.mark.parametrize(
    ("provider", "refused"), [("google", {GIF}), ("xai", {GIF, WEBP}), ("ollama", {PDF})]
)
def test_some_formats_are_excluded_by_a_providers_own_pages(provider: str, refused: set[str]) -> None:
    assert refused_files(provider, ModelProfile()) == refused


@pytest.mark.feature("F120")
@pytest.mark.parametrize(("spec", "refused"), [("vllm:m", {PDF}), ("ollama:m", {PDF}), ("openai:m", set())])
async def test_real_models_know_it(spec: str, refused: set[str]) -> None:
    async with ProviderConnections() as connections:
        model = open_model(spec, connections, api_key="key", base_url="http://127.0.0.1:9/v1")
        assert isinstance(model, ProviderModel)
        assert model.origin.refused_files == refused
