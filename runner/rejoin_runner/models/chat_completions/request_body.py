"""Builds the body of a request: a conversation as chat completions have it.

`conversation` decides what a model is shown. A document or a sound that only has an address is downloaded
here: the API takes addresses of images only.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from rejoin_protocol import file_formats
from rejoin_runner.models.attachment_note import note_of
from rejoin_runner.models.chat_completions.answer_reader import DETAILS, TAGGED
from rejoin_runner.models.chat_completions.reasoning_effort import effort_fields, is_reasoning
from rejoin_runner.models.chat_completions.services import ChatService
from rejoin_runner.models.chat_completions.special_tokens import break_tokens
from rejoin_runner.models.model import ModelRequest, ModelSettings, ToolSpec
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
from rejoin_runner.models.providers.output_mode import choose_mode, close_objects, output_prompt, output_tool
from rejoin_runner.models.providers.provider_failure import ProviderFailure
from rejoin_runner.models.providers.request_rules import RequestRules, fit_tool_name

type Message = dict[str, Any]

_TRANSFORMED_MAX = 1000
_SOUNDS = {"audio/wav": "wav", "audio/x-wav": "wav", "audio/mpeg": "mp3", "audio/mp3": "mp3"}
FILES_FOLLOW = "[The files of these results follow.]"


class BodyBuilder:
    """Builds the requests to one model. Keeps the schemas of tools in the form that the model takes."""

    def __init__(self, model: str, service: ChatService, rules: RequestRules) -> None:
        self._model = model
        self._service = service
        self._profile = service.profile
        self._rules = rules
        self._output_mode = choose_mode(service.profile)
        self._tools: dict[bytes, msgspec.Raw] = {}

    def declare_output(self, request: ModelRequest) -> ModelRequest:
        """The request with the tool, or the instructions, by which the model learns what its answer must be,
        if the service has no field for that.
        """
        if request.output is None:
            return request
        if self._output_mode == "tool":
            tools = [output_tool(request.output), *request.tools][: self._rules.tools_max]
            return msgspec.structs.replace(request, tools=tools)
        if self._output_mode == "native" and not self._profile.get(
            "native_output_requires_schema_in_instructions", False
        ):
            return request
        texts = (request.instructions, output_prompt(request.output))
        return msgspec.structs.replace(request, instructions="\n\n".join(filter(str.strip, texts)))

    async def build(self, request: ModelRequest, turns: Sequence[Turn]) -> bytes:
        """The body as JSON, of a request whose output is declared. Raises `ProviderFailure` for what chat
        completions cannot say.
        """
        messages: list[Message] = []
        if request.instructions:
            role = self._profile.get("openai_system_prompt_role") or "system"
            messages.append({"role": role, "content": request.instructions})
        for turn in turns:
            match turn:
                case UserTurn(content=content):
                    messages.append({"role": "user", "content": await self._content(content)})
                case AnswerTurn():
                    messages.append(self._answer(turn))
                    messages += await self._results(turn.results)
        body: dict[str, Any] = {
            "model": self._model,
            "messages": messages,
            "stream": True,
        }
        if self._service.takes_usage_option:
            body["stream_options"] = {"include_usage": True}
        if request.tools:
            body["tools"] = [self._tool(spec) for spec in request.tools]
            body["tool_choice"] = self._tool_choice(request)
        body |= self._response_format(request)
        body |= self._settings(request.settings, has_tools=bool(request.tools))
        body |= request.settings.extra
        return msgspec.json.encode(body)

    def _tool_choice(self, request: ModelRequest) -> str:
        """Without a tool there is no output in the mode `tool`. Models that think refuse to be forced."""
        is_forced = (
            request.output is not None
            and self._output_mode == "tool"
            and self._profile.get("supports_forced_tool_choice", True)
            and not is_reasoning(self._profile, request.settings.reasoning)
        )
        return "required" if is_forced else "auto"

    def _response_format(self, request: ModelRequest) -> dict[str, Any]:
        if request.output is None or self._output_mode == "tool":
            return {}
        if self._output_mode == "prompt":
            has_mode = self._profile.get("supports_json_object_output", False) and not request.tools
            return {"response_format": {"type": "json_object"}} if has_mode else {}
        schema, is_strict = close_objects(request.output.schema), False
        if transformer := self._profile.get("json_schema_transformer"):
            transformed = transformer(schema, strict=None)
            schema = transformed.walk()
            is_strict = transformed.is_strict_compatible
        named: dict[str, Any] = {"name": fit_tool_name(request.output.name, self._rules), "schema": schema}
        if request.output.description:
            named["description"] = request.output.description
        if self._profile.get("openai_supports_strict_tool_definition", True):
            named["strict"] = is_strict
        return {"response_format": {"type": "json_schema", "json_schema": named}}

    def _settings(self, settings: ModelSettings, *, has_tools: bool) -> dict[str, Any]:
        takes_new_name = self._profile.get("openai_chat_supports_max_completion_tokens", True)
        sampling = {
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "stop": list(settings.stop) or None,
        }
        named: dict[str, Any] = {
            **({} if is_reasoning(self._profile, settings.reasoning) else sampling),
            "max_completion_tokens" if takes_new_name else "max_tokens": settings.max_tokens,
            "parallel_tool_calls": settings.parallel_tool_calls if has_tools else None,
        }
        fields = {name: value for name, value in named.items() if value is not None}
        return fields | effort_fields(self._service, settings.reasoning)

    def _tool(self, spec: ToolSpec) -> msgspec.Raw:
        key = msgspec.json.encode(spec)
        if (known := self._tools.get(key)) is not None:
            return known
        schema = spec.input_schema
        if transformer := self._profile.get("json_schema_transformer"):
            schema = transformer(schema, strict=False).walk()
        function = {"name": spec.name, "description": spec.description, "parameters": schema}
        if len(self._tools) >= _TRANSFORMED_MAX:
            self._tools.clear()
        self._tools[key] = msgspec.Raw(msgspec.json.encode({"type": "function", "function": function}))
        return self._tools[key]

    async def _content(self, content: Sequence[Content]) -> str | list[Message]:
        """One text if there are only texts: some servers take no list."""
        texts = [self._safe(item) for item in content if isinstance(item, str)]
        if len(texts) == len(content):
            return "\n\n".join(texts)
        return [
            {"type": "text", "text": self._safe(item)} if isinstance(item, str) else await self._file(item)
            for item in content
        ]

    def _safe(self, text: str) -> str:
        return break_tokens(text) if self._service.reads_tokens else text

    async def _file(self, file: FileContent) -> Message:
        if file.kind == "image":
            url = file.url if file.data is None else file_formats.to_data_url(_type(file), file.data)
            return {"type": "image_url", "image_url": {"url": url}}
        if file.kind not in ("audio", "application", "text"):
            raise _cannot_say()
        if file.data is None and self._profile.get("openai_chat_supports_file_urls", False):
            return {"type": "file", "file": {"file_data": file.url, "filename": _name(file)}}
        media_type, data = (_type(file), file.data) if file.data is not None else await _download(file)
        url = file_formats.to_data_url(media_type, data)
        if file.kind == "audio" and media_type in _SOUNDS:
            as_uri = self._profile.get("openai_chat_audio_input_encoding") == "uri"
            sound = url if as_uri else url.partition(",")[2]
            return {"type": "input_audio", "input_audio": {"data": sound, "format": _SOUNDS[media_type]}}
        if file.kind == "text":
            return {"type": "text", "text": self._safe(data.decode(errors="replace"))}
        if file.kind == "audio" or not self._profile.get("openai_chat_supports_document_input", True):
            raise _cannot_say()
        if self._service.document_form == "document_url":
            return {"type": "document_url", "document_url": url, "document_name": _name(file)}
        return {"type": "file", "file": {"file_data": url, "filename": _name(file)}}

    def _answer(self, turn: AnswerTurn) -> Message:
        """The answer as one message, as the API has it."""
        texts: list[str] = []
        thoughts: dict[str, str] = {}
        details: list[Any] = []
        calls: list[Message] = []
        for part in turn.parts:
            match part:
                case Said(text=text):
                    texts.append(self._safe(text))
                case MadeFile(file=file):  # an answer of this API holds no files
                    size = None if file.data is None else len(file.data)
                    texts.append(note_of(file.part, "was made by the assistant", size))
                case Thought():
                    details += (part.data.details or {}).get(DETAILS, ())
                    self._think(part, texts, thoughts)
                case MadeCall():
                    calls.append(_call(part))
        message: Message = {"role": "assistant", **thoughts, "content": "\n\n".join(texts) if texts else None}
        if details:
            message[DETAILS] = details
        if calls:
            message["tool_calls"] = calls
            if self._profile.get("openai_chat_thinking_requires_field_on_tool_calls", False):
                message.setdefault(self._profile["openai_chat_thinking_field"], "")
        return message

    def _think(self, thought: Thought, texts: list[str], thoughts: dict[str, str]) -> None:
        """Reasoning goes back where it came from, unless the profile says otherwise."""
        way = self._profile.get("openai_chat_send_back_thinking_parts", "auto")
        field = self._profile.get("openai_chat_thinking_field") if way == "field" else thought.data.id
        if not thought.text or way is False or thought.data.id == DETAILS:
            return
        if way == "tags" or field in (None, TAGGED):
            start, end = self._profile.get("thinking_tags", ("<think>", "</think>"))
            texts.append(f"{start}\n{thought.text}\n{end}")
        else:
            thoughts[field] = "\n\n".join((*filter(None, (thoughts.get(field),)), thought.text))

    async def _results(self, results: Sequence[Result]) -> list[Message]:
        """A message for each result. Files follow all of them, as the user's: the API takes texts only."""
        messages: list[Message] = []
        files: list[Content] = []
        for result in results:
            text = "\n\n".join(item for item in result.content if isinstance(item, str))
            own = [item for item in result.content if isinstance(item, FileContent)]
            if own:
                text = f"{text}\n\n{FILES_FOLLOW}".strip()
                files += [f"[Files of the result of {result.name} ({result.call}):]", *own]
            if result.outcome == "failed":
                text = msgspec.json.encode({"error": text}).decode()
            messages.append({"role": "tool", "tool_call_id": result.call, "content": self._safe(text)})
        if files:
            if self._rules.answer_after_results:
                messages.append({"role": "assistant", "content": FILES_FOLLOW})
            messages.append({"role": "user", "content": await self._content(files)})
        return messages


def _call(call: MadeCall) -> Message:
    arguments = msgspec.json.encode(call.arguments).decode()
    message: Message = {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": arguments},
    }
    if call.data is not None and (extra := (call.data.details or {}).get("extra_content")):
        message["extra_content"] = extra
    return message


def _type(file: FileContent) -> str:
    return file.media_type or str(file.part.get("mediaType") or "") or "application/octet-stream"


def _name(file: FileContent) -> str:
    """The API wants a name with an ending; the application's own is as good as any."""
    return str(file.part.get("filename") or f"file.{_type(file).rpartition('/')[2]}")


async def _download(file: FileContent) -> tuple[str, bytes]:
    """The media type and the bytes of a remote file. The library's download refuses private addresses."""
    from pydantic_ai.messages import DocumentUrl
    from pydantic_ai.models import download_item

    found = await download_item(DocumentUrl(file.url, media_type=file.media_type), data_format="bytes")
    return str(found["data_type"]), found["data"]


def _cannot_say() -> ProviderFailure:
    """For a file of a kind that the API does not have: the request may be taken without it."""
    detail = "the model does not take what this conversation holds"
    return ProviderFailure(detail, retryable=False, files_suspected=True)
