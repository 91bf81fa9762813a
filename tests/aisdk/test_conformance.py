"""The real AI SDK clients, in all supported versions, against real processes: each flow ends with the stored
messages.

`flows.mjs` holds the flows and what a version cannot do; `compare.mjs` what a version cannot know.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rejoin_adapters.embedded import Servers
from tests.support.browser.node import INSTALL_S_MAX, install_packages, run_command
from tests.support.system.observation import RecordMeasurement
from tests.support.system.processes import Dev, rejoin_dev

HERE = Path(__file__).parent
AGENT = "conformance"
FLOWS_S_MAX = 360.0
LINE_BYTES_MAX = 16 * 1024 * 1024
NEWEST = "7.0.173?ui=7"
"""As `RejoinChatTransport` asks: the only client that receives every chunk type."""
CLIENTS = (
    "5.0.277",
    "6.0.44",
    "6.0.326",
    "7.0.60",
    "7.0.119",
    "7.0.137",
    "7.0.173",
    "5.0.277?ui=5",
    "6.0.326?ui=6",
    NEWEST,
)
"""Versions of npm `ai`, and what they state about themselves: at default settings nothing."""
FAMILIES = ("run", "graph", "parts", "agent-chat", "session")
ERAS = ("5.0.277", "6.0.44", "7.0.173")
FAMILY_CLIENTS = (
    *(f"{version}@{family}" for family in FAMILIES for version in ERAS),
    "6.0.326?ui=6@agent-chat",
)
"""One of each generation, in the other APIs that stream UI chunks."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(INSTALL_S_MAX + FLOWS_S_MAX)]


class Played(msgspec.Struct):
    """One flow in one version."""

    version: str
    flow: str
    ok: bool
    took_ms: int
    notes: list[str] = []
    error: str = ""


@pytest.fixture(scope="module")
async def node() -> str:
    return await install_packages(HERE)


@pytest.fixture(scope="module")
async def running(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Dev]:
    """Two gateways and two runners, as processes."""
    place = tmp_path_factory.mktemp("aisdk")
    variables = {"REJOIN_NATS_URL": servers.nats_url, "REJOIN_DATABASE_URL": servers.database_url}
    async with rejoin_dev(place, "tests.support.agents.aisdk:agent", variables=variables) as started:
        yield started


class Report(msgspec.Struct):
    """What the driver said: the flows that there are, and how they went."""

    flows: list[str] = []
    family_flows: list[str] = []
    played: list[Played] = []


@pytest.fixture(scope="module")
async def report(node: str, running: Dev) -> Report:
    """Every flow in every version."""
    place = {"agent": AGENT, "gateways": running.gateways}
    async with asyncio.timeout(FLOWS_S_MAX):
        return await play(node, place, running)


async def play(node: str, place: Mapping[str, Any], running: Dev) -> Report:
    """Return the driver's report of each flow. Kill the runners when the driver asks for it."""
    process = await asyncio.create_subprocess_exec(
        node,
        HERE / "driver.mjs",
        msgspec.json.encode(place).decode(),
        *CLIENTS,
        *FAMILY_CLIENTS,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        limit=LINE_BYTES_MAX,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        found = msgspec.json.decode(await process.stdout.readline(), type=Report)
        async for line in process.stdout:
            if line == b'{"kill":true}\n':
                running.kill_runners()
                process.stdin.write(b"killed\n")
            else:
                found.played.append(msgspec.json.decode(line, type=Played))
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return found


def plays(version: str, flow: str) -> bool:
    """Whether there is such a flow in a version: the workflow transport came with v7."""
    return version.startswith("7.") or not flow.startswith("workflow")


def table(report: Report) -> str:
    """Flows by versions. A number refers to what a version cannot, below."""
    cells = {(one.flow, one.version): one for one in report.played}
    notes = list(dict.fromkeys(note for one in report.played for note in one.notes))
    width = max(map(len, report.flows))
    rows = []
    for flows, clients in ((report.flows, CLIENTS), (report.family_flows, FAMILY_CLIENTS)):
        rows.append(" " * width + "".join(f"{version:>19}" for version in clients))
        for flow in flows:
            row = "".join(f"{cell(cells.get((flow, version)), notes):>19}" for version in clients)
            rows.append(f"{flow:{width}}{row}")
    return "\n".join([*rows, *(f"  {number} {note}" for number, note in enumerate(notes, 1))])


def cell(one: Played | None, notes: list[str]) -> str:
    """One flow in one version."""
    if one is None:
        return "-"
    if not one.ok:
        return "FAILED"
    return " ".join(["ok", *(str(notes.index(note) + 1) for note in one.notes)])


@pytest.mark.feature("F67", "F84", "F95")
@pytest.mark.parametrize("version", CLIENTS)
def test_every_flow_ends_with_the_stored_messages_in_the_client(report: Report, version: str) -> None:
    """Tools, approvals, interrupts, reloads, cuts, tabs, edits, files, errors, a killed runner."""
    own = {one.flow: one for one in report.played if one.version == version}
    assert set(own) == {flow for flow in report.flows if plays(version, flow)}
    assert {flow: one.error for flow, one in own.items() if not one.ok} == {}


@pytest.mark.feature("F67", "F84", "F95")
@pytest.mark.parametrize("client", FAMILY_CLIENTS)
def test_every_generation_reads_every_api_that_streams_ui_chunks(report: Report, client: str) -> None:
    """With what each API sends to a client that states nothing."""
    own = {one.flow: one for one in report.played if one.version == client}
    assert set(own) == set(report.family_flows)
    assert {flow: one.error for flow, one in own.items() if not one.ok} == {}


async def test_the_default_lets_every_version_approve_that_can(
    node: str, record_measurement: RecordMeasurement
) -> None:
    """A question that is left out serves nobody but version 5, which has no approvals: it spares its stream
    an error, and takes the question from all others.
    """
    versions = [version for version in CLIENTS if "?" not in version]
    code, said = await run_command(HERE, node, str(HERE / "defaults.mjs"), *versions, seconds=60.0)
    assert code == 0, said
    found = msgspec.json.decode(said.splitlines()[-1])
    record_measurement("\n".join(f"{version} {found[version]}" for version in versions))
    asked = {version: one["sent"]["state"] == "approval-requested" for version, one in found.items()}
    assert asked == {version: not version.startswith("5.") for version in versions}
    assert {version for version, one in found.items() if one["sent"]["error"]} == {"5.0.277"}
    assert {str(one["leftOut"]) for one in found.values()} == {
        str({"state": "input-available", "error": None})
    }


async def test_no_request_tells_the_version_of_its_client(node: str) -> None:
    """A client that states nothing gets one default. The one that says more needs no other one."""
    versions = [version for version in CLIENTS if "?" not in version]
    code, said = await run_command(HERE, node, str(HERE / "requests.mjs"), *versions, seconds=60.0)
    assert code == 0, said
    found = msgspec.json.decode(said.splitlines()[-1])
    talkative = [one["headers"].pop("user-agent") for one in found["6.0.44"]]
    assert [name.split()[0] for name in talkative] == ["ai-sdk/6.0.44"] * 3
    assert len(found["5.0.277"]) == 3
    assert all(requests == found["5.0.277"] for requests in found.values())


def test_the_newest_client_lacks_nothing(report: Report, record_measurement: RecordMeasurement) -> None:
    """What earlier ones cannot do is theirs, not ours: the same bytes are right in this one."""
    record_measurement(table(report))
    newest = [one for one in report.played if one.version == NEWEST]
    assert newest
    assert not [one for one in newest if one.notes]
