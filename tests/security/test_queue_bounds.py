"""Every queue of the product has a bound, and this table names it."""

import ast
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "adapters/rejoin_adapters",
    "gateway/rejoin_gateway",
    "protocol/rejoin_protocol",
    "rejoin",
    "runner",
)
QUEUES = {"Queue", "LifoQueue", "PriorityQueue", "SimpleQueue", "deque"}
EMPTY = ""
"""Nothing stays in the queue."""
BOUNDS = {
    "adapters/rejoin_adapters/jetstream/nats_client.py": EMPTY,  # messages are delivered without it
    "runner/rejoin_runner/output/event_writer.py": "QUEUED_OPERATIONS_MAX",
    "runner/rejoin_runner/output/journal.py": "QUEUED_EVENTS_MAX",
}
"""The constant that bounds the queues of a module. A queue with a `maxsize` or a `maxlen` names its bound
itself.
"""
OTHER_WAITING = {
    "rejoin_adapters.jetstream.nats_connection": ["PENDING_MESSAGES_MAX", "PENDING_BYTES_MAX"],
    "rejoin_adapters.ports.webhooks": ["PENDING_MAX"],
    "rejoin_gateway.core.backend": ["CHECKS_MAX"],
    "rejoin_runner.worker.worker": ["PULL_BATCH_MAX"],
    "rejoin_runner.worker.quarantine": ["ALONE_MIN", "ALONE_MAX", "WAITING_MAX"],
    "rejoin_runner.tools.isolated_calls": ["PROCESSES_MAX", "FRAME_BYTES_MAX"],
    "rejoin_runner.tools.thread_calls": ["THREADS_MAX"],
}
"""What waits elsewhere than in a queue object, and its bounds."""


def unbounded_queues() -> set[str]:
    """The modules that create a queue without a size."""
    found = set()
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not isinstance(node, ast.Call):
                    continue
                name = (
                    node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                )
                if name in QUEUES and not node.args and not node.keywords:
                    found.add(str(path.relative_to(ROOT)))
    return found


def test_every_queue_without_a_size_is_in_the_table() -> None:
    assert unbounded_queues() == BOUNDS.keys()


def test_every_bound_exists_and_is_used() -> None:
    for file, bound in BOUNDS.items():
        text = (ROOT / file).read_text(encoding="utf-8")
        assert bound == EMPTY or text.count(bound) > 1, file
    for module, names in OTHER_WAITING.items():
        for name in names:
            assert getattr(import_module(module), name) > 0
