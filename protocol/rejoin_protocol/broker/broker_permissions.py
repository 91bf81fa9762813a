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

from rejoin_protocol.broker import subjects
from rejoin_protocol.broker.subjects import BrokerNames

CORE = "REJOIN"
"""The account of the streams and the administrator."""
EDGE = "GATEWAYS"
WORK = "RUNNERS"
CORE_API = "JS.REJOIN"
"""Prefix of CORE's JetStream API in the other accounts, where `$JS.API` is their own."""
GATEWAY_USER = "gateway"
RUNNER_USER = "runner"
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
    return CrossAccountService(f"{subjects.JETSTREAM_API}.{call}", f"{CORE_API}.{call}", answers)


class BrokerPermissions:
    """The permissions in one installation. `control`: runners hear it; gateways and the administrator send
    it to their account. The reports of both services are heard by gateways alone.
    """

    def __init__(self, names: BrokerNames) -> None:
        shards = range(names.shards)
        logs = [names.log_stream(shard) for shard in shards]
        requests = [names.requests_stream(shard) for shard in shards]
        self.control = _as_it_is(names.control_subjects, WORK)
        self.live_subjects = names.live_subjects
        self.gateway_reports, self.runner_reports = names.report("gateway"), names.report("runner")
        shared = (
            *(_as_it_is(names.request_subjects(shard)) for shard in shards),
            _api("STREAM.NAMES"),
            *(_api(f"STREAM.MSG.GET.{log}") for log in logs),
            *(_api(f"DIRECT.GET.{log}", "Stream") for log in logs),
            _api(f"DIRECT.GET.{names.agents_stream}", "Stream"),
            _as_it_is(names.file_subjects),  # a runner stores files that models make
            _api(f"STREAM.MSG.GET.{names.files_stream}"),
            _api(f"DIRECT.GET.{names.files_stream}", "Stream"),
        )
        self.gateway_services = (*shared, _as_it_is(names.probe_subjects), self.control)
        self.runner_services = (
            # Among the shared ones is the request for a run's next turn: after an approval, for the
            # session's next run, by the sweep. NATS cannot tell these from a first turn. The claim can: it
            # finds no such turn in the database.
            *shared,
            *(_as_it_is(names.log_subjects(shard)) for shard in shards),
            *(_as_it_is(names.segments_subjects(shard)) for shard in shards),
            *(_as_it_is(names.model_calls_subjects(shard)) for shard in shards),
            _as_it_is(names.agents_subjects),
            # Of deleted runs; NATS has no permissions for single runs.
            *(_api(f"STREAM.PURGE.{log}") for log in logs),
            _api(f"STREAM.INFO.{names.files_stream}"),
            _api(f"STREAM.PURGE.{names.files_stream}"),  # files that no message refers to
            *(_api(f"CONSUMER.DURABLE.CREATE.{stream}.*") for stream in requests),
            *(_api(f"CONSUMER.MSG.NEXT.{stream}.*", "Stream") for stream in requests),
            *(_as_it_is(f"$JS.ACK.{stream}.>") for stream in requests),
            *(_as_it_is(f"$JS.ACK.*.*.{stream}.>") for stream in requests),
        )
        self.gateway = BrokerRole(
            GATEWAY_USER,
            publish=(self.gateway_reports, *(service.alias for service in self.gateway_services)),
            subscribe=(
                self.live_subjects,
                self.gateway_reports,
                self.runner_reports,
                f"{names.inbox('gateway')}.>",
            ),
        )
        self.runner = BrokerRole(
            RUNNER_USER,
            publish=(
                self.control.subject,
                self.runner_reports,
                *(service.alias for service in self.runner_services),
            ),
            subscribe=(self.control.subject, f"{names.inbox('runner')}.>"),
        )

    def nsc_commands(self, account: str) -> str:
        """Shell commands of `nsc` that make the three users in an account, each with its credentials file."""
        commands = [
            f"nsc add user --account {account} --name admin",
            *(
                f"nsc add user --account {account} --name {role.user} \\\n"
                f"  --allow-pub '{','.join(role.publish)}' \\\n"
                f"  --allow-sub '{','.join(role.subscribe)}'"
                for role in (one_account(self.gateway), one_account(self.runner))
            ),
            *(
                f"nsc generate creds --account {account} --name {user} > {user}.creds"
                for user in ("admin", GATEWAY_USER, RUNNER_USER)
            ),
        ]
        return "\n".join(commands) + "\n"

    def render(self) -> str:
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
            *_exports({EDGE: self.gateway_services, WORK: self.runner_services}),
            f'      {{ stream: "{self.live_subjects}", accounts: [{EDGE}] }}',
            "    ]",
            "    imports: [",
            _import(self.control),
            "    ]",
            "  }",
            f"  {EDGE} {{",
            *_users(self.gateway),
            "    imports: [",
            *map(_import, self.gateway_services),
            f'      {{ stream: {{ account: {CORE}, subject: "{self.live_subjects}" }} }}',
            f'      {{ stream: {{ account: {WORK}, subject: "{self.runner_reports}" }} }}',
            "    ]",
            "  }",
            f"  {WORK} {{",
            *_users(self.runner),
            "    exports: [",
            f'      {{ service: "{self.control.subject}", accounts: [{CORE}, {EDGE}] }}',
            f'      {{ stream: "{self.runner_reports}", accounts: [{EDGE}] }}',
            "    ]",
            "    imports: [",
            *map(_import, self.runner_services),
            "    ]",
            "  }",
            "}",
        ]
        return "\n".join(lines) + "\n"


def one_account(role: BrokerRole) -> BrokerRole:
    """The user's permissions in the streams' own account, where JetStream's API has its own name."""
    prefix = f"{CORE_API}."
    return role._replace(
        publish=tuple(
            f"{subjects.JETSTREAM_API}.{subject.removeprefix(prefix)}"
            if subject.startswith(prefix)
            else subject
            for subject in role.publish
        )
    )


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


def _allowed(verb: str, allowed: Iterable[str]) -> list[str]:
    return [
        f"        {verb}: {{ allow: [",
        *(f'          "{subject}"' for subject in allowed),
        "        ] }",
    ]
