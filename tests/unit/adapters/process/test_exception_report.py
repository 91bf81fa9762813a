"""The report of an application's exception has its type and place, and no value."""

import msgspec

from rejoin_adapters.process.exception_report import TRACE_FRAMES_MAX, report_exception

SECRET = "hunter2"  # noqa: S105 - that is what is looked for


def raises(password: str) -> None:
    try:
        {"user": "x"}[password]
    except KeyError as fault:
        raise ValueError(f"{password} is wrong") from fault


def caught(password: str) -> Exception:
    try:
        raises(password)
    except ValueError as fault:
        return fault
    raise AssertionError


def test_type_place_and_causes_are_told_and_no_value() -> None:
    report = report_exception(caught(SECRET))
    assert report["error"] == "ValueError"
    frames, causes = report["frames"], report["causes"]
    assert isinstance(frames, list)
    assert frames[-1].split(":")[-1].endswith(" raises")
    assert "test_exception_report.py" in frames[-1]
    assert isinstance(causes, list)
    assert causes[0].startswith("KeyError ")
    assert SECRET not in msgspec.json.encode(report).decode()


def test_the_members_of_a_group_are_causes() -> None:
    report = report_exception(ExceptionGroup(SECRET, [caught(SECRET), TypeError(SECRET)]))
    assert report["error"] == "ExceptionGroup"
    causes = report["causes"]
    assert isinstance(causes, list)
    assert [cause.partition(" ")[0] for cause in causes] == ["ValueError", "TypeError", "KeyError"]
    assert SECRET not in msgspec.json.encode(report).decode()


def test_a_deep_recursion_and_a_circle_of_causes_are_bounded() -> None:
    def dive(depth: int) -> None:
        if depth == 0:
            raise RuntimeError(SECRET)
        dive(depth - 1)

    try:
        dive(100)
    except RuntimeError as fault:
        other = ValueError(SECRET)
        fault.__cause__, other.__cause__ = other, fault
        report = report_exception(fault)
    frames = report["frames"]
    assert isinstance(frames, list)
    assert len(frames) == TRACE_FRAMES_MAX
    assert report["causes"] == ["ValueError"]
