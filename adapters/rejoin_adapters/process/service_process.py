"""What every service process does: logs, signals, the open-file limit, the link to its supervisor."""

import asyncio
import gc
import logging
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Literal, Self

import stamina.instrumentation
import structlog

from rejoin_adapters.process import exception_report, redaction, tracing
from rejoin_adapters.process.log_rate import LogRate

SUPERVISOR = "REJOIN_SUPERVISOR_FD"
OPEN_FILES_MAX = 65_536

type LogFormat = Literal["auto", "json", "console"]


def configure_logs(level: str, log_format: LogFormat) -> None:
    """Structured logs on stderr: readable lines on a terminal, else JSON. Libraries log in the same form,
    from level warning on. All lines pass `log_rate`, `exception_report` and `redaction`; exceptions that
    nobody handles are such lines, too.
    """
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        LogRate(),
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        tracing.add_trace_id,
        exception_report.without_text,
        redaction.redact,
    ]
    render = structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[*shared, render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    libraries = logging.StreamHandler(sys.stderr)
    libraries.addFilter(_without_texts)
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
    _log_unhandled_exceptions()


def _without_texts(record: logging.LogRecord) -> logging.LogRecord:
    """A library's record, with the types of exceptions in place of their texts. asyncio describes tasks with
    their exceptions after the first line.
    """
    if isinstance(record.args, tuple):
        record.args = tuple(
            type(one).__qualname__ if isinstance(one, BaseException) else one for one in record.args
        )
    if record.name == "asyncio":
        record.msg, record.args = record.getMessage().partition("\n")[0], ()
    return record


def _log_unhandled_exceptions() -> None:
    log = structlog.get_logger("rejoin")

    def in_main(kind: type[BaseException], fault: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, fault, trace)
        else:
            exception_report.log_exception(log, "unhandled_exception", fault)

    def in_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None:
            exception_report.log_exception(log, "unhandled_exception", args.exc_value)

    def in_finalizer(args: "sys.UnraisableHookArgs") -> None:
        if args.exc_value is not None:
            exception_report.log_exception(log, "unraisable_exception", args.exc_value)

    sys.excepthook, threading.excepthook, sys.unraisablehook = in_main, in_thread, in_finalizer


def _on_retry(details: stamina.instrumentation.RetryDetails) -> None:
    structlog.get_logger("rejoin").warning(
        "retrying",
        what=details.name,
        error=str(details.caused_by) or type(details.caused_by).__name__,
        attempt=details.retry_num,
        wait_s=round(details.wait_for, 2),
    )


def raise_open_file_limit() -> int:
    """Raise the soft limit of open files to the hard one, at most `OPEN_FILES_MAX`: each stream is an open
    file, and the default soft limit is often 1,024. Returns the limit.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = OPEN_FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES_MAX)
    if soft == resource.RLIM_INFINITY or soft >= target:
        return soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
    except (OSError, ValueError):  # the system allows less than its hard limit
        return soft
    return target


@contextmanager
def on_stop(callback: Callable[[], None]) -> Iterator[None]:
    """Call `callback` on SIGTERM and SIGINT; a second signal ends the process as usual."""
    loop = asyncio.get_running_loop()

    def on_first_signal() -> None:
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(signal_number)
        callback()

    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, on_first_signal)
    try:
        yield
    finally:
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(signal_number)


class SupervisorLink:
    """The socket to the process that supervises this one, if there is one."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        fd = variables.get(SUPERVISOR)
        self._socket = socket.socket(fileno=int(fd)) if fd else None

    def __enter__(self) -> Self:
        if self._socket is not None:
            asyncio.get_running_loop().add_reader(self._socket, self._on_supervisor_death)
        return self

    def __exit__(self, *_: object) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()

    def ready(self, *details: str) -> None:
        """Report that the service is ready, with details for the supervisor. Also freezes the objects in
        memory: a garbage collection that traverses them would pause all streams for 50 to 100 ms.
        """
        gc.freeze()
        self.say("ready", *details)

    def say(self, *words: str) -> None:
        """Send a line to the supervisor."""
        if self._socket is not None:
            self._socket.sendall(" ".join(words).encode() + b"\n")

    def _on_supervisor_death(self) -> None:
        # The supervisor never writes, so the socket is readable only when it closed: the supervisor has died.
        # This process must not outlive it; other processes continue its work.
        os.kill(os.getpid(), signal.SIGKILL)
