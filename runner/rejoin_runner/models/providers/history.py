"""Writes a conversation as pydantic-ai's messages. Pure.

`conversation` decides what a model is shown; the library owns the wire formats.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from pydantic_ai.messages import (
    AudioUrl,
    BinaryContent,
    DocumentUrl,
    FilePart,
    ImageUrl,
    ModelMessage,
    ModelRequest,
    ModelRequestPart,
    ModelResponse,
    ModelResponsePart,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    UserContent,
    UserPromptPart,
    VideoUrl,
)

from rejoin_runner.models.providers.conversation import (
    AnswerTurn,
    Content,
    FileContent,
    MadeCall,
    MadeFile,
    Result,
    Said,
    Thought,
    Turn,
    UserTurn,
)
from rejoin_runner.models.providers.model_origin import ModelOrigin, ProviderData


def to_messages(instructions: str, turns: Iterable[Turn], origin: ModelOrigin) -> list[ModelMessage]:
    """The conversation for the model `origin`, as `build_conversation` returns it."""
    messages: list[ModelMessage] = []
    request: list[ModelRequestPart] = []
    for turn in turns:
        match turn:
            case UserTurn(content=content):
                request.append(UserPromptPart(_join(content)))
            case AnswerTurn(parts=parts, results=results):
                if request:
                    messages.append(ModelRequest(parts=request))
                messages.append(_response(parts, origin))
                request = [_result(result) for result in results]
    messages.append(ModelRequest(parts=request, instructions=instructions if instructions.strip() else None))
    return messages


def _response(parts: Sequence[Said | Thought | MadeFile | MadeCall], origin: ModelOrigin) -> ModelResponse:
    # Ids of single items are valid only in a response that this provider gave.
    has_provider_data = any(part.data is not None for part in parts)
    return ModelResponse(
        parts=[_response_part(part, origin) for part in parts],
        provider_name=origin.system if has_provider_data else None,
    )


def _response_part(part: Said | Thought | MadeFile | MadeCall, origin: ModelOrigin) -> ModelResponsePart:
    own: dict[str, Any] = {} if part.data is None else _attributes(part.data, origin)
    match part:
        case Said(text=text):
            return TextPart(text, **own)
        case Thought(text=text, data=data):
            return ThinkingPart(text, signature=data.signature, **own)
        case MadeFile(file=file):
            return FilePart(BinaryContent(file.data or b"", media_type=file.media_type or ""), **own)
        case MadeCall(id=id, name=name, arguments=arguments):
            return ToolCallPart(name, arguments, id, **own)


def _attributes(data: ProviderData, origin: ModelOrigin) -> dict[str, Any]:
    return {"id": data.id, "provider_name": origin.system, "provider_details": data.details}


def _result(result: Result) -> ToolReturnPart:
    content = [_content(item) for item in result.content]
    only_text = content[0] if len(content) == 1 and isinstance(content[0], str) else None
    return ToolReturnPart(
        result.name, content if only_text is None else only_text, result.call, outcome=result.outcome
    )


def _join(content: Sequence[Content]) -> str | list[UserContent]:
    """One text if there are only texts: some servers take no list."""
    texts = [item for item in content if isinstance(item, str)]
    return "\n\n".join(texts) if len(texts) == len(content) else [_content(item) for item in content]


def _content(item: Content) -> UserContent:
    match item:
        case FileContent(data=bytes(data), media_type=media_type):
            return BinaryContent(data, media_type=media_type or "")
        case FileContent(url=url, media_type=media_type):
            return _remote_type(item.kind)(url, media_type=media_type)
        case str():
            return item


def _remote_type(kind: str) -> type[ImageUrl | AudioUrl | VideoUrl | DocumentUrl]:
    match kind:
        case "image":
            return ImageUrl
        case "audio":
            return AudioUrl
        case "video":
            return VideoUrl
        case _:
            return DocumentUrl
