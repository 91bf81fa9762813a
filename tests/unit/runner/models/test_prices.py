"""What a call costs, by the operator's prices, else by the package's; and what is said of the others."""

import pytest
import structlog

from rejoin_protocol.errors import Invalid
from rejoin_runner.models.model import ModelName, ModelUsage
from rejoin_runner.models.prices import Prices, parse_prices

OWN = """{
    "openai:gpt-5": {"input": 1, "cached_input": "0.5", "output": 8.25},
    "acme:big": {"input": 2, "output": 3}
}"""
GROQ = "https://api.groq.com/openai/v1"


def used(model: ModelName, *, cached: int = 400) -> ModelUsage:
    return ModelUsage(1_000, 200, cached, model=model)


async def test_the_operators_price_comes_first() -> None:
    prices = Prices(parse_prices(OWN))
    # 600 at 1 USD and 400 at 0.5 USD for a million, 200 at 8.25 USD: 0.00245 USD.
    assert await prices.cost(used(ModelName("openai", "gpt-5"))) == 2_450_000
    assert await prices.cost(used(ModelName("acme", "big"))) == 2_600_000


@pytest.mark.parametrize(
    "model",
    [
        ModelName("openai", "gpt-4o"),
        ModelName("openai-responses", "gpt-4o"),
        ModelName("azure", "my-deployment", reported="gpt-4o"),
    ],
    ids=str,
)
async def test_other_models_have_the_price_of_the_package(model: ModelName) -> None:
    # 600 at 2.50 USD, 400 cached at 1.25 USD, 200 at 10 USD.
    assert await Prices({}).cost(used(model)) == 4_000_000


async def test_another_address_has_the_prices_of_its_own_service() -> None:
    prices = Prices({})
    assert await prices.cost(used(ModelName("openai", "llama-3.3-70b-versatile", GROQ), cached=0)) == 748_000
    assert await prices.cost(used(ModelName("openai", "gpt-4o", "http://127.0.0.1:8000/v1"))) is None


async def test_a_model_without_a_price_has_no_cost_and_is_named_once() -> None:
    prices = Prices({})
    with structlog.testing.capture_logs() as lines:
        costs = [await prices.cost(used(ModelName("openai", "never-heard-of"))) for _ in range(3)]
    assert costs == [None] * 3
    assert [(line["event"], line["model"]) for line in lines] == [
        ("model_without_price", "openai:never-heard-of")
    ]


async def test_more_cached_than_read_is_a_price_and_no_crash() -> None:
    assert await Prices({}).cost(used(ModelName("openai", "gpt-4o"), cached=10**6)) == 3_250_000


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "REJOIN_PRICES is no JSON object of prices by model"),
        ("[]", "REJOIN_PRICES is no JSON object of prices by model"),
        ('{"gpt-5": {"input": 1, "output": 1}}', "'gpt-5' is no model; write it as `provider:name`"),
        ('{"openai:x": {"input": 1}}', "the price of openai:x: Object missing required field `output`"),
        ('{"openai:x": {"input": 1, "output": 1, "cached": 1}}', "of openai:x: .*unknown field `cached`"),
        ('{"openai:x": {"input": -1, "output": 1}}', "input of openai:x is not between 0 and 1000000 USD"),
        ('{"openai:x": {"input": 1, "output": "NaN"}}', "output of openai:x is not between"),
        ('{"openai:x": 3}', "the price of openai:x: Expected `object`, got `int`"),
    ],
)
def test_a_wrong_price_is_named(text: str, problem: str) -> None:
    with pytest.raises(Invalid, match=problem):
        parse_prices(text)
