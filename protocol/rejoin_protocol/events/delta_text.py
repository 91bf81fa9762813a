"""The text of deltas in a form that the log can hold. Pure.

A provider or an application's model may split a character outside of the Basic Multilingual Plane over two
deltas: JavaScript and JSON write it as two surrogates.
"""

from rejoin_protocol.json_input import well_formed

_HIGH_FIRST, _HIGH_LAST = "\ud800", "\udbff"


class DeltaText:
    """Joins the halves of a character that arrive in two deltas of one part."""

    def __init__(self) -> None:
        self._half = ""

    def add(self, text: str) -> str:
        """The delta's text, with the half before it and without one at its end."""
        if self._half:
            text, self._half = self._half + text, ""
        if text and _HIGH_FIRST <= text[-1] <= _HIGH_LAST:
            text, self._half = text[:-1], text[-1]
        return well_formed(text)

    def end(self) -> str:
        """U+FFFD for a half whose other half never came, else nothing."""
        text, self._half = well_formed(self._half), ""
        return text
