"""Files that a model makes: stored before anybody hears of them, served to their owner, read by the model."""

import base64
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest

from protocol import chunks, media
from protocol.fold import fold
from protocol.journal_bounds import EVENT_BYTES_MAX
from runner import Agent, Done, ModelChunk, ModelRequest, RunInput, agent, tool
from tests.attached import image
from tests.fake_provider import FakeProvider
from tests.fakes import responses
from tests.rig import Answer, Rig

LARGE = image("PNG", (900, 600)) + b""


@tool
def frame(colour: str) -> str:
    """Choose a frame."""
    return f"a {colour} frame"
