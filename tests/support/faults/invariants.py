"""What must hold after any chaos, read from the logs, the database, the history and the clients.

Each rule returns one sentence for each violation. The score tells what the chaos cost.
"""

import hashlib
import itertools
import signal
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import asyncpg
import msgspec

from rejoin_adapters.jetstream.run_log import JetStreamRunLog
from rejoin_protocol.errors import Invalid
from rejoin_protocol.events import chunks
from rejoin_protocol.events.fold import Fold, MessageDict
from rejoin_protocol.ids import RunId
from rejoin_protocol.lifecycle import TERMINAL, State
from rejoin_protocol.log.record import Mark, Record, View, split_events
from rejoin_runner.agent.custom_loop import CRASH_ERROR
from rejoin_runner.run.executor import INTERRUPTED
from rejoin_runner.run.tool_calls import UNKNOWN_OUTCOME
from tests.support.clients.reconnecting_client import split_frames
from tests.support.faults.chaos import Send, StrikeRecord

MAY_NOT_REPEAT = ("delete ", "sleep ", "once ")


class StoredRun(msgspec.Struct, frozen=True):
    """A run's row in the database, and its log."""

    id: str
    session: str
    message: str
    answer: str
    state: State
    attempt: int
    error: str | None
    log: Sequence[Record]

    @property
    def name(self) -> str:
        return f"{self.id} ({self.state}, attempt {self.attempt}, session {self.session})"

    @property
    def marked(self) -> Record | None:
        """The last record that holds more than the mark of a takeover."""
        said = [record for record in self.log if record.head.count or record.head.mark is not Mark.NONE]
        return said[-1] if said else None


async def read_runs(database_url: str, runs: JetStreamRunLog) -> list[StoredRun]:
    """All runs."""
    connection = await asyncpg.connect(database_url)
    try:
        rows = await connection.fetch(
            "select id, session_id as session, user_message_id as message, answer_id as answer, state, "
            "attempt, error from runs order by id"
        )
    finally:
        await connection.close()
    return [msgspec.convert(dict(row) | {"log": await read_log(runs, row["id"])}, StoredRun) for row in rows]


async def read_log(runs: JetStreamRunLog, run: str) -> list[Record]:
    """The records of a log."""
    records: list[Record] = []
    more = True
    while more:
        page = await runs.read(
            RunId(run), after=records[-1].seq if records else 0, records_max=256
        )  # no copies
        records += page.records
        more = page.more
    return records


# ------------------------------------------------------------------------------------------------- a run


def log_violations(run: StoredRun) -> Iterator[str]:
    """Violations within a run's log."""
    if run.state not in TERMINAL and run.state is not State.SUSPENDED:
        yield "is not settled"
    if not run.log:
        yield "has no log"
        return
    if run.log[0].head.prev != 0 or run.log[0].head.index != 0:
        yield "does not begin at its beginning"
    for earlier, later in itertools.pairwise(run.log):
        if later.head.prev != earlier.seq or later.head.index != earlier.end:
            yield f"has a gap or a double behind {earlier.seq}"
        if later.head.attempt < earlier.head.attempt:
            yield f"was written by attempt {later.head.attempt} after {earlier.head.attempt}"
        if later.head.attempt != earlier.head.attempt and later.head.count:
            yield f"has no takeover by attempt {later.head.attempt}"
    if run.log[-1].head.attempt > run.attempt:
        yield "was written by an attempt that the database does not know"
    yield from _frames_broken(run)
    yield from _end_broken(run)


def _frames_broken(run: StoredRun) -> Iterator[str]:
    for record in run.log:
        frames = split_frames(record.payload)
        ids = [frame.split(b"\n", 1)[0].decode() for frame in frames]
        if ids != [f"id: {record.head.prev}-{record.head.index + n}" for n in range(record.head.count)]:
            yield f"has other cursors than its head says at {record.seq}"


