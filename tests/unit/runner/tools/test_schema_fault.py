"""What a model wrote is checked in the event loop, so only for a short time."""

import time

from rejoin_runner.tools.schema_fault import SCHEMA_FAULT_S, find_schema_fault


def test_a_costly_value_holds_the_event_loop_up_only_briefly() -> None:
    began_s = time.thread_time()
    fault = find_schema_fault(" " * 250_000 + "x", {"pattern": r"\s+$"})
    assert fault == f"checking them takes more than {SCHEMA_FAULT_S:g} s"
    assert time.thread_time() - began_s < 5 * SCHEMA_FAULT_S


def test_thousands_of_values_are_checked_in_time() -> None:
    assert find_schema_fault([1] * 2_000, {"items": {"type": "integer"}}) is None
