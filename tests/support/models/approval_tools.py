"""Tools that need an approval, and record that they have run."""

from rejoin_runner.tools.tool import Tool
from rejoin_runner.tools.tool_decorator import tool


class ApprovalTools:
    """The tools `left` and `right`. `ran`: the names of those that have run, in order."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    def tools(self) -> list[Tool]:
        """Both tools."""

        @tool(needs_approval=True)
        async def left() -> str:
            """Go left."""
            self.ran.append("left")
            return "gone left"

        @tool(needs_approval=True)
        async def right() -> str:
            """Go right."""
            self.ran.append("right")
            return "gone right"

        return [left, right]
