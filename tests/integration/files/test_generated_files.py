"""Files that a model generates are stored before any client learns of them, served, and read by the model
again.
"""

import base64
import io
import random
from collections.abc import AsyncGenerator
from typing import Any

from PIL import Image

from rejoin_protocol import file_formats, file_ids
from rejoin_protocol.events import chunks
from rejoin_protocol.events.fold import Fold
from rejoin_protocol.limits import EVENT_BYTES_MAX, FILE_BYTES_MAX
from rejoin_runner.agent.agent import Agent
from rejoin_runner.agent.agent_decorator import agent
from rejoin_runner.agent.custom_loop import RunInput
from rejoin_runner.models.model import Done, ModelChunk, ModelRequest
from rejoin_runner.tools.tool_decorator import tool
from tests.support.models.agent_teams import Calls, ScriptedPart
from tests.support.providers import responses_frames
from tests.support.providers.server import FakeProvider
from tests.support.system.local_system import Answer, LocalSystem


def noise() -> bytes:
    """A picture that no event could hold."""
    out = io.BytesIO()
    Image.frombytes("RGB", (600, 500), random.Random(1).randbytes(900_000)).save(out, "PNG")
    return out.getvalue()


LARGE = noise()
BASE64 = base64.b64encode(LARGE).decode()
DATA_URL = file_formats.to_data_url("image/png", LARGE)
URL = file_ids.file_url(file_ids.file_id(None, LARGE))


@tool
def frame(colour: str) -> str:
    """Choose a frame."""
    return f"a {colour} frame"


def folded(answer: Answer) -> dict[str, Any]:
    fold = Fold()
    for chunk in answer.frames[:-1]:
        fold.apply(chunks.decode(chunk.data))
    return fold.message


async def test_a_picture_that_no_event_could_hold_is_stored_and_named(
    system: LocalSystem, provider: FakeProvider
) -> None:
    """The stream, the history and the route of files have the same one."""
    assert len(BASE64) > EVENT_BYTES_MAX
    provider.queue(
        responses_frames.response(
            responses_frames.image("ig_1", BASE64), responses_frames.text("msg_1", "Here.")
        )
    )
    painter = Agent(name=system.agent, model="openai-responses:gpt-5")
    await system.runner([painter], model_base_url=provider.base_url)
    base, session = await system.gateway(), system.fresh("s")
    answer = await system.post(base, system.chat(session, "paint"))
    assert answer.text == "Here."
    [told] = [chunk for chunk in answer.chunks if chunk["type"] == "file"]
    assert (told["url"], told["mediaType"]) == (URL, "image/png")
    message = (await system.get(f"{base}/api/agents/{system.agent}/{session}")).json["messages"][-1]
    assert message == folded(answer)
    served = await system.get(base + URL)
    assert (served.status, served.headers["content-type"], served.raw) == (200, "image/png", LARGE)


class Painter:
    """Emits a file and calls a tool in its first step, then emits text. Records its requests."""

    def __init__(self) -> None:
        self.requests: list[ModelRequest] = []

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk | Done]:
        """See `port.Model`."""
        self.requests.append(request)
        if len(self.requests) == 1:
            yield chunks.File(DATA_URL, "image/png")
            yield chunks.ToolInputAvailable("call_1", "frame", {"colour": "red"})
        yield Done("stop")


async def test_the_model_is_given_its_picture_in_the_next_step_and_in_the_next_turn(
    system: LocalSystem,
) -> None:
    model = Painter()
    await system.runner([Agent(name=system.agent, model=model, tools=[frame])])
    base, session = await system.gateway(), system.fresh("s")
    await system.post(base, system.chat(session, "paint"))
    await system.post(base, system.chat(session, "what is it?"))
    _, step, turn = model.requests
    for message in (step.answer, turn.history[1]):
        assert [part["url"] for part in message["parts"] if part["type"] == "file"] == [DATA_URL]


async def test_a_file_of_an_own_loop_is_stored_too_and_one_that_is_too_large_ends_the_run(
    system: LocalSystem,
) -> None:
    @agent(name=system.agent)
    async def painter(run: RunInput[None]) -> AsyncGenerator[chunks.File]:
        data = bytes(FILE_BYTES_MAX + 1) if run.text == "too much" else LARGE
        yield chunks.File(file_formats.to_data_url("image/png", data), "image/png")

    await system.runner([painter])
    base = await system.gateway()
    answer = await system.post(base, system.chat(system.fresh("s"), "paint"))
    assert [chunk["url"] for chunk in answer.chunks if chunk["type"] == "file"] == [URL]
    refused = await system.post(base, system.chat(system.fresh("s"), "too much"))
    assert refused.complete
    [error] = [chunk["errorText"] for chunk in refused.chunks if chunk["type"] == "error"]
    assert (
        error == "The model generated a file that cannot be stored: "
        f"a file has at most {FILE_BYTES_MAX} bytes."
    )


async def test_a_picture_that_a_tool_returns_stays_in_its_output_within_the_bound(
    system: LocalSystem,
) -> None:
    small = file_formats.to_data_url("image/png", b"small").partition(",")[2]

    @tool
    async def paint(large: bool) -> dict[str, Any]:
        """Paint."""
        shown = {"type": "media", "data": BASE64 if large else small, "mediaType": "image/png"}
        return {"type": "content", "value": [shown]}

    asked = [Calls("paint", {"large": False}), Calls("paint", {"large": True})]
    await system.runner(
        [Agent(name=system.agent, model=ScriptedPart({"paint": [asked, ["Done."]]}, []), tools=[paint])]
    )
    answer = await system.post(await system.gateway(), system.chat(system.fresh("s"), "paint"))
    [output] = [chunk["output"] for chunk in answer.chunks if chunk["type"] == "tool-output-available"]
    assert output["value"] == [{"type": "media", "data": small, "mediaType": "image/png"}]
    [error] = [chunk["errorText"] for chunk in answer.chunks if chunk["type"] == "tool-output-error"]
    assert error.endswith("and at most 262144")
