"""Turn g4f's arguments into Websim's two request bodies and their headers.

Only fields that Websim is known to accept are built. Input that Websim cannot understand raises a `ValueError`.
"""

import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from g4f.image import to_data_uri
from g4f.providers.helper import to_string
from g4f.tools.media import render_messages

try:
    from g4f.providers.helper import format_media_prompt
except ImportError:  # g4f up to 0.5.3
    from g4f.providers.helper import format_image_prompt as format_media_prompt

from .arguments import check, invalid
from .endpoints import API_URL, DEFAULT_URL

Json = dict[str, Any]

# Websim accepts three roles. OpenAI's other roles are sent as the closest of them.
ROLES = {"user": "user", "assistant": "assistant", "system": "system"}
ROLES |= {"developer": "system", "tool": "user", "function": "user"}

# The values of OpenAI's response_format.type that request JSON.
JSON_FORMATS = ("json_object", "json_schema")

DEFAULT_ASPECT_RATIO = "1:1"
# The ratios that public clients of Websim send, with log(width / height): the distance between two ratios is the
# difference of their logarithms.
ASPECT_RATIOS = {
    f"{width}:{height}": math.log(width / height)
    for width, height in ((1, 1), (16, 9), (9, 16), (4, 3), (3, 4), (3, 2), (2, 3), (21, 9), (9, 21))
}

# The aspect ratio W:H, and OpenAI's size WIDTHxHEIGHT.
RATIO = re.compile(r"[1-9][0-9]*:[1-9][0-9]*")
SIZE = re.compile(r"([1-9][0-9]{0,8})x([1-9][0-9]{0,8})")

MAX_IMAGES = 10
# JSON parsers may disagree about larger integers (RFC 8259, section 6).
MAX_INT = 2**53 - 1

# The pages that g4f's provider of 2025 named as referer.
CHAT_PAGE = "/@ISWEARIAMNOTADDICTEDTOPILLOW/zelos-ai-assistant"
IMAGE_PAGE = "/@ISWEARIAMNOTADDICTEDTOPILLOW/ai-image-prompt-generator"

PROJECT_VARIABLE = "WEBSIM_PROJECT_ID"
PROJECT_ID_FORM = "1 to 64 of A-Z a-z 0-9 _ - (the last part of websim.com/p/<id>)"

# Names of other services' image models: a user who passes one wants an image, not a chat.
_IMAGE_MODEL = re.compile(
    r"dall-?e|flux|gpt-image|stable-?diffusion|sdxl|sd-?\d|midjourney|imagen|playground-v|.*-image\b", re.IGNORECASE
)
_PROJECT_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PROJECT_PAGE = re.compile(r"(?:https?://)?[^/\s]+/p/([^/?#]+)(?:[/?#].*)?")


def chat_body(
    project_id: str, messages: Any, prompt: Any = None, media: Any = None, response_format: Any = None
) -> Json:
    """Return the body of a chat request.

    Args:
        project_id: a checked project id.
        messages: g4f's list of dicts with `role` and `content`.
        prompt: the last user message, unless the messages end with it.
        media: images that join the last user message, see `image_urls`.
        response_format: OpenAI's dict; the types `json_object` and `json_schema` request JSON.

    Raises:
        ValueError: there is nothing to send, or an argument is malformed.
    """
    normalized = _normalize_messages(messages)
    if prompt is not None:
        message = {"role": "user", "content": _check_text("prompt", prompt)}
        if normalized[-1:] != [message]:
            normalized.append(message)
    if urls := image_urls(media):
        last = _last_user_message(normalized)
        last["content"] = _parts_of(last) + [_image_part(url) for url in urls]
    normalized = [message for message in normalized if message["content"]]
    example = 'a message with content, as in messages=[{"role": "user", "content": "Hello"}], or a prompt'
    check(normalized, "messages", example, messages)
    body: Json = {"project_id": project_id, "messages": normalized}
    return body | {"json": True} if _wants_json(response_format) else body


