"""The permissions of each service in NATS, and the NATS accounts that enforce them.

Runners and streams are in one account, gateways in another. A gateway reaches the first account only through
the services listed here. Subject permissions alone would not be enough: a NATS server sends a reply to any
subject that a request names, with its own permissions. Within one account, a gateway that may send requests
or read a log could name a log as the reply subject and so write to it. Across accounts, the reply goes to the
requester's account.

Rendered into `deploy/nats.conf` (docs.nats.io: accounts, exports and imports; ADR-8, ADR-13 and ADR-31 for
the subjects). Contains no password: the file reads passwords from variables.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple

from rejoin_protocol.broker import subjects as names

CORE = "REJOIN"
"""The account of the streams, the runners and the administrator."""
EDGE = "GATEWAYS"
API = "JS.REJOIN"
"""Prefix of CORE's JetStream API in EDGE, where `$JS.API` is EDGE's own."""
CONTROL_SUBJECTS = "control.*"
LIVE_SUBJECTS = "live.*"
REPLY_EXPIRES_S = 5
SOURCE = "protocol/rejoin_protocol/broker/broker_permissions.py"

type Answers = Literal["Singleton", "Stream"]


class BrokerRole(NamedTuple):
    """What a user may publish and subscribe to. `answers`: it may also reply once to each request."""

    user: str
    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    answers: bool = False


class CrossAccountService(NamedTuple):
    """A service of CORE for EDGE: the subject in CORE, its alias in EDGE, one reply or several."""

    subject: str
    alias: str
    answers: Answers = "Singleton"


def _api(call: str, answers: Answers = "Singleton") -> CrossAccountService:
    return CrossAccountService(f"{names.API}.{call}", f"{API}.{call}", answers)


SERVICES = (
    CrossAccountService(names.REQUEST_SUBJECTS, names.REQUEST_SUBJECTS),
    CrossAccountService(CONTROL_SUBJECTS, CONTROL_SUBJECTS),
    _api("STREAM.NAMES"),
    _api(f"STREAM.MSG.GET.{names.LOG}"),
    _api(f"DIRECT.GET.{names.LOG}", "Stream"),
    _api(f"DIRECT.GET.{names.AGENTS_STREAM}", "Stream"),
    CrossAccountService(names.FILE_SUBJECTS, names.FILE_SUBJECTS),
    _api(f"STREAM.MSG.GET.{names.FILES}"),
    _api(f"DIRECT.GET.{names.FILES}", "Stream"),
)

GATEWAY = BrokerRole(
    "gateway",
    publish=tuple(service.alias for service in SERVICES),
    subscribe=(LIVE_SUBJECTS, f"{names.inbox('gateway')}.>"),
)
RUNNER = BrokerRole(
    "runner",
    publish=(
        names.LOG_SUBJECTS,
        names.SEGMENTS_SUBJECTS,
        names.AGENTS_SUBJECTS,
        # The next turn of a run: after an approval, for the session's next run, by the sweep. NATS cannot
        # tell these from a first turn. The claim can: it finds no such turn in the database.
        names.REQUEST_SUBJECTS,
        CONTROL_SUBJECTS,
        f"{names.API}.STREAM.NAMES",
        f"{names.API}.STREAM.MSG.GET.{names.LOG}",
        f"{names.API}.STREAM.PURGE.{names.LOG}",  # of deleted runs; NATS has no permissions for single runs
        f"{names.API}.DIRECT.GET.{names.LOG}",
        f"{names.API}.DIRECT.GET.{names.AGENTS_STREAM}",
        names.FILE_SUBJECTS,  # files that models make
        f"{names.API}.STREAM.INFO.{names.FILES}",
        f"{names.API}.STREAM.PURGE.{names.FILES}",  # files that no message refers to
        f"{names.API}.STREAM.MSG.GET.{names.FILES}",
        f"{names.API}.DIRECT.GET.{names.FILES}",
        f"{names.API}.CONSUMER.DURABLE.CREATE.{names.REQUESTS}.*",
        f"{names.API}.CONSUMER.MSG.NEXT.{names.REQUESTS}.*",
        f"$JS.ACK.{names.REQUESTS}.>",
        f"$JS.ACK.*.*.{names.REQUESTS}.>",
    ),
    subscribe=(CONTROL_SUBJECTS, f"{names.inbox('runner')}.>"),
    answers=True,
)


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
        *_user(RUNNER),
        "    ]",
        "    exports: [",
        *(
            f'      {{ service: "{one.subject}", response_type: {one.answers}, accounts: [{EDGE}] }}'
            for one in SERVICES
        ),
        f'      {{ stream: "{LIVE_SUBJECTS}", accounts: [{EDGE}] }}',
        "    ]",
        "  }",
        f"  {EDGE} {{",
        "    users: [",
        *_user(GATEWAY),
        "    ]",
        "    imports: [",
        *(
            f'      {{ service: {{ account: {CORE}, subject: "{one.subject}" }}, to: "{one.alias}" }}'
            for one in SERVICES
        ),
        f'      {{ stream: {{ account: {CORE}, subject: "{LIVE_SUBJECTS}" }} }}',
        "    ]",
        "  }",
        "}",
    ]
    return "\n".join(lines) + "\n"


def _user(role: BrokerRole) -> list[str]:
    answers = (
        [f'        allow_responses: {{ max: 1, expires: "{REPLY_EXPIRES_S}s" }}'] if role.answers else []
    )
    return [
        f"      {{ user: {role.user}, password: ${role.user}_password, permissions: {{",
        *_allowed("publish", role.publish),
        *_allowed("subscribe", role.subscribe),
        *answers,
        "      } }",
    ]


def _allowed(verb: str, subjects: Iterable[str]) -> list[str]:
    return [
        f"        {verb}: {{ allow: [",
        *(f'          "{subject}"' for subject in subjects),
        "        ] }",
    ]
