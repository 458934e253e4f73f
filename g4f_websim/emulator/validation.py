"""Check the bodies of chat and image requests against what is known of Websim's API."""

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

_ROLES = ("user", "assistant", "system")
_PROJECT_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ASPECT_RATIO = re.compile(r"[1-9][0-9]{0,5}:[1-9][0-9]{0,5}")
_IMAGE_URL = re.compile(r"data:image/.+|https?://.+", re.IGNORECASE | re.DOTALL)
_MAX_IMAGE_INPUTS = 4

# A function that returns whether a value of the field is valid, and a description of the valid values.
_Field = tuple[Callable[[Any], object], str]
_Fields = Mapping[str, _Field]


def check_chat(body: Any) -> None:
    """Raise a `ValueError` that names the field if the body of a chat request is malformed."""
    _check_object("", body, _CHAT, _CHAT_OPTIONS)
    for index, message in enumerate(body["messages"]):
        field = f"messages[{index}]"
        _check_object(field, message, _MESSAGE)
        if isinstance(message["content"], list):
            for position, part in enumerate(message["content"]):
                _check_part(f"{field}.content[{position}]", part)


def check_image(body: Any) -> None:
    """Raise a `ValueError` that names the field if the body of an image request is malformed."""
    _check_object("", body, _IMAGE, _IMAGE_OPTIONS)
    if ("width" in body) != ("height" in body):
        raise ValueError("width and height are accepted only together")
    for index, image in enumerate(body.get("image_inputs", ())):
        _check_object(f"image_inputs[{index}]", image, _IMAGE_INPUT)


def _check_part(name: str, part: Any) -> None:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text":
        _check_object(name, part, _TEXT_PART)
    elif kind == "image_url":
        _check_object(name, part, _IMAGE_PART)
        _check_object(f"{name}.image_url", part["image_url"], _IMAGE_INPUT)
    else:
        raise ValueError(f'{name} must be an object with "type": "text" or "image_url"')


def _check_object(name: str, value: Any, required: _Fields, optional: _Fields = MappingProxyType({})) -> None:
    """Check that a value is an object with valid fields. The body itself has no name."""
    if not isinstance(value, dict):
        raise ValueError(f"{name or 'the body'} must be a JSON object")
    prefix = f"{name}." if name else ""
    for field in required:
        if field not in value:
            raise ValueError(f"{prefix}{field} is missing")
    fields = {**required, **optional}
    for field, content in value.items():
        if field not in fields:
            raise ValueError(f"{prefix}{field} is an unknown field")
        is_valid, expected = fields[field]
        if not is_valid(content):
            raise ValueError(f"{prefix}{field} must be {expected}")


def _matches(pattern: re.Pattern[str]) -> Callable[[Any], object]:
    return lambda value: isinstance(value, str) and pattern.fullmatch(value)


def _is_side(value: Any) -> bool:
    return type(value) is int and value > 0  # a bool is an int for isinstance()


_ANYTHING: _Field = (lambda value: True, "")
_CHAT: _Fields = {
    "project_id": (_matches(_PROJECT_ID), "1 to 64 of A-Z a-z 0-9 _ -"),
    "messages": (lambda value: isinstance(value, list) and value, "a list with at least one message"),
}
_CHAT_OPTIONS: _Fields = {"json": (lambda value: value is True, "true or left out")}
_MESSAGE: _Fields = {
    "role": (lambda value: isinstance(value, str) and value in _ROLES, "user, assistant or system"),
    "content": (
        lambda value: isinstance(value, str) or (isinstance(value, list) and value),
        "a string, or a list with at least one part",
    ),
}
_TEXT_PART: _Fields = {"type": _ANYTHING, "text": (lambda value: isinstance(value, str), "a string")}
_IMAGE_PART: _Fields = {"type": _ANYTHING, "image_url": _ANYTHING}
_IMAGE: _Fields = {
    "project_id": _CHAT["project_id"],
    "prompt": (lambda value: isinstance(value, str) and value.strip(), "a text that is not empty"),
    "aspect_ratio": (_matches(_ASPECT_RATIO), "W:H with positive whole numbers, as in 16:9"),
}
_IMAGE_OPTIONS: _Fields = {
    "width": (_is_side, "a positive whole number"),
    "height": (_is_side, "a positive whole number"),
    "seed": (lambda value: type(value) is int, "a whole number"),
    "transparent": (lambda value: type(value) is bool, "true or false"),
    "image_inputs": (
        lambda value: isinstance(value, list) and 1 <= len(value) <= _MAX_IMAGE_INPUTS,
        f"a list of 1 to {_MAX_IMAGE_INPUTS} objects with a url",
    ),
}
_IMAGE_INPUT: _Fields = {"url": (_matches(_IMAGE_URL), "a data:image/ URI or a web URL")}
