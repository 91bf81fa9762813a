"""A run's usage in the metadata of its answer: it goes on where an earlier runner has stopped."""

from typing import Any

import pytest

from rejoin_runner.models.model import ModelName, ModelUsage, Usage
from rejoin_runner.models.usage_total import MODELS_MAX, OTHER_MODELS, UsageTotal

BIG, SMALL = ModelName("acme", "big", "http://10.0.0.1:8000"), ModelName("acme", "small")


def test_steps_of_several_models_add_up_also_through_the_log() -> None:
    total = UsageTotal()
    for usage, cost in (
        (ModelUsage(100, 10, 40, model=BIG), 1_000),
        (ModelUsage(5, 1, model=SMALL), None),
        (Usage(7, 3), None),
        (ModelUsage(200, 20, model=BIG), 2_000_000_000),
    ):
        total = UsageTotal.parse(total.add(usage, cost).to_metadata())
    assert total.to_metadata() == {
        "inputTokens": 312,
        "outputTokens": 34,
        "totalTokens": 346,
        "cachedInputTokens": 40,
        "costUsd": 2.000001,
        "models": {
            "acme:big": {"inputTokens": 300, "outputTokens": 30, "costUsd": 2.000001},
            "acme:small": {"inputTokens": 5, "outputTokens": 1},
        },
    }


def test_the_address_of_a_model_is_shown_to_nobody() -> None:
    assert "10.0.0.1" not in str(UsageTotal().add(ModelUsage(1, 1, model=BIG), 1).to_metadata())
    assert "10.0.0.1" not in str(ModelUsage(1, 1, model=BIG).to_metadata())


def test_without_prices_nothing_says_a_cost() -> None:
    assert UsageTotal().add(Usage(1, 2), None).to_metadata() == {
        "inputTokens": 1,
        "outputTokens": 2,
        "totalTokens": 3,
    }


def test_the_models_of_one_run_are_bounded() -> None:
    total = UsageTotal()
    for number in range(MODELS_MAX + 5):
        total = total.add(ModelUsage(1, 0, model=ModelName("acme", str(number))), 1)
    assert len(total.models) == MODELS_MAX + 1
    assert total.models[OTHER_MODELS].input_tokens == 5
    assert total.cost == MODELS_MAX + 5


@pytest.mark.parametrize("metadata", [None, [], "x", {"costUsd": "1", "models": []}, {"models": {"a": 3}}])
def test_metadata_of_another_form_are_no_usage(metadata: Any) -> None:
    total = UsageTotal.parse(metadata)
    assert (total.tokens, total.cost) == (Usage(), None)