def image_body(
    project_id: str, messages: Any, prompt: Any, aspect_ratio: Any, media: Any = None, size: Any = None, **options: Any
) -> Json:
    """Return the body of an image request.

    Args:
        project_id: a checked project id.
        messages: g4f's list of dicts. Without a prompt, the last user message is the prompt, and its images are
            reference images.
        prompt: the description of the image.
        aspect_ratio: `W:H`. With the default ratio, `width` and `height` select the nearest ratio that Websim knows.
        media: reference images, see `image_urls`.
        size: OpenAI's `WIDTHxHEIGHT` in pixels.
        options: `width` and `height` in pixels, `seed`, `transparent`; others are ignored.

    Raises:
        ValueError: an argument is malformed or out of range, or there is nothing to draw.
    """
    references = image_urls(media)
    if prompt is None:
        normalized = [message for message in _normalize_messages(messages) if message["content"]]
        prompt = format_media_prompt(normalized, None)
        parts = _parts_of(_last_user_message(normalized))
        references = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"] + references
    text = _check_text("prompt", prompt)
    check(text.strip(), "prompt", 'a description, as in prompt="a cat on a couch"', prompt)
    ratio = DEFAULT_ASPECT_RATIO if aspect_ratio is None else aspect_ratio
    valid = isinstance(ratio, str) and RATIO.fullmatch(ratio)
    check(valid, "aspect_ratio", 'W:H with positive integers, as in aspect_ratio="16:9"', ratio)
    fields = _image_options(size, options)
    if ratio == DEFAULT_ASPECT_RATIO and {"width", "height"} <= fields.keys():
        ratio = nearest_ratio(fields["width"], fields["height"])
    if references:
        fields["image_inputs"] = [{"url": url} for url in references]
    return {"project_id": project_id, "prompt": prompt, "aspect_ratio": ratio, **fields}


def nearest_ratio(width: int, height: int) -> str:
    """Return the aspect ratio known to Websim that is nearest to a size in pixels."""
    wanted = math.log(width / height)
    return min(ASPECT_RATIOS, key=lambda ratio: abs(ASPECT_RATIOS[ratio] - wanted))


def build_headers(site: str, page: str, token: str | None) -> dict[str, str]:
    """Return the headers of a request; connections.py adds those that all requests have.

    Args:
        site: the URL of the site. Clients of the API host send the headers of https://websim.com.
        page: the path of the page that the request appears to come from.
        token: the login token, or None for an anonymous request.
    """
    origin, referer = (DEFAULT_URL, f"{DEFAULT_URL}/") if site == API_URL else (site, site + page)
    headers = {"origin": origin, "referer": referer}
    return headers | {"authorization": f"Bearer {token}"} if token else headers


def check_project_id(project_id: Any) -> str:
    """Return the project id from the argument or from WEBSIM_PROJECT_ID, or an empty string if neither is set.

    Args:
        project_id: the argument: a project id, the URL of a project page, or None.

    Raises:
        ValueError: the value is not a project id; the message names the argument or the variable.
    """
    field, value = "project_id", project_id
    if value is None:
        field, value = PROJECT_VARIABLE, os.environ.get(PROJECT_VARIABLE)
        if not value:
            return ""
    page = _PROJECT_PAGE.fullmatch(value.strip()) if isinstance(value, str) else None
    checked = page[1] if page else value
    valid = isinstance(checked, str) and _PROJECT_ID.fullmatch(checked)
    check(valid, field, PROJECT_ID_FORM, value)
    return str(checked)


def strip_provider_prefix(model: Any) -> str:
    """Return the name of a model without a leading `Websim:`, or an empty string if no model is named."""
    check(model is None or isinstance(model, str), "model", 'a name, as in model="flux"', model)
    return (model or "").removeprefix("Websim:")


def check_chat_model(model: str, image_models: list[str]) -> None:
    """Raise a `ValueError` if the name of a chat model is that of another service's image model."""
    if _IMAGE_MODEL.match(model):
        raise invalid("model", f"Websim's image model is {', '.join(image_models)}", model)


def check_count(n: Any) -> int:
    """Return the number of images, 1 if `n` is None, or raise a `ValueError`."""
    check(n is None or (_is_int(n) and 1 <= n <= MAX_IMAGES), "n", f"1 to {MAX_IMAGES} images, as in n=2", n)
    return n or 1


def check_timeout(timeout: Any) -> float | None:
    """Return the seconds that a call may take, None if `timeout` is None or 0, or raise a `ValueError`."""
    is_number = isinstance(timeout, (int, float)) and not isinstance(timeout, bool)
    valid = timeout is None or (is_number and 0 <= timeout <= MAX_INT)
    check(valid, "timeout", "seconds, as in timeout=60", timeout)
    return float(timeout) if timeout else None


def check_retries(max_attempts: Any, backoff: Any, max_wait: Any) -> None:
    """Raise a `ValueError` if one of these attributes of `Websim` is malformed; the message names it."""
    is_count = isinstance(max_attempts, int) and max_attempts >= 0
    check(is_count, "Websim.max_attempts", "an integer of at least 0, as in 3", max_attempts)
    check(_is_duration(backoff), "Websim.backoff", "seconds, as in 2.0", backoff)
    check(_is_duration(max_wait), "Websim.max_wait", "seconds, as in 60.0", max_wait)


def image_urls(media: Any) -> list[str]:
    """Return g4f's `media` as URLs that Websim accepts: `data:image/` URIs and web URLs.

    Args:
        media: None, or a list of images or of pairs (image, file name). An image is bytes, a path object, an open
            file, a PIL image, a `data:image/` URI or a web URL.

    Raises:
        ValueError: an item is not an image or cannot be read.
    """
    if media is None:
        return []
    check(isinstance(media, (list, tuple)), "media", 'a list of images, as in media=[Path("cat.png")]', media)
    return [_image_url(f"media[{index}]", item) for index, item in enumerate(media)]


