"""`Fault`, a description of how a response of the emulator differs from the usual one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..wire.arguments import require

# After a status below 200, a client waits for another response (RFC 9110, section 15.2).
MIN_STATUS, MAX_STATUS = 200, 599

# RFC 9110, sections 5.1 and 5.5.
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[^\r\n\0]*")


@dataclass(frozen=True)
class Fault:
    """How a response of the emulator differs from the usual one.

    Without a status and a body, the response is the usual one, with the delay and the headers of the fault:
    `Fault(delay=5)` makes it slow.

    Attributes:
        status: the HTTP status; None means 200 if there is a body, or else the status of the usual response.
        headers: the headers to add or to replace.
        body: the body; None means a short JSON error if there is a status.
        delay: the seconds before the response is sent.
        disconnect: whether to close the connection after the delay instead of sending a response.

    Raises:
        ValueError: an argument is malformed.
    """

    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    delay: float = 0.0
    disconnect: bool = False

    def __post_init__(self) -> None:
        is_status = self.status is None or (isinstance(self.status, int) and MIN_STATUS <= self.status <= MAX_STATUS)
        expected = f"an HTTP status from {MIN_STATUS} to {MAX_STATUS}, as in Fault(status=503)"
        require(is_status, "status", expected, self.status)
        is_headers = isinstance(self.headers, Mapping) and all(map(_is_header, self.headers.items()))
        expected = 'names and values without line ends, as in Fault(headers={"Retry-After": "7"})'
        require(is_headers, "headers", expected, self.headers)
        expected = """bytes, as in Fault(body=b'{"content": ""}')"""
        require(self.body is None or isinstance(self.body, bytes), "body", expected, self.body)
        is_delay = isinstance(self.delay, (int, float)) and self.delay >= 0
        require(is_delay, "delay", "seconds, as in Fault(delay=5)", self.delay)
        require(isinstance(self.disconnect, bool), "disconnect", "True or False", self.disconnect)


def _is_header(header: tuple[Any, Any]) -> bool:
    name, value = header
    is_text = isinstance(name, str) and isinstance(value, str)
    return is_text and bool(_HEADER_NAME.fullmatch(name) and _HEADER_VALUE.fullmatch(value))
