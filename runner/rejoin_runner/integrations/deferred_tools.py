"""The deferred tools of a pydantic-ai agent as Rejoin tools: those that wait for a person or for the client.

pydantic-ai ends a run whose calls it defers. Rejoin takes these calls over: it asks, suspends the run, logs
the decision, and makes the approved calls through the agent's own toolsets. Then the agent goes on with the
results. Owns the declaration of the tools and one call of each; not the loop.
"""

from collections.abc import Callable, Iterator
from typing import Any

from pydantic_ai import Agent as LibraryAgent
from pydantic_ai import RunContext, ToolsetTool
from pydantic_ai.exceptions import ModelRetry
from pydantic_ai.toolsets import AbstractToolset, CombinedToolset, ExternalToolset, FunctionToolset
from pydantic_ai.usage import RunUsage
from pydantic_core import ValidationError, to_jsonable_python

from rejoin_runner.agent.custom_loop import RunInput
from rejoin_runner.models.model import ToolSpec
from rejoin_runner.tools.client_tool import NoArguments, client_tool
from rejoin_runner.tools.tool import Tool
from rejoin_runner.tools.tool_context import ToolContext
from rejoin_runner.tools.tool_error import ToolError


class DeferredTool(Tool, frozen=True, kw_only=True):
    """A tool of a library agent. Only calls that it has deferred come here, so each needs a person."""

    library_agent: Any
    deps: Callable[[RunInput[Any]], Any] | None

    def check_arguments(self, input: Any) -> None:
        """The library has checked them; changed ones are checked by their schema and by `call`."""

    async def call(self, input: Any, context: ToolContext[Any]) -> Any:
        """Call the tool as an approved one, through the agent's toolsets. See `Tool.call`."""
        run_context = self._run_context(context)
        async with CombinedToolset(self.library_agent.toolsets) as toolset:
            tool: ToolsetTool[Any] | None = (await toolset.get_tools(run_context)).get(self.name)
            if tool is None:
                raise ToolError(f"there is no tool {self.name}")
            try:
                arguments = tool.args_validator.validate_python(input)
                result = await toolset.call_tool(self.name, arguments, run_context, tool)
            except ValidationError as fault:
                raise ToolError(f"the arguments do not fit: {fault}") from fault
            except ModelRetry as fault:
                raise ToolError(fault.message) from fault
        return await self.limit_size(to_jsonable_python(result, fallback=str), context)

    def _run_context(self, context: ToolContext[Any]) -> RunContext[Any]:
        name = self.library_agent.name or ""
        run: RunInput[Any] = RunInput(
            context.run, context.session, name, [], context.context, output=context.output
        )
        return RunContext(
            deps=None if self.deps is None else self.deps(run),
            model=self.library_agent.model,
            usage=RunUsage(),
            tool_call_id=context.call,
            tool_name=self.name,
            tool_call_approved=True,
        )


def deferred_tools(
    library_agent: "LibraryAgent[Any, Any]", deps: Callable[[RunInput[Any]], Any] | None
) -> list[Tool]:
    """The agent's function tools, which may need an approval, and its external ones, which the client runs.

    A toolset whose tools are known only in a run, such as an MCP server's, has none here.
    """
    leaves: list[AbstractToolset[Any]] = []
    for toolset in library_agent.toolsets:
        toolset.apply(leaves.append)
    return [tool for leaf in leaves for tool in _tools_of(leaf, library_agent, deps)]


def _tools_of(leaf: AbstractToolset[Any], library_agent: Any, deps: Any) -> Iterator[Tool]:
    if isinstance(leaf, ExternalToolset):
        for listed in leaf.tool_defs:
            schema = listed.parameters_json_schema
            yield client_tool(listed.name, listed.description or listed.name, input=schema)
    elif isinstance(leaf, FunctionToolset):
        for name, tool in leaf.tools.items():
            schema = tool.function_schema.json_schema
            yield DeferredTool(
                spec=ToolSpec(name, tool.description or name, schema),
                function=_never_called,
                arguments_type=NoArguments,
                takes_context=True,
                needs_approval=True,
                on_crash=None,
                timeout_s=None,
                approval_edits=True,
                library_agent=library_agent,
                deps=deps,
            )


def _never_called() -> None:
    raise RuntimeError("the toolset calls the function")
