"""What `rejoin dev` starts first, and what it sends to its services."""

from rejoin.dev.launcher import DevSettings, own_servers
from rejoin.dev.processes import PREPARED, DevProcesses

PREPARE = "rejoin.dev.prepare"


def prepare(services: DevProcesses) -> list[bool]:
    """Whether each service would prepare the servers if it were started now."""
    return [PREPARE in service._arguments() for service in services.all]


async def test_the_first_service_prepares_at_its_first_start_alone() -> None:
    """A runner that is killed must not need the database to start again."""
    for runners, gateways in ((2, 2), (0, 2), (1, 0)):
        services = DevProcesses(
            [["--demo"]] * runners, {8000 + number: ["gateway"] for number in range(gateways)}, {}, "demo"
        )
        first, *others = services.all
        assert prepare(services) == [True, *[False] * len(others)]
        first._commands[PREPARED]()
        assert not any(prepare(services))
        assert first._arguments()[-1] == ("--demo" if runners else "gateway")


def test_a_configuration_for_other_servers_does_not_reach_the_embedded_ones() -> None:
    mine, other = "postgresql://127.0.0.1:1/mine", "postgresql://other/x"
    assert own_servers(DevSettings(), mine) == {
        "REJOIN_NATS_REPLICAS": "1",
        "REJOIN_NATS_PLACEMENT_TAGS": "",
        "REJOIN_MIGRATE_DATABASE_URL": mine,
    }
    assert own_servers(DevSettings(nats_url="nats://other", database_url=other), other) == {}
