"""The keys of model providers that a developer has in the environment already.

`rejoin dev` reads the variables that the providers' own libraries read. In production a key that happens to
be in the environment must not be used by surprise: runners read `REJOIN_MODEL_API_KEY` alone.
"""

from collections.abc import Mapping

VARIABLES = {
    "ANTHROPIC_API_KEY": ("anthropic",),
    "CEREBRAS_API_KEY": ("cerebras",),
    "CO_API_KEY": ("cohere",),
    "DEEPSEEK_API_KEY": ("deepseek",),
    "FIREWORKS_API_KEY": ("fireworks",),
    "GEMINI_API_KEY": ("google",),
    "GOOGLE_API_KEY": ("google",),
    "GROQ_API_KEY": ("groq",),
    "HF_TOKEN": ("huggingface",),
    "MISTRAL_API_KEY": ("mistral",),
    "MOONSHOTAI_API_KEY": ("moonshotai",),
    "OPENAI_API_KEY": ("openai", "openai-responses"),
    "OPENROUTER_API_KEY": ("openrouter",),
    "SAMBANOVA_API_KEY": ("sambanova",),
    "TOGETHER_API_KEY": ("together",),
    "XAI_API_KEY": ("xai",),
}
"""The environment variable of each provider, and the names that Rejoin's models have."""


def find_provider_keys(variables: Mapping[str, str]) -> dict[str, str]:
    """The keys that are set, by provider. The last variable of a provider wins."""
    keys = {name: value.strip() for name, value in variables.items() if name in VARIABLES}
    return {provider: keys[name] for name in VARIABLES if keys.get(name) for provider in VARIABLES[name]}


def as_setting(keys: Mapping[str, str]) -> str:
    """The keys as `REJOIN_MODEL_API_KEY` has them. A key with a comma has no such form and is left out."""
    return ",".join(f"{provider}={key}" for provider, key in keys.items() if "," not in key)
