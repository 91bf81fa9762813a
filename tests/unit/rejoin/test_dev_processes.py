"""What `rejoin dev` starts first."""

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
