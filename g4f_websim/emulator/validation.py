"""Check the bodies of chat and image requests against what is known of Websim's API."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

_ROLES = ("user", "assistant", "system")
_PROJECT_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ASPECT_RATIO = re.compile(r"[1-9][0-9]{0,5}:[1-9][0-9]{0,5}")


class InvalidBodyError(ValueError):
    """A request body that Websim's API does not accept; the message names the field."""


def check_chat(body: Any) -> None:
    """Check the body of a chat request.

    Args:
        body: the parsed body.

    Raises:
        InvalidBodyError: a field is missing, unknown or malformed.
    """
    _check_fields(body, "the body", required=("project_id", "messages"), optional=("json",))
    _check_project_id(body["project_id"])
    _check(body.get("json", True) is True, "json", "true or left out")
    messages = body["messages"]
    _check(isinstance(messages, list) and messages, "messages", "a list with at least one message")
    for index, message in enumerate(messages):
        _check_message(message, f"messages[{index}]")


def check_image(body: Any) -> None:
    """Check the body of an image request.

    Args:
        body: the parsed body.

    Raises:
        InvalidBodyError: a field is missing, unknown or malformed.
    """
    _check_fields(body, "the body", required=("project_id", "prompt", "aspect_ratio"), optional=_IMAGE_OPTIONS)
    _check_project_id(body["project_id"])
    prompt, aspect_ratio = body["prompt"], body["aspect_ratio"]
    _check(isinstance(prompt, str) and prompt.strip(), "prompt", "a text that is not empty")
    is_ratio = isinstance(aspect_ratio, str) and _ASPECT_RATIO.fullmatch(aspect_ratio)
    _check(is_ratio, "aspect_ratio", "W:H with positive whole numbers, as in 16:9")
    for name, (is_valid, expected) in _IMAGE_OPTIONS.items():
        _check(name not in body or is_valid(body[name]), name, expected)


def _check(ok: object, field: str, expected: str) -> None:
    """Raise `InvalidBodyError`, unless `ok`."""
    if not ok:
        raise InvalidBodyError(f"{field} must be {expected}")


def _check_fields(value: Any, field: str, required: Iterable[str], optional: Iterable[str] = ()) -> None:
    """Check that a value is an object with all required fields and no fields except these and the optional ones."""
    expected = f"a JSON object with {', '.join(required)}"
    if optional:
        expected += f" and optionally {', '.join(optional)}"
    ok = isinstance(value, dict) and set(required) <= value.keys() <= {*required, *optional}
    _check(ok, field, expected)


def _check_project_id(value: Any) -> None:
    _check(isinstance(value, str) and _PROJECT_ID.fullmatch(value), "project_id", "1 to 64 of A-Z a-z 0-9 _ -")


def _check_message(message: Any, field: str) -> None:
    _check_fields(message, field, required=("role", "content"))
    _check(message["role"] in _ROLES, f"{field}.role", "user, assistant or system")
    content = message["content"]
    if isinstance(content, str):
        return
    _check(isinstance(content, list) and content, f"{field}.content", "a string, or a list with at least one part")
    for index, part in enumerate(content):
        _check_part(part, f"{field}.content[{index}]")


def _check_part(part: Any, field: str) -> None:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text":
        _check_fields(part, field, required=("type", "text"))
        _check(isinstance(part["text"], str), f"{field}.text", "a string")
    else:
        _check(kind == "image_url", field, 'an object with "type": "text" or "image_url"')
        _check_fields(part, field, required=("type", "image_url"))
        _check(_is_image(part["image_url"]), f"{field}.image_url", 'an object with one field, "url"')


def _is_image(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"url"} and isinstance(value["url"], str)


def _is_side(value: Any) -> bool:
    return type(value) is int and value > 0


# What each optional field of an image request must be. A bool is an int for isinstance(), so types are compared.
_IMAGE_OPTIONS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "width": (_is_side, "a positive whole number"),
    "height": (_is_side, "a positive whole number"),
    "seed": (lambda value: type(value) is int, "a whole number"),
    "transparent": (lambda value: type(value) is bool, "true or false"),
    "image_inputs": (
        lambda value: isinstance(value, list) and all(map(_is_image, value)),
        'a list of objects with one field, "url"',
    ),
}
