"""Talk to Rejoin over HTTP: answers as typed events, through any number of broken connections.

client      the address, the credential; `chat`, `executions`, `threads`
answer      one stream of events, and where its reader is
events      the events, one struct per type
wire        requests made again when nobody answered; the credential renewed
errors      what the server refuses, and what nobody answers
"""

from rejoin_client.answer import Answer
from rejoin_client.chat import Chat
from rejoin_client.client import Client
from rejoin_client.errors import (
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    Limited,
    Lost,
    Malformed,
    NotFound,
    Refused,
    RejoinError,
    TooLarge,
    Unauthenticated,
    Unavailable,
)
from rejoin_client.events import (
    Abort,
    Data,
    Error,
    Event,
    Finish,
    FinishStep,
    ReasoningDelta,
    ResetStep,
    Restarted,
    Start,
    StartStep,
    TextDelta,
    ToolApprovalRequest,
    ToolInputAvailable,
    ToolOutputAvailable,
    ToolOutputDenied,
    ToolOutputError,
    Unknown,
)
from rejoin_client.executions import Execution, Executions
from rejoin_client.threads import Thread, ThreadMessages, ThreadPage, Threads
from rejoin_client.wire import Retry

__all__ = (
    "Abort",
    "Answer",
    "Chat",
    "Client",
    "Conflict",
    "Data",
    "Error",
    "Event",
    "Execution",
    "Executions",
    "Finish",
    "FinishStep",
    "Forbidden",
    "Gone",
    "Invalid",
    "Limited",
    "Lost",
    "Malformed",
    "NotFound",
    "ReasoningDelta",
    "Refused",
    "RejoinError",
    "ResetStep",
    "Restarted",
    "Retry",
    "Start",
    "StartStep",
    "TextDelta",
    "Thread",
    "ThreadMessages",
    "ThreadPage",
    "Threads",
    "TooLarge",
    "ToolApprovalRequest",
    "ToolInputAvailable",
    "ToolOutputAvailable",
    "ToolOutputDenied",
    "ToolOutputError",
    "Unauthenticated",
    "Unavailable",
    "Unknown",
)
