"""Puts the pieces of tool calls together. Pure.

Services disagree about the index of a call: some send 0 for all, some none, some another one for a later
piece. So a new id is a new call, a known id belongs to its call, and the index decides only where there is no
id.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from rejoin_protocol.events.chunks import ToolInputAvailable, ToolInputDelta, ToolInputStart
from rejoin_protocol.events.delta_text import DeltaText
from rejoin_runner.models.chat_completions.chunk import CallDelta
from rejoin_runner.models.chat_completions.special_tokens import TokenRestorer
from rejoin_runner.models.providers.arguments import parse_arguments


class StreamedCall:
    """One call of the answer. `id` is its id in the message; `provider_id` the one on the wire."""

    def __init__(self, id: str, provider_id: str, index: object, restorer: TokenRestorer | None) -> None:
        self.id = id
        self.provider_id = provider_id
        self.index = index
        self.name = ""
        self.arguments = ""
        self.extra_content: dict[str, Any] | None = None
        self.started = False
        self._restorer = restorer
        self._text = DeltaText()
        self._unsent = ""

    def add_name(self, name: str) -> None:
        """Some services repeat the name in each piece; some send it in parts."""
        if name != self.name:
            self.name += name

    def add_arguments(self, arguments: object) -> None:
        """A piece of the arguments; an object is the arguments as a whole."""
        if arguments in (None, ""):
            return
        text = arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode()
        if self._restorer is not None:
            text = self._restorer.restore(text)
        added = self._text.add(text)
        self.arguments += added
        self._unsent += added

    def has_complete_arguments(self) -> bool:
        """Whether the arguments so far are a JSON object."""
        return self.arguments.rstrip().endswith("}") and isinstance(parse_arguments(self.arguments), dict)

    def chunks(self) -> Iterator[ToolInputStart | ToolInputDelta]:
        """The chunks that have not been sent yet."""
        if not self.started:
            self.started = True
            yield ToolInputStart(self.id, self.name)
        if self._unsent:
            yield ToolInputDelta(self.id, self._unsent)
            self._unsent = ""

    def complete(self) -> Iterator[ToolInputStart | ToolInputDelta]:
        """The remaining chunks of the arguments."""
        added = self._text.end()
        self.arguments += added
        self._unsent += added
        yield from self.chunks()

    def available(self, metadata: Any) -> ToolInputAvailable:
        """The call with its parsed arguments."""
        return ToolInputAvailable(
            self.id, self.name, parse_arguments(self.arguments), provider_metadata=metadata
        )


class StreamedCalls:
    """The calls of one answer, in order.

    `earlier_ids` are the ids that the conversation has already: some services number the calls of every
    answer from zero. `tool_names` are the request's tools: a call of one of them is told at its name, any
    other call at its arguments, because its name may come in parts.
    """

    def __init__(self, earlier_ids: set[str], tool_names: Sequence[str], *, restores: bool) -> None:
        self.all: list[StreamedCall] = []
        self._ids = earlier_ids
        self._restores = restores
        self._whole_names = {
            name
            for name in tool_names
            if not any(other != name and other.startswith(name) for other in tool_names)
        }

    def add(self, delta: CallDelta) -> Iterator[ToolInputStart | ToolInputDelta]:
        """The chunks of a piece."""
        function = delta.function
        name = (function.name if function is not None else None) or ""
        arguments = function.arguments if function is not None else None
        call = self._find(delta, name, arguments)
        if call is None:
            if self.all:
                yield from self.all[-1].chunks()
            call = self._open(delta)
        if name:
            call.add_name(name)
        call.add_arguments(arguments)
        call.extra_content = delta.extra_content or call.extra_content
        if call.started or call.arguments or call.name in self._whole_names:
            yield from call.chunks()

    def _find(self, delta: CallDelta, name: str, arguments: object) -> StreamedCall | None:
        """The call that the piece belongs to; None for a new one."""
        if delta.id:
            found = self._last(lambda call: call.provider_id == str(delta.id))
            if found is None and not name:  # some services give each piece an id of its own
                found = self._at(delta.index)
        else:
            found = self._at(delta.index)
        # A service without ids, or with one id for all, begins the next call like this one.
        is_next = found is not None and bool(name and arguments) and found.has_complete_arguments()
        return None if is_next else found

    def _at(self, index: object) -> StreamedCall | None:
        if index is None:
            return self.all[-1] if self.all else None
        return self._last(lambda call: call.index == index)

    def _last(self, matches: Any) -> StreamedCall | None:
        return next((call for call in reversed(self.all) if matches(call)), None)

    def _open(self, delta: CallDelta) -> StreamedCall:
        provider_id = str(delta.id or "")
        id = provider_id or f"call_{len(self._ids)}"
        while id in self._ids:
            id = f"{id}-{len(self._ids)}"
        self._ids.add(id)
        call = StreamedCall(id, provider_id, delta.index, TokenRestorer() if self._restores else None)
        self.all.append(call)
        return call
