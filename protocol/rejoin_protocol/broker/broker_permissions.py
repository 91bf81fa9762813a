"""The permissions of each service in NATS, and the NATS accounts that enforce them.

The streams and the administrator are in one account, gateways in another, runners in a third. A service
reaches the streams only through the services listed here. Subject permissions alone would not be enough: a
NATS server sends a reply to any subject that a request names, with its own permissions. Within the streams'
account, a client that may send any request could name a log, or a call of JetStream's API, as the reply
subject. Across accounts, the reply goes to the requester's account, where JetStream does not listen.

Where users are JWTs of one account (a managed NATS), `one_account` says their permissions without these
aliases, and `nsc_commands` how to make them. The reply subjects stay open there: whoever steals a
credential can have answers written to a log.

Rendered into `deploy/nats.conf` (docs.nats.io: accounts, exports and imports; ADR-8, ADR-13 and ADR-31 for
the subjects). Contains no password: the file reads passwords from variables.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from rejoin_protocol.broker import subjects as names

CORE = "REJOIN"
"""The account of the streams and the administrator."""
EDGE = "GATEWAYS"
WORK = "RUNNERS"
CORE_API = "JS.REJOIN"
"""Prefix of CORE's JetStream API in the other accounts, where `$JS.API` is their own."""
CONTROL_SUBJECTS = "control.*"
LIVE_SUBJECTS = "live.*"
SOURCE = "protocol/rejoin_protocol/broker/broker_permissions.py"

type Answers = Literal["Singleton", "Stream"]


class BrokerRole(NamedTuple):
    """What a user may publish and subscribe to."""

    user: str
    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


class CrossAccountService(NamedTuple):
    """A service of one account for others: the subject there, its alias here, one reply or several."""

    subject: str
    alias: str
    answers: Answers = "Singleton"
    account: str = CORE


def _as_it_is(subject: str, account: str = CORE) -> CrossAccountService:
    return CrossAccountService(subject, subject, account=account)


def _api(call: str, answers: Answers = "Singleton") -> CrossAccountService:
    return CrossAccountService(f"{names.JETSTREAM_API}.{call}", f"{CORE_API}.{call}", answers)


CONTROL = _as_it_is(CONTROL_SUBJECTS, WORK)
"""Runners hear it: gateways and the administrator send it to their account."""
SHARED_SERVICES = (
    _as_it_is(names.REQUEST_SUBJECTS),
    _api("STREAM.NAMES"),
    _api(f"STREAM.MSG.GET.{names.LOG}"),
    _api(f"DIRECT.GET.{names.LOG}", "Stream"),
    _api(f"DIRECT.GET.{names.AGENTS_STREAM}", "Stream"),
    _as_it_is(names.FILE_SUBJECTS),  # a runner stores files that models make
    _api(f"STREAM.MSG.GET.{names.FILES}"),
    _api(f"DIRECT.GET.{names.FILES}", "Stream"),
)
GATEWAY_SERVICES = (*SHARED_SERVICES, _as_it_is(names.PROBE_SUBJECTS), CONTROL)
RUNNER_SERVICES = (
    # Among the shared ones is the request for a run's next turn: after an approval, for the session's next
    # run, by the sweep. NATS cannot tell these from a first turn. The claim can: it finds no such turn in the
    # database.
    *SHARED_SERVICES,
    _as_it_is(names.LOG_SUBJECTS),
    _as_it_is(names.SEGMENTS_SUBJECTS),
    _as_it_is(names.AGENTS_SUBJECTS),
    _api(f"STREAM.PURGE.{names.LOG}"),  # of deleted runs; NATS has no permissions for single runs
    _api(f"STREAM.INFO.{names.FILES}"),
    _api(f"STREAM.PURGE.{names.FILES}"),  # files that no message refers to
    _api(f"CONSUMER.DURABLE.CREATE.{names.REQUESTS}.*"),
    _api(f"CONSUMER.MSG.NEXT.{names.REQUESTS}.*", "Stream"),
    _as_it_is(f"$JS.ACK.{names.REQUESTS}.>"),
    _as_it_is(f"$JS.ACK.*.*.{names.REQUESTS}.>"),
)

