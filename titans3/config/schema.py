"""Every configuration key: name, type, default. ``conf/titans3.toml`` documents them; a test holds the two together.

Invariants
* Sizes are bytes after loading and may be written ``64MiB``; durations are seconds and may be written ``500ms``, ``5s``, ``2m``.
* Only keys that are needed before the control plane is there live here.
"""

from __future__ import annotations

import msgspec

from titans3.limits import (
    BODY_SECONDS_MAX,
    CHECKPOINT_SECONDS,
    CONNECTIONS_PER_WORKER_MAX,
    DATA_SEGMENT_BYTES,
    DRAIN_SECONDS_MAX,
    HEAD_SECONDS_MAX,
    IDLE_SECONDS_MAX,
    LOG_SEGMENT_BYTES,
    OVERLAY_BYTES,
    OVERLAY_ROWS,
    SMALL_BODY_BYTES_MAX,
    WRITE_SECONDS_MAX,
)


class NodeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """This machine."""

    data: list[str] = msgspec.field(default_factory=lambda: ["./titans3-data"])
    workers: int = 0  # 0: one per CPU
    drain_seconds: float = 30.0
    buckets: list[str] = []


class S3Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The S3 listener."""

    listen: list[str] = msgspec.field(default_factory=lambda: ["127.0.0.1:9000"])
    domains: list[str] = []
    region: str = "us-east-1"
    require_region: bool = False
    tls_cert: str = ""
    tls_key: str = ""
    trusted_proxies: list[str] = []


class HttpConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Connections."""

    connections_max: int = CONNECTIONS_PER_WORKER_MAX
    head_seconds: float = HEAD_SECONDS_MAX
    idle_seconds: float = IDLE_SECONDS_MAX
    body_seconds: float = BODY_SECONDS_MAX
    write_seconds: float = WRITE_SECONDS_MAX
    drain_seconds: float = DRAIN_SECONDS_MAX


class EngineConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Volumes."""

    small_body_bytes: int = SMALL_BODY_BYTES_MAX
    log_segment_bytes: int = LOG_SEGMENT_BYTES
    data_segment_bytes: int = DATA_SEGMENT_BYTES
    reserve_bytes: int = -1
    checkpoint_rows: int = OVERLAY_ROWS
    checkpoint_bytes: int = OVERLAY_BYTES
    checkpoint_seconds: float = CHECKPOINT_SECONDS


class LogConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Operator logs on standard error."""

    level: str = "info"
    format: str = "text"


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All of it."""

    node: NodeConfig = NodeConfig()
    s3: S3Config = S3Config()
    http: HttpConfig = HttpConfig()
    engine: EngineConfig = EngineConfig()
    log: LogConfig = LogConfig()
