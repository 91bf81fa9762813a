"""`rejoin dev` restarts its runners when the code changes; the new code takes running runs over."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.system.local_system import Answer, LocalSystem, read_frames
from tests.support.system.observation import wait_until
from tests.support.system.processes import Command, free_ports

pytestmark = [pytest.mark.slow, pytest.mark.feature("F94")]
CODE = """
import asyncio
from rejoin import Agent, Done
from rejoin_protocol.events.chunks import TextDelta, TextEnd, TextStart

WORD = {word!r}


class Repeating:
    async def stream(self, request):
        count = 400 if "long" in str(request.history[-1]) and WORD == "old" else 3
        yield TextStart(id="t")
        for _ in range(count):
            yield TextDelta(id="t", delta=WORD + " ")
            await asyncio.sleep(0.05)
        yield TextEnd(id="t")
        yield Done("stop")


agent = Agent(name={name!r}, model=Repeating())
"""


class Project:
    """A project with one agent, under `rejoin dev`."""

    def __init__(self, system: LocalSystem, folder: Path, port: int) -> None:
        self.base = f"http://127.0.0.1:{port}"
        self._system = system
        self._file = folder / "shop.py"

    def write(self, word: str) -> None:
        self._file.write_text(CODE.format(word=word, name=self._system.agent))

    def break_it(self) -> None:
        self._file.write_text("def broken(:")

    async def ask(self) -> str:
        answer = await self._system.post(self.base, self._system.chat(self._system.fresh("s"), "short"))
        return answer.text.strip()

    async def answers(self, text: str) -> None:
        async def is_answered() -> bool:
            return await self.ask() == text

        await wait_until(is_answered, f"the answer {text!r}", 30)


@pytest.fixture
async def project(system: LocalSystem, tmp_path: Path) -> AsyncIterator[Project]:
    port = free_ports(1)
    project = Project(system, tmp_path, port)
    project.write("old")
    arguments = ("dev", "shop:agent", "--port", str(port))
    async with await Command.start(
        tmp_path / "dev", *arguments, variables=system.variables(), cwd=tmp_path
    ) as dev:
        await dev.says("ready http")
        yield project


@pytest.mark.feature("F109")
async def test_the_new_code_answers_and_takes_running_runs_over(
    system: LocalSystem, project: Project
) -> None:
    assert await project.ask() == "old old old"
    body = system.chat(system.fresh("s"), "long")
    async with system.http.post(f"{project.base}/api/chat", json=body) as response:
        async for _ in read_frames(response, lambda frame: b"old" in frame.data):
            pass
        project.write("new")
        rest = await response.read()
    assert rest.endswith(b"data: [DONE]\n\n")
    history = await system.get(f"{project.base}/api/agents/{system.agent}/{body['id']}")
    assert _text(history) == "new new new"


async def test_code_that_does_not_start_is_started_once_it_is_mended(project: Project) -> None:
    assert await project.ask() == "old old old"
    project.break_it()
    project.write("new")
    await project.answers("new new new")


def _text(history: Answer) -> str:
    parts = history.json["messages"][-1]["parts"]
    return "".join(part["text"] for part in parts if part["type"] == "text").strip()
