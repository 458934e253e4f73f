"""What the emulator and other servers send, and how to read the text of a completion."""

import json
from collections.abc import Iterable
from typing import Any

from g4f_websim.emulator import Fault

# The emulator's reply to HELLO, and the first bytes of its images.
REPLY = "This is the offline Websim; no model was used. You said: Hello"
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"

# Longer than a call waits by default, so the call fails at once.
LONG_RATE_LIMIT = Fault(status=429, headers={"Retry-After": "3600"})

# The page that Cloudflare sends to a client that it takes for a bot.
CHALLENGE_PAGE = "<!DOCTYPE html><html><head><title>Just a moment...</title></head><body>Checking</body></html>"


def image_at(url: str) -> Fault:
    """Return the response to a request for an image: its URL."""
    return Fault(body=json.dumps({"url": url}).encode())


def text_of(completion: Any) -> str:
    """Return the text of a completion."""
    return completion.choices[0].message.content


def text_of_stream(chunks: Iterable[Any]) -> str:
    """Return the text of a streamed completion."""
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
