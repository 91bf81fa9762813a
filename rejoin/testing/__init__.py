"""Tests of agents in milliseconds, without a server.

chat                  a conversation with an agent whose gateway and runner live in the test's process
ScriptedModel         a model whose responses the test writes down: `text`, `call`, `output`, `fail` …
RecordingToolContext  a tool's context for a test of a single tool

The log, the fold, the state machine and the runner's loop are the product's own; the broker and the database
are `rejoin_adapters.memory`, which passes the same contract tests as NATS and PostgreSQL. The same chat runs
on a running `rejoin dev` with `config=".rejoin/rejoin.toml"`.
"""

from rejoin.testing.answer import Answer, RecordedToolCall
from rejoin.testing.chat import Chat, chat
from rejoin.testing.scripted_model import (
    ScriptedModel,
    ScriptEnded,
    call,
    fail,
    output,
    pause,
    raw_call,
    reasoning,
    text,
)
from rejoin.testing.tool_context import RecordingToolContext

__all__ = (
    "Answer",
    "Chat",
    "RecordedToolCall",
    "RecordingToolContext",
    "ScriptEnded",
    "ScriptedModel",
    "call",
    "chat",
    "fail",
    "output",
    "pause",
    "raw_call",
    "reasoning",
    "text",
)
