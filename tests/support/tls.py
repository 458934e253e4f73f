"""TLS contexts for servers on loopback."""

import ssl
from typing import Any

import trustme


def server_context(authority: trustme.CA, name: str, **options: Any) -> ssl.SSLContext:
    """Return a server's TLS context with a certificate for `name`, issued by `authority`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name, **options).configure_cert(context)
    return context
