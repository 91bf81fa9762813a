"""A log line or a progress line and its end are one write, so that lines of several processes never mix."""

import asyncio
import io
import os
import re
from contextlib import redirect_stderr
from pathlib import Path
from typing import Literal

import pytest
import structlog

from rejoin.dev import launcher, progress
from rejoin.dev.progress import ProgressLines
from rejoin_adapters.embedded.server import free_port
from rejoin_adapters.log_setup import configure_logs
from rejoin_protocol.errors import Invalid
from tests.support.system.observation import wait_until
from tests.support.system.processes import living_children


class Writes(io.StringIO):
    """A stream that records each call of `write`."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def write(self, text: str) -> int:
        self.texts.append(text)
        return len(text)


def test_a_progress_line_is_one_write() -> None:
    with redirect_stderr(Writes()) as writes:
        ProgressLines()("ready")
    [text] = writes.texts
    assert re.fullmatch(r" +\d+\.\d s  ready\n", text)


async def test_a_silent_start_says_what_it_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Again and again, with what is still missing; not once it is complete."""
    monkeypatch.setattr(progress, "SILENCE_MAX_S", 0.02)
    missing = ["runner 0", "gateway 0"]
    with redirect_stderr(Writes()) as writes:
        lines = ProgressLines()
        lines("starting")
        lines.wait_for(lambda: ", ".join(missing))
        reminding = asyncio.create_task(lines.remind())
        await wait_until(lambda: "still waiting: runner 0, gateway 0" in "".join(writes.texts))
        missing.pop()
        await wait_until(lambda: "still waiting: runner 0\n" in "".join(writes.texts))
        lines.is_complete = True
        await reminding


async def test_a_start_that_is_never_complete_gives_up_with_a_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A broker that does not answer: it says for what it waited, and leaves no process behind."""
    monkeypatch.setattr(launcher, "DEV_START_TIMEOUT_S", 0.5)
    before = living_children()
    plan = launcher.DevPlan(None, free_port(), tmp_path, 1, 1, None)
    nowhere = f"nats://127.0.0.1:{free_port()}"
    settings = launcher.DevSettings(nats_url=nowhere, database_url="postgresql://127.0.0.1:1/x")
    with pytest.raises(Invalid, match=r"not complete after 0 s: it waited for preparing streams and tables"):
        await launcher.run(plan, settings, os.environ)
    assert living_children() <= before


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_log_line_is_one_write(form: Literal["json", "console"]) -> None:
    before = structlog.get_config()
    try:
        with redirect_stderr(Writes()) as writes:
            configure_logs("info", form)
            structlog.get_logger("tests").info("serving", agents=["demo"])
    finally:
        structlog.configure(**before)
    [text] = writes.texts
    assert text.endswith("\n")
    assert "serving" in text
