"""Tools of a request that are too large are refused before their schemas are measured, on each wire."""

from collections.abc import Callable
from typing import Any

import pytest

from rejoin_gateway.api.ag_ui.run_input import parse_tools
from rejoin_gateway.api.openai.tool_calls import parse_functions
from rejoin_gateway.api.shared.client_tools import parse_named_tools
from rejoin_protocol.errors import Invalid
from rejoin_protocol.limits import REQUEST_TOOLS_BYTES_MAX, SCHEMA_NODES_MAX

LARGE = {"type": "object", "enum": [*range(SCHEMA_NODES_MAX + 1), "x" * REQUEST_TOOLS_BYTES_MAX]}
TOOL = {"name": "large", "parameters": LARGE}


@pytest.mark.parametrize(
    "parse",
    [
        lambda: parse_named_tools({"large": TOOL}),
        lambda: parse_functions([{"type": "function", "function": TOOL}], "/tools"),
        lambda: parse_tools([TOOL], []),
    ],
    ids=["by name", "functions", "AG-UI"],
)
def test_the_bytes_are_bounded_before_the_values(parse: Callable[[], Any]) -> None:
    with pytest.raises(Invalid, match=f"at most {REQUEST_TOOLS_BYTES_MAX} bytes") as fault:
        parse()
    assert fault.value.pointer == "/tools"
