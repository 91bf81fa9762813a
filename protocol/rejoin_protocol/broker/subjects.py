"""All names in NATS: subjects, streams, buckets, consumers, headers; each with the function that parses it.

No other module contains such a name. Tokens are ids and agent names, which contain no dot and no wildcard.
"""

from typing import NamedTuple

from rejoin_protocol.file_ids import FileId
from rejoin_protocol.ids import AgentName, RunId

REQUESTS = "REQUESTS"
"""Work queue of run requests, `request.<agent>.<run>.<turn>`: one message for each, deleted when
acknowledged.
"""
REQUEST_SUBJECTS = "request.*.*.*"

LOG = "LOG"
"""The logs of all runs, `run.<run>.log`, republished to `live.<run>`, and segments, `run.<run>.segments`."""
LOG_SUBJECTS = "run.*.log"
SEGMENTS_SUBJECTS = "run.*.segments"
LIVE_TEMPLATE = "live.{{wildcard(1)}}"

AGENTS = "AGENTS"
"""Key-value bucket: the registry of agents."""
AGENTS_STREAM = f"KV_{AGENTS}"
AGENTS_SUBJECTS = f"$KV.{AGENTS}.>"

JETSTREAM_API = "$JS.API"
"""Prefix of the JetStream API (NATS ADR-1), unless the broker's URL has another one."""

FILES = "FILES"
"""Chunks of attachments, `file.<tenant>.<id>.<number>`, each written once. The tenant is hashed."""
FILE_SUBJECTS = "file.*.*.*"
FILE = "Rejoin-File"
"""Header of a chunk: the number of chunks of its file, and the media type."""

PROBE_SUBJECTS = "probe.*.*"
"""`probe.<stream>.<token>`: a message of a second that only shows that the stream stores messages."""
TTL_HEADER = "Nats-TTL"
"""Header: how long the message is stored."""

BATCH = "Rejoin-Batch"
"""Header of an append: `log.Head`."""
EXPECTED_LAST = "Nats-Expected-Last-Subject-Sequence"
SEQUENCE = "Nats-Sequence"
SUBJECT = "Nats-Subject"
TIME = "Nats-Time-Stamp"
STATUS_HEADER = "Status"
DESCRIPTION = "Description"
PENDING = "Nats-Num-Pending"


class RequestSubject(NamedTuple):
    """The parts of a request's subject."""

    agent: AgentName
    run: RunId
    turn: int


def inbox(role: str) -> str:
    """Prefix of the inboxes of one role; other roles may not subscribe to it."""
    return f"_INBOX_{role}"


def request(agent: AgentName, run: RunId, turn: int) -> str:
    """Subject of the request for a turn of a run."""
    return f"request.{agent}.{run}.{turn}"


def parse_request(subject: str) -> RequestSubject:
    """Raises `ValueError` for any other subject."""
    word, agent, run, turn = subject.split(".")
    if word != "request":
        raise ValueError(subject)
    return RequestSubject(AgentName(agent), RunId(run), int(turn))


def requests_for(agent: AgentName) -> str:
    """Filter of all requests for one agent."""
    return f"request.{agent}.>"


def consumer(agent: AgentName) -> str:
    """Name of the durable consumer that all runners of an agent share."""
    return f"runner-{agent}"


def parse_consumer(name: str) -> AgentName:
    """Raises `ValueError` for any other consumer."""
    word, _, agent = name.partition("-")
    if word != "runner" or not agent:
        raise ValueError(name)
    return AgentName(agent)


def log(run: RunId) -> str:
    """Subject of a run's log."""
    return f"run.{run}.log"


def parse_log(subject: str) -> RunId:
    """Raises `ValueError` for any other subject."""
    word, run, tail = subject.split(".")
    if (word, tail) != ("run", "log"):
        raise ValueError(subject)
    return RunId(run)


def segments(run: RunId) -> str:
    """Subject of a run's segments."""
    return f"run.{run}.segments"


def run_messages(run: RunId) -> str:
    """Filter of all messages of a run: records and segments."""
    return f"run.{run}.*"


def live(run: RunId) -> str:
    """Subject on which a run's appends are republished."""
    return f"live.{run}"


def parse_live(subject: str) -> RunId:
    """Raises `ValueError` for any other subject."""
    word, run = subject.split(".")
    if word != "live":
        raise ValueError(subject)
    return RunId(run)


def control(run: RunId) -> str:
    """Subject of control messages about a run."""
    return f"control.{run}"


def parse_control(subject: str) -> RunId:
    """Raises `ValueError` for any other subject."""
    word, run = subject.split(".")
    if word != "control":
        raise ValueError(subject)
    return RunId(run)


def agent_key(agent: AgentName) -> str:
    """Subject of an agent's registry entry."""
    return f"$KV.{AGENTS}.{agent}"


def parse_agent_key(subject: str) -> AgentName:
    """Raises `ValueError` for any other subject."""
    head, bucket, agent = subject.split(".")
    if (head, bucket) != ("$KV", AGENTS):
        raise ValueError(subject)
    return AgentName(agent)


def probe(stream: str, token: str) -> str:
    """Subject of a probe of a stream; `*` for all of its probes."""
    return f"probe.{stream}.{token}"


class ChunkSubject(NamedTuple):
    """The parts of a chunk's subject."""

    tenant: str
    file: FileId
    number: int


def file(tenant: str, id: FileId, number: int) -> str:
    """Subject of a file's n-th chunk."""
    return f"file.{tenant}.{id}.{number}"


def parse_file(subject: str) -> ChunkSubject:
    """Raises `ValueError` for any other subject."""
    word, tenant, id, number = subject.split(".")
    if word != "file":
        raise ValueError(subject)
    return ChunkSubject(tenant, FileId(id), int(number))


def file_chunks(tenant: str, id: FileId) -> str:
    """Filter of all chunks of a file."""
    return f"file.{tenant}.{id}.*"
