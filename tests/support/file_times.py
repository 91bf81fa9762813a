"""A pytest plugin: `--file-times` ends the output with the seconds that each test file took."""

from collections import defaultdict
from collections.abc import Iterable, Mapping

import pytest


def seconds_by_file(reports: Iterable[pytest.TestReport]) -> Mapping[str, float]:
    """Setup, call and teardown of all tests of a file, in seconds, over all worker processes."""
    seconds: defaultdict[str, float] = defaultdict(float)
    for report in reports:
        seconds[report.nodeid.partition("::")[0]] += report.duration
    return seconds


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--file-times", action="store_true", help="print the seconds that each test file took")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if not config.getoption("--file-times"):
        return
    reports = [
        report
        for outcome in terminalreporter.stats.values()
        for report in outcome
        if isinstance(report, pytest.TestReport)
    ]
    seconds = seconds_by_file(reports)
    terminalreporter.section("seconds by file")
    for file, duration in sorted(seconds.items(), key=lambda entry: -entry[1]):
        terminalreporter.write_line(f"{duration:8.1f}  {file}")
    terminalreporter.write_line(f"{sum(seconds.values()):8.1f}  all files")
