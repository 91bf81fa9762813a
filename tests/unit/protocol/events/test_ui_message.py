"""The types of a UI message have every key that the AI SDK stores."""

from typing import Any

import pytest

from rejoin_protocol.events import ui_message
from rejoin_protocol.events.fold import is_tool
from tests.support.data import chunk_strategies

VECTORS = chunk_strategies.vectors("fold.json")["folds"]
KINDS = {
    "text": ui_message.TextPart,
    "reasoning": ui_message.ReasoningPart,
    "step-start": ui_message.StepStartPart,
    "file": ui_message.FilePart,
    "reasoning-file": ui_message.ReasoningFilePart,
    "source-url": ui_message.SourceUrlPart,
    "source-document": ui_message.SourceDocumentPart,
    "custom": ui_message.CustomPart,
    "steering-message": ui_message.SteeringMessagePart,
    "dynamic-tool": ui_message.DynamicToolPart,
}


def kind_of(part: dict[str, Any]) -> Any:
    if part["type"] in KINDS:
        return KINDS[part["type"]]
    return ui_message.ToolPart if is_tool(part) else ui_message.DataPart


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: str(vector["name"]))
def test_the_types_have_the_keys_of_the_messages_that_the_client_stores(vector: dict[str, Any]) -> None:
    message = vector["expect"]["message"]
    assert set(message) <= set(ui_message.UIMessage.__annotations__)
    assert set(ui_message.UIMessage.__required_keys__) <= set(message)
    for part in message["parts"]:
        kind = kind_of(part)
        assert set(part) <= set(kind.__annotations__), part
        assert set(kind.__required_keys__) <= set(part), part
