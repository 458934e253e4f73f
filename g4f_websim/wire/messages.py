"""Turn a conversation into messages that Websim accepts: a role, and a text or a list of texts and images.

What OpenAI's and Anthropic's messages say outside of these, such as calls of tools, is sent as text.
"""

import json
from collections.abc import Mapping
from typing import Any

from g4f.providers.helper import to_string
from g4f.tools.media import render_messages

from .arguments import invalid, require, require_text, without_surrogates
from .images import image_url

Json = dict[str, Any]

# Websim accepts three roles. OpenAI's other roles are sent as the closest of them.
ROLES = {"user": "user", "assistant": "assistant", "system": "system"}
ROLES |= {"developer": "system", "tool": "user", "function": "user"}

# The types of parts, in the forms of OpenAI's two APIs, of Anthropic and of LangChain. For each type of text, the field
# that contains it.
TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal", "thinking": "thinking"}
IMAGE_PARTS = ("image_url", "input_image", "image")
CALL_PARTS = ("tool_use", "tool_call", "function_call")
RESULT_PART = "tool_result"
PART_TYPES = ", ".join((*TEXT_PARTS, *IMAGE_PARTS, *CALL_PARTS, RESULT_PART))

# The fields of a message, other than its content, that say something.
SAID_ELSEWHERE = {"refusal", "audio", "tool_calls", "function_call"}

CALL_FORM = 'a dict, as in {"id": "call_1", "function": {"name": "add", "arguments": "{}"}}'
# The names of a call's arguments in the various forms.
_ARGUMENTS = ("arguments", "args", "input")

# The names of the tools that the conversation called, by the ids of the calls.
_Tools = dict[str, str]


def normalize(messages: Any) -> list[Json]:
    """Return each message in Websim's form, messages without content included.

    Args:
        messages: None, or a list of dicts in the form of OpenAI, Anthropic or g4f.

    Raises:
        ValueError: a message is malformed; the error names it.
    """
    valid = messages is None or isinstance(messages, (list, tuple))
    require(valid, "messages", 'a list of dicts, as in [{"role": "user", "content": "Hello"}]', messages)
    tools: _Tools = {}
    return [_normalize_message(f"messages[{index}]", message, tools) for index, message in enumerate(messages or ())]


def without_empty(messages: list[Json]) -> list[Json]:
    """Return the messages that say something."""
    return [message for message in messages if message["content"]]


def last_user_message(messages: list[Json]) -> Json:
    """Return the last user message; append an empty one if there is none."""
    for message in reversed(messages):
        if message["role"] == "user":
            return message
    messages.append({"role": "user", "content": ""})
    return messages[-1]


def parts_of(message: Json) -> list[Json]:
    """Return the content of a message as a list of parts."""
    content = message["content"]
    if isinstance(content, str):
        return _text_parts(content)
    return list(content)


def _add_text(message: Json, text: str) -> None:
    """Add a paragraph to a message."""
    content = message["content"]
    message["content"] = f"{content}\n\n{text}" if isinstance(content, str) else [*content, *_text_parts(text)]


def ends_with(messages: list[Json], prompt: str) -> bool:
    """Return whether the last message is the user's and its text is the prompt."""
    if not messages or messages[-1]["role"] != "user":
        return False
    return [part["text"] for part in parts_of(messages[-1]) if part["type"] == "text"] == [prompt]


def add_instructions(messages: list[Json], text: str) -> None:
    """Add a text to the first system message; put one first if there is none."""
    for message in messages:
        if message["role"] == "system":
            _add_text(message, text)
            return
    messages.insert(0, {"role": "system", "content": text})


def image_part(url: str) -> Json:
    """Return the part of a message that shows an image."""
    return {"type": "image_url", "image_url": {"url": url}}


def _text_parts(text: str) -> list[Json]:
    return [{"type": "text", "text": text}] if text else []


def _normalize_message(field: str, message: Any, tools: _Tools) -> Json:
    role = message.get("role") if isinstance(message, dict) else None
    role = role.lower() if isinstance(role, str) else ""
    if role not in ROLES:
        raise invalid(field, f"a dict with content and with a role, one of {', '.join(ROLES)}", message)
    content = _normalize_content(f"{field}.content", message.get("content"), tools)
    result = {"role": ROLES[role], "content": content}
    if SAID_ELSEWHERE & message.keys() and (said := "\n".join(_said_elsewhere(field, message, tools))):
        if content:
            _add_text(result, said)
        else:
            result["content"] = said
    if role in ("tool", "function"):
        call_id, name = _label(message.get("tool_call_id")), _label(message.get("name"))
        result["content"] = _owned_result(result["content"], call_id, name, tools)
    return result


