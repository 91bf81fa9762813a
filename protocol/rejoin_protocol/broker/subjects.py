"""All names in NATS: subjects, streams, buckets, consumers, headers; each with the function that parses it.

No other module contains such a name. Tokens are ids and agent names, which contain no dot and no wildcard.
"""

import re
from typing import NamedTuple

import msgspec

from rejoin_protocol.errors import Invalid
from rejoin_protocol.file_ids import FileId
from rejoin_protocol.ids import SHARDS_MAX, AgentName, RunId, shard_of
from rejoin_protocol.process_report import ProcessKind

REQUESTS = "REQUESTS"
"""Work queue of run requests, `request.<agent>.<run>.<turn>`: one message for each, deleted when
acknowledged.
"""
LOG = "LOG"
"""The logs of all runs, `run.<run>.log`, republished to `live.<run>`, segments, `run.<run>.segments`, and
recorded calls of models, `run.<run>.calls.step.<step>`.
"""
AGENTS = "AGENTS"
"""Key-value bucket: the registry of agents."""
FILES = "FILES"
"""Chunks of attachments, `file.<tenant>.<id>.<number>`, each written once. The tenant is hashed."""

JETSTREAM_API = "$JS.API"
"""Prefix of the JetStream API (NATS ADR-1), unless the broker's URL has another one."""
KEY_VALUE = "$KV."
"""Beginning of the subjects of all key-value buckets (NATS ADR-8)."""

FILE = "Rejoin-File"
"""Header of a chunk: the number of chunks of its file, and the media type."""
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

PREFIX_FORMAT = re.compile(r"[A-Za-z0-9-]{1,32}")
FIRST_WORDS = frozenset({"request", "run", "live", "control", "file", "probe", "report"})


class RequestSubject(NamedTuple):
    """The parts of a request's subject."""

    agent: AgentName
    run: RunId
    turn: int


class ChunkSubject(NamedTuple):
    """The parts of a chunk's subject."""

    tenant: str
    file: FileId
    number: int


