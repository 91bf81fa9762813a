"""If a private hook of `openai` or `pydantic-ai` is missing or changed, the public classes are used."""

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
from openai import AsyncOpenAI
from pydantic_ai.models.openai import OpenAIChatModel
from structlog.testing import capture_logs

from rejoin_runner.models.providers import openai_hooks
from rejoin_runner.models.providers.openai_fast_path import FastChatModel, FastOpenAIClient

OWN = [*openai_hooks.HOOKS, *openai_hooks.ATTRIBUTES]


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """No answer of an earlier test is remembered, and none is left behind."""
    openai_hooks.openai_classes.cache_clear()
    yield
    openai_hooks.openai_classes.cache_clear()


def owner_of(path: str) -> tuple[Any, str]:
    """The object that has the attribute, and the attribute's name."""
    module, _, attributes = path.partition(":")
    *owners, name = attributes.split(".")
    owner: Any = import_module(module)
    for attribute in owners:
        owner = getattr(owner, attribute)
    return owner, name


def assert_public_way(missing: str) -> None:
    with capture_logs() as logs:
        assert openai_hooks.openai_classes() == (AsyncOpenAI, OpenAIChatModel)
        assert openai_hooks.openai_classes() == (AsyncOpenAI, OpenAIChatModel)
    assert [(line["event"], line["missing"]) for line in logs] == [
        ("openai_fast_path_unavailable", [missing])
    ]


def test_the_installed_versions_have_every_hook() -> None:
    assert openai_hooks.find_missing_hooks() == []
    assert openai_hooks.openai_classes() == (FastOpenAIClient, FastChatModel)


@pytest.mark.parametrize("path", OWN)
def test_without_a_hook_the_public_classes_are_used(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And one line in the log names the hook."""
    owner, name = owner_of(path)
    monkeypatch.setattr(owner, name, None)
    assert_public_way(path)


@pytest.mark.parametrize("path", openai_hooks.HOOKS)
def test_a_hook_with_other_parameters_counts_as_missing(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, name = owner_of(path)
    monkeypatch.setattr(owner, name, lambda _self, _one, _more: None)
    assert_public_way(path)


@pytest.mark.parametrize("path", openai_hooks.FIELDS)
def test_an_attribute_of_instances_may_be_missing_too(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, kind = owner_of(path)
    name = openai_hooks.FIELDS[path]
    for base in getattr(owner, kind).__mro__:
        monkeypatch.delitem(vars(base).get("__annotations__", {}), name, raising=False)
    assert_public_way(f"{path}.{name}")


def test_a_response_with_a_new_required_field_is_another_response(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_hooks, "RESPONSE_FIELDS", openai_hooks.RESPONSE_FIELDS - {"_model_name"})
    assert_public_way("pydantic_ai.models.openai:OpenAIStreamedResponse")


def test_a_module_that_is_gone_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_hooks, "HOOKS", {"openai._gone:SSEDecoder.decode": ("self", "line")})
    assert openai_hooks.find_missing_hooks() == ["openai._gone:SSEDecoder.decode"]