def _end_broken(run: StoredRun) -> Iterator[str]:
    last = run.marked
    if last is None:
        yield "has nothing in its log"
        return
    types = [chunk["type"] for chunk in logged_events(run.log)]
    if types[:1] != ["start"] or types[-1:] != ["finish"]:
        yield f"goes from {types[:1]} to {types[-1:]}"
    mark = Mark.ENDED if run.state in TERMINAL else Mark.SUSPENDED
    if last.head.mark is not mark:
        yield f"ends with the mark {last.head.mark}"
    marks = [record.head.mark for record in run.log]
    if marks.count(Mark.ENDED) != (mark is Mark.ENDED):
        yield f"has ended {marks.count(Mark.ENDED)} times"
    state = State.FAILED if "error" in types else State.CANCELLED if "abort" in types else State.COMPLETED
    if run.state in TERMINAL and run.state is not state:
        yield f"is {state} in its log"
    if run.state is State.FAILED:
        yield f"has failed of {run.error}"


def logged_events(log: Iterable[Record]) -> list[dict[str, Any]]:
    """The events of a log."""
    return [msgspec.json.decode(event) for record in log for event in split_events(record)]


def fold_log(log: Iterable[Record]) -> MessageDict:
    """The message that a log folds to; the exception in its place if it does not fold."""
    fold = Fold()
    for record in log:
        for event in split_events(record):
            try:
                fold.apply(chunks.decode(event))
            except Invalid as fault:
                return {"fault": f"{record.seq}: {fault}", "parts": []}
    return fold.message


def is_unexpected_answer(run: StoredRun, text: str, file: bytes = b"") -> Iterator[str]:
    """Whether the scripted model gives no such answer to this text."""
    answer = "".join(part.get("text", "") for part in fold_log(run.log)["parts"] if part["type"] == "text")
    if run.state is State.COMPLETED and answer not in possible_answers(text, file):
        yield f"answers {text!r} with {answer!r}"


def _numbers(last: str) -> str:
    return " ".join(str(number) for number in range(1, int(last) + 1))


def possible_answers(text: str, file: bytes = b"") -> list[str]:
    """The final texts that the scripted model may give."""
    match text.split():
        case ["refer"]:
            return [f"{who} has the conversation now." for who in ("desk", "chaos")]
        case ["walk", steps]:
            return [f"{_numbers(steps)} steps."]
        case ["once", steps]:
            return [f"{_numbers(steps)} once.", f"That did not work: It failed: {CRASH_ERROR}"]
        case ["draw", lines]:
            return [f"I drew {lines} lines."]
        case ["look"]:
            return [f"I see {hashlib.sha256(file).hexdigest()[:16]}."]
        case ["count", last, *_]:
            return [_numbers(last)]
        case ["weather", city]:
            return [f"It is {sum(city.casefold().encode()) % 30} °C in {city}."]
        case ["sleep", seconds]:
            return [f"I slept for {seconds} seconds.", f"That did not work: {UNKNOWN_OUTCOME}"]
        case ["delete" | "ask", name]:
            return [
                f"{name} is deleted.",
                "You said no, so I left it alone.",
                f"That did not work: {UNKNOWN_OUTCOME}",
                f"That did not work: {INTERRUPTED}",
            ]
        case _:
            return ["I have thought about it."]


def artifact_violations(run: StoredRun, artifacts: Mapping[str, str]) -> Iterator[str]:
    """Artifacts that a message names and the store lacks, or the reverse. `artifacts`: the run of each."""
    parts = [part for part in fold_log(run.log)["parts"] if part["type"] == "data-artifact"]
    told = [part["data"]["artifactId"] for part in parts]
    kept = [id for id, of in artifacts.items() if of == run.id]
    if set(told) - set(kept) or len(set(told)) != len(told):
        yield f"speaks of the artifacts {told} and has {kept}"
    if run.state is State.COMPLETED and set(told) != set(kept):
        yield f"has the artifacts {kept} and speaks of {told}"


async def read_artifact_runs(database_url: str) -> dict[str, str]:
    """The run of each stored artifact."""
    connection = await asyncpg.connect(database_url)
    try:
        return {
            row["id"]: row["run_id"] for row in await connection.fetch("select id, run_id from artifacts")
        }
    finally:
        await connection.close()


