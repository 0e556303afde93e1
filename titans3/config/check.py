"""What a type cannot say about a configuration: addresses, names, pairs, files. Raises ConfigError with the value's origin.

Invariants
* Nothing is changed on the machine. Certificate and key are read and must belong together, so that a bad pair is a word here and
  not a server without TLS.
* Bucket names are those that CreateBucket takes (``titans3.s3.address``); a test holds the two together.
"""

from __future__ import annotations

import importlib.util
import os
import re
import ssl
from collections.abc import Callable
from urllib.parse import urlsplit

from titans3.config.address import parse_address, parse_network
from titans3.config.keys import Origins
from titans3.config.schema import Config
from titans3.errors import ConfigError
from titans3.model.names import RESERVED_NAMES, is_bucket_name

_DOMAIN = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")
_URL = re.compile(r"[!-~]{1,2048}")
_TOKEN = re.compile(r"[!-~]{16,1024}")
_OTEL = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http")
_REGION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def check(config: Config, origins: Origins) -> None:
    """Raises ConfigError for the first thing that cannot be."""
    s3 = config.s3
    _check_data(config, origins)
    if not s3.listen:
        raise _refuse(origins, "s3.listen", "at least one address is needed")
    _each(origins, "s3.listen", s3.listen, parse_address)
    fixed = [str(parse_address(text)) for text in s3.listen if parse_address(text).port]
    for text in fixed:
        if fixed.count(text) > 1:
            raise _refuse(origins, "s3.listen", f"{text} is there twice")
    _each(origins, "s3.domains", s3.domains, _domain)
    if not _REGION.fullmatch(s3.region):
        raise _refuse(origins, "s3.region", f"{s3.region!r} is not a region name such as us-east-1")
    _each(origins, "s3.buckets", s3.buckets, _bucket)
    _each(origins, "s3.trusted_proxies", s3.trusted_proxies, parse_network)
    _check_tls(config, origins)
    _check_token(origins, "metrics.token", config.metrics.token, config.metrics.token_file)
    _check_token(origins, "audit.webhook_token", config.audit.webhook_token, config.audit.webhook_token_file)
    _check_webhook(config, origins)
    _check_tracing(config, origins)


def _refuse(origins: Origins, path: str, reason: str) -> ConfigError:
    return ConfigError(f"{origins.of(path)}: {path}: {reason}")


def _each(origins: Origins, path: str, values: tuple[str, ...], parse: Callable[[str], object]) -> None:
    for value in values:
        try:
            parse(value)
        except ValueError as error:
            raise _refuse(origins, path, str(error)) from None


def _check_data(config: Config, origins: Origins) -> None:
    data = config.node.data
    if not data or not all(data):
        raise _refuse(origins, "node.data", "a path is needed")
    if len(data) > 1:
        several = f"{len(data)} paths were given; several disks need erasure coding, which this version does not have: give one"
        raise _refuse(origins, "node.data", several)
    if data[0].startswith("~"):
        raise _refuse(origins, "node.data", f"{data[0]!r}: '~' means something to a shell only; write the path out")


def _domain(text: str) -> None:
    if not _DOMAIN.fullmatch(text):
        raise ValueError(f"{text!r} is not a domain name in lower case, without port")


def _bucket(text: str) -> None:
    if text in RESERVED_NAMES:
        raise ValueError(f"{text!r} is reserved: /{text}/… answers health checks")
    if not is_bucket_name(text):
        raise ValueError(f"{text!r} is not a bucket name: 3 to 63 of a-z, 0-9, '-' and '.', beginning and ending with a letter or digit")


