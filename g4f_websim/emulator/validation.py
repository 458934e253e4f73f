"""Check the bodies of chat and image requests against what is known of Websim's API."""

import re
from collections.abc import Callable, Mapping
from typing import Any

_ROLES = ("user", "assistant", "system")
_PROJECT_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ASPECT_RATIO = re.compile(r"[1-9][0-9]{0,5}:[1-9][0-9]{0,5}")
_IMAGE_URL = re.compile(r"data:image/.+|https?://.+", re.IGNORECASE | re.DOTALL)
_MAX_IMAGE_INPUTS = 4

# The valid values of a field, and their description.
_Field = tuple[Callable[[Any], object], str]


class InvalidBodyError(ValueError):
    """A request body that Websim's API does not accept; the message names the field."""


def check_chat(body: Any) -> None:
    """Check the body of a chat request.

    Args:
        body: the parsed body.

    Raises:
        InvalidBodyError: a field is missing, unknown or malformed.
    """
    _check_object("the body", body, _CHAT, optional=("json",))
    for index, message in enumerate(body["messages"]):
        field = f"messages[{index}]"
        _check_object(field, message, _MESSAGE)
        if isinstance(message["content"], list):
            for position, part in enumerate(message["content"]):
                _check_part(f"{field}.content[{position}]", part)


def check_image(body: Any) -> None:
    """Check the body of an image request.

    Args:
        body: the parsed body.

    Raises:
        InvalidBodyError: a field is missing, unknown or malformed.
    """
    _check_object("the body", body, _IMAGE | _IMAGE_OPTIONS, optional=tuple(_IMAGE_OPTIONS))
    if ("width" in body) != ("height" in body):
        raise InvalidBodyError("width and height are accepted only together")
    for index, image in enumerate(body.get("image_inputs", ())):
        _check_object(f"image_inputs[{index}]", image, _IMAGE_INPUT)


def _check_part(field: str, part: Any) -> None:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(kind, str) or kind not in _PARTS:
        raise InvalidBodyError(f'{field} must be an object with "type": "text" or "image_url"')
    _check_object(field, part, _PARTS[kind])
    if kind == "image_url":
        _check_object(f"{field}.image_url", part["image_url"], _IMAGE_INPUT)


def _check_object(name: str, value: Any, fields: Mapping[str, _Field], optional: tuple[str, ...] = ()) -> None:
    """Check that a value is an object with these fields, and no others."""
    if not isinstance(value, dict):
        raise InvalidBodyError(f"{name} must be a JSON object")
    prefix = "" if name == "the body" else f"{name}."
    for field, (is_valid, expected) in fields.items():
        if field not in value:
            if field not in optional:
                raise InvalidBodyError(f"{prefix}{field} is missing")
        elif not is_valid(value[field]):
            raise InvalidBodyError(f"{prefix}{field} must be {expected}")
    for field in value.keys() - fields.keys():
        raise InvalidBodyError(f"{prefix}{field} is an unknown field")


def _matches(pattern: re.Pattern[str]) -> Callable[[Any], object]:
    return lambda value: isinstance(value, str) and pattern.fullmatch(value)


def _is_side(value: Any) -> bool:
    return type(value) is int and value > 0  # a bool is an int for isinstance()


_CHAT: dict[str, _Field] = {
    "project_id": (_matches(_PROJECT_ID), "1 to 64 of A-Z a-z 0-9 _ -"),
    "messages": (lambda value: isinstance(value, list) and value, "a list with at least one message"),
    "json": (lambda value: value is True, "true or left out"),
}
_MESSAGE: dict[str, _Field] = {
    "role": (lambda value: isinstance(value, str) and value in _ROLES, "user, assistant or system"),
    "content": (
        lambda value: isinstance(value, str) or (isinstance(value, list) and value),
        "a string, or a list with at least one part",
    ),
}
_PARTS: dict[str, dict[str, _Field]] = {
    "text": {"type": (bool, ""), "text": (lambda value: isinstance(value, str), "a string")},
    "image_url": {"type": (bool, ""), "image_url": (lambda value: isinstance(value, dict), "an object with a url")},
}
_IMAGE: dict[str, _Field] = {
    "project_id": _CHAT["project_id"],
    "prompt": (lambda value: isinstance(value, str) and value.strip(), "a text that is not empty"),
    "aspect_ratio": (_matches(_ASPECT_RATIO), "W:H with positive whole numbers, as in 16:9"),
}
_IMAGE_OPTIONS: dict[str, _Field] = {
    "width": (_is_side, "a positive whole number"),
    "height": (_is_side, "a positive whole number"),
    "seed": (lambda value: type(value) is int, "a whole number"),
    "transparent": (lambda value: type(value) is bool, "true or false"),
    "image_inputs": (
        lambda value: isinstance(value, list) and 1 <= len(value) <= _MAX_IMAGE_INPUTS,
        f"a list of 1 to {_MAX_IMAGE_INPUTS} objects with a url",
    ),
}
_IMAGE_INPUT: dict[str, _Field] = {"url": (_matches(_IMAGE_URL), "a data:image/ URI or a web URL")}
