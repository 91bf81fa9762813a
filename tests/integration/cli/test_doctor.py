"""`rejoin doctor` finds faults of an installation, says how to mend them, and changes nothing."""

import time
from base64 import b64encode
from typing import Any

import pytest

from rejoin.cli import doctor
from rejoin.cli.check_settings import DoctorSettings, check_settings
from rejoin.cli.finding import Finding, Severity
from rejoin_adapters.embedded import Servers
from rejoin_adapters.jetstream import nats_connection, setup
from rejoin_adapters.jetstream.agent_registry import JetStreamAgentRegistry
from rejoin_adapters.jetstream.run_log import JetStreamRunLog
from rejoin_protocol.ids import AgentName, RunId
from rejoin_protocol.run_request import AgentEntry
from tests.support.system.databases import fresh_database, migrated_database, missing_migrations
from tests.support.system.local_system import LocalSystem
from tests.support.system.nats_cluster import Cluster, cluster
from tests.support.system.processes import free_ports, run_rejoin

PEPPER = "p" * 16


def settings(servers: Servers | LocalSystem, **given: Any) -> DoctorSettings:
    wanted = {
        "nats_url": servers.nats_url,
        "database_url": servers.database_url,
        "allow_anonymous": True,
        **given,
    }
    return DoctorSettings(**wanted)


def said(found: list[Finding], severity: Severity) -> list[str]:
    return [finding.text for finding in found if finding.severity is severity]


async def test_a_working_installation_has_nothing_wrong(system: LocalSystem) -> None:
    await system.runner()
    found = await doctor.examine(settings(system, default_agent=system.agent))
    assert f"agents: {system.agent} is served" in said(found, Severity.OK)
    wrong = [one for one in said(found, Severity.ERROR) if not one.startswith("runs: ")]  # other tests' runs
    assert [one for one in wrong if not one.endswith("encryption keys are set")] == []  # other tests' agents


async def test_the_command_reports_faults_and_exits_with_1(system: LocalSystem) -> None:
    code, out, err = await run_rejoin(system, "doctor")
    assert code == 1
    assert "error  no request could be authenticated" in out
    assert "Traceback" not in out + err


def test_unreachable_servers_are_reported(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Without a traceback and without a secret."""
    monkeypatch.setattr(doctor, "DOCTOR_TIMEOUT_S", 0.3)
    port = free_ports(1)
    unreachable = DoctorSettings(
        nats_url=f"nats://s3cret@127.0.0.1:{port}",
        database_url=f"postgresql://rejoin:hunter2@127.0.0.1:{port}/rejoin",
    )
    with pytest.raises(SystemExit, match="1"):
        doctor.print_findings(unreachable)
    said = "".join(capfd.readouterr())
    assert "error  broker: no answer within 0.3 s" in said
    assert "error  database: the database cannot be reached" in said
    assert "REJOIN_NATS_URL" in said
    assert "Traceback" not in said
    assert "s3cret" not in said
    assert "hunter2" not in said


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"allow_anonymous": False}, "no request could be authenticated"),
        ({"host": "0.0.0.0"}, "REJOIN_ALLOW_ANONYMOUS is set and the host is 0.0.0.0"),  # noqa: S104
        ({"jwt_key": "k" * 32}, "accept tokens of any issuer"),
        ({"ack_wait_s": 0.3}, "must send a heartbeat every 0.1 s"),
        ({"session_retention_s": 60.0}, "sessions are deleted after 60 s"),
        ({"public_url": "chat.example.com"}, "REJOIN_PUBLIC_URL is an http or https URL"),
        ({"public_url": "https://chat.example.com"}, "the URLs of files are not signed"),
        (
            {"host": "10.0.0.1", "allow_anonymous": False, "api_key_pepper": PEPPER},
            "/metrics is a public route",
        ),
    ],
)
def test_settings_that_contradict(given: dict[str, Any], what: str, servers: Servers) -> None:
    found = list(check_settings(settings(servers, **given)))
    assert [finding for finding in found if what in finding.text]
    assert all(finding.remedy for finding in found)


def test_settings_that_do_not(servers: Servers) -> None:
    assert list(check_settings(settings(servers))) == []


async def test_a_database_that_was_not_migrated(servers: Servers) -> None:
    async with fresh_database(servers.database_url) as url:
        found = await doctor.examine(settings(servers, database_url=url))
        assert [one for one in said(found, Severity.ERROR) if "misses migrations" in one]
        assert await missing_migrations(url)  # it has not done it itself


async def test_a_wrong_password(servers: Servers) -> None:
    user, host = servers.database_url.split("@")
    found = await doctor.examine(settings(servers, database_url=f"{user}x@{host}"))
    assert [
        one
        for one in said(found, Severity.ERROR)
        if one.startswith("database: the database refuses the connection: the user or the password")
    ]


async def test_no_key_and_an_agent_that_nobody_serves(servers: Servers) -> None:
    """An agent that wants a context, announced and then left; a default that does not exist."""
    name, now_ms = AgentName("left-alone"), int(time.time() * 1_000)
    entry = AgentEntry(name, "", {"type": "object"}, 1, now_ms - 600_000)
    async with nats_connection.connect(servers.nats_url, "tests") as connection:
        await JetStreamAgentRegistry(connection).announce(entry)
    async with migrated_database(servers.database_url) as url:
        wanted = settings(
            servers, database_url=url, allow_anonymous=False, api_key_pepper=PEPPER, default_agent="no-such"
        )
        found = await doctor.examine(wanted)
    wrong = said(found, Severity.ERROR)
    assert "keys: there is no valid API key" in wrong
    assert "agents: left-alone declares a context, and no context encryption keys are set" in wrong
    assert "agents: REJOIN_DEFAULT_AGENT is no-such, which no runner serves" in wrong
    assert [one for one in said(found, Severity.NOTE) if "left-alone was last announced 60" in one]


@pytest.fixture(scope="module")
async def brokers(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One server with the production configuration."""
    async with cluster(tmp_path_factory.mktemp("doctor"), 1) as running:
        yield running


async def test_with_the_production_users_it_reports_the_permissions_of_each(
    brokers: Cluster, servers: Servers
) -> None:
    """Streams are missing, then there; the gateway's user writes no log, the administrator's sees all."""
    as_gateway = settings(servers, nats_url=brokers.url("gateway"))
    found = await doctor.examine(as_gateway)
    assert [one for one in said(found, Severity.ERROR) if "the streams" in one and "are missing" in one]
    async with nats_connection.connect(brokers.url("admin"), "tests") as admin:
        await setup.declare_streams(admin, setup.StreamSettings())
        found = await doctor.examine(as_gateway)
        assert "broker: this user cannot write logs" in said(found, Severity.OK)
        assert [one for one in said(found, Severity.NOTE) if "cannot see the configuration" in one]
        found = await doctor.examine(
            settings(servers, nats_url=brokers.url("admin"), run_log_retention_s=60, nats_replicas=1)
        )
        assert [one for one in said(found, Severity.ERROR) if "max_age of LOG" in one]
        assert [one for one in said(found, Severity.NOTE) if "this user can write logs" in one]
        assert await JetStreamRunLog(admin, admin).last(RunId("run_doctor")) is None  # it has written nothing


async def test_sealing_keys_of_its_own_are_enough(servers: Servers) -> None:
    keys = f"k1:{b64encode(b'1' * 32).decode()}"
    found = await doctor.examine(settings(servers, context_encryption_keys=keys))
    assert not [one for one in said(found, Severity.ERROR) if "no context encryption keys" in one]
