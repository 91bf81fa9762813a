"""Two tools of an agent that plans a trip: one that runs at once, one that a person approves."""

from rejoin_runner.tools.tool_decorator import tool


@tool
async def weather(city: str) -> str:
    """Tell the weather."""
    return f"It rains in {city}."


@tool(needs_approval=True)
async def book(city: str) -> str:
    """Book a trip."""
    return f"Booked {city}."
