"""Permissions of the broker's users agree with `deploy/nats.conf`."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest

from rejoin_protocol.broker import broker_permissions
from rejoin_protocol.broker import subjects as names
from rejoin_protocol.broker.broker_permissions import BrokerPermissions, BrokerRole, CrossAccountService
from rejoin_protocol.ids import AgentName, RunId, new_run_id

DEPLOY = Path(__file__).parents[4] / "deploy"
CONFIGS = (DEPLOY / "nats.conf", DEPLOY / "kubernetes" / "everything" / "nats.conf")
NAMES = names.DEFAULT
PERMISSIONS = BrokerPermissions(NAMES)
ROLES = (PERMISSIONS.gateway, PERMISSIONS.runner)


def covers(pattern: str, subject: str) -> bool:
    """NATS: `*` is one word, `>` is all that follow."""
    words = [{"*": r"[^.]+", ">": ".+"}.get(word, re.escape(word)) for word in pattern.split(".")]
    return re.fullmatch(r"\.".join(words), subject) is not None


def may(subjects: tuple[str, ...], subject: str) -> bool:
    return any(covers(pattern, subject) for pattern in subjects)


@pytest.mark.parametrize("config", CONFIGS, ids=["compose", "kubernetes"])
def test_the_servers_file_is_what_the_code_renders(config: Path) -> None:
    _, line, rendered = config.read_text().partition("# The rest is generated")
    assert line + rendered == PERMISSIONS.render(), f"replace the end of {config} by PERMISSIONS.render()"


def test_only_a_runner_writes_logs_and_only_it_says_what_runners_serve() -> None:
    run = RunId("r")
    logs = NAMES.log(run), NAMES.segments(run), NAMES.model_calls(run, 1)
    for subject in (*logs, NAMES.agent_key(AgentName("a"))):
        assert [may(role.publish, subject) for role in ROLES] == [False, True]


def test_a_gateway_asks_for_runs_reads_logs_and_reaches_runners() -> None:
    run = RunId("r")
    for subject in (
        NAMES.request(AgentName("a"), run, 3),
        NAMES.control(run),
        f"{broker_permissions.CORE_API}.DIRECT.GET.{names.LOG}",
    ):
        assert may(PERMISSIONS.gateway.publish, subject), subject
    assert may(PERMISSIONS.gateway.subscribe, NAMES.live(run))


def test_nobody_listens_to_the_requests_or_to_anothers_inbox() -> None:
    for role, other in zip(ROLES, reversed(ROLES), strict=True):
        assert may(role.subscribe, f"{NAMES.inbox(role.user)}.x")
        assert not may(role.subscribe, f"{NAMES.inbox(other.user)}.x")
        assert not may(role.subscribe, NAMES.request(AgentName("a"), RunId("r"), 0))
        assert not may(role.subscribe, NAMES.log(RunId("r")))


def test_gateways_alone_hear_how_the_processes_are_and_nobody_speaks_for_the_other_service() -> None:
    for kind, speaks in (("gateway", [True, False]), ("runner", [False, True])):
        subject = NAMES.report(kind)  # type: ignore[arg-type]
        assert [may(role.publish, subject) for role in ROLES] == speaks
        assert [may(role.subscribe, subject) for role in ROLES] == [True, False]


def test_nobody_but_the_administrator_declares_or_deletes_a_stream() -> None:
    for role in ROLES:
        for call in ("CREATE", "UPDATE", "DELETE", "MSG.DELETE"):
            for stream in (names.LOG, names.REQUESTS, names.FILES, NAMES.agents_stream):
                for api in (names.JETSTREAM_API, broker_permissions.CORE_API):
                    assert not may(role.publish, f"{api}.STREAM.{call}.{stream}")
        assert not any(pattern == ">" for pattern in (*role.publish, *role.subscribe))


@pytest.mark.parametrize(
    ("role", "services", "own"),
    [
        (PERMISSIONS.gateway, PERMISSIONS.gateway_services, (NAMES.report("gateway"),)),
        (
            PERMISSIONS.runner,
            PERMISSIONS.runner_services,
            (NAMES.control_subjects, NAMES.report("runner")),
        ),
    ],
    ids=["gateway", "runner"],
)
def test_what_a_service_may_say_is_what_leads_out_of_its_account(
    role: BrokerRole, services: Sequence[CrossAccountService], own: tuple[str, ...]
) -> None:
    """Every subject that it may publish is exported to it, and every exported subject may be published."""
    assert role.publish == (*own, *(service.alias for service in services))
    text = PERMISSIONS.render()
    for service in services:
        assert text.count(f'service: "{service.subject}"') == 1
        assert f'subject: "{service.subject}" }}, to: "{service.alias}"' in text
        if service.alias.startswith("$"):  # an account's own JetStream answers its API
            assert not service.alias.startswith(names.JETSTREAM_API), service.alias


def test_the_commands_for_nsc_name_each_subject_in_the_streams_own_account() -> None:
    """Nothing has the name that it has for other accounts, and a shell passes every subject on."""
    lines = PERMISSIONS.nsc_commands("SHOP").replace("\\\n", "").splitlines()
    words = {command[6]: command for command in map(shlex.split, lines) if command[1] == "add"}
    assert set(words) == {"admin", "gateway", "runner"}
    for role in ROLES:
        alone = broker_permissions.one_account(role)
        assert words[role.user] == [
            *("nsc", "add", "user", "--account", "SHOP", "--name", role.user),
            *("--allow-pub", ",".join(alone.publish), "--allow-sub", ",".join(alone.subscribe)),
        ]
        assert broker_permissions.CORE_API not in str(alone)
        assert len(alone.publish) == len(role.publish)
        assert "," not in "".join(alone.publish)


def test_more_shards_add_their_streams_and_take_nothing_away() -> None:
    more = BrokerPermissions(names.broker_names(shards=3))
    for role, grown in zip(ROLES, (more.gateway, more.runner), strict=True):
        assert set(role.publish) < set(grown.publish)
        assert role.subscribe == grown.subscribe
        assert all(
            "_1" in one or "_2" in one or ".1." in one or ".2." in one
            for one in set(grown.publish) - set(role.publish)
        )
    for shard in range(3):
        run = new_run_id(1, bytes(10), (shard,))
        assert [may(role.publish, NAMES.log(run)) for role in (more.gateway, more.runner)] == [False, True]
        assert may(more.gateway.publish, NAMES.request(AgentName("a"), run, 0))
