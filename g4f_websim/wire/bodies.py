"""Turn g4f's arguments into Websim's two request bodies and their headers.

Only fields that Websim is known to accept are built. Input that Websim cannot understand raises a `ValueError`.
messages.py builds the messages, and images.py the URLs of images.
"""

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

try:
    from g4f.providers.helper import format_media_prompt
except ImportError:  # g4f up to 0.5.3
    from g4f.providers.helper import format_image_prompt as format_media_prompt

from .arguments import MAX_INT, invalid, require, require_text
from .endpoints import API_URL, DEFAULT_URL
from .images import image_urls
from .json_mode import json_instructions
from .messages import (
    Json,
    add_instructions,
    ends_with,
    image_part,
    last_user_message,
    normalize,
    parts_of,
    without_empty,
)

DEFAULT_ASPECT_RATIO = "1:1"
# The ratios that Websim is known to accept, with log(width / height): the distance between two ratios is the
# difference of their logarithms.
ASPECT_RATIOS = {
    f"{width}:{height}": math.log(width / height)
    for x, y in ((1, 1), (16, 9), (4, 3), (3, 2), (21, 9), (5, 4))
    for width, height in ((x, y), (y, x))
}

# The aspect ratio W:H, and OpenAI's size WIDTHxHEIGHT.
RATIO = re.compile(r"[1-9][0-9]*:[1-9][0-9]*")
SIZE = re.compile(r"([1-9][0-9]{0,8})x([1-9][0-9]{0,8})")

MAX_IMAGES = 10
MAX_REFERENCES = 4

# The pages that g4f's provider of 2025 named as referer.
CHAT_PAGE = "/@ISWEARIAMNOTADDICTEDTOPILLOW/zelos-ai-assistant"
IMAGE_PAGE = "/@ISWEARIAMNOTADDICTEDTOPILLOW/ai-image-prompt-generator"

PROJECT_VARIABLE = "WEBSIM_PROJECT_ID"
PROJECT_ID_FORM = "1 to 64 of A-Z a-z 0-9 _ - (the last part of websim.com/p/<id>)"

# Names of other services' image models: a user who passes one wants an image, not a chat.
_IMAGE_MODEL = re.compile(
    r"dall-?e|flux|gpt-image|stable-?diffusion|sdxl|sd-?\d|midjourney|imagen|playground-v|.*-image\b", re.IGNORECASE
)
_PROVIDER_PREFIX = re.compile(r"\s*websim:", re.IGNORECASE)
_PROJECT_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PROJECT_PAGE = re.compile(r"(?:https?://)?[^/\s]+/p/([^/?#]+)(?:[/?#].*)?")


def chat_body(
    project_id: str,
    messages: Any,
    prompt: Any = None,
    media: Any = None,
    response_format: Any = None,
    json: Any = None,
    **others: Any,
) -> Json:
    """Return the body of a chat request.

    Args:
        project_id: a checked project id.
        messages: g4f's list of dicts with `role` and `content`.
        prompt: the last user message, unless the messages end with it.
        media: images that join the last user message, see `image_urls`.
        response_format: OpenAI's dict; the types `json_object` and `json_schema` request JSON.
        json: True requests JSON.
        others: ignored.

    Raises:
        ValueError: there is nothing to send, or an argument is malformed.
    """
    instructions = json_instructions(response_format, json)
    normalized = normalize(messages)
    if prompt is not None:
        text = require_text("prompt", prompt)
        if text and not ends_with(without_empty(normalized), text):
            normalized.append({"role": "user", "content": text})
    if urls := image_urls(media):
        last = last_user_message(normalized)
        last["content"] = parts_of(last) + [image_part(url) for url in urls]
    normalized = without_empty(normalized)
    example = 'a message with content, as in messages=[{"role": "user", "content": "Hello"}], or a prompt'
    require(normalized, "messages", example, messages)
    if instructions is None:
        return {"project_id": project_id, "messages": normalized}
    if instructions:
        add_instructions(normalized, instructions)
    return {"project_id": project_id, "messages": normalized, "json": True}


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
        normalized = without_empty(normalize(messages))
        prompt = format_media_prompt(normalized, None)
        parts = parts_of(last_user_message(normalized))
        references = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"] + references
    text = require_text("prompt", prompt)
    require(text.strip(), "prompt", 'a description, as in prompt="a cat on a couch"', prompt)
    form = f'at most {MAX_REFERENCES} reference images, as in media=[Path("cat.png")]'
    require(len(references) <= MAX_REFERENCES, "media", form, len(references))
    ratio = DEFAULT_ASPECT_RATIO if aspect_ratio is None else aspect_ratio
    valid = isinstance(ratio, str) and RATIO.fullmatch(ratio)
    require(valid, "aspect_ratio", 'W:H with positive integers, as in aspect_ratio="16:9"', ratio)
    fields = _image_options(size, options)
    for name, other in (("width", "height"), ("height", "width")):
        form = f"pixels together with {other}, as in width=1024, height=768"
        require(name not in fields or other in fields, name, form, f"{name} alone")
    if ratio == DEFAULT_ASPECT_RATIO and "width" in fields:
        wanted = math.log(fields["width"] / fields["height"])
        ratio = min(ASPECT_RATIOS, key=lambda known: abs(ASPECT_RATIOS[known] - wanted))
    if references:
        fields["image_inputs"] = [{"url": url} for url in references]
    return {"project_id": project_id, "prompt": text, "aspect_ratio": ratio, **fields}


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
    require(valid, field, PROJECT_ID_FORM, value)
    return str(checked)


def strip_provider_prefix(model: Any, known: Iterable[str] = ()) -> str:
    """Return the name of a model without a leading `Websim:`, or an empty string if no model is named.

    Args:
        model: a name, or None.
        known: names of models. One that differs from `model` in upper and lower case only is returned instead.
    """
    if model is None:
        return ""
    require(isinstance(model, str), "model", 'a name, as in model="flux"', model)
    name = _PROVIDER_PREFIX.sub("", model).strip()
    return next((other for other in known if other.lower() == name.lower()), name) if name else ""


def check_chat_model(model: str, image_models: list[str]) -> None:
    """Raise a `ValueError` if the name of a chat model is that of another service's image model."""
    if _IMAGE_MODEL.match(model):
        raise invalid("model", f"Websim's image model is {', '.join(image_models)}", model)


def check_count(n: Any) -> int:
    """Return the number of images, 1 if `n` is None, or raise a `ValueError`."""
    require(n is None or (_is_int(n) and 1 <= n <= MAX_IMAGES), "n", f"1 to {MAX_IMAGES} images, as in n=2", n)
    return n or 1


_IMAGE_OPTIONS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "width": (lambda value: _is_int(value) and value > 0, "pixels, as in width=1024"),
    "height": (lambda value: _is_int(value) and value > 0, "pixels, as in height=1024"),
    "seed": (lambda value: _is_int(value), "an integer, as in seed=42"),
    "transparent": (lambda value: isinstance(value, bool), "True or False"),
}


def _image_options(size: Any, options: Mapping[str, Any]) -> Json:
    match = SIZE.fullmatch(size) if isinstance(size, str) else None
    require(match or size in (None, "auto"), "size", 'WIDTHxHEIGHT, as in size="1024x768"', size)
    fields = {"width": int(match[1]), "height": int(match[2])} if match else {}
    for name, (is_valid, expected) in _IMAGE_OPTIONS.items():
        value = options.get(name)
        if value is not None:
            require(is_valid(value), name, expected, value)
            fields[name] = value
    return fields


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MAX_INT
