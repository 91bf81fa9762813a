"""Customer support that may give money back, but not much of it on its own."""

from typing import Any

from rejoin import Agent, ToolContext, ToolError, tool

ORDERS = {"A-17": {"item": "a red bicycle", "cents": 49_900}, "A-18": {"item": "a bell", "cents": 900}}
FREELY_CENTS = 2_000


@tool
async def find_order(number: str) -> dict[str, Any]:
    """Look an order up by its number."""
    if number not in ORDERS:
        raise ToolError(f"there is no order {number}")  # the model reads this, and can do better
    return ORDERS[number]


# The question is stored before anybody hears of it, and then nothing waits: no task, no connection. The
# answer may come after a week, through another gateway, and it decides about these very arguments.
@tool(needs_approval=lambda input, _: input["cents"] > FREELY_CENTS)
async def refund(ctx: ToolContext[None], number: str, cents: int) -> str:
    """Give money back for an order."""
    # A worker may die between paying and saying so. Your bank gets the key, and pays once.
    return f"Paid {cents} cents back for {number} (key {ctx.idempotency_key})."


agent = Agent(
    name="support",
    description="Helps the customers of a shop.",
    model="openai:gpt-5-mini",
    instructions="Help the customers of the shop. Look an order up before you talk about money.",
    tools=[find_order, refund],
    approval_timeout_s=7 * 24 * 3600,  # nobody answers for a week: that is a no
)