def _said_elsewhere(field: str, message: Mapping[str, Any], tools: _Tools) -> list[str]:
    """Return what a message says outside of its content: refusals, transcripts of audio, and calls of tools."""
    audio = message.get("audio")
    transcript = audio.get("transcript") if isinstance(audio, Mapping) else None
    texts = [require_text(f"{field}.refusal", message.get("refusal"))]
    texts.append(require_text(f"{field}.audio.transcript", transcript))
    calls = message.get("tool_calls") or []
    require(isinstance(calls, (list, tuple)), f"{field}.tool_calls", f"a list of dicts, each {CALL_FORM}", calls)
    texts += [_render_call(f"{field}.tool_calls[{index}]", call, tools) for index, call in enumerate(calls)]
    if call := message.get("function_call"):
        texts.append(_render_call(f"{field}.function_call", call, tools))
    return [text for text in texts if text]


def _normalize_content(field: str, content: Any, tools: _Tools) -> str | list[Json]:
    if isinstance(content, str):
        return without_surrogates(content)
    require(content is None or isinstance(content, (list, tuple)), field, "text or a list of parts", content)
    parts = [_normalize_part(f"{field}[{index}]", part, tools) for index, part in enumerate(content or ()) if part]
    return [part for rendered in parts for part in rendered]


def _normalize_part(field: str, part: Any, tools: _Tools) -> list[Json]:
    """Return the texts and images of a part."""
    require(isinstance(part, dict), field, 'a dict, as in {"type": "text", "text": "Hello"}', part)
    if "type" not in part and {"text", "name", "bucket_id"} & part.keys():
        part = _render_g4f_part(field, part)
    kind = part["type"] if isinstance(part.get("type"), str) else ""
    if kind in TEXT_PARTS:
        name = TEXT_PARTS[kind]
        return _text_parts(require_text(f"{field}.{name}", part.get(name)))
    if kind in IMAGE_PARTS:
        return [image_part(image_url(f"{field}.{'image' if kind == 'image' else 'image_url'}", _image_in(part)))]
    if kind in CALL_PARTS:
        return _text_parts(_render_call(field, part, tools))
    require(kind == RESULT_PART, f"{field}.type", f"one of {PART_TYPES}", part.get("type"))
    content = _normalize_content(f"{field}.content", part.get("content"), tools)
    call_id, name = _label(part.get("tool_use_id")), _label(part.get("name"))
    return parts_of({"content": _owned_result(content, call_id, name, tools)})


def _image_in(part: Mapping[str, Any]) -> Any:
    """Return the image of a part in the form of OpenAI, Anthropic or LangChain."""
    if part["type"] != "image":
        image = part.get("image_url")
        return image.get("url") if isinstance(image, Mapping) else image
    source = part["source"] if isinstance(part.get("source"), Mapping) else part
    data = source.get("data") or source.get("base64")
    if data is None:
        return source.get("url")
    return f"data:{source.get('media_type') or source.get('mime_type')};base64,{data}"


def _render_g4f_part(field: str, part: Mapping[str, Any]) -> Json:
    """Return one of g4f's own parts, a file in a bucket or a whole bucket, as a part of OpenAI's form."""
    try:
        if part.get("name") is None:
            return {"type": "text", "text": to_string(part)}
        (message,) = render_messages([{"role": "user", "content": [part]}])
        (rendered,) = message["content"]
        return dict(rendered)
    except Exception as error:  # g4f's helper raises exceptions of many classes for a missing field or file
        raise ValueError(f"{field}: g4f cannot read this part ({error!r:.80})") from error


def _render_call(field: str, call: Any, tools: _Tools) -> str:
    """Return the call of a tool as text, and note the name of the tool."""
    function = call.get("function") or call.get("custom") or call if isinstance(call, Mapping) else None
    require(isinstance(function, Mapping), field, CALL_FORM, call)
    assert isinstance(function, Mapping)
    name, call_id = _label(function.get("name")), _label(call.get("id") or call.get("call_id"))
    if call_id:
        tools[call_id] = name
    arguments = next((function[key] for key in _ARGUMENTS if function.get(key) is not None), "")
    if not isinstance(arguments, str):
        try:
            arguments = json.dumps(arguments, ensure_ascii=False, default=str)
        except (TypeError, ValueError, RecursionError) as error:
            raise invalid(field, "a call with arguments that JSON can express", arguments) from error
    return require_text(field, f"Called the tool {_named(name, call_id)}: {arguments}")


def _owned_result(content: str | list[Json], call_id: str, name: str, tools: _Tools) -> str | list[Json]:
    """Return the result of a tool, beginning with the name of the tool and the id of the call, as far as known."""
    name = name or tools.get(call_id, "")
    if not content or not (name or call_id):
        return content
    head = require_text("name", f"Result of the tool {_named(name, call_id)}:")
    return f"{head}\n{content}" if isinstance(content, str) else [*_text_parts(head), *content]


def _named(name: str, call_id: str) -> str:
    return f"{name} ({call_id})" if name and call_id else name or call_id or "without a name"


def _label(value: Any) -> str:
    """Return a name or an id, or an empty string if it is missing."""
    return value if isinstance(value, str) else ""
