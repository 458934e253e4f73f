"""`RecordedRequest`, a request that the emulator received."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class RecordedRequest:
    """A request that the emulator received.

    Attributes:
        path: the path of the URL.
        headers: the names and values of the headers, in the order of the request.
        body: the body as bytes.
    """

    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def json(self) -> Any:
        """The parsed body."""
        return json.loads(self.body)

    def header(self, name: str) -> str | None:
        """Return the first value of a header, or None. The name is not case-sensitive."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)
