"""What is asked: g4f's arguments turned into Websim's two bodies and its headers.

Nothing here reaches the network: transport.py sends what this module makes. A field that Websim is not known to
take is never made, and input that it could not understand is a `ValueError`.
"""

import base64
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from g4f.image import to_data_uri
from g4f.providers.helper import to_string
from g4f.tools.media import render_messages

try:
    from g4f.providers.helper import format_media_prompt
except ImportError:  # g4f up to 0.5.3
    from g4f.providers.helper import format_image_prompt as format_media_prompt

Json = dict[str, Any]

# Websim knows three roles; the others of OpenAI's say the same under another name.
ROLES = {"user": "user", "assistant": "assistant", "system": "system"}
ROLES |= {"developer": "system", "tool": "user", "function": "user"}

JSON_FORMATS = ("json_object", "json_schema")

DEFAULT_ASPECT_RATIO = "1:1"
# Those seen in public clients of Websim, with the logarithm of width by height: of two ratios, how far they are apart.
ASPECT_RATIOS = {
    f"{width}:{height}": math.log(width / height)
    for width, height in ((1, 1), (16, 9), (9, 16), (4, 3), (3, 4), (3, 2), (2, 3), (21, 9), (9, 21))
}

MAX_PICTURES = 10
# Beyond it, readers of JSON may not agree on a number (RFC 8259, section 6).
MAX_INT = 2**53 - 1

# The pages of the site that g4f's provider of 2025 named, by type of request.
CHAT_PAGE = "/@ISWEARIAMNOTADDICTEDTOPILLOW/zelos-ai-assistant"
IMAGE_PAGE = "/@ISWEARIAMNOTADDICTEDTOPILLOW/ai-image-prompt-generator"

_IMAGE_OPTIONS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "width": (lambda value: _is_int(value) and value > 0, "pixels, as in width=1024"),
    "height": (lambda value: _is_int(value) and value > 0, "pixels, as in height=1024"),
    "seed": (lambda value: _is_int(value), "a whole number, as in seed=42"),
    "transparent": (lambda value: isinstance(value, bool), "True or False"),
}

_PROJECT_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_RATIO = re.compile(r"[1-9][0-9]*:[1-9][0-9]*")
_SIZE = re.compile(r"([1-9][0-9]{0,8})x([1-9][0-9]{0,8})")
_JWT = re.compile(r"([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")


def chat_body(
    project_id: Any, messages: Any, prompt: Any = None, media: Any = None, response_format: Any = None
) -> Json:
    """Return the body of a chat request.

    Args:
        project_id: 1 to 64 of `A-Za-z0-9_-`.
        messages: g4f's list of dicts with `role` and `content`.
        prompt: the last user turn, unless the messages end with it.
        media: pictures that join the last user turn, see `picture_urls`.
        response_format: OpenAI's; of type `json_object` or `json_schema` it asks for a JSON answer.

    Raises:
        ValueError: there is nothing to say, or something that cannot be said to Websim.
    """
    _check_project_id(project_id)
    turns = _turns(messages)
    if prompt is not None:
        spoken = {"role": "user", "content": _text("prompt", prompt)}
        if turns[-1:] != [spoken]:
            turns.append(spoken)
    if pictures := picture_urls(media):
        turn = _last_user_turn(turns)
        turn["content"] = _parts_of(turn) + [_picture_part(url) for url in pictures]
    turns = [turn for turn in turns if turn["content"]]
    if not turns:
        raise ValueError('messages: nothing to say; pass messages=[{"role": "user", "content": "Hello"}] or a prompt')
    body: Json = {"project_id": project_id, "messages": turns}
    if isinstance(response_format, dict) and response_format.get("type") in JSON_FORMATS:
        body["json"] = True
    return body