GATEWAY = BrokerRole(
    "gateway",
    publish=tuple(service.alias for service in GATEWAY_SERVICES),
    subscribe=(LIVE_SUBJECTS, f"{names.inbox('gateway')}.>"),
)
RUNNER = BrokerRole(
    "runner",
    publish=(CONTROL_SUBJECTS, *(service.alias for service in RUNNER_SERVICES)),
    subscribe=(CONTROL_SUBJECTS, f"{names.inbox('runner')}.>"),
)


def one_account(role: BrokerRole) -> BrokerRole:
    """The user's permissions in the streams' own account, where JetStream's API has its own name."""
    prefix = f"{CORE_API}."
    return role._replace(
        publish=tuple(
            f"{names.JETSTREAM_API}.{subject.removeprefix(prefix)}" if subject.startswith(prefix) else subject
            for subject in role.publish
        )
    )


def nsc_commands(account: str) -> str:
    """Shell commands of `nsc` that make the three users in an account, each with its credentials file."""
    commands = [
        f"nsc add user --account {account} --name admin",
        *(
            f"nsc add user --account {account} --name {role.user} \\\n"
            f"  --allow-pub '{','.join(role.publish)}' \\\n"
            f"  --allow-sub '{','.join(role.subscribe)}'"
            for role in (one_account(GATEWAY), one_account(RUNNER))
        ),
        *(
            f"nsc generate creds --account {account} --name {user} > {user}.creds"
            for user in ("admin", GATEWAY.user, RUNNER.user)
        ),
    ]
    return "\n".join(commands) + "\n"


def render() -> str:
    """The `accounts` section of the servers' configuration."""
    lines = [
        f"# The rest is generated from {SOURCE}, which explains it.",
        "# A test compares the two.",
        "accounts {",
        f"  {CORE} {{",
        "    jetstream: enabled",
        "    users: [",
        "      # Declares the streams (`rejoin migrate`) and reads everything (`rejoin runs`).",
        "      { user: admin, password: $admin_password }",
        "    ]",
        "    exports: [",
        *_exports({EDGE: GATEWAY_SERVICES, WORK: RUNNER_SERVICES}),
        f'      {{ stream: "{LIVE_SUBJECTS}", accounts: [{EDGE}] }}',
        "    ]",
        "    imports: [",
        _import(CONTROL),
        "    ]",
        "  }",
        f"  {EDGE} {{",
        *_users(GATEWAY),
        "    imports: [",
        *map(_import, GATEWAY_SERVICES),
        f'      {{ stream: {{ account: {CORE}, subject: "{LIVE_SUBJECTS}" }} }}',
        "    ]",
        "  }",
        f"  {WORK} {{",
        *_users(RUNNER),
        "    exports: [",
        f'      {{ service: "{CONTROL.subject}", accounts: [{CORE}, {EDGE}] }}',
        "    ]",
        "    imports: [",
        *map(_import, RUNNER_SERVICES),
        "    ]",
        "  }",
        "}",
    ]
    return "\n".join(lines) + "\n"


def _exports(used: Mapping[str, Sequence[CrossAccountService]]) -> Iterator[str]:
    """The services of CORE, each with the accounts that may use it."""
    for service in dict.fromkeys(one for services in used.values() for one in services):
        accounts = ", ".join(account for account, services in used.items() if service in services)
        if service.account == CORE:
            yield (
                f'      {{ service: "{service.subject}", response_type: {service.answers}, '
                f"accounts: [{accounts}] }}"
            )


def _import(service: CrossAccountService) -> str:
    source = f'{{ account: {service.account}, subject: "{service.subject}" }}'
    return f'      {{ service: {source}, to: "{service.alias}" }}'


def _users(role: BrokerRole) -> list[str]:
    return [
        "    users: [",
        f"      {{ user: {role.user}, password: ${role.user}_password, permissions: {{",
        *_allowed("publish", role.publish),
        *_allowed("subscribe", role.subscribe),
        "      } }",
        "    ]",
    ]


def _allowed(verb: str, subjects: Iterable[str]) -> list[str]:
    return [
        f"        {verb}: {{ allow: [",
        *(f'          "{subject}"' for subject in subjects),
        "        ] }",
    ]