async def undeleted_runs(database_url: str, runs: JetStreamRunLog, deleted: Iterable[Send]) -> list[str]:
    """The runs of deleted sessions that are still stored anywhere."""
    asked = [send.run for send in deleted if send.run]
    connection = await asyncpg.connect(database_url)
    try:
        rows = await connection.fetch("select id from runs where id = any($1::text[])", asked)
    finally:
        await connection.close()
    return [f"{row['id']} is in the database" for row in rows] + [
        f"{run} has a log" for run in asked if await runs.last(RunId(run)) is not None
    ]


# --------------------------------------------------------------------------------------------- all of them


def overlapping_turns(runs: Sequence[StoredRun]) -> Iterator[str]:
    """Turns of one session's runs that were executed at the same time."""
    spans: dict[str, list[tuple[int, int, str]]] = {}
    for run in runs:
        for turn, group in itertools.groupby(run.log, key=lambda record: record.head.turn):
            # A takeover that only stores the end of the run is a record without events.
            seqs = [record.seq for record in group if record.head.count]
            if not seqs:
                continue
            spans.setdefault(run.session, []).append((seqs[0], seqs[-1], f"{run.id}/{turn}"))
    for session, found in spans.items():
        for (_, end, one), (begin, _, other) in itertools.pairwise(sorted(found)):
            if begin < end:
                yield f"{one} and {other} of session {session} overlap"


def forbidden_repeats(calls: str) -> Iterator[str]:
    """Executions of tools that must not run twice."""
    for call, times in Counter(calls.splitlines()).items():
        if call.startswith(MAY_NOT_REPEAT) and times > 1:
            yield f"{call} ran {times} times"


def expected_frames(run: StoredRun, view: View) -> list[bytes]:
    """The frames of a run that such a client must have received."""
    return [frame for record in run.log if view.sees(record.head) for frame in split_frames(record.payload)]


def _lost(send: Send, run: StoredRun) -> set[bytes]:
    return set(expected_frames(run, View(operations=send.operations))) - set(send.frames)


def client_violations(send: Send, run: StoredRun) -> Iterator[str]:
    """Where a client received something else than the log holds."""
    frames = expected_frames(run, View(operations=send.operations))
    if send.frames == frames:
        return
    lost = [frame for frame in frames if frame not in send.frames]
    alien = [frame for frame in send.frames if frame not in frames]
    doubled = len(send.frames) - len(set(send.frames))
    yield (
        f"{run.name}: a client has {len(send.frames)} of {len(frames)} events: {len(lost)} lost {lost[:2]}, "
        f"{doubled} doubled, {len(alien)} that are not in the log {alien[:2]}"
    )


def all_violations(
    runs: Sequence[StoredRun],
    sends: Sequence[Send],
    history: Mapping[str, Sequence[MessageDict]],
    calls: str,
    artifacts: Mapping[str, str],
) -> Iterator[str]:
    """The sentences of all rules."""
    by_message: dict[str, list[StoredRun]] = {}
    for run in runs:
        by_message.setdefault(run.message, []).append(run)
        yield from (
            f"{run.name} {sentence}"
            for sentence in (*log_violations(run), *artifact_violations(run, artifacts))
        )
    for send in sends:
        found = by_message.pop(send.message, [])
        yield from (f"{send.text!r} in {send.session}: {fault}" for fault in send.faults)
        if [run.id for run in found] != [send.run]:
            yield f"{send.text!r}: told {send.run!r}, stored {[run.name for run in found]}"
            continue
        yield from client_violations(send, found[0])
        yield from (
            f"{found[0].name} {sentence}" for sentence in is_unexpected_answer(found[0], send.text, send.file)
        )
        kept = [message for message in history[send.session] if message["id"] == found[0].answer]
        if kept != [fold_log(found[0].log)]:
            yield f"{found[0].name}: history has {kept}, the log {fold_log(found[0].log)}"
    yield from (f"nobody asked for {message}" for message in by_message)
    yield from overlapping_turns(runs)
    yield from forbidden_repeats(calls)


