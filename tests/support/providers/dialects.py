"""One answer as each service speaks it: `speak(OLLAMA, Answer(text=["Hi"]))`."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.support.providers import anthropic_frames, google_frames, responses_frames
from tests.support.providers.profiles import ProviderProfile
from tests.support.providers.server import ProviderReply

type Delta = dict[str, Any]


@dataclass(frozen=True)
class SpokenCall:
    """A tool call, its arguments in pieces."""

    id: str
    name: str
    arguments: Sequence[str] = ("{}",)


@dataclass(frozen=True)
class Answer:
    """An answer before any service has spoken it. The counts of tokens are the true ones."""

    thoughts: Sequence[str] = ()
    text: Sequence[str] = ()
    calls: Sequence[SpokenCall] = ()
    finish: str = "stop"
    tokens_in: int = 10
    tokens_out: int = 20


def speak(profile: ProviderProfile, answer: Answer) -> ProviderReply:
    """The answer as this service sends it."""
    match profile.wire:
        case "anthropic":
            return _speak_anthropic(answer)
        case "responses":
            return _speak_responses(answer)
        case "google":
            return ProviderReply(list(_google_frames(answer)), "eof")
        case "chat":
            return ProviderReply(list(_chat_frames(profile, answer)), "done" if profile.done else "eof")


def _chat_frames(profile: ProviderProfile, answer: Answer) -> Iterator[bytes]:
    yield from profile.opening
    deltas = list(_deltas(profile, answer))
    for number, delta in enumerate(deltas):
        named: Delta = {"role": "assistant"} if profile.each_role or number == 0 else {}
        empty: Delta = (
            {"content": None if "tool_calls" in delta else ""} if profile.empty_delta_fields else {}
        )
        so_far = answer.tokens_out * (number + 1) // (len(deltas) + 1)
        counted = {"usage": _usage(answer.tokens_in, so_far)} if profile.usage == "each chunk" else {}
        yield _chunk({"index": 0, "delta": named | empty | delta, "finish_reason": None}, **counted)
        if profile.comment:
            yield profile.comment
    yield from _ending(profile, answer)
    yield from profile.closing


def _ending(profile: ProviderProfile, answer: Answer) -> Iterator[bytes]:
    finish = profile.tool_finish if answer.calls and answer.finish == "stop" else answer.finish
    choice: dict[str, Any] = {"index": 0, "finish_reason": finish}
    if not profile.finish_without_delta:
        choice["delta"] = {}
    sums = _usage(answer.tokens_in, answer.tokens_out)
    match profile.usage:
        case "last chunk":
            yield _chunk(choice)
            yield _chunk(usage=sums)
        case "each chunk" | "at the finish":
            yield _chunk(choice, usage=sums)
        case "x_groq":
            yield _chunk(choice, x_groq={"id": "req_1", "usage": sums})
        case "absent":
            yield _chunk(choice)


def _deltas(profile: ProviderProfile, answer: Answer) -> Iterator[Delta]:
    if answer.thoughts and profile.thoughts == "tags":
        yield {"content": "<think>\n"}
        yield from ({"content": thought} for thought in answer.thoughts)
        yield {"content": "\n</think>\n\n"}
    elif profile.thoughts == "parts":
        thoughts = ([{"type": "text", "text": thought}] for thought in answer.thoughts)
        yield from ({"content": [{"type": "thinking", "thinking": thought}]} for thought in thoughts)
    elif profile.thoughts != "none":
        field: str = profile.thoughts
        yield from ({field: thought} for thought in answer.thoughts)
    yield from ({"content": text} for text in answer.text)
    for number, call in enumerate(answer.calls):
        yield from _call_deltas(profile, number, call)


def _call_deltas(profile: ProviderProfile, number: int, call: SpokenCall) -> Iterator[Delta]:
    pieces = ["".join(call.arguments)] if profile.whole_calls else call.arguments
    for position, piece in enumerate(pieces):
        said: Delta = {"function": {"arguments": piece}}
        if position == 0 or profile.repeated_name:
            said |= {"id": call.id, "type": "function"}
            said["function"] = {"name": call.name, "arguments": piece}
        if profile.call_index != "absent":
            said["index"] = number if profile.call_index == "counted" else 0
        yield {"tool_calls": [said]}


def _chunk(choice: Mapping[str, Any] | None = None, **fields: object) -> bytes:
    said = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "fake"}
    return f"data: {json.dumps(said | {'choices': [choice] if choice else [], **fields})}\n\n".encode()


def _usage(tokens_in: int, tokens_out: int) -> dict[str, int]:
    total = tokens_in + tokens_out
    return {"prompt_tokens": tokens_in, "completion_tokens": tokens_out, "total_tokens": total}


_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "content_filter": "refusal"}


def _speak_anthropic(answer: Answer) -> ProviderReply:
    blocks = []
    if answer.thoughts:
        blocks.append(anthropic_frames.thinking(0, "".join(answer.thoughts), "sig"))
    if answer.text:
        blocks.append(anthropic_frames.text(len(blocks), *answer.text))
    for call in answer.calls:
        blocks.append(anthropic_frames.tool_use(len(blocks), call.id, call.name, *call.arguments))
    reason = "tool_use" if answer.calls and answer.finish == "stop" else _STOP_REASONS[answer.finish]
    return anthropic_frames.message(
        *blocks, reason=reason, tokens_in=answer.tokens_in, tokens_out=answer.tokens_out
    )


_INCOMPLETE = {"stop": None, "length": "max_output_tokens", "content_filter": "content_filter"}


def _speak_responses(answer: Answer) -> ProviderReply:
    items = []
    if answer.thoughts:
        items.append(responses_frames.reasoning("rs_1", "gAAA", "".join(answer.thoughts)))
    if answer.text:
        items.append(responses_frames.text("msg_1", *answer.text))
    items += [
        responses_frames.call(f"fc_{call.id}", call.id, call.name, *call.arguments) for call in answer.calls
    ]
    sums = responses_frames.usage(answer.tokens_in, answer.tokens_out)
    return responses_frames.response(*items, sums=sums, incomplete=_INCOMPLETE[answer.finish])


_GOOGLE_REASONS = {"stop": "STOP", "length": "MAX_TOKENS", "content_filter": "SAFETY"}


def _google_frames(answer: Answer) -> Iterator[bytes]:
    """The sums are in each frame, and grow."""
    parts: list[dict[str, Any]] = [{"text": text, "thought": True} for text in answer.thoughts]
    parts += [{"text": text} for text in answer.text]
    parts += [
        google_frames.call(call.name, "".join(call.arguments))
        for call in answer.calls
        if _is_json("".join(call.arguments))
    ]
    for number, part in enumerate(parts, 1):
        so_far = answer.tokens_out * number // (len(parts) + 1)
        yield google_frames.frame(part, usage=(answer.tokens_in, so_far))
    finish = _GOOGLE_REASONS[answer.finish]
    yield google_frames.frame(finish=finish, usage=(answer.tokens_in, answer.tokens_out))


def _is_json(text: str) -> bool:
    """Gemini has no call whose arguments are broken: it says `MALFORMED_FUNCTION_CALL` instead."""
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
