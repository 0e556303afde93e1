"""The server side of TLS: one context per worker, replaced on reload. Connections that are open keep theirs."""

from __future__ import annotations

import ssl

from cryptography import x509

from titans3.config.schema import S3Config
from titans3.errors import ConfigError


def server_context(config: S3Config) -> ssl.SSLContext | None:
    """TLS 1.2 and newer, HTTP/1.1; ``None`` without a certificate. Raises ConfigError."""
    if not config.tls_cert:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(config.tls_cert, config.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"s3.tls_cert, s3.tls_key: {config.tls_cert} and {config.tls_key} do not load: {error}") from error
    return context


def expiry(config: S3Config) -> float | None:
    """When the certificate ends, in seconds since 1970; ``None`` without one."""
    if not config.tls_cert:
        return None
    with open(config.tls_cert, "rb") as file:
        return x509.load_pem_x509_certificates(file.read())[0].not_valid_after_utc.timestamp()
