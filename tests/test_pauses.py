"""Tests wait for events and conditions. They sleep only where a pause is what they are about."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAUSES = {
    "tests/aisdk/transports/test_transports.py": "a slow tool",
    "tests/api/test_mcp.py": "a client that leaves a moment after it has asked",
    "tests/contract/test_file_store.py": "the interval of the sweeps",
    "tests/fault/fleet/test_killed_stops.py": "slow tools and models",
    "tests/integration/broker/test_lossy_broker.py": "a reader's pause before it tries again",
    "tests/integration/broker/test_nats_connection.py": "a reader's pause before it tries again",
    "tests/integration/cli/test_embedded_servers.py": "a task that is cancelled again and again",
    "tests/integration/gateway/test_asgi.py": "a client that reads nothing for a while",
    "tests/integration/runner/test_custom_loop.py": "a model's pause, so that its words are two appends",
    "tests/integration/runner/test_output_pacing.py": "models' pauses: output is paced by time",
    "tests/integration/stops/test_left_requests.py": "a gateway that is slow to publish",
    "tests/integration/stops/test_stop_and_send.py": "a tool that ignores its cancellation",
    "tests/integration/system/test_costs.py": "a model's pauses, and those between requests",
    "tests/security/tenants/test_all_attacks.py": "the poll of processes' memory",
    "tests/security/test_connections.py": "a client that sends slowly, and one that pauses between requests",
    "tests/security/test_full_disks.py": "a broker that could go on by itself, and does not",
    "tests/security/test_images.py": "work that takes longer than its limit",
    "tests/security/test_json_shapes.py": "the poll of a loop's pauses",
    "tests/security/test_schemas.py": "the turns of an event loop",
    "tests/support/agents/aisdk.py": "slow tools and models",
    "tests/support/agents/chaos.py": "slow tools",
    "tests/support/agents/greedy.py": "a tool that blocks the event loop",
    "tests/support/agents/isolated.py": "a tool that never returns",
    "tests/support/agents/poison.py": "slow tools and models, and a tool that blocks the event loop",
    "tests/support/agents/stuck.py": "a tool that never returns",
    "tests/support/clients/left_requests.py": "the milliseconds after which a client leaves",
    "tests/support/faults/chaos.py": "the times of strikes and of clients",
    "tests/support/models/mcp_server.py": "the poll of a server that has no event for its start",
    "tests/support/models/scripted_models.py": "models' pauses",
    "tests/support/providers/server.py": "pauses that a script asks for",
    "tests/support/system/observation.py": "the poll of `wait_until`",
    "tests/unit/adapters/process/test_idle_pool.py": "the idle time of a simulated clock",
    "tests/unit/runner/models/test_deadline.py": "calls that are too slow",
    "tests/unit/runner/worker/test_loop_watch.py": "the interval at which a thread looks at a blocked loop",
}
"""The test files that sleep, and what their sleep stands for."""


def pauses(path: Path) -> bool:
    """Whether a file sleeps. `sleep(0)`, which lets other tasks run, does not count."""
    source = path.read_text(encoding="utf-8")
    return "sleep(" in source and any(
        isinstance(node, ast.Call)
        and ast.unparse(node.func) in {"asyncio.sleep", "time.sleep", "sleep"}
        and ast.unparse(node.args[0]) != "0"
        for node in ast.walk(ast.parse(source))
    )


def test_no_test_sleeps_to_wait() -> None:
    """A file that no longer sleeps leaves the table."""
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("*.py") if pauses(path)}
    assert files == PAUSES.keys()
