"""TLS contexts for servers on loopback."""

import ssl
from typing import Any

import trustme


def server_context(authority: trustme.CA, name: str, **options: Any) -> ssl.SSLContext:
    """Return the TLS context of a server.

    Args:
        authority: the certificate authority that issues the certificate.
        name: the host name or IP address in the certificate.
        options: other arguments of `trustme.CA.issue_cert`, `not_after` for example.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name, **options).configure_cert(context)
    return context
