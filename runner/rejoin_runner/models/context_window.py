"""How much of a conversation a model is shown. Pure.

A window drops whole turns, the oldest first. A turn is a user's message and everything up to the next user's
message, so a tool call is never separated from its result. The last turn and system messages are never
dropped. The stored conversation stays complete: the window applies to what the model is sent.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise

import msgspec

from rejoin_protocol.events.fold import MessageDict
from rejoin_runner.models.token_count import count_tokens


class ContextWindow(msgspec.Struct, frozen=True, kw_only=True):
    """The most that a model is shown of a conversation.

    Attributes:
        messages_max: Messages, those of the current turn included. Default: None, no limit.
        tokens_max: Estimated tokens of the messages. Instructions, tools and the answer are not included:
            leave room for them. Default: None, no limit.
        keep_first: This many turns at the beginning are never dropped. Default: 0.
    """

    messages_max: int | None = None
    tokens_max: int | None = None
    keep_first: int = 0


class Replacement(msgspec.Struct, frozen=True):
    """The size of the messages that replace the dropped ones."""

    messages: int = 0
    tokens: int = 0


def fit_history(history: Sequence[MessageDict], window: ContextWindow) -> tuple[list[MessageDict], int]:
    """The messages that fit into the window, and how many were dropped.

    The result may still exceed the window: what must never be dropped can be too large by itself.
    """
    start = find_cut_start(history, window)
    end = find_cut_end(history, window, start, start, Replacement())
    shown = replace_messages(history, start, end, [])
    return shown, len(history) - len(shown)


def find_cut_start(history: Sequence[MessageDict], window: ContextWindow) -> int:
    """The index of the first message that may be dropped; the length of the history if there is none."""
    turn_starts = _turn_starts(history)
    return turn_starts[window.keep_first] if window.keep_first < len(turn_starts) else len(history)


def find_cut_end(
    history: Sequence[MessageDict], window: ContextWindow, start: int, end: int, replacement: Replacement
) -> int:
    """The smallest index from `end` on so that the history without `start` to it fits into the window.

    If nothing fits, the start of the last turn. The index is `end` or the start of a turn. `replacement` is
    what is shown instead of the dropped messages, once there are any.
    """
    totals = [0, *accumulate(count_tokens(history))]

    def fits(end: int) -> bool:
        added = replacement if end > start else Replacement()
        messages = len(history) - (end - start) + added.messages
        tokens = totals[-1] - (totals[end] - totals[start]) + added.tokens
        return (window.messages_max is None or messages <= window.messages_max) and (
            window.tokens_max is None or tokens <= window.tokens_max
        )

    ends = [end, *(turn for turn in _turn_starts(history) if turn > max(start, end))]
    return next((candidate for candidate in ends if fits(candidate)), ends[-1])


def replace_messages(
    history: Sequence[MessageDict], start: int, end: int, replacement: Sequence[MessageDict]
) -> list[MessageDict]:
    """The history with `replacement` instead of the messages `start` to `end`. System messages stay."""
    system = [message for message in history[start:end] if message["role"] == "system"]
    return [*history[:start], *system, *replacement, *history[end:]]


def _turn_starts(history: Sequence[MessageDict]) -> list[int]:
    roles = ["", *(message["role"] for message in history)]
    return [
        index
        for index, (previous, role) in enumerate(pairwise(roles))
        if index == 0 or (role == "user" and previous != "user")
    ]
