"""The Agents SDK. `python agents_client.py BASE AGENT KEY` runs an agent of its own whose model is ours, and
prints its outputs: by responses and by chat completions, each whole and streamed.
"""

import asyncio
import json
import sys
from typing import Literal

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI
from pydantic import BaseModel


class Place(BaseModel):
    """Where somebody is."""

    city: str
    size: Literal["large", "small"]


def locate(metres: int) -> str:
    """Find out where the user is."""
    return "Oslo" if metres else ""


async def main(base: str, name: str, key: str) -> None:
    set_tracing_disabled(disabled=True)
    outputs = []
    async with AsyncOpenAI(base_url=f"{base}/v1", api_key=key, max_retries=0) as client:
        for kind in (OpenAIResponsesModel, OpenAIChatCompletionsModel):
            clerk = Agent(
                name="Clerk",
                instructions="Be kind.",
                model=kind(model=name, openai_client=client),
                model_settings=ModelSettings(temperature=0.2),
                tools=[function_tool(locate)],
                output_type=Place,
            )
            whole = await Runner.run(clerk, "Where am I?")
            outputs.append(whole.final_output.model_dump())
            streamed = Runner.run_streamed(clerk, "Where am I?")
            async for _ in streamed.stream_events():
                pass
            outputs.append(streamed.final_output.model_dump())
    sys.stdout.write(f"{json.dumps(outputs)}\n")


asyncio.run(main(*sys.argv[1:]))
