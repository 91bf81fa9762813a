"""The usage of a call that its provider did not report, or not all of it. Pure.

Several services report none unless they are asked in a way of their own, some only a part of it, and none
reports that of an answer that was cut off. It must not count as nothing: tenants have quotas of tokens. So it
is estimated (`token_count`) and marked as an estimate.
"""

from collections import defaultdict

import msgspec

from rejoin_protocol.events.chunks import ReasoningDelta, TextDelta, ToolInputDelta, ToolInputStart
from rejoin_runner.models.model import Done, ModelChunk, ModelRequest, Usage
from rejoin_runner.models.token_count import calibrate, count_tokens, estimate_text_tokens


class UsageEstimate:
    """Reads one answer along: `add` each chunk."""

    def __init__(self, request: ModelRequest) -> None:
        self._request = request
        self._texts: defaultdict[str, list[str]] = defaultdict(list)
        """The deltas by the id of their part or call."""

    def add(self, chunk: ModelChunk | Done) -> None:
        """Count a chunk in."""
        match chunk:
            case TextDelta(id=id, delta=text) | ReasoningDelta(id=id, delta=text):
                self._texts[id].append(text)
            case ToolInputStart(tool_call_id=id, tool_name=name):
                self._texts[f"the name of {id}"].append(name)
            case ToolInputDelta(tool_call_id=id, input_text_delta=text):
                self._texts[id].append(text)
            case _:
                pass

    def so_far(self) -> Usage:
        """The usage of the request and of what was answered so far."""
        return self.complete(Usage())

    def complete(self, reported: Usage) -> Usage:
        """The usage with an estimate for each of the two counts that is not reported. An input is never
        empty; an output of 0 is a report if nothing was answered.
        """
        tokens_in = reported.input_tokens or self._input_tokens()
        tokens_out = reported.output_tokens or self._output_tokens()
        if (tokens_in, tokens_out) == (reported.input_tokens, reported.output_tokens):
            return reported
        return msgspec.structs.replace(
            reported, input_tokens=tokens_in, output_tokens=tokens_out, estimated=True
        )

    def _input_tokens(self) -> int:
        request = self._request
        described = [request.instructions]
        for tool in request.tools:
            described += [tool.name, tool.description, msgspec.json.encode(tool.input_schema).decode()]
        messages = count_tokens([*request.history, request.answer])
        return max(1, sum(messages) + self._calibrated(described))

    def _output_tokens(self) -> int:
        return self._calibrated(["".join(deltas) for deltas in self._texts.values()])

    def _calibrated(self, texts: list[str]) -> int:
        return round(calibrate(self._request.history) * sum(map(estimate_text_tokens, texts)))
