"""How much of everything there may be: the budgets of bytes, characters and counts, each with its reason.

The fixed limits. Limits that operators set are settings (`docs/operations.md`), which also has the table of
these: `python -m tests.support.limits_table` writes it. Errors name the limit that was exceeded. The types
carry a limit into a request's schema, so that the decoder and the OpenAPI description enforce the same one.
"""

from typing import Annotated, Any

from msgspec import Meta

KIB = 1024
MIB = 1024 * KIB

# -------------------------------------------------------------------------------------- connections, logs

CONNECTIONS_MAX = 10_000
"""Connections of one gateway: the default of `REJOIN_CONNECTIONS_MAX`."""
PEER_CONNECTIONS_MAX = 2_000
"""Connections of one peer: the default of `REJOIN_CONNECTIONS_PER_PEER_MAX`. An office behind one address
fits.
"""
HEAD_S_MAX = 15
"""Seconds from a request's first byte to the end of its head."""
IDLE_S_MAX = 75
"""Seconds without a request. Longer than the idle time of the usual balancers, so that they close first and
never send into a close.
"""
HEAD_BYTES_MAX = 128 * KIB
"""A request's line and headers: a request context of the largest size, and cookies. 431 above it."""
HEADS_BYTES_MAX = 32 * MIB
"""All heads of one gateway that have not arrived whole. Beyond it those that wait for longest are closed."""
RECEIVED_BYTES_MAX = 16 * KIB
"""What is received of a connection at a time. A body that waits for its turn has at most four times as many
bytes in a gateway, the rest waits in the kernel.
"""
LOG_TEXT_CHARS_MAX = 4_096
"""A text in a log line; the rest is cut."""
LOG_LINE_CHARS_MAX = 16_384
"""All texts of one log line."""
LOG_LINES_PER_S_MAX = 50
"""Log lines of one event and one source: a principal, a peer or a run. The next line has the number of those
that were not written.
"""
LOG_LINES_BURST_MAX = 500
"""Such lines at once, after a pause."""

# ------------------------------------------------------------------------------------------ request bodies

BODY_BYTES_MAX = 48 * MIB
"""A request's body. Fits three files of the largest size as data URLs."""
LARGE_BODY_BYTES = 128 * KIB
"""A body above this takes a share of the gateway's memory for bodies before it is read."""
LARGE_BODIES_BYTES_MAX = 96 * MIB
"""All large bodies of one gateway together, shared fairly among tenants, so that it stays below 512 MB."""
LARGE_BODIES_DECODED_MAX = 4
"""Large bodies that one gateway decodes and stores at the same time, shared fairly among tenants: text with
one emoji takes eleven times its size meanwhile.
"""
SMALL_BODY_BYTES_MAX = 16 * KIB
"""A body that is read before its sender is authenticated: a login."""
BODY_TEXT_BYTES_MAX = 8 * MIB
"""Strings in a body apart from file data. Clients repeat a conversation in each request; one character
outside of ASCII makes a string take four times its size in memory.
"""
BODY_SKELETON_BYTES_MAX = MIB
"""A body's bytes outside of strings: braces, quotes, commas, numbers. Three such bytes become an object of 60
to 200 bytes in memory.
"""
BODY_LONG_EXPONENTS_MAX = 500
"""Numbers with an exponent of three digits in a body: some take 300 times as long to decode as others."""
BODY_CONTAINERS_MAX = 50_000
"""Arrays and objects in a body, the costliest per byte: two bytes become 64."""
UNCHECKED_BODY_BYTES = 64 * KIB
"""A body up to this size, without that many long exponents, is decoded without a look at its shape: at the
worst it takes 3 MB.
"""

# ---------------------------------------------------------------------------------------- small fields

ID_CHARS_MAX = 256
"""The id of a session, a message, a call, an approval."""
NAME_CHARS_MAX = 256
"""Names that a client gives: roles, models, types, users."""
CREDENTIAL_CHARS_MAX = 4 * KIB
"""An API key, a token, a password in a body."""
REASON_CHARS_MAX = 4 * KIB
"""The reason of an approval's decision. The model reads it: it belongs to a tool call, not to a document."""
TITLE_CHARS_MAX = 500
"""A session's title."""
PAGE_CHARS_MAX = 256 * KIB
"""The page that a person looks at: an address, with whatever its application keeps in it."""
FILENAME_CHARS_MAX = 255
"""A file's name, as file systems have it."""
URL_CHARS_MAX = 8 * KIB
"""A URL of a file that is fetched."""
METADATA_BYTES_MAX = 64 * KIB
"""The metadata of a message or of a session, as JSON."""
OBJECT_KEYS_MAX = 100
"""Keys of an object that a client may fill freely."""
CONTEXT_BYTES_MAX = 64 * KIB
"""A request context, as JSON, before it is sealed."""

# ------------------------------------------------------------------------------------ messages and sessions

TEXT_BYTES_MAX = MIB
"""All text of one message, in UTF-8: about 250,000 tokens, more than most models read. Longer texts are
files.
"""
DATA_BYTES_MAX = 256 * KIB
"""All `data-…` parts of one message, as JSON."""
PARTS_MAX = 1_000
"""Parts of one message."""
MESSAGES_MAX = 1_000_000
"""Messages in one request. Clients of the AI SDK repeat the whole conversation, and its length must not
lock them out: the bytes of the request bound it.
"""
IMPORTS_MAX = 10_000
"""Earlier messages that a new session takes over from its first request. A request with more is refused."""
IMPORT_BYTES_MAX = 16 * MIB
"""The text and data of these."""
PAGE_BYTES_MAX = MIB
"""Messages on one page, as JSON. A page ends early rather than exceed it. In memory it takes up to twelve
times its size.
"""
HISTORY_PAGES_MAX = 16
"""Pages of whole histories that one gateway holds at the same time, shared fairly among tenants."""
PAGE_WRITE_S_MAX = 30
"""Seconds that a client may take to read one such page."""

