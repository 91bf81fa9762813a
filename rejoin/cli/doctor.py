"""`rejoin doctor`: checks an installation from this machine, and prints errors with their remedies.

Changes nothing. It sees what the database and NATS users in the URLs may see; use an administrator's URLs to
check everything.
"""

import asyncio
from collections.abc import AsyncIterator, Callable

import click

from rejoin.cli.check_database import check_database
from rejoin.cli.check_nats import check_nats
from rejoin.cli.check_settings import DoctorSettings, check_settings
from rejoin.cli.finding import Finding, Severity, error
from rejoin_protocol.errors import RejoinError

DOCTOR_TIMEOUT_S = 5.0

type Check = Callable[[DoctorSettings], AsyncIterator[Finding]]


async def examine(settings: DoctorSettings) -> list[Finding]:
    """Run all checks. Takes at most `DOCTOR_TIMEOUT_S` for each server."""
    findings = list(check_settings(settings))
    findings += await _run_check("broker", "REJOIN_NATS_URL", check_nats, settings)
    findings += await _run_check("database", "REJOIN_DATABASE_URL", check_database, settings)
    return findings


async def _run_check(name: str, url_setting: str, check: Check, settings: DoctorSettings) -> list[Finding]:
    """The findings of one server's check. A server that cannot be reached is a finding, too."""
    findings: list[Finding] = []
    try:
        async with asyncio.timeout(DOCTOR_TIMEOUT_S):
            async for finding in check(settings):
                findings.append(finding)  # noqa: PERF401 - keeps the findings before a failure
    except TimeoutError:
        findings.append(
            error(
                f"{name}: no answer within {DOCTOR_TIMEOUT_S:g} s",
                f"check {url_setting}, that the server runs, and the network",
            )
        )
    except RejoinError as fault:
        findings.append(error(f"{name}: {fault}", f"check {url_setting}, and see deploy/README.md"))
    except Exception as fault:  # noqa: BLE001 - the driver raises many types, for example for a wrong password
        findings.append(error(f"{name}: {_reason(fault)}", f"check {url_setting}, and read the server's log"))
    return findings


def _reason(fault: Exception) -> str:
    """The first line of the exception's text, and its type."""
    text = str(fault).strip() or "the check failed"
    return f"{text.splitlines()[0]} ({type(fault).__name__})"


def print_findings(settings: DoctorSettings) -> None:
    """Run all checks and print the findings. Exits with 1 if one of them is an error."""
    findings = asyncio.run(examine(settings))
    click.echo("\n".join(str(finding) for finding in findings))
    if any(finding.severity is Severity.ERROR for finding in findings):
        raise SystemExit(1)