# -------------------------------------------------------------------------------------------------- score


def silence_seconds(sends: Sequence[Send]) -> list[float]:
    """The seconds between two consecutive events of a response, sorted; the longest is last."""
    gaps = []
    for send in sends:
        for earlier, later in itertools.pairwise(range(len(send.frames))):
            if b'"type":"finish"' not in send.frames[earlier]:
                gaps.append(send.times[later] - send.times[earlier])
    return sorted(gaps)


def takeover_seconds(
    struck: Sequence[StrikeRecord], sends: Sequence[Send], runs: Sequence[StoredRun], way: signal.Signals
) -> list[float]:
    """Seconds from such a strike at a runner to the next event of a run that it held, as a client saw it. A
    draining runner goes on for a while, so its seconds begin at its last event. A turn that has ended does
    not count: its next event waits for a person or for the limit of its tenant.
    """
    seen = {send.run: send for send in sends}
    logs = {run.id: run.log for run in runs}
    found = []
    for one in struck:
        for id, attempt in one.held.items() if one.strike.way is way else ():
            if id in seen and id in logs:
                found += list(_next(one.at, seen[id], logs[id], attempt))
    return sorted(found)


def _next(struck_at: float, send: Send, log: Iterable[Record], attempt: int) -> Iterator[float]:
    records = list(log)
    turn = max((one.head.turn for one in records if one.head.attempt <= attempt), default=0)
    taken = [one for one in records if one.head.attempt > attempt and one.head.turn == turn]
    later = {frame for record in taken for frame in split_frames(record.payload)}
    for frame, at in zip(send.frames, send.times, strict=True):
        if frame in later:
            if at > struck_at:
                yield at - struck_at
            return
        struck_at = max(at, struck_at)


def _p(values: Sequence[float], quantile: float) -> str:
    return f"{values[min(len(values) - 1, int(len(values) * quantile))]:.2f} s" if values else "-"


def format_score(
    struck: Sequence[StrikeRecord], missed: int, sends: Sequence[Send], runs: Sequence[StoredRun], errors: str
) -> str:
    """The figures of a chaos run, as a table."""
    blows = Counter(f"{one.strike.way.name} {one.strike.part}" for one in struck)
    states = Counter(run.state for run in runs)
    runs_by_id = {run.id: run for run in runs}
    rows: list[tuple[str, Any]] = [
        *sorted(blows.items()),
        ("strikes at nobody", missed),
        *sorted(states.items()),
        ("events seen", sum(len(send.frames) for send in sends)),
        ("events doubled", sum(len(send.frames) - len(set(send.frames)) for send in sends)),
        (
            "events lost",
            sum(len(_lost(send, runs_by_id[send.run])) for send in sends if send.run in runs_by_id),
        ),
        ("posts", sum(send.posts for send in sends)),
        ("resumes", sum(send.resumes for send in sends)),
        ("attempts more than one", sum(run.log[-1].head.attempt - 1 for run in runs if run.log)),
        ("resets", sum(chunk["type"] == "reset-step" for run in runs for chunk in logged_events(run.log))),
        (
            "outcomes unknown",
            sum(c.get("errorText") == UNKNOWN_OUTCOME for r in runs for c in logged_events(r.log)),
        ),
    ]
    for way in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM):
        times = takeover_seconds(struck, sends, runs, way)
        row = f"{len(times)}, p50 {_p(times, 0.5)}, p99 {_p(times, 0.99)}"
        rows.append((f"takeovers after {way.name}", row))
    gaps = silence_seconds(sends)
    rows.append(("longest silence", _p(gaps, 1)))
    rows += [
        (word, errors.count(f'"event": "{word}"'))
        for word in (
            "fenced",
            "takeover_retried",
            "run_requeued",
            "append_unknown",
            "stranded_run_republished",
            "run_end_not_persisted",
        )
    ]
    return "\n".join(f"{name:>28}  {value}" for name, value in rows)
