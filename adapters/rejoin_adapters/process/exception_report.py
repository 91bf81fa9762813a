"""An exception for the log: its type and its place, never its text.

The text of an exception, and the values of local variables, may hold what a user wrote, or a secret. Which
line of which function raised which type tells a developer where to look.
"""

import sys
from traceback import extract_tb

import structlog
from structlog.typing import EventDict, WrappedLogger

TRACE_FRAMES_MAX = 20


def log_exception(
    log: structlog.typing.FilteringBoundLogger, event: str, fault: BaseException, **fields: object
) -> None:
    """Log an error line with the fields of `report_exception`."""
    log.error(event, **fields, **report_exception(fault))


def without_text(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Log processor: the exception of a line becomes the fields of `report_exception`."""
    del logger, method
    match event.pop("exc_info", None):
        case BaseException() as fault:
            event.update(report_exception(fault))
        case (_, BaseException() as fault, _):
            event.update(report_exception(fault))
        case given if given and (current := sys.exception()) is not None:
            event.update(report_exception(current))
    return event


def report_exception(fault: BaseException) -> dict[str, object]:
    """Fields for a log line.

    `error` is the type. `frames` are `file:line function`, the innermost last, at most `TRACE_FRAMES_MAX`.
    `causes` are the types of the exceptions behind it, and of the members of a group.
    """
    frames = extract_tb(fault.__traceback__)[-TRACE_FRAMES_MAX:]
    report: dict[str, object] = {
        "error": type(fault).__qualname__,
        "frames": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
    }
    if causes := _causes(fault):
        report["causes"] = causes
    return report


def _causes(fault: BaseException) -> list[str]:
    """The types behind an exception, nearest first, each with the line that raised it."""
    causes: list[str] = []
    seen = {id(fault)}
    waiting = _direct_causes(fault)
    while waiting and len(causes) < TRACE_FRAMES_MAX:
        cause = waiting.pop(0)
        if id(cause) in seen:
            continue
        seen.add(id(cause))
        place = "".join(f" {frame.filename}:{frame.lineno}" for frame in extract_tb(cause.__traceback__)[-1:])
        causes.append(type(cause).__qualname__ + place)
        waiting += _direct_causes(cause)
    return causes


def _direct_causes(fault: BaseException) -> list[BaseException]:
    members = list(fault.exceptions) if isinstance(fault, BaseExceptionGroup) else []
    behind = fault.__cause__ or (None if fault.__suppress_context__ else fault.__context__)
    return members if behind is None else [*members, behind]
