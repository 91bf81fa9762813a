"""`rejoin doctor` reports why a check failed."""

from collections.abc import AsyncIterator

import pytest

from rejoin.cli import doctor
from rejoin.cli.check_settings import DoctorSettings
from rejoin.cli.finding import Finding, Severity, ok


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (
            OSError("[Errno 111] Connect call failed\nsecond line"),
            "[Errno 111] Connect call failed (OSError)",
        ),
        (KeyError("agents"), "'agents' (KeyError)"),
        (RuntimeError(), "the check failed (RuntimeError)"),
    ],
)
async def test_an_unexpected_exception_is_reported_with_its_own_reason(
    monkeypatch: pytest.MonkeyPatch, fault: Exception, text: str
) -> None:
    """Not as a refused connection; the findings before the exception are kept."""

    async def fail(_: DoctorSettings) -> AsyncIterator[Finding]:
        yield ok("first")
        raise fault

    monkeypatch.setattr(doctor, "check_settings", lambda _: ())
    monkeypatch.setattr(doctor, "check_nats", fail)
    monkeypatch.setattr(doctor, "check_database", fail)
    findings = await doctor.examine(DoctorSettings(nats_url="nats://x", database_url="postgresql://x"))
    assert [str(finding.severity) for finding in findings] == ["ok", "error", "ok", "error"]
    assert findings[1] == Finding(
        Severity.ERROR, f"broker: {text}", "check REJOIN_NATS_URL, and read the server's log"
    )
    assert findings[3] == Finding(
        Severity.ERROR, f"database: {text}", "check REJOIN_DATABASE_URL, and read the server's log"
    )
