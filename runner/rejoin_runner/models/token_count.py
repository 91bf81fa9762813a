"""How many tokens the messages of a conversation have. Pure.

Each provider counts with a tokenizer of its own, and most of them are not public. So the count is an
estimate, by classes of characters, corrected by what the provider itself counted for the earlier answers of
the same conversation (`usage` in their metadata). Nothing is downloaded and no tokenizer is loaded.

Without any earlier answer the estimate is between 0.65 and 1.55 times the count of OpenAI's `o200k_base` and
`cl100k_base` and of Claude 2's tokenizer, for prose in six languages, for code, JSON and numbers: the samples
are in the tests. The tokenizers themselves differ by up to a factor of 2.3.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from rejoin_protocol.events.fold import MessageDict, is_tool, tool_name
from rejoin_protocol.events.steering import STEERING_PART
from rejoin_runner.models.model import Usage

FILE_TOKENS = 1_500
"""Estimated tokens of an image or a document: its size in bytes says little about its tokens."""
SAMPLE_CHARS_MAX = 16_000
"""A longer text is estimated from evenly spaced slices of it, which takes less than a millisecond."""
SLICES = 16
CALIBRATION_TOKENS_MIN = 200
"""Fewer tokens of earlier answers are not enough to correct the estimate."""
CALIBRATION_MIN, CALIBRATION_MAX = 0.5, 2.0
"""Bounds of the correction: a provider may count tokens that are not in the message."""

_TOKEN = re.compile(
    r"[A-Za-z]{1,7}"
    r"| ?[0-9]{1,3}"
    r"|[\u3000-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef]"  # Chinese, Japanese, Korean
    r"|[^\W\d_A-Za-z]{1,3}"
    r"|(?:[^\w\s]|_){1,2}"
    r"|\n[ \t]*"
)
"""About one token for each match. A single space belongs to the next word."""


def count_tokens(history: Sequence[MessageDict]) -> list[int]:
    """The estimated tokens of each message, corrected by the usage of the answers among them."""
    factor = calibrate(history)
    return [_text_tokens(message, factor) + _file_tokens(message) for message in history]


def estimate_text_tokens(text: str) -> int:
    """The estimated tokens of a text, without correction."""
    if len(text) <= SAMPLE_CHARS_MAX:
        return len(_TOKEN.findall(text))
    step, size = len(text) // SLICES, SAMPLE_CHARS_MAX // SLICES
    matches = sum(len(_TOKEN.findall(text[start : start + size])) for start in range(0, step * SLICES, step))
    return matches * len(text) // SAMPLE_CHARS_MAX


def calibrate(history: Sequence[MessageDict]) -> float:
    """The provider's count divided by the estimate, for what the model wrote in earlier answers.

    1.0 if there is too little to compare. Reasoning is left out on both sides: providers do not show all of
    it. So are answers whose usage includes a summary of the conversation, or is an estimate itself.
    """
    counted = estimated = 0
    for message in history:
        metadata = message.get("metadata")
        if message["role"] != "assistant" or not isinstance(metadata, dict) or "compaction" in metadata:
            continue
        usage = Usage.parse(metadata.get("usage"))
        tokens = usage.output_tokens - usage.reasoning_tokens
        if tokens > 0 and not usage.estimated:
            counted += tokens
            estimated += sum(estimate_text_tokens(text) for text in _texts_by_model(message))
    if min(counted, estimated) < CALIBRATION_TOKENS_MIN:
        return 1.0
    return min(max(counted / estimated, CALIBRATION_MIN), CALIBRATION_MAX)


def texts_of_part(part: dict[str, Any]) -> Iterator[str]:
    """The texts of a part that a model reads. For a tool call: its name, its input, its output or error."""
    if part["type"] in ("text", "reasoning"):
        yield part["text"]
    elif part["type"] == STEERING_PART:
        yield from (text for inner in part["parts"] for text in texts_of_part(inner))
    elif is_tool(part):
        yield tool_name(part)
        yield _to_text(part.get("input"))
        yield part["errorText"] if "errorText" in part else _output_text(part.get("output"))


def _texts_by_model(message: MessageDict) -> Iterator[str]:
    """The texts of an answer that the model wrote: not its reasoning, not the outputs of tools."""
    for part in message["parts"]:
        if part["type"] == "text":
            yield part["text"]
        elif is_tool(part):
            yield tool_name(part)
            yield _to_text(part.get("input"))


def _text_tokens(message: MessageDict, factor: float) -> int:
    texts = (text for part in message["parts"] for text in texts_of_part(part))
    return round(factor * sum(estimate_text_tokens(text) for text in texts))


def _file_tokens(message: MessageDict) -> int:
    return FILE_TOKENS * sum(_file_count(part) for part in message["parts"])


def _file_count(part: dict[str, Any]) -> int:
    """How many files a model gets with a part."""
    if part["type"] == STEERING_PART:
        return sum(map(_file_count, part["parts"]))
    output = part.get("output")
    if not isinstance(output, dict) or output.get("type") != "content":
        return int(part["type"] == "file")
    items = output.get("value")
    return sum("text" not in item for item in items) if isinstance(items, list) else 0


def _output_text(value: Any) -> str:
    """A tool's output without the bytes of its files."""
    if isinstance(value, dict) and value.get("type") == "content" and isinstance(value.get("value"), list):
        items = [item for item in value["value"] if isinstance(item, dict)]
        return " ".join(str(item.get("text", "[file]")) for item in items)
    return _to_text(value)


def _to_text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
