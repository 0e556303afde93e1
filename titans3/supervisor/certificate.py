"""Certificate and key, and whom the audit webhook trusts, as they were when they were last good: in memory, for workers that start or
reload at any later time.

Invariants
* Workers never read the operator's files: what the supervisor tried is byte for byte what every worker uses, also one that is started
  again while the files are being replaced or are broken.
* The bytes lie in memory files (memfd) of the supervisor; workers of the same user open them through ``/proc``.
"""

from __future__ import annotations

import os
import ssl

from msgspec.structs import replace

from titans3.config.schema import Config
from titans3.errors import ConfigError

_FILE_BYTES_MAX = 1024 * 1024


class Certificate:
    """What workers are told instead of the paths in the configuration."""

    def __init__(self) -> None:
        self._now: list[int] = []
        self._before: list[int] = []  # a worker may just be reading it

    def take(self, config: Config) -> Config:
        """Read the files; the configuration for workers. Raises ConfigError, and what was last good stays."""
        kept: list[int] = []
        try:
            told = _with_authorities(_with_pair(config, kept), kept)
        except ConfigError:
            for fd in kept:
                os.close(fd)
            raise
        for fd in self._before:
            os.close(fd)
        self._before, self._now = self._now, kept
        return told


def _with_pair(config: Config, kept: list[int]) -> Config:
    cert, key = config.s3.tls_cert, config.s3.tls_key
    if not cert:
        return config
    try:
        paths = _kept(cert, kept), _kept(key, kept)
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*paths, _no_password)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise ConfigError(f"s3.tls_cert, s3.tls_key: {cert} and {key} do not load: {error}") from error
    return replace(config, s3=replace(config.s3, tls_cert=paths[0], tls_key=paths[1]))


def _with_authorities(config: Config, kept: list[int]) -> Config:
    file = config.audit.webhook_ca
    if not file:
        return config
    try:
        path = _kept(file, kept)
        ssl.create_default_context(cafile=path)
    except OSError as error:
        raise ConfigError(f"audit.webhook_ca: {file} does not load: {error}") from error
    return replace(config, audit=replace(config.audit, webhook_ca=path))


def _kept(name: str, kept: list[int]) -> str:
    """The path of a copy in memory, whose descriptor is added to ``kept``. Raises OSError."""
    kept.append(_in_memory(name))
    return _path(kept[-1])


def _in_memory(name: str) -> int:
    with open(name, "rb") as file:
        data = file.read(_FILE_BYTES_MAX)
    fd = os.memfd_create("titans3-tls", os.MFD_CLOEXEC)
    os.fchmod(fd, 0o600)
    with open(fd, "wb", closefd=False) as memory:
        memory.write(data)
    return fd


def _path(fd: int) -> str:
    return f"/proc/{os.getpid()}/fd/{fd}"


def _no_password() -> str:
    raise ValueError("the key is locked with a passphrase; a server that starts by itself needs one without")
