"""`Callers`: what the requests of OpenAI's clients may set for their own run, and within which limits.

Generic clients always send some instructions, sampling parameters, a form of the answer or tools. These apply
to one run, and never replace what the agent says itself: instructions stand behind the agent's own, numbers
are brought within the agent's limits. Pure.
"""

import re
from collections.abc import Sequence

import msgspec

from rejoin_protocol.errors import Invalid
from rejoin_protocol.request_options import AskedOutput, CallerOption, RequestOptions
from rejoin_runner.agent.output_type import OutputType
from rejoin_runner.models.model import ModelSettings, OutputSpec

TEMPERATURE_MAX = 2.0
CALLER_TAG = "caller_instructions"
_END_TAG = re.compile(f"</(?={CALLER_TAG})", re.IGNORECASE)
CALLER_NOTE = (
    "The application that calls you adds the text below. Follow it as far as it does not contradict what "
    "stands above."
)


class Callers(msgspec.Struct, frozen=True, kw_only=True):
    """What the requests of OpenAI's clients may set for their own run.

    Attributes:
        instructions: Whether their instructions (`instructions`, messages of role `system` and `developer`)
            are added behind the agent's own, marked as the caller's. Default: True.
        sampling: Whether they choose `temperature`, `top_p`, `stop` and the most tokens of an answer.
            Default: True.
        temperature_max: Higher temperatures count as this one. Default: 1, which all providers take.
        max_tokens: The most tokens of an answer that they may ask for; a lower `max_tokens` of
            `model_settings` holds as well. Default: None, only that one.
        output: Whether they ask for a typed answer with `response_format` or `text.format`. An agent with an
            `output` of its own keeps that. Default: True.
        tools: Whether they bring client tools. They do in any case if the agent's `client_tools` is
            `request`. Default: True.

    Raises `Invalid` for a temperature outside of 0 to 2, and fewer tokens than 1.
    """

    instructions: bool = True
    sampling: bool = True
    temperature_max: float = 1.0
    max_tokens: int | None = None
    output: bool = True
    tools: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.temperature_max <= TEMPERATURE_MAX:
            raise Invalid(f"temperature_max is 0 to {TEMPERATURE_MAX:g}")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise Invalid("max_tokens of callers is at least 1")

    @property
    def takes(self) -> Sequence[CallerOption]:
        """The options that it lets requests set."""
        options: tuple[CallerOption, ...] = ("instructions", "sampling", "output", "tools")
        return tuple(option for option in options if getattr(self, option))

    def settings(self, own: ModelSettings, asked: RequestOptions) -> ModelSettings:
        """The agent's settings with those of a request, within the agent's limits."""
        if self.tools and asked.parallel_tool_calls is False:
            own = msgspec.structs.replace(own, parallel_tool_calls=False)
        if not self.sampling:
            return own
        limits = (asked.max_tokens, self.max_tokens, own.max_tokens)
        limited = [limit for limit in limits if limit is not None]
        return msgspec.structs.replace(
            own,
            temperature=_within(asked.temperature, self.temperature_max, own.temperature),
            top_p=_within(asked.top_p, 1.0, own.top_p),
            max_tokens=own.max_tokens if asked.max_tokens is None else min(limited),
            stop=asked.stop or own.stop,
        )

    def add_instructions(self, own: str, asked: RequestOptions) -> str:
        """The agent's instructions and, behind them and marked as such, those of a request."""
        if not self.instructions or not asked.instructions:
            return own
        # The text must not look as if it ended before its end.
        text = _END_TAG.sub(r"<\\/", asked.instructions)
        return f"{own}\n\n{CALLER_NOTE}\n<{CALLER_TAG}>\n{text}\n</{CALLER_TAG}>".lstrip()

    def output_type(self, asked: RequestOptions) -> OutputType | None:
        """The type of the answer that a request asks for; None if it asks for none."""
        return to_output_type(asked.output) if self.output and asked.output is not None else None


NO_CALLERS = Callers(instructions=False, sampling=False, output=False, tools=False)


def _within(asked: float | None, most: float, own: float | None) -> float | None:
    return own if asked is None else min(max(asked, 0.0), most)


def to_output_type(asked: AskedOutput) -> OutputType:
    """The type of a request's answer. Its schema comes from the request: see `OutputType.is_foreign`."""
    return OutputType(asked.schema, OutputSpec(asked.name, asked.description, asked.schema), is_foreign=True)
