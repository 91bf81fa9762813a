"""Finds the reasoning that a model writes into its text, between two tags. Pure.

A tag may be split over deltas: what may be the begin of a tag is held until the next delta.
"""

from collections.abc import Iterator


class ThinkTagSplitter:
    """`split` every delta of the text, then `end`. Each piece comes with whether it is reasoning."""

    def __init__(self, tags: tuple[str, str]) -> None:
        self._tags = tags
        self._thinks = False
        self._held = ""
        self._trims = False
        """White space behind a tag belongs to the tag, as does that before an end tag."""

    def split(self, text: str) -> Iterator[tuple[bool, str]]:
        """The pieces of a delta."""
        if not (self._thinks or self._trims or self._held) and self._tags[0][0] not in text:
            yield False, text
            return
        text, self._held = self._held + text, ""
        while True:
            before, tag, text = text.partition(self._tags[self._thinks])
            if not tag:
                break
            yield from self._piece(before.rstrip() if self._thinks else before)
            self._thinks, self._trims = not self._thinks, True
        certain = before[: len(before) - self._overlap(before)]
        if self._thinks:
            certain = certain.rstrip()
        self._held = before[len(certain) :]
        yield from self._piece(certain)

    def end(self) -> Iterator[tuple[bool, str]]:
        """The buffered text, which turned out to be no tag."""
        text, self._held = self._held, ""
        yield from self._piece(text)

    def _piece(self, text: str) -> Iterator[tuple[bool, str]]:
        if self._trims:
            text = text.lstrip()
            self._trims = not text
        if text:
            yield self._thinks, text

    def _overlap(self, text: str) -> int:
        """The length of the text's end that may be the begin of the next tag."""
        tag = self._tags[self._thinks]
        longest = min(len(tag) - 1, len(text))
        return next((size for size in range(longest, 0, -1) if text.endswith(tag[:size])), 0)
