"""How long a sender of webhooks waits before it tries again."""

import pytest

from rejoin_runner.worker.webhook_sender import RETRY_S_MAX, parse_retry_after, retry_delay_s


def test_pauses_grow_fourfold_up_to_four_hours() -> None:
    pauses = [retry_delay_s(attempt, 5, None, 0.5) for attempt in range(1, 9)]
    assert pauses[:4] == [5, 20, 80, 320]
    assert pauses[-1] == RETRY_S_MAX == 4 * 3600
    assert retry_delay_s(10_000, 5, None, 0.5) == RETRY_S_MAX


def test_pauses_differ_by_up_to_a_quarter() -> None:
    assert [retry_delay_s(2, 5, None, share) for share in (0, 0.5, 1)] == [15, 20, 25]


@pytest.mark.parametrize(
    ("asked_s", "pause_s"), [(None, 5), (1, 5), (60, 60), (86_400, RETRY_S_MAX), (float("inf"), RETRY_S_MAX)]
)
def test_a_receiver_may_ask_for_a_longer_pause_within_bounds(asked_s: float | None, pause_s: float) -> None:
    assert retry_delay_s(1, 5, asked_s, 0.5) == pause_s


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None),
        ("120", 120),
        ("0", 0),
        ("Thu, 01 Jan 1970 00:02:00 GMT", 20),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("soon", None),
        ("", None),
        ("-5", None),
        ("1e9", None),
        ("9" * 65, None),
        ("Thu, 01 Jan 99999999 00:00:00 GMT", None),
    ],
)
def test_retry_after_is_a_number_or_a_date(text: str | None, seconds: float | None) -> None:
    assert parse_retry_after(text, 100) == seconds
