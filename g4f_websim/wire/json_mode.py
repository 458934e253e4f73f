"""Read from OpenAI's `response_format` and g4f's `json` whether JSON is requested, and with which schema."""

import json
from collections.abc import Mapping
from typing import Any

from .arguments import invalid, require, without_surrogates

FORMAT_FORM = 'a dict, as in response_format={"type": "json_object"}'
SCHEMA_FORM = 'a dict, as in {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}'

INSTRUCTIONS = "Respond only with JSON that is valid against this JSON schema:"


def json_instructions(response_format: Any, json_only: Any) -> str | None:
    """Return what to tell Websim about the JSON that is requested, or None if no JSON is requested.

    Args:
        response_format: None, or OpenAI's dict; the types `json_object` and `json_schema` request JSON.
        json_only: None or a bool; True requests JSON.

    Returns:
        A text with the JSON schema; an empty string without a schema.

    Raises:
        ValueError: an argument is malformed.
    """
    if json_only is not None:
        require(isinstance(json_only, bool), "json", "True or False, as in json=True", json_only)
    if response_format is None:
        return "" if json_only else None
    require(isinstance(response_format, dict), "response_format", FORMAT_FORM, response_format)
    kind = response_format.get("type")
    if kind == "json_schema":
        return _describe_schema(response_format)
    # Other types are ignored: g4f adds {"type": "json"} to a request with tools, which it parses itself.
    return "" if json_only or kind == "json_object" else None


def _describe_schema(response_format: Mapping[str, Any]) -> str:
    # OpenAI's Chat Completions API has the schema one level deeper than its Responses API.
    described = response_format.get("json_schema", response_format)
    schema = described.get("schema") if isinstance(described, Mapping) else described
    if schema is None:
        return ""
    require(isinstance(schema, Mapping), "response_format", SCHEMA_FORM, response_format)
    try:
        return without_surrogates(f"{INSTRUCTIONS}\n{json.dumps(schema, ensure_ascii=False)}")
    except (TypeError, ValueError, RecursionError) as error:
        raise invalid("response_format", SCHEMA_FORM, response_format) from error
