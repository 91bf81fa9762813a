"""How processes log: one form for our lines and those of libraries, without secrets and texts of users."""

import logging
import sys
import threading
from types import TracebackType

import stamina.instrumentation
import structlog

from rejoin_adapters.process import exception_report, redaction, tracing
from rejoin_adapters.process.log_rate import LogRate
from rejoin_adapters.process.service_process import LogFormat


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
