"""Tools in processes of their own: what comes back, what does not, and what is left behind (nothing)."""

import asyncio
import os
import signal
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil
import pytest

from rejoin_protocol.errors import Invalid
from rejoin_protocol.events.chunks import Chunk
from rejoin_protocol.ids import CallId, RunId, SessionId
from rejoin_protocol.log.record import Audience
from rejoin_runner.tools.output_port import NewArtifact
from rejoin_runner.tools.tool import Tool
from rejoin_runner.tools.tool_context import ToolContext
from rejoin_runner.tools.tool_decorator import tool
from rejoin_runner.tools.tool_error import ToolError
from tests.support.agents import isolated
from tests.support.system.observation import wait_until
from tests.support.system.processes import has_exited, living_children

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


class Output:
    """Collects what a call emits."""

    def __init__(self) -> None:
        self.agent, self.run = "helper", RunId("run_1")
        self.status_audience = Audience.OPERATIONS
        self.emitted: list[str] = []
        self.shown: list[Any] = []
        self.artifacts: list[NewArtifact] = []

    async def emit(self, chunk: Chunk, audience: Audience = Audience.ALL) -> None:
        if audience is Audience.ALL:
            self.emitted.append(str(getattr(chunk, "data", {}).get("status", "artifact")))

    async def show_preliminary(self, output: Any) -> None:
        self.shown.append(output)

    async def store_artifact(self, artifact: NewArtifact) -> None:
        self.artifacts.append(artifact)

    def next_number(self, kind: str) -> int:
        raise AssertionError(f"the process counts {kind} itself")

    def now_ms(self) -> int:
        return 0


async def call(made: Tool[Any], context: Any = None, output: Output | None = None, **input: Any) -> Any:
    of_call: ToolContext[Any] = ToolContext(
        RunId("run_1"), SessionId("s"), CallId("c"), context, output=output or Output()
    )
    return await made.call(input, of_call)


async def test_a_call_gets_its_arguments_and_its_context_in_another_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And none of Rejoin's settings."""
    monkeypatch.setenv("REJOIN_DATABASE_URL", "postgresql://secret")
    said = await call(isolated.where, isolated.Shop("Corner"), word="hi")
    assert said.pop("pid") != os.getpid()
    assert said == {"shop": "Corner", "word": "hi", "settings": []}


async def test_what_it_emits_arrives_in_order() -> None:
    output = Output()
    assert await call(isolated.draw, output=output, lines=5) == "drawn"
    assert output.emitted == [*(f"line {number}" for number in range(5)), "artifact"]
    assert [artifact.data for artifact in output.artifacts] == [{"lines": 5}]


async def test_a_generator_shows_its_preliminary_results() -> None:
    output = Output()
    assert await call(isolated.grow, output=output) == 2
    assert output.shown == [0, 1, 2]


@pytest.mark.parametrize(
    ("kind", "told"),
    [("told", "the shop is closed"), ("secret", "the tool failed (ValueError)"), ("exit", "the tool failed")],
)
async def test_what_it_raises_is_told_without_its_text_unless_it_is_for_the_model(
    kind: str, told: str
) -> None:
    with pytest.raises(ToolError) as caught:
        await call(isolated.fail, kind=kind)
    assert str(caught.value).startswith(told)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("number", "how"),
    [(3, "exit code 3"), (-signal.SIGSEGV, "SIGSEGV"), (-signal.SIGKILL, "SIGKILL")],
)
async def test_a_process_that_dies_fails_its_call_alone(number: int, how: str) -> None:
    with pytest.raises(ToolError, match=how):
        await call(isolated.die, number=int(number))


async def test_memory_and_cpu_time_are_limited() -> None:
    async with asyncio.TaskGroup() as group:
        burnt = group.create_task(refused(isolated.burn))
        with pytest.raises(ToolError, match="needs more than 512 MiB of memory"):
            await call(isolated.eat, size=isolated.MEMORY_BYTES_MAX)
    assert burnt.result() == "the tool needs more than 1 s of CPU time"


async def refused(made: Tool[Any]) -> str:
    with pytest.raises(ToolError) as caught:
        await call(made)
    return str(caught.value)


async def test_a_call_that_takes_too_long_is_killed_with_what_it_has_started(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    with pytest.raises(TimeoutError):
        await call(isolated.hang, mark=str(mark))
    pids = [int(pid) for pid in mark.read_text().split()]
    assert len(pids) == 4
    assert [pid for pid in pids if not is_gone(pid)] == []


async def test_what_a_call_has_started_ends_with_it(tmp_path: Path) -> None:
    """Also what has left the group of its process, and if the process kills itself."""
    mark, others = tmp_path / "mark", living_children()
    left = await call(isolated.leave, how="return")
    with pytest.raises(ToolError, match="SIGKILL"):
        await call(isolated.leave, how=str(mark))
    left += [int(pid) for pid in mark.read_text().split()]
    assert len(left) == 6
    assert [pid for pid in left if not is_gone(pid)] == []
    assert living_children() <= others


async def test_a_keeper_that_does_not_answer_is_killed() -> None:
    """The tool has stopped it: the call ends all the same, with the process."""
    pid = await call(isolated.stop_keeper)
    await wait_until(lambda: is_gone(pid), "the end of the process")


async def test_a_call_that_is_cancelled_is_killed(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    async with asyncio.TaskGroup() as group:
        task = group.create_task(call(isolated.wait, mark=str(mark)))
        await wait_until(lambda: mark.exists() and mark.read_text(), "the call")
        task.cancel()
    assert is_gone(int(mark.read_text()))


def is_gone(pid: int) -> bool:
    try:
        return has_exited(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return True


async def test_a_context_that_cannot_be_pickled_and_an_argument_that_does_not_fit_are_told() -> None:
    with pytest.raises(ToolError, match="context cannot be sent"):
        await call(isolated.where, lambda: None, word="hi")
    with pytest.raises(ToolError, match="the arguments do not fit"):
        await call(isolated.where, isolated.Shop("Corner"), word=3)


async def test_the_example_of_the_documentation_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs" / "agents.md").read_text(encoding="utf-8")
    example = page.split("### Tools in processes of their own")[1].split("```python\n")[1].split("```")[0]
    (tmp_path / "documented_tools.py").write_text(example)
    monkeypatch.syspath_prepend(str(tmp_path))
    output = Output()
    assert await call(import_module("documented_tools").median, output=output, numbers=[3.0, 1.0, 2.0]) == 2.0
    assert output.emitted == ["sorting"]


def test_a_function_that_no_process_can_import_is_refused() -> None:
    async def local(word: str) -> str:
        """A function of a function."""
        return word

    with pytest.raises(Invalid, match="a function of a module"):
        tool(isolate=True)(local)