def image_body(
    project_id: Any, messages: Any, prompt: Any, aspect_ratio: Any, media: Any = None, size: Any = None, **options: Any
) -> Json:
    """Return the body of a picture request.

    Args:
        project_id: 1 to 64 of `A-Za-z0-9_-`.
        messages: g4f's list of dicts; where `prompt` is None, the last user turn is drawn, after its own pictures.
        prompt: what to draw.
        aspect_ratio: `W:H`. The default gives way to the known ratio nearest to `width` and `height`.
        media: reference pictures, see `picture_urls`.
        size: OpenAI's way to say `width` and `height` in pixels, as `1024x768`.
        options: `width`, `height` in pixels, `seed`, `transparent`; others are ignored.

    Raises:
        ValueError: an argument is out of range, or there is nothing to draw.
    """
    _check_project_id(project_id)
    references = picture_urls(media)
    if prompt is None:
        turns = [turn for turn in _turns(messages) if turn["content"]]
        prompt = format_media_prompt(turns, None)
        shown = [part for part in _parts_of(_last_user_turn(turns)) if part["type"] == "image_url"]
        references = [part["image_url"]["url"] for part in shown] + references
    _require(_text("prompt", prompt).strip(), "prompt", "something to draw, as in prompt='a cat on a couch'", prompt)
    ratio = DEFAULT_ASPECT_RATIO if aspect_ratio is None else aspect_ratio
    legal = isinstance(ratio, str) and _RATIO.fullmatch(ratio)
    _require(legal, "aspect_ratio", "W:H of positive whole numbers, as in 16:9", ratio)
    chosen = _image_options(size, options)
    if ratio == DEFAULT_ASPECT_RATIO and {"width", "height"} <= chosen.keys():
        shape = math.log(chosen["width"] / chosen["height"])
        ratio = min(ASPECT_RATIOS, key=lambda known: abs(ASPECT_RATIOS[known] - shape))
    if references:
        chosen["image_inputs"] = [{"url": url} for url in references]
    return {"project_id": project_id, "prompt": prompt, "aspect_ratio": ratio, **chosen}


def build_headers(site: str, page: str, keys: Iterable[Any]) -> dict[str, str]:
    """Return the headers that a request has besides those of the pool, as the web application sends them.

    Args:
        site: the address of the site, `https://websim.com`.
        page: the path of the page that the request comes from.
        keys: the first of them that is a JWT logs in; without one the request is anonymous.
    """
    headers = {"origin": site, "referer": site + page}
    for key in keys:
        if key and is_jwt(key):
            headers["authorization"] = f"Bearer {key}"
            break
    return headers


def is_jwt(key: Any) -> bool:
    """Whether `key` has the form of a JSON Web Token, the only kind of key that Websim hands out."""
    match = _JWT.fullmatch(key) if isinstance(key, str) else None
    try:
        # More padding than is missing does no harm.
        header = json.loads(base64.urlsafe_b64decode(match[1] + "==")) if match else None
    except (ValueError, RecursionError):
        return False
    return isinstance(header, dict) and "alg" in header


def plain_model(model: Any) -> str:
    """Return the name of a model without the provider's before it, "" where none was named."""
    _require(model is None or isinstance(model, str), "model", "a name, as in flux", model)
    return (model or "").removeprefix("Websim:")


def check_count(n: Any) -> int:
    """Return how many pictures `n` asks for, 1 where it is None, or raise a `ValueError`."""
    _require(n is None or (_is_int(n) and 1 <= n <= MAX_PICTURES), "n", f"1 to {MAX_PICTURES} pictures, as in n=2", n)
    return n or 1


def check_timeout(timeout: Any) -> float:
    """Return the seconds that a call may take, infinity where `timeout` is None or 0, or raise a `ValueError`."""
    if timeout is None:
        return math.inf
    legal = isinstance(timeout, (int, float)) and not isinstance(timeout, bool) and 0 <= timeout <= MAX_INT
    _require(legal, "timeout", "seconds, as in timeout=60", timeout)
    return float(timeout or math.inf)


def picture_urls(media: Any) -> list[str]:
    """Return the pictures of g4f's `media` as addresses that Websim takes: `data:image/` URIs and web URLs.

    Args:
        media: None, or a list of pictures or of `(picture, file name)`; a picture is bytes, a path object, an open
            file, a PIL image, a `data:image/` URI or a web URL.

    Raises:
        ValueError: one of them is no picture, or cannot be read.
    """
    legal = media is None or isinstance(media, (list, tuple))
    _require(legal, "media", 'a list of pictures, as in [Path("cat.png")]', media)
    return [_picture_url(f"media[{index}]", item) for index, item in enumerate(media or ())]


def _picture_url(where: str, item: Any) -> str:
    picture, name = item if isinstance(item, (list, tuple)) and len(item) == 2 else (item, None)
    try:
        # Files are read here, since for them g4f's helper would want pillow.
        if isinstance(picture, os.PathLike):
            picture = Path(picture).read_bytes()
        elif hasattr(picture, "read"):
            picture.seek(0)
            picture = picture.read()
        url = to_data_uri(picture, name)
    except Exception as error:  # whatever the picture's own methods or g4f's helper raise
        raise ValueError(f"{where}: a picture that cannot be read ({error})") from error
    return _check_picture_url(where, url)


