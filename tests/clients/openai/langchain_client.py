"""LangChain's model for OpenAI. `python langchain_client.py BASE AGENT KEY` prints a text, a stream, a text
behind a call of a tool and an object, by chat completions and then by responses.
"""

import json
import sys
from typing import Any, Literal

from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel


class Place(BaseModel):
    """Where somebody is."""

    city: str
    size: Literal["large", "small"]


def locate(metres: int) -> str:
    """Find out where the user is."""
    return "Oslo" if metres else ""


def main(base: str, name: str, key: str) -> None:
    got: list[Any] = []
    for use_responses in (False, True):
        model = ChatOpenAI(
            model=name,
            base_url=f"{base}/v1",
            api_key=key,
            temperature=0.2,
            max_retries=0,
            use_responses_api=use_responses,
        )
        messages: list[Any] = [SystemMessage("Be kind."), HumanMessage("Where am I?")]
        got.append(model.invoke(messages).text)
        got.append("".join(chunk.text for chunk in model.stream(messages)))
        with_tools = model.bind_tools([tool(locate)])
        asked = with_tools.invoke(messages)
        outputs = [ToolMessage(locate(**call["args"]), tool_call_id=call["id"]) for call in asked.tool_calls]
        got.append(with_tools.invoke([*messages, asked, *outputs]).text)
        got.append(model.with_structured_output(Place).invoke(messages).model_dump())
    sys.stdout.write(f"{json.dumps(got)}\n")


main(*sys.argv[1:])