def _image_url(field: str, item: Any) -> str:
    image, name = item if isinstance(item, (list, tuple)) and len(item) == 2 else (item, None)
    try:
        # Files are read here because g4f's helper needs pillow for them.
        if isinstance(image, os.PathLike):
            image = Path(image).read_bytes()
        elif hasattr(image, "read"):
            image.seek(0)
            image = image.read()
        url = to_data_uri(image, name)
    except Exception as error:  # the image's own methods and g4f's helper raise exceptions of many classes
        raise ValueError(f"{field}: the image cannot be read ({error})") from error
    return _check_image_url(field, url)


def _check_image_url(field: str, url: Any) -> str:
    valid = isinstance(url, str) and url.startswith(("data:image/", "https://", "http://"))
    check(valid, field, 'an image: bytes, a path object like Path("cat.png"), a data:image/ URI or a web URL', url)
    return str(url)


def _normalize_messages(messages: Any) -> list[Json]:
    """Return each message in Websim's form, messages without content included."""
    valid = messages is None or isinstance(messages, (list, tuple))
    check(valid, "messages", 'a list of dicts, as in [{"role": "user", "content": "Hello"}]', messages)
    return [_normalize_message(index, message) for index, message in enumerate(messages or ())]


def _normalize_message(index: int, message: Any) -> Json:
    role = message.get("role") if isinstance(message, dict) else None
    if not isinstance(role, str) or role not in ROLES:
        raise invalid(f"messages[{index}]", f"a dict with content and with a role, one of {', '.join(ROLES)}", message)
    content = message.get("content")
    if not isinstance(content, str):
        content = _normalize_parts(f"messages[{index}].content", content)
    return {"role": ROLES[role], "content": content}


def _normalize_parts(field: str, content: Any) -> list[Json]:
    check(content is None or isinstance(content, (list, tuple)), field, "text or a list of parts", content)
    parts = [_normalize_part(f"{field}[{index}]", part) for index, part in enumerate(content or ()) if part]
    return [part for part in parts if part.get("text") != ""]


def _normalize_part(field: str, part: Any) -> Json:
    check(isinstance(part, dict), field, 'a dict, as in {"type": "text", "text": "Hello"}', part)
    if "type" not in part:
        part = _render_g4f_part(field, part)
    if part["type"] == "text":
        return {"type": "text", "text": _check_text(f"{field}.text", part.get("text"))}
    check(part["type"] == "image_url", f"{field}.type", "text or image_url", part["type"])
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, dict) else image
    return _image_part(_check_image_url(f"{field}.image_url", url))


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


def _last_user_message(messages: list[Json]) -> Json:
    """Return the last user message; append an empty one if there is none."""
    for message in reversed(messages):
        if message["role"] == "user":
            return message
    messages.append({"role": "user", "content": ""})
    return messages[-1]


def _parts_of(message: Json) -> list[Json]:
    content = message["content"]
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    return list(content)


def _image_part(url: str) -> Json:
    return {"type": "image_url", "image_url": {"url": url}}


def _wants_json(response_format: Any) -> bool:
    if response_format is None:
        return False
    example = 'a dict, as in response_format={"type": "json_object"}'
    check(isinstance(response_format, dict), "response_format", example, response_format)
    # Other types are ignored: g4f adds {"type": "json"} to a request with tools, which it parses itself.
    return response_format.get("type") in JSON_FORMATS


_IMAGE_OPTIONS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "width": (lambda value: _is_int(value) and value > 0, "pixels, as in width=1024"),
    "height": (lambda value: _is_int(value) and value > 0, "pixels, as in height=1024"),
    "seed": (lambda value: _is_int(value), "an integer, as in seed=42"),
    "transparent": (lambda value: isinstance(value, bool), "True or False"),
}


def _image_options(size: Any, options: Mapping[str, Any]) -> Json:
    match = SIZE.fullmatch(size) if isinstance(size, str) else None
    check(match or size in (None, "auto"), "size", 'WIDTHxHEIGHT, as in size="1024x768"', size)
    fields = {"width": int(match[1]), "height": int(match[2])} if match else {}
    for name, (is_valid, expected) in _IMAGE_OPTIONS.items():
        value = options.get(name)
        if value is not None:
            check(is_valid(value), name, expected, value)
            fields[name] = value
    return fields


def _check_text(field: str, text: Any) -> str:
    check(text is None or isinstance(text, str), field, "text", text)
    return text or ""


def _is_duration(value: Any) -> bool:
    return isinstance(value, (int, float)) and value >= 0


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MAX_INT
