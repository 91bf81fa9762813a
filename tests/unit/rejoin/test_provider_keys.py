"""`rejoin dev` finds the keys of model providers in the environment."""

from pathlib import Path

from rejoin.dev.launcher import DevPlan, DevSettings, _model_keys, _services
from rejoin.dev.provider_keys import VARIABLES, as_setting, find_provider_keys
from rejoin_runner.models.providers.provider import KNOWN_PROVIDERS


def test_every_name_is_a_provider() -> None:
    assert {name for names in VARIABLES.values() for name in names} <= set(KNOWN_PROVIDERS)


def test_the_keys_become_the_setting_of_the_runners() -> None:
    found = find_provider_keys({"OPENAI_API_KEY": "sk-1", "ANTHROPIC_API_KEY": " sk-2 ", "GROQ_API_KEY": ""})
    assert as_setting(found) == "anthropic=sk-2,openai=sk-1,openai-responses=sk-1"
    assert as_setting({"openai": "a,b"}) == ""


def test_the_own_setting_wins() -> None:
    variables = {"OPENAI_API_KEY": "sk-1"}
    assert _model_keys(DevSettings(model_api_key="openai=sk-2"), variables) == {}
    assert _model_keys(DevSettings(), {}) == {}
    assert _model_keys(DevSettings(), variables) == {
        "REJOIN_MODEL_API_KEY": "openai=sk-1,openai-responses=sk-1"
    }


async def test_runners_and_gateways_get_them() -> None:
    plan = DevPlan("shop:agent", 8080, Path(), 1, 1, None)
    services = _services(plan, DevSettings(), {"OPENAI_API_KEY": "sk-1"})
    assert all("openai=sk-1" in str(one._environment) for one in services.all)
