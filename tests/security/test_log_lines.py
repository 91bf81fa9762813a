"""No log line holds a secret, moves a terminal's cursor, costs much time, or hides the lines of others."""

import asyncio
import io
import logging
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
import structlog

from rejoin_adapters import log_setup
from rejoin_adapters.process import log_rate, redaction
from rejoin_adapters.process.log_rate import LogRate
from rejoin_adapters.process.redaction import CUT, REDACTED, redact
from rejoin_protocol.limits import (
    LOG_LINE_CHARS_MAX,
    LOG_LINES_BURST_MAX,
    LOG_LINES_PER_S_MAX,
    LOG_TEXT_CHARS_MAX,
)

SECRET = "password=hunter2-hunter2"  # noqa: S105 - that is what is looked for
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl"
type Written = Callable[[], str]


@pytest.fixture(params=["console", "json"])
def written(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Written]:
    """The log in each format, as `configure_logs` writes it."""
    stderr, root = io.StringIO(), logging.getLogger()
    monkeypatch.setattr(sys, "stderr", stderr)
    hooks, handlers, level = (sys.excepthook, sys.unraisablehook), root.handlers, root.level
    root.handlers = []
    log_setup.configure_logs("info", request.param)
    yield stderr.getvalue
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    root.handlers, root.level = handlers, level
    (sys.excepthook, sys.unraisablehook) = hooks


def shown(**event: Any) -> dict[str, Any]:
    return dict(redact(None, "info", event))


def test_controls_are_escaped_in_every_format(written: Written) -> None:
    """Escape sequences, line breaks, bells, C1 controls and reversed text, also in names."""
    evil = "/x\x1b[31m\r\n{}\x07\x7f\x9b\u202e\u2028"
    structlog.get_logger("one").info("request", path=evil, more={evil: [evil]})
    logging.getLogger("library").warning("it says %s", evil)
    lines = written()
    for part in ("\x1b[31m\r", "\r", "\x07", "\x7f", "\x9b", "\u202e", "\u2028"):
        assert part not in lines, repr(part)
    assert lines.count("\n") == 2
    assert "[31m" in lines


def test_half_surrogates_are_escaped() -> None:
    """Not through a logger: pytest's worker processes cannot send captured lines with one."""
    assert "\ud800" not in str(shown(path="/x\ud800", more={"\ud800": ["\ud800"]}))


def failing() -> None:
    raise ValueError(SECRET)


async def forgotten() -> None:
    failing()


def test_no_text_of_an_exception_is_in_any_line(written: Written) -> None:
    """Ours, a library's with and without a traceback, a forgotten task's, and one that nobody handles."""
    try:
        failing()
    except ValueError as fault:
        structlog.get_logger("one").exception("ours")
        logging.getLogger("library").exception("theirs: %s", fault)  # noqa: TRY401 - as libraries do
        sys.excepthook(type(fault), fault, fault.__traceback__)

    async def main() -> None:
        task = asyncio.create_task(forgotten())
        await asyncio.wait([task])

    asyncio.run(main())
    lines = written()
    assert "hunter2" not in lines
    for event in ("ours", "theirs: ValueError", "unhandled_exception", "never retrieved"):
        assert event in lines
    assert lines.count("test_log_lines.py") >= 4


def test_a_secret_that_the_cut_divides_is_not_shown() -> None:
    """A token, a hidden value and a long hidden value at every place around the cut."""
    redaction.hide_only([SECRET, "h" * 3_000])
    for before in (*range(LOG_TEXT_CHARS_MAX - 70, LOG_TEXT_CHARS_MAX + 1), 0):
        for secret in (JWT, SECRET, "h" * 3_000):
            text = shown(event="-" * before + " " + secret + " " + "+" * 5_000)["event"]
            assert "eyJ" not in text, before
            assert "password" not in text, before
            assert "hhhh" not in text, before
            assert len(text) <= LOG_TEXT_CHARS_MAX + len(CUT)
    redaction.hide_only(None)


def test_a_line_is_bounded_whatever_it_holds() -> None:
    """Long texts, many fields, long lists, deep ones and huge numbers."""
    deep: Any = "x"
    for _ in range(500):
        deep = [deep]
    line = shown(
        event="e" * 10_000_000,
        more=["t" * 1_000_000] * 100_000,
        fields={f"{number}": "v" * 1_000 for number in range(100_000)},
        deep=deep,
        number=10**10_000,
    )
    assert len(msgspec.json.encode(line)) < 2 * LOG_LINE_CHARS_MAX


def test_what_begins_like_a_token_and_is_none_stays() -> None:
    assert shown(event="eyJabc and -eyJabc.def eyJ") == {"event": "eyJabc and -eyJabc.def eyJ"}
    assert shown(event=f"x-{JWT} eyJa..b {JWT}.") == {"event": f"x-{REDACTED} eyJa..b {REDACTED}."}


def test_a_path_of_many_beginnings_of_tokens_costs_no_time() -> None:
    """The 8 KB path cost 89 ms, and 300 KB of them in an exception stopped the runner for minutes."""
    for text in ("-eyJ" * 100_000, "eyJa." * 100_000, "sk-" * 100_000, "://" * 100_000, "bearer " * 50_000):
        started_s = time.thread_time()
        shown(event=text, error=text)
        assert time.thread_time() - started_s < 0.05


def test_one_source_is_slowed_and_the_others_are_not() -> None:
    """The number of lines that were left out is in the next one."""
    now_s = 0.0
    rate = LogRate(lambda: now_s)

    def count(lines: int, **source: str) -> int:
        kept = 0
        for _ in range(lines):
            try:
                rate(None, "info", {"event": "request", **source})
                kept += 1
            except structlog.DropEvent:
                pass
        return kept

    assert count(100_000, peer="10.0.0.1") == LOG_LINES_BURST_MAX
    assert count(10, peer="10.0.0.2") == 10
    assert count(10, peer="10.0.0.1", principal="key rk_1") == 10
    now_s = 1.0
    event = rate(None, "info", {"event": "request", "peer": "10.0.0.1"})
    assert event["suppressed"] == 100_000 - LOG_LINES_BURST_MAX
    assert count(1_000, peer="10.0.0.1") == LOG_LINES_PER_S_MAX - 1


def test_the_sources_that_are_remembered_are_bounded() -> None:
    rate = LogRate(lambda: 0.0)
    for number in range(2 * log_rate.SOURCES_MAX):
        rate(None, "info", {"event": "request", "peer": f"{number}" * 1_000})
    assert len(rate._buckets) == log_rate.SOURCES_MAX
    assert max(len(source) for _, source in rate._buckets) == log_rate.SOURCE_CHARS_MAX
