"""`client_tool`: a tool that the client runs, for example in the browser. The AI SDK has the same: a tool
without `execute`.

The model calls a client tool like any other tool. The run is then suspended until the client sends the
output, as it is for an approval. The output may arrive at any gateway.
"""

from typing import Any

import msgspec

from rejoin_protocol.errors import Invalid
from rejoin_protocol.json_types import from_json, json_schema
from rejoin_protocol.request_tools import RequestTool
from rejoin_runner.models.model import ToolSpec
from rejoin_runner.tools.argument_schema import object_schema
from rejoin_runner.tools.schema_fault import find_schema_fault
from rejoin_runner.tools.tool import Tool
from rejoin_runner.tools.tool_decorator import check_tool_name
from rejoin_runner.tools.tool_error import ToolError


class NoArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """No arguments: the `input` of a client tool that takes none, and the `arguments_type` of all client
    tools.
    """


class ClientTool(Tool, frozen=True, kw_only=True):
    """A tool whose calls a client answers. Made by `client_tool`."""

    input_type: Any
    """The arguments: a type, or a JSON schema; None: the client alone checks them. `arguments_type` is for a
    function's parameters, and a client tool has no function.
    """
    output_schema: dict[str, Any] | None = None
    """The JSON schema of the output. None: any JSON."""

    def check_arguments(self, input: Any) -> None:
        """Check a call's arguments against `input_type`. Raises `ToolError`, whose text names the place."""
        if self.input_type is None:
            return
        if isinstance(self.input_type, dict):
            if fault := find_schema_fault(input, self.input_type):
                raise ToolError(f"the arguments do not fit: {fault}")
            return
        try:
            from_json(input, self.input_type)
        except msgspec.ValidationError as fault:
            raise ToolError(f"the arguments do not fit: {fault}") from fault


def client_tool(
    name: str,
    description: str,
    *,
    input: type | dict[str, Any] = NoArguments,
    output: type | dict[str, Any] | None = None,
) -> ClientTool:
    """Declare a tool that the client runs.

    Args:
        name: The name by which model and client know it, 1 to 64 letters, digits, `-` and `_`.
        description: What the model reads.
        input: The arguments: a struct, dataclass, `TypedDict` or pydantic model, or a JSON schema of type
            object. Default: none.
        output: What the client returns, as a type or a JSON schema. A gateway refuses other outputs. Default:
            any JSON.

    Raises `Invalid` for a wrong name, an empty description, and types that cannot be written as JSON.
    """
    check_tool_name(name)
    if not description.strip():
        raise Invalid(f"tool {name} needs a description: the model reads it")
    try:
        schema = input if isinstance(input, dict) else object_schema(input)
        output_schema = output if output is None or isinstance(output, dict) else json_schema(output)
    except (TypeError, KeyError) as fault:
        raise Invalid(f"tool {name}: a type cannot be written as JSON: {fault}") from fault
    if schema.get("type") != "object":
        raise Invalid(f"tool {name}: its input is a JSON schema of type object")
    return _build_tool(ToolSpec(name, description, schema), input, output_schema)


def to_client_tool(brought: RequestTool) -> ClientTool:
    """The tool of a request. Nothing is checked by its schema, which is a stranger's: one regular expression
    in it could hold up the runner.
    """
    return _build_tool(ToolSpec(brought.name, brought.description, brought.parameters), None, None)


def _build_tool(spec: ToolSpec, input: Any, output_schema: dict[str, Any] | None) -> ClientTool:
    return ClientTool(
        spec=spec,
        function=_never_called,
        arguments_type=NoArguments,  # no function takes them: see `input_type`
        takes_context=False,
        needs_approval=False,
        on_crash="retry",
        timeout_s=None,
        input_type=input,
        output_schema=output_schema,
    )


def _never_called() -> None:
    raise RuntimeError("a runner does not call a client tool")
