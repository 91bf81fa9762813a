"""Keeps the control tokens of chat templates out of a request's texts. Pure.

Many hosts of open models tokenize texts with special tokens allowed: `<|im_start|>` in a tool's result would
begin a turn in any role. An invisible character behind the token's first one prevents it. Models copy that
character into what they write, so it is removed from answers.
"""

import re

_BREAK = "\u200d"
_INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff"
_TOKEN = re.compile(
    r"<(?=[|\uff5c][^<>|\uff5c\s]{1,40}[|\uff5c]>|(?:start|end)_of_turn>|/?s>|<SYS>>)"
    r"|\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\])"
)
_BROKEN = re.compile(f"(?<=[<\\[])[{_INVISIBLE}]+")


def break_tokens(text: str) -> str:
    """The text without control tokens; nobody sees the difference."""
    return _TOKEN.sub(lambda match: match[0] + _BREAK, text) if "<" in text or "[" in text else text


class TokenRestorer:
    """Restores the tokens in one part of an answer, whose text comes in pieces."""

    def __init__(self) -> None:
        self._is_behind_bracket = False

    def restore(self, text: str) -> str:
        """The next piece as the model meant it."""
        if not text.isascii():
            if self._is_behind_bracket:
                text = text.lstrip(_INVISIBLE)
            text = _BROKEN.sub("", text)
        if text:
            self._is_behind_bracket = text[-1] in "<["
        return text