def _check_picture_url(where: str, url: Any) -> str:
    legal = isinstance(url, str) and url.startswith(("data:image/", "https://", "http://"))
    _require(legal, where, 'a picture is bytes, a path object as Path("cat.png"), a data:image/ URI or a web URL', url)
    return str(url)


def _check_project_id(project_id: Any) -> None:
    if not isinstance(project_id, str) or not _PROJECT_ID.fullmatch(project_id):
        raise _invalid("project_id", "1 to 64 of A-Z a-z 0-9 _ -, as in vno75_2x4ii3ayx8wmmw", project_id)


def _turns(messages: Any) -> list[Json]:
    """Return Websim's form of each message, those without content still among them."""
    legal = messages is None or isinstance(messages, (list, tuple))
    _require(legal, "messages", 'a list of dicts, as in [{"role": "user", "content": "Hello"}]', messages)
    return [_turn(index, message) for index, message in enumerate(messages or ())]


def _turn(index: int, message: Any) -> Json:
    role = message.get("role") if isinstance(message, dict) else None
    if not isinstance(role, str) or role not in ROLES:
        expected = f"a dict with content and with a role, one of {', '.join(ROLES)}"
        raise _invalid(f"messages[{index}]", expected, message)
    content = message.get("content")
    if not isinstance(content, str):
        content = _parts(f"messages[{index}].content", content)
    return {"role": ROLES[role], "content": content}


def _parts(where: str, content: Any) -> list[Json]:
    _require(content is None or isinstance(content, (list, tuple)), where, "text or a list of parts", content)
    parts = [_part(f"{where}[{index}]", part) for index, part in enumerate(content or ()) if part]
    return [part for part in parts if part.get("text") != ""]


def _part(where: str, part: Any) -> Json:
    _require(isinstance(part, dict), where, 'a dict, as in {"type": "text", "text": "Hello"}', part)
    if "type" not in part:
        part = _render_g4f_part(where, part)
    if part["type"] == "text":
        return {"type": "text", "text": _text(f"{where}.text", part.get("text"))}
    _require(part["type"] == "image_url", f"{where}.type", "text or image_url", part["type"])
    picture = part.get("image_url")
    url = picture.get("url") if isinstance(picture, dict) else picture
    return _picture_part(_check_picture_url(f"{where}.image_url", url))


def _render_g4f_part(where: str, part: Mapping[str, Any]) -> Json:
    """Return g4f's own kind of part, a file in a bucket or a whole bucket, as a part of OpenAI's kind."""
    try:
        if part.get("name") is None:
            return {"type": "text", "text": to_string(part)}
        (message,) = render_messages([{"role": "user", "content": [part]}])
        (rendered,) = message["content"]
        return dict(rendered)
    except Exception as error:  # whatever a missing field or file leads to in g4f's helper
        raise ValueError(f"{where}: g4f cannot read this part ({error!r:.80})") from error


def _last_user_turn(turns: list[Json]) -> Json:
    """Return the last user turn, a new one where there is none."""
    for turn in reversed(turns):
        if turn["role"] == "user":
            return turn
    turns.append({"role": "user", "content": ""})
    return turns[-1]


def _parts_of(turn: Json) -> list[Json]:
    content = turn["content"]
    return [{"type": "text", "text": content}] if content and isinstance(content, str) else list(content)


def _picture_part(url: str) -> Json:
    return {"type": "image_url", "image_url": {"url": url}}


def _image_options(size: Any, options: Mapping[str, Any]) -> Json:
    match = _SIZE.fullmatch(size) if isinstance(size, str) else None
    _require(match or size in (None, "auto"), "size", "WIDTHxHEIGHT, as in 1024x768", size)
    chosen = {"width": int(match[1]), "height": int(match[2])} if match else {}
    for name, (is_legal, expected) in _IMAGE_OPTIONS.items():
        if options.get(name) is not None:
            _require(is_legal(options[name]), name, expected, options[name])
            chosen[name] = options[name]
    return chosen


def _text(where: str, text: Any) -> str:
    _require(text is None or isinstance(text, str), where, "text", text)
    return text or ""


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MAX_INT


def _require(legal: object, where: str, expected: str, value: Any) -> None:
    if not legal:
        raise _invalid(where, expected, value)


def _invalid(where: str, expected: str, value: Any) -> ValueError:
    try:
        shown = f"{value!r:.80}"
    except ValueError:  # Python writes no int of more than 4,300 digits
        shown = "this"
    return ValueError(f"{where}: {expected}, not {shown}")
