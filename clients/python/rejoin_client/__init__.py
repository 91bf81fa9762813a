"""A client for Rejoin's HTTP API: answers as typed events, with automatic reconnection.

client      `Client`: address, credential, and the parts below
chat        `client.chat`: send a message, approve, resume, stop
executions  `client.executions`: the same for runs by their ids
threads     `client.threads`: list, read, fork, delete sessions
artifacts   `client.artifacts`: what tools have stored
feedback    `client.feedback`: give and list feedback
answer      `Answer`: one stream of events that reconnects
events      the events, one struct for each type
transport   requests with retries, and the renewal of the credential
errors      errors of the server, and of the connection
"""

from rejoin_client.answer import Answer
from rejoin_client.artifacts import Artifact, Artifacts
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
    NoOutput,
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
    SteeringMessage,
    TextDelta,
    ToolApprovalRequest,
    ToolInputAvailable,
    ToolOutputAvailable,
    ToolOutputDenied,
    ToolOutputError,
    Unknown,
)
from rejoin_client.executions import Execution, Executions
from rejoin_client.feedback import Feedback, FeedbackBook, FeedbackPage
from rejoin_client.threads import Thread, ThreadMessages, ThreadPage, Threads
from rejoin_client.transport import Retry

__all__ = (
    "Abort",
    "Answer",
    "Artifact",
    "Artifacts",
    "Chat",
    "Client",
    "Conflict",
    "Data",
    "Error",
    "Event",
    "Execution",
    "Executions",
    "Feedback",
    "FeedbackBook",
    "FeedbackPage",
    "Finish",
    "FinishStep",
    "Forbidden",
    "Gone",
    "Invalid",
    "Limited",
    "Lost",
    "Malformed",
    "NoOutput",
    "NotFound",
    "ReasoningDelta",
    "Refused",
    "RejoinError",
    "ResetStep",
    "Restarted",
    "Retry",
    "Start",
    "StartStep",
    "SteeringMessage",
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
