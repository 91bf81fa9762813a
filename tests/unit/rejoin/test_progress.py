"""A log line or a progress line and its end are one write, so that lines of several processes never mix."""

import io
import re
from contextlib import redirect_stderr
from typing import Literal

import pytest
import structlog

from rejoin.dev.progress import ProgressLines
from rejoin_adapters.process.service_process import configure_logs


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
