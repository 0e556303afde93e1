"""Certificate and key as they were when they were last good, in memory, for workers that start or reload at any later time.

Invariants
* Workers never read the operator's files: what the supervisor tried is byte for byte what every worker uses, also one that is started
  again while the files are being replaced or are broken.
* The bytes lie in memory files (memfd) of the supervisor; workers of the same user open them through ``/proc``.
"""

from __future__ import annotations

import os
import ssl

import msgspec

from titans3.config.schema import Config
from titans3.errors import ConfigError

_FILE_BYTES_MAX = 1024 * 1024


class Certificate:
    """What workers are told instead of the paths in the configuration."""

    def __init__(self) -> None:
        self._now: list[int] = []
        self._before: list[int] = []  # a worker may just be reading it

    def take(self, config: Config) -> Config:
        """Read the files; the configuration for workers. Raises ConfigError, and the last good pair stays."""
        cert, key = config.s3.tls_cert, config.s3.tls_key
        if not cert:
            return config
        kept: list[int] = []
        try:
            kept.append(_in_memory(cert))
            kept.append(_in_memory(key))
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(_path(kept[0]), _path(kept[1]), _no_password)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            for fd in kept:
                os.close(fd)
            raise ConfigError(f"s3.tls_cert, s3.tls_key: {cert} and {key} do not load: {error}") from error
        for fd in self._before:
            os.close(fd)
        self._before, self._now = self._now, kept
        s3 = msgspec.structs.replace(config.s3, tls_cert=_path(kept[0]), tls_key=_path(kept[1]))
        return msgspec.structs.replace(config, s3=s3)


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
