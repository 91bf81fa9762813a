"""Customer support: small refunds are made at once, larger ones need approval."""

from typing import Any

from rejoin import Agent, ToolContext, ToolError, tool

ORDERS = {"A-17": {"item": "a red bicycle", "cents": 49_900}, "A-18": {"item": "a bell", "cents": 900}}
APPROVAL_FREE_CENTS_MAX = 2_000


@tool
async def find_order(number: str) -> dict[str, Any]:
    """Look an order up by its number."""
    if number not in ORDERS:
        raise ToolError(f"there is no order {number}")  # the model reads this and can try again
    return ORDERS[number]


# The approval request is stored before it is shown; no task and no connection waits for the answer.
# It may come a week later through another gateway, and applies to exactly these arguments.
@tool(needs_approval=lambda input, _: input["cents"] > APPROVAL_FREE_CENTS_MAX)
async def refund(ctx: ToolContext[None], number: str, cents: int) -> str:
    """Give money back for an order."""
    # A worker may crash after the payment and before it is logged. With the key, the bank pays only once.
    return f"Paid {cents} cents back for {number} (key {ctx.idempotency_key})."


agent = Agent(
    name="support",
    description="Helps the customers of a shop.",
    model="openai:gpt-5-mini",
    instructions="Help the customers of the shop. Look an order up before you talk about money.",
    tools=[find_order, refund],
    approval_timeout_s=7 * 24 * 3600,  # after a week without an answer the refund is denied
)