# ---------------------------------------------------------------------------------------- runs and tools

ANSWER_BYTES_MAX = 4 * MIB
"""All events of one answer: a run whose tools return more fails, because every takeover reads all of it."""
EVENT_BYTES_MAX = 768 * KIB
"""One event of a run, as JSON. The broker takes messages up to 2 MB."""
STEERING_BYTES_MAX = 256 * KIB
"""A message that steers a run, as JSON. It is one event of the run."""
STEERING_MAX = 16
"""Messages that wait for the next step of one run."""
TOOL_INPUT_BYTES_MAX = 256 * KIB
"""A tool's input, as JSON. It is stored with the call's approval."""
TOOL_RESULT_BYTES_MAX = 256 * KIB
"""A tool's result, as JSON. It is repeated to the model in each later step."""
REQUEST_TOOLS_MAX = 128
"""Tools that one request brings: as many as OpenAI takes."""
REQUEST_TOOLS_BYTES_MAX = 128 * KIB
"""These, as JSON. They are stored with the run, and the model reads them in each step."""
REQUEST_INSTRUCTIONS_BYTES_MAX = 128 * KIB
"""Instructions that one request brings. They are stored with the run likewise."""
STOPS_MAX = 4
"""Texts at which an answer stops: as many as OpenAI takes."""
STOP_CHARS_MAX = 256
"""The length of each."""
SCHEMA_NODES_MAX = 10_000
"""Values of the schema of such a tool, each reference replaced by what it leads to: a few lines of nested
references can mean billions.
"""
SCHEMA_DEPTH_MAX = 100
"""How deep they are nested."""
TYPED_ANSWER_BYTES_MAX = 256 * KIB
"""A typed answer, as JSON. Its growth takes up to five times its size in the log."""
HISTORIES_BYTES_MAX = 32 * MIB
"""The large histories that one runner holds at the same time, shared fairly among tenants. In memory, with
the request to the model, a history takes up to eight times its size.
"""
LARGE_HISTORY_BYTES = 128 * KIB
"""A history above this takes a share of that memory."""
ARTIFACT_BYTES_MAX = 16 * MIB
"""An artifact, as JSON."""

# ------------------------------------------------------------------------------------------------ files

FILE_BYTES_MAX = 10 * MIB
"""One file."""
FILES_MAX = 20
"""Files of one message."""
IMPORTED_FILES_MAX = 100
"""Files of the imported messages of a new session."""
FILES_BYTES_MAX = 64 * MIB
"""All files of one request: they are in memory together, because none is stored before all are checked."""
IMAGE_MEMORY_BYTES_MAX = 200 * MIB
"""What decoding one image may take, computed from its dimensions before it is decoded: 50 megapixels of a
PNG, the largest picture of a phone.
"""
IMAGES_MEMORY_BYTES_MAX = 256 * MIB
"""What the images that one gateway decodes at the same time take together: beside the largest one there is
room for those of others.
"""
IMAGE_SCANS_MAX = 100
"""Scans of a progressive JPEG, each of which is decoded over the whole picture. Encoders make about ten."""
IMAGE_CPU_S_MAX = 5
"""Seconds of CPU for decoding one image."""
IMAGE_WORKERS_MAX = 2
"""Images that one gateway decodes at the same time, each in a process with a memory limit. One tenant gets
one of them while another waits.
"""

type Count = Annotated[int, Meta(ge=1, le=2**53)]
type Id = Annotated[str, Meta(max_length=ID_CHARS_MAX)]
# For fields whose own check says more than that they are too long.
type CheckedId = Annotated[
    str, Meta(max_length=BODY_TEXT_BYTES_MAX, extra_json_schema={"maxLength": ID_CHARS_MAX})
]
type Name = Annotated[str, Meta(max_length=NAME_CHARS_MAX)]
type Credential = Annotated[str, Meta(max_length=CREDENTIAL_CHARS_MAX)]
type Reason = Annotated[str, Meta(max_length=REASON_CHARS_MAX)]
type Title = Annotated[str, Meta(max_length=TITLE_CHARS_MAX)]
type PageName = Annotated[str, Meta(max_length=PAGE_CHARS_MAX)]
type Text = Annotated[str, Meta(max_length=TEXT_BYTES_MAX)]
type Part = Annotated[dict[str, Any], Meta(max_length=OBJECT_KEYS_MAX)]
# Clients repeat earlier messages, in which nothing is refused: only the body's limits hold for these.
type RepeatedText = Annotated[str, Meta(max_length=BODY_TEXT_BYTES_MAX)]
type RepeatedPart = Annotated[dict[str, Any], Meta(max_length=BODY_CONTAINERS_MAX)]
type RepeatedParts = Annotated[list[RepeatedPart], Meta(max_length=BODY_CONTAINERS_MAX)]
type RepeatedList = Annotated[list[RepeatedText | RepeatedPart], Meta(max_length=BODY_CONTAINERS_MAX)]
type FreeObject = Annotated[dict[str, Any], Meta(max_length=OBJECT_KEYS_MAX)]
