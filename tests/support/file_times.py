"""A pytest plugin about the time that test files take.

`--file-times` ends the output with the seconds of each file. `--longest-first` begins with the longest files,
so that no process is left alone with one of them at the end; with xdist it needs `--no-loadscope-reorder`.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping

import pytest

LONGEST = (
    "tests/integration/gateway/test_openapi_fuzz.py",
    "tests/browser/test_inkeep_widget.py",
    "tests/aisdk/test_conformance.py",
    "tests/browser/test_flows.py",
    "tests/browser/test_playground.py",
    "tests/packaging/test_fresh_project.py",
    "tests/packaging/test_version_ranges.py",
    "tests/security/tenants/test_one_tenant.py",
    "tests/fault/fleet/test_chaos.py",
    "tests/fault/fleet/test_quarantine.py",
    "tests/security/test_patterns.py",
    "tests/browser/test_look.py",
    "tests/integration/providers/test_any_history.py",
    "tests/browser/test_inspector.py",
    "tests/browser/test_docs.py",
    "tests/browser/test_parts.py",
    "tests/fault/fleet/test_log_shards.py",
    "tests/clients/openai/test_generic_clients.py",
    "tests/clients/ag_ui/test_http_agent.py",
    "tests/browser/console/test_runs.py",
    "tests/fault/fleet/test_processes.py",
    "tests/packaging/test_bench_servers.py",
    "tests/packaging/test_installed_extras.py",
    "tests/security/test_isolated_tools.py",
    "tests/fault/takeover/test_sub_agents.py",
    "tests/fault/fleet/test_cluster.py",
    "tests/fault/takeover/test_killed_typed_answers.py",
    "tests/security/tenants/test_all_attacks.py",
    "tests/fault/takeover/test_killed_client_tools.py",
)
"""The files whose slow tests take longest, by `--file-times`; only their order matters."""


def place_of(node_id: str) -> int:
    """Where the tests of a test's file come: in the order of `LONGEST`, all other files after these."""
    file = node_id.partition("::")[0]
    return LONGEST.index(file) if file in LONGEST else len(LONGEST)


def seconds_by_file(reports: Iterable[pytest.TestReport]) -> Mapping[str, float]:
    """Setup, call and teardown of all tests of a file, in seconds, over all worker processes."""
    seconds: defaultdict[str, float] = defaultdict(float)
    for report in reports:
        seconds[report.nodeid.partition("::")[0]] += report.duration
    return seconds


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--file-times", action="store_true", help="print the seconds that each test file took")
    parser.addoption("--longest-first", action="store_true", help="begin with the files that take longest")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Reorder the files; the tests of a file keep their order."""
    if config.getoption("--longest-first"):
        items.sort(key=lambda item: place_of(item.nodeid))


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
