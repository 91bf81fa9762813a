"""What every service process does the same way: logs, signals, and telling its supervisor it is ready."""

import asyncio
import gc
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, Self

import stamina.instrumentation
import structlog

from rejoin_adapters.service import redaction, tracing

SUPERVISOR = "REJOIN_SUPERVISOR_FD"
FILES_MAX = 65_536

type LogFormat = Literal["auto", "json", "console"]


def configure_logs(level: str, form: LogFormat) -> None:
    """Structured logs on stderr: lines for people on a terminal, JSON elsewhere. What libraries log comes out
    the same way, from warnings on, and nothing comes out that `redaction` knows.
    """
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    # Without the frames' variables: they hold what tools were given, and keys.
    trace = None if console else structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        tracing.add_trace_id,
        structlog.processors.ExceptionRenderer(trace) if trace else structlog.processors.format_exc_info,
        redaction.redact,
    ]
    render = (
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        if console
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[*shared, render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    libraries = logging.StreamHandler(sys.stderr)
    libraries.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.add_logger_name,
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *shared,
                render,
            ],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[libraries])
    stamina.instrumentation.set_on_retry_hooks([_on_retry])


def _on_retry(details: stamina.instrumentation.RetryDetails) -> None:
    structlog.get_logger("rejoin").warning(
        "retrying",
        what=details.name,
        error=str(details.caused_by) or type(details.caused_by).__name__,
        attempt=details.retry_num,
        wait_s=round(details.wait_for, 2),
    )


def raise_open_file_limit() -> int:
    """Have as many files open as we may: each stream is one, and what a process begins with is often 1,024.
    Returns how many that is.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, FILES_MAX)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):  # less is allowed than the system says
        return soft
    return wanted


@contextmanager
def on_stop(callback: Callable[[], None]) -> Iterator[None]:
    """Call back on SIGTERM and SIGINT; a second one ends the process as usual."""
    running = asyncio.get_running_loop()

    def first() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            running.remove_signal_handler(number)
        callback()

    for number in (signal.SIGTERM, signal.SIGINT):
        running.add_signal_handler(number, first)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            running.remove_signal_handler(number)


class SupervisorLink:
    """This process's side of the socket to whoever started it and keeps it alive; nothing, if nobody did."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        fd = variables.get(SUPERVISOR)
        self._socket = socket.socket(fileno=int(fd)) if fd else None

    def __enter__(self) -> Self:
        if self._socket is not None:
            asyncio.get_running_loop().add_reader(self._socket, self._orphaned)
        return self

    def __exit__(self, *_: object) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()

    def ready(self, *facts: str) -> None:
        """Say that everything works from now on, and what the supervisor may want to know, as words. What is
        in memory by now stays there: no collection of garbage looks at it again, all streams would wait for
        50 to 100 ms.
        """
        gc.freeze()
        self.say("ready", *facts)

    def say(self, *words: str) -> None:
        """A line to the supervisor."""
        if self._socket is not None:
            self._socket.sendall(" ".join(words).encode() + b"\n")

    def _orphaned(self) -> None:
        # The other end is never written to: it can only close, with its owner. We must not outlive it, and
        # what we leave undone is done by others.
        os.kill(os.getpid(), signal.SIGKILL)
