"""The settings, commands, metrics and log events in `docs/operations.md` and the dashboard exist."""

import re
from pathlib import Path

import click
import msgspec

from rejoin.cli import main
from rejoin_gateway.metrics import GatewayMetrics
from rejoin_runner.run.metrics import RunnerMetrics
from tests.support import settings_table

ROOT = Path(__file__).parents[3]
TEXT = settings_table.DOCUMENT.read_text(encoding="utf-8")
DASHBOARD = ROOT / "deploy" / "grafana.json"
SUFFIXES = ("_total", "_bucket", "_count", "_sum")


def metrics() -> set[str]:
    """The names of all families, as a query may say them."""
    families = [
        family
        for registry in (GatewayMetrics().registry, RunnerMetrics().registry)
        for family in registry.collect()
    ]
    names = {family.name for family in families}
    return names | {f"{name}{suffix}" for name in names for suffix in SUFFIXES}


def test_the_table_of_settings_is_that_of_the_structs() -> None:
    assert settings_table.with_new_table(TEXT) == TEXT, "run: python -m tests.support.settings_table"


def test_every_setting_says_what_it_is_for() -> None:
    missing = [name for name, text in settings_table.settings_meanings().items() if not text]
    assert missing == []


def test_every_metric_it_names_exists() -> None:
    assert (
        set(re.findall(r"\brejoin_\w+", TEXT))
        - metrics()
        - {"rejoin_service", "rejoin_gateway", "rejoin_runner"}
        == set()
    )


def label_names(metric: str) -> tuple[str, ...]:
    """The labels of a metric, by the name that a query has for it."""
    collectors = {
        **GatewayMetrics().registry._names_to_collectors,
        **RunnerMetrics().registry._names_to_collectors,
    }
    return tuple(collectors[metric]._labelnames)  # type: ignore[attr-defined]


def test_every_label_of_a_query_exists() -> None:
    queries = re.findall(r"\b(rejoin_\w+)\{(\w+)", TEXT)
    assert len(queries) > 2
    assert [query for query in queries if query[1] not in label_names(query[0])] == []


def test_every_log_event_it_names_exists() -> None:
    code = "\n".join(
        path.read_text(encoding="utf-8")
        for folder in ("adapters", "gateway", "rejoin", "runner")
        for path in (ROOT / folder).rglob("*.py")
    )
    fields = {"on_crash", "max_file_store", "audit_log", "connections_max"} | {
        name.lower() for name in settings_table.settings_meanings()
    }
    events = set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", TEXT)) - fields - metrics()
    assert len(events) > 3
    assert {event for event in events if f'"{event}"' not in code} == set()


def test_every_command_it_names_exists() -> None:
    for words in re.findall(r"`rejoin ([a-z]+(?: [a-z]+)?)", TEXT):
        command: click.Command | None = main.main
        for word in words.split():
            if isinstance(command, click.Group):
                command = command.get_command(click.Context(command), word)
                assert command is not None, words


def test_the_dashboard_asks_for_metrics_that_exist_and_for_all_of_ours() -> None:
    panels = msgspec.json.decode(DASHBOARD.read_bytes())["panels"]
    queries = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    assert len(queries) > 10
    known = metrics()
    asked = {name for query in queries for name in re.findall(r"\b(?:rejoin|process)_\w+", query)}
    assert asked <= known, asked - known
    shown = {name for name in known if {name, *(f"{name}{suffix}" for suffix in SUFFIXES)} & asked}
    assert {name for name in known if name.startswith("rejoin_") and not name.endswith(SUFFIXES)} <= shown
    assert all(re.findall(r"\b(?:rejoin|process)_\w+", query) for query in queries)
    assert len({panel["id"] for panel in panels}) == len(panels)
