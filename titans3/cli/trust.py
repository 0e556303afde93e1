"""Whether clients of this machine will believe a server's certificate, and which file of authorities they need for it.

Nothing is guessed: it is tried by a handshake.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from titans3.cli.endpoint import Server

_PARTIAL = ssl.VERIFY_X509_PARTIAL_CHAIN


def client_trust(server: Server, current: str) -> tuple[str, str]:
    """(file for AWS_CA_BUNDLE or empty, warning or empty). ``current`` is what the variable says now, or empty.

    ``ca`` of the endpoint is taken at its word.
    """
    if server.ca:
        return server.ca, ""
    if current and _handshake(server, current) is None:
        return current, ""
    problem = _handshake(server, "")
    if problem is None:
        return "", ""
    if server.tls_cert and _handshake(server, server.tls_cert) is None:
        return server.tls_cert, ""
    name = getattr(problem, "verify_message", "") or str(problem)
    return "", f"clients will refuse the certificate of {server.url} ({name}); set AWS_CA_BUNDLE to your authority's file if it has one"


def _handshake(server: Server, authorities: str) -> OSError | None:
    """What a client that trusts ``authorities`` (empty: those of this machine) would say."""
    try:
        context = ssl.create_default_context(cafile=authorities or None)
        context.verify_flags &= ~_PARTIAL  # Python 3.13 would take what curl, Go and older Pythons refuse
        host = server.host.rpartition(":")[0].strip("[]")
        with server.connect() as sock, context.wrap_socket(sock, server_hostname=host):
            return None
    except OSError as error:  # ssl.SSLError is one
        return error