class BrokerNames(msgspec.Struct, frozen=True):
    """The names of one installation's subjects and streams. Two installations with different prefixes share a
    cluster or an account, and none of their names is one of the other's.

    With the prefix `shop`, `run.<run>.log` is `shop.run.<run>.log`, and the stream `LOG` is `shop_LOG`. Use
    `broker_names` for values that are not checked yet.

    Logs and requests are spread over `shards`. Shard 0 has the streams `LOG` and `REQUESTS`, shard 2 has
    `LOG_2` and `REQUESTS_2` with the subjects `run.2.<run>.log` and `request.2.<agent>.<run>.<turn>`. A
    run's id says its shard (`ids.shard_of`), so names of a run do not depend on the number of shards.
    """

    prefix: str = ""
    shards: int = 1

    # ------------------------------------------------------------------------------------------------ streams

    def requests_stream(self, shard: int = 0) -> str:
        """The stream of a shard's requests."""
        return self._stream(f"{REQUESTS}_{shard}" if shard else REQUESTS)

    def log_stream(self, shard: int = 0) -> str:
        """The stream of a shard's logs."""
        return self._stream(f"{LOG}_{shard}" if shard else LOG)

    @property
    def files_stream(self) -> str:
        """The name of `FILES`."""
        return self._stream(FILES)

    @property
    def agents_stream(self) -> str:
        """The stream behind the bucket `AGENTS`."""
        return f"KV_{self._stream(AGENTS)}"

    def _stream(self, name: str) -> str:
        return f"{self.prefix}_{name}" if self.prefix else name

    def _subject(self, subject: str) -> str:
        return f"{self.prefix}.{subject}" if self.prefix else subject

    def _sharded(self, word: str, shard: int, rest: str) -> str:
        subject = f"{word}.{shard}.{rest}" if shard else f"{word}.{rest}"
        return f"{self.prefix}.{subject}" if self.prefix else subject

    def _parse(self, subject: str, first: str, count: int) -> list[str]:
        """The tokens behind the first word of a subject. Raises `ValueError` for any other subject."""
        word, *tokens = subject.removeprefix(self._subject("")).split(".")
        if word != first or len(tokens) != count or not subject.startswith(self._subject(first)):
            raise ValueError(subject)
        return tokens

    def _parse_sharded(self, subject: str, first: str, count: int) -> list[str]:
        """Like `_parse`, without the shard, which the run's id says too."""
        is_sharded = subject.count(".") - self._subject("").count(".") > count
        return self._parse(subject, first, count + is_sharded)[is_sharded:]

    # ----------------------------------------------------------------------------------------------- requests

    def request(self, agent: AgentName, run: RunId, turn: int) -> str:
        """Subject of the request for a turn of a run."""
        return self._sharded("request", shard_of(run), f"{agent}.{run}.{turn}")

    def parse_request(self, subject: str) -> RequestSubject:
        """Raises `ValueError` for any other subject."""
        agent, run, turn = self._parse_sharded(subject, "request", 3)
        return RequestSubject(AgentName(agent), RunId(run), int(turn))

    def requests_for(self, agent: AgentName, shard: int = 0) -> str:
        """Filter of a shard's requests for one agent."""
        return self._sharded("request", shard, f"{agent}.>")

    def request_subjects(self, shard: int = 0) -> str:
        """Filter of a shard's requests."""
        return self._sharded("request", shard, "*.*.*")

    # --------------------------------------------------------------------------------------------------- logs

    def log(self, run: RunId) -> str:
        """Subject of a run's log."""
        return self._sharded("run", shard_of(run), f"{run}.log")

    def parse_log(self, subject: str) -> RunId:
        """Raises `ValueError` for any other subject."""
        run, tail = self._parse_sharded(subject, "run", 2)
        if tail != "log":
            raise ValueError(subject)
        return RunId(run)

    def log_subjects(self, shard: int = 0) -> str:
        """Filter of a shard's logs."""
        return self._sharded("run", shard, "*.log")

    def segments(self, run: RunId) -> str:
        """Subject of a run's segments."""
        return self._sharded("run", shard_of(run), f"{run}.segments")

    def segments_subjects(self, shard: int = 0) -> str:
        """Filter of a shard's segments."""
        return self._sharded("run", shard, "*.segments")

    def model_calls(self, run: RunId, step: int) -> str:
        """Subject of the recorded calls of models of a run's step."""
        return self._sharded("run", shard_of(run), f"{run}.calls.step.{step}")

    def model_calls_of_run(self, run: RunId) -> str:
        """Filter of the recorded calls of all steps of a run."""
        return self._sharded("run", shard_of(run), f"{run}.calls.step.*")

    def model_calls_subjects(self, shard: int = 0) -> str:
        """Filter of a shard's recorded calls of models. The word `step` is there because `run.*.calls.*` of
        shard 0 and `run.2.*.log` of shard 2 would both match `run.2.calls.log`.
        """
        return self._sharded("run", shard, "*.calls.step.*")

    def run_messages(self, run: RunId) -> str:
        """Filter of all messages of a run: records, segments, recorded calls of models."""
        return self._sharded("run", shard_of(run), f"{run}.>")

    def live(self, run: RunId) -> str:
        """Subject on which a run's appends are republished."""
        return self._subject(f"live.{run}")

    def parse_live(self, subject: str) -> RunId:
        """Raises `ValueError` for any other subject."""
        [run] = self._parse(subject, "live", 1)
        return RunId(run)

    @property
    def live_template(self) -> str:
        """`live` for the run that `log_subjects` has matched."""
        return self._subject("live.{{wildcard(1)}}")

    @property
    def live_subjects(self) -> str:
        """Filter of what is republished of all runs."""
        return self._subject("live.*")

    # ---------------------------------------------------------------------------------------- everything else

    def control(self, run: RunId) -> str:
        """Subject of control messages about a run."""
        return self._subject(f"control.{run}")

    def parse_control(self, subject: str) -> RunId:
        """Raises `ValueError` for any other subject."""
        [run] = self._parse(subject, "control", 1)
        return RunId(run)

    @property
    def control_subjects(self) -> str:
        """Filter of the control messages about all runs."""
        return self._subject("control.*")

    def report(self, kind: ProcessKind) -> str:
        """Subject on which the processes of a kind tell how they are."""
        return self._subject(f"report.{kind}")

    def agent_key(self, agent: AgentName) -> str:
        """Subject of an agent's registry entry."""
        return f"{KEY_VALUE}{self._stream(AGENTS)}.{agent}"

    def parse_agent_key(self, subject: str) -> AgentName:
        """Raises `ValueError` for any other subject."""
        bucket, agent = subject.removeprefix(KEY_VALUE).split(".")
        if bucket != self._stream(AGENTS) or not subject.startswith(KEY_VALUE):
            raise ValueError(subject)
        return AgentName(agent)

    @property
    def agents_subjects(self) -> str:
        """Filter of all entries of the registry."""
        return f"{KEY_VALUE}{self._stream(AGENTS)}.>"

    def file(self, tenant: str, id: FileId, number: int) -> str:
        """Subject of a file's n-th chunk."""
        return self._subject(f"file.{tenant}.{id}.{number}")

    def parse_file(self, subject: str) -> ChunkSubject:
        """Raises `ValueError` for any other subject."""
        tenant, id, number = self._parse(subject, "file", 3)
        return ChunkSubject(tenant, FileId(id), int(number))

    def file_chunks(self, tenant: str, id: FileId) -> str:
        """Filter of all chunks of a file."""
        return self._subject(f"file.{tenant}.{id}.*")

    @property
    def file_subjects(self) -> str:
        """Filter of all chunks."""
        return self._subject("file.*.*.*")

    def probe(self, stream: str, token: str) -> str:
        """Subject of a probe of a stream, `*` for all of its probes: a message of a second that only shows
        that the stream stores messages.
        """
        return self._subject(f"probe.{stream}.{token}")

    @property
    def probe_subjects(self) -> str:
        """Filter of the probes of all streams."""
        return self._subject("probe.*.*")

    def inbox(self, role: str) -> str:
        """Prefix of the inboxes of one role; other roles may not subscribe to it."""
        return f"_INBOX_{self._stream(role)}"


DEFAULT = BrokerNames()
"""The names without a prefix."""


def broker_names(prefix: str = "", shards: int = 1) -> BrokerNames:
    """The names with a prefix, or none. Raises `Invalid`."""
    if prefix and (not PREFIX_FORMAT.fullmatch(prefix) or prefix in FIRST_WORDS):
        raise Invalid(
            "REJOIN_NATS_PREFIX has 1 to 32 characters of A-Z a-z 0-9 -, and is none of "
            f"{', '.join(sorted(FIRST_WORDS))}"
        )
    if not 0 < shards <= SHARDS_MAX:
        raise Invalid(f"REJOIN_LOG_SHARDS is 1 to {SHARDS_MAX}")
    return BrokerNames(prefix, shards)


def consumer(agent: AgentName) -> str:
    """Name of the durable consumer that all runners of an agent share."""
    return f"runner-{agent}"


def parse_consumer(name: str) -> AgentName:
    """Raises `ValueError` for any other consumer."""
    word, _, agent = name.partition("-")
    if word != "runner" or not agent:
        raise ValueError(name)
    return AgentName(agent)
