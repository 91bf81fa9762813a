"""Talk to the support agent in a terminal: `python -m examples.support.ask "My money back for A-17!"`."""

import asyncio
import os
import sys
import uuid
from collections.abc import Callable

from rejoin_client import Answer, Client, Restarted, TextDelta, ToolApprovalRequest, ToolInputAvailable

type Show = Callable[[str], None]
type Decide = Callable[[ToolInputAvailable], bool]


async def talk(client: Client, session: str, text: str, *, decide: Decide, show: Show) -> None:
    """Send a message, and decide each approval request until there is none."""
    answer: Answer | None = await client.chat.send(session, text)
    while answer is not None:
        requests = await read_answer(answer, show)
        answer = None
        for approval, call in requests.items():  # the answer goes on after the last decision
            answer = await client.chat.approve(session, approval, approved=decide(call))


async def read_answer(answer: Answer, show: Show) -> dict[str, ToolInputAvailable]:
    """Show the text; return the calls that need approval, by approval id."""
    calls: dict[str, ToolInputAvailable] = {}
    requests: dict[str, ToolInputAvailable] = {}
    async with answer:
        async for event in answer:
            match event:
                case TextDelta(delta=delta):
                    show(delta)
                case ToolInputAvailable(tool_call_id=id):
                    calls[id] = event
                case ToolApprovalRequest(approval_id=id, tool_call_id=call):
                    requests[id] = calls[call]
                case Restarted():
                    show("\n[from the beginning]\n")
                case _:
                    pass
    show("\n")
    return requests


def ask_person(call: ToolInputAvailable) -> bool:
    """Whether the person at the terminal allows the call."""
    return input(f"{call.tool_name} {call.input}: allow it? [y/N] ").strip().lower() == "y"


def show(text: str) -> None:
    """Write text to the terminal at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


async def main(text: str) -> None:
    """Have one conversation."""
    async with Client(os.environ.get("REJOIN_URL", "http://127.0.0.1:8080"), agent="support") as client:
        await talk(client, str(uuid.uuid4()), text, decide=ask_person, show=show)


if __name__ == "__main__":
    asyncio.run(main(" ".join(sys.argv[1:]) or "I want my money back for order A-17."))