def _check_tls(config: Config, origins: Origins) -> None:
    cert, key = config.s3.tls_cert, config.s3.tls_key
    if bool(cert) != bool(key):
        given, missing = ("s3.tls_cert", "s3.tls_key") if cert else ("s3.tls_key", "s3.tls_cert")
        raise _refuse(origins, given, f"a certificate and its key are given together; {missing} is missing")
    for path, file in (("s3.tls_cert", cert), ("s3.tls_key", key)):
        if file and not os.path.isfile(file):
            raise _refuse(origins, path, f"{file} is not there, or not a file")
        if file and not os.access(file, os.R_OK):
            raise _refuse(origins, path, f"{file} cannot be read by this user")
    if cert:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password=_no_password)
        except (ssl.SSLError, OSError, ValueError) as error:
            word = _tls_word(error)
            raise _refuse(origins, "s3.tls_key" if "key" in word else "s3.tls_cert", word) from None


def _check_token(origins: Origins, path: str, token: str, file: str) -> None:
    if token and file:
        raise _refuse(origins, f"{path}_file", f"{path} is given, too: one of them")
    if token:
        try:
            check_token(token)
        except ValueError as error:
            raise _refuse(origins, path, str(error)) from None
    if file and not os.path.isfile(file):
        raise _refuse(origins, f"{path}_file", f"{file} is not there, or not a file")


def _check_webhook(config: Config, origins: Origins) -> None:
    audit = config.audit
    if not audit.webhook_url:
        return
    try:
        _url(audit.webhook_url)
    except ValueError as error:
        raise _refuse(origins, "audit.webhook_url", str(error)) from None
    if not audit.enabled:
        raise _refuse(origins, "audit.webhook_url", "there is nothing to deliver: audit.enabled is false")
    if not _is_installed("aiohttp"):
        raise _refuse(origins, "audit.webhook_url", "webhooks need an extra: pip install 'titans3[webhook]'")
    if audit.webhook_ca:
        try:
            ssl.create_default_context(cafile=audit.webhook_ca)
        except OSError as error:  # ssl.SSLError is one
            word = getattr(error, "reason", None) or error.strerror
            raise _refuse(origins, "audit.webhook_ca", f"{audit.webhook_ca} gives no certificates of authorities: {word}") from None


def _url(text: str) -> None:
    """Raises ValueError; what is no address at all is not shown, because it may be a secret in the wrong place."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or not _URL.fullmatch(text):
        raise ValueError("it is not an address such as https://audit.example.org/titans3")
    if parts.port == 0:
        raise ValueError("port 0 is none")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("no name, password, query or fragment in it: what proves who sends goes into audit.webhook_token")


def _check_tracing(config: Config, origins: Origins) -> None:
    tracing = config.tracing
    _each(origins, "tracing.trusted", tracing.trusted, parse_network)
    if not tracing.endpoint:
        return
    try:
        check_endpoint(tracing.endpoint)
    except ValueError as error:
        raise _refuse(origins, "tracing.endpoint", str(error)) from None
    if not all(map(_is_installed, _OTEL)):
        raise _refuse(origins, "tracing.endpoint", "traces need the extra otel: pip install 'titans3[otel]'")


def check_endpoint(url: str) -> None:
    """Raises ValueError for what is no place to send traces to; the text does not show what may be a password."""
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise ValueError("a password does not belong into an address; the variable OTEL_EXPORTER_OTLP_HEADERS carries it")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"{url!r} is not an address such as http://127.0.0.1:4318")
    if parts.port == 0:  # a port that is none raises ValueError by itself
        raise ValueError(f"{url!r} has no port that a collector can listen on")


def _is_installed(name: str) -> bool:
    """Whether a module is there, without loading it."""
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:  # of a package above it
        return False


def check_token(token: str) -> None:
    """Raises ValueError for one that a header cannot carry or that is easily guessed; the text does not show it."""
    if not _TOKEN.fullmatch(token):
        raise ValueError("a token has 16 to 1,024 characters from '!' to '~', such as `openssl rand -hex 32` prints")


def _no_password() -> str:
    raise ValueError("the key is locked with a passphrase; a server that starts by itself needs one without")


def _tls_word(error: Exception) -> str:
    if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
        return "the key does not belong to the certificate"
    if isinstance(error, ssl.SSLError):
        return f"not a PEM certificate chain with its private key ({error.reason or error})"
    return str(error)
