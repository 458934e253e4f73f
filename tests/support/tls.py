"""TLS contexts and certificates for servers on loopback."""

import ssl
from pathlib import Path
from typing import Any

import trustme

from tests.support.loopback import HOST


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


def write_certificates(folder: Path) -> tuple[Path, Path]:
    """Write certificates for processes, which read them from files.

    Returns:
        The certificate of the authority, for SSL_CERT_FILE, and the key and certificates of a server on loopback.
    """
    authority = trustme.CA()
    authority_file, server_file = folder / "authority.pem", folder / "server.pem"
    authority.cert_pem.write_to_path(authority_file)
    authority.issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(server_file)
    return authority_file, server_file
