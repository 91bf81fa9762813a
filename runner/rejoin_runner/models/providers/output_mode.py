"""How a provider is told what an answer must be, and the answer's way back to one form: JSON text. Pure.

`native`: the provider has a field for the JSON schema. `tool`: the model gives its answer as the arguments of
a tool, and the call is shown as the text that it stands for. `prompt`: the schema stands in the instructions.
The words are those of pydantic-ai, whose profiles say what a model takes.
"""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, Literal

import msgspec

from rejoin_protocol.events.chunks import (
    TextDelta,
    TextEnd,
    TextStart,
    ToolInputAvailable,
    ToolInputDelta,
    ToolInputStart,
)
from rejoin_runner.models.model import OUTPUT_TOOL, Done, ModelChunk, OutputSpec, ToolSpec

type OutputMode = Literal["native", "tool", "prompt"]

TOOL_DESCRIPTION = "Give the final answer. Call it once, when nothing else is left to do."
PROMPT = """\
Your final answer is one JSON object that fits this JSON schema:

{schema}

Write no other text before or after it, and no Markdown fence."""


def choose_mode(profile: Mapping[str, Any]) -> OutputMode:
    """The best way that a model has, by its profile."""
    if profile.get("supports_json_schema_output", False):
        return "native"
    return "tool" if profile.get("supports_tools", True) else "prompt"


def close_objects(schema: Any) -> Any:
    """The schema with objects that have no other fields, where all fields are required: a provider can then
    make sure that an answer fits. Other fields would be ignored anyway.
    """
    if isinstance(schema, list):
        return [close_objects(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: close_objects(item) for name, item in schema.items()}
    properties = schema.get("properties")
    if isinstance(properties, dict) and set(properties) == set(schema.get("required", ())):
        closed.setdefault("additionalProperties", False)
    return closed


def output_tool(output: OutputSpec) -> ToolSpec:
    """The tool of the mode `tool`."""
    description = f"{output.description} {TOOL_DESCRIPTION}".strip()
    return ToolSpec(OUTPUT_TOOL, description, output.schema)


def output_prompt(output: OutputSpec) -> str:
    """The instructions of the mode `prompt`."""
    return PROMPT.format(schema=msgspec.json.encode(output.schema).decode())


async def show_as_text(
    answer: AsyncGenerator[ModelChunk | Done],
) -> AsyncGenerator[ModelChunk | Done]:
    """The answer, with a call of the output tool as the text that the model would have written."""
    output_calls: set[str] = set()
    has_calls = False
    async with aclosing(answer) as stream:
        async for chunk in stream:
            match chunk:
                case ToolInputStart(tool_call_id=id, tool_name=name) if name == OUTPUT_TOOL:
                    output_calls.add(id)
                    yield TextStart(_text_id(id))
                case ToolInputDelta(tool_call_id=id, input_text_delta=delta) if id in output_calls:
                    yield TextDelta(_text_id(id), delta)
                case ToolInputAvailable(tool_call_id=id) if id in output_calls:
                    yield TextEnd(_text_id(id))
                case Done(finish_reason="tool-calls", usage=usage) if output_calls and not has_calls:
                    yield Done("stop", usage)
                case _:
                    has_calls = has_calls or isinstance(chunk, ToolInputAvailable)
                    yield chunk


def _text_id(call: str) -> str:
    return f"output-{call}"
