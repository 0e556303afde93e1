"""Every configuration key: name, type, default, and what a type cannot say, as metadata.

Invariants
* Sizes (``unit="bytes"``) are bytes after loading and may be written ``64MiB``; durations (``unit="seconds"``) are seconds and
  may be written ``500ms``, ``5s``, ``2m``. ``auto`` keys take ``"auto"``, which is -1 here.
* ``live`` keys take effect on SIGHUP; all others need a restart. ``flag`` is the option of ``titans3 run`` that sets the key.
* The value of a ``secret`` key is never shown: not by ``titans3 config show``, not in a message.
* ``conf/titans3.toml`` and ``docs/configuration.md`` show every key with its default; a test holds the three together.
* Only keys that are needed before the control plane is there live here.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from titans3.limits import (
    BODY_SECONDS_MAX,
    CHECKPOINT_SECONDS,
    CONNECTIONS_PER_WORKER_MAX,
    DATA_SEGMENT_BYTES,
    DRAIN_SECONDS_MAX,
    GIB,
    HEAD_SECONDS_MAX,
    HOT_BYTES,
    IDLE_SECONDS_MAX,
    LOG_SEGMENT_BYTES,
    METRICS_BUCKETS,
    METRICS_BUCKETS_MAX,
    MIB,
    OVERLAY_BYTES,
    OVERLAY_ROWS,
    SMALL_BODY_BYTES_MAX,
    TIB,
    TRACES_PER_SECOND_MAX,
    WEBHOOK_SECONDS_MAX,
    WRITE_SECONDS_MAX,
)

DAY_SECONDS = 86_400.0
WORKERS_MAX = 256


def _meta(**extra: Any) -> Meta:
    return Meta(extra=extra)


def _bytes(least: int, most: int, **extra: Any) -> Meta:
    return _meta(unit="bytes", least=least, most=most, **extra)


def _seconds(least: float, most: float, **extra: Any) -> Meta:
    return _meta(unit="seconds", least=least, most=most, **extra)


def _without(config: Struct, secret: str) -> str:
    """What ``repr`` shows: a configuration may end up in a traceback."""
    told = {name: "…" if name == secret and getattr(config, name) else getattr(config, name) for name in config.__struct_fields__}
    return f"{type(config).__name__}({', '.join(f'{name}={value!r}' for name, value in told.items())})"


class NodeConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """This machine."""

    data: Annotated[tuple[str, ...], _meta(flag="--data")] = ("./titans3-data",)
    workers: Annotated[int, _meta(flag="--workers", least=0, most=WORKERS_MAX)] = 0  # 0: one per CPU
    active_workers: Annotated[int, _meta(live=True, least=0, most=WORKERS_MAX)] = 0  # 0: as processors are left
    digest_lanes: bool = True
    drain_seconds: Annotated[float, _seconds(0.0, DAY_SECONDS)] = 30.0


class S3Config(Struct, frozen=True, forbid_unknown_fields=True):
    """The S3 listener."""

    listen: Annotated[tuple[str, ...], _meta(flag="--s3")] = ("127.0.0.1:9000",)
    domains: tuple[str, ...] = ()
    region: str = "us-east-1"
    require_region: bool = False
    signature_v2: bool = True
    object_ownership: Literal["ObjectWriter", "BucketOwnerPreferred", "BucketOwnerEnforced"] = "ObjectWriter"
    buckets: Annotated[tuple[str, ...], _meta(flag="--bucket")] = ()
    tls_cert: Annotated[str, _meta(flag="--tls-cert", live=True)] = ""
    tls_key: Annotated[str, _meta(flag="--tls-key", live=True)] = ""
    trusted_proxies: tuple[str, ...] = ()


class HttpConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """Connections; each limit holds per worker or per connection."""

    connections_max: Annotated[int, _meta(least=1, most=1_000_000)] = CONNECTIONS_PER_WORKER_MAX
    head_seconds: Annotated[float, _seconds(0.1, DAY_SECONDS)] = HEAD_SECONDS_MAX
    idle_seconds: Annotated[float, _seconds(0.1, DAY_SECONDS)] = IDLE_SECONDS_MAX
    body_seconds: Annotated[float, _seconds(0.1, DAY_SECONDS)] = BODY_SECONDS_MAX
    write_seconds: Annotated[float, _seconds(0.1, DAY_SECONDS)] = WRITE_SECONDS_MAX
    drain_seconds: Annotated[float, _seconds(0.0, DAY_SECONDS)] = DRAIN_SECONDS_MAX


class EngineConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """Volumes; each number holds per volume, but for ``hot_bytes``, which a worker has."""

    small_body_bytes: Annotated[int, _bytes(0, MIB)] = SMALL_BODY_BYTES_MAX
    log_segment_bytes: Annotated[int, _bytes(16 * MIB, 4 * GIB)] = LOG_SEGMENT_BYTES
    data_segment_bytes: Annotated[int, _bytes(16 * MIB, 64 * GIB)] = DATA_SEGMENT_BYTES
    reserve_bytes: Annotated[int, _bytes(0, 64 * TIB, auto=True)] = -1
    checkpoint_rows: Annotated[int, _meta(least=100, most=10_000_000)] = OVERLAY_ROWS
    checkpoint_bytes: Annotated[int, _bytes(MIB, 4 * GIB)] = OVERLAY_BYTES
    checkpoint_seconds: Annotated[float, _seconds(0.05, 3_600.0)] = CHECKPOINT_SECONDS
    hot_bytes: Annotated[int, _bytes(0, 64 * GIB)] = HOT_BYTES
    kernel_sync: bool = True
    cache_written_bytes: Annotated[int, _bytes(0, 64 * TIB, auto=True)] = -1


class KmsConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """The root key that seals secrets."""

    passphrase_file: str = ""


class MetricsConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """``/_titans3/metrics`` on the S3 port."""

    token: Annotated[str, _meta(live=True, secret=True)] = ""
    token_file: Annotated[str, _meta(live=True)] = ""
    public: Annotated[bool, _meta(live=True)] = False
    buckets_max: Annotated[int, _meta(live=True, least=0, most=METRICS_BUCKETS_MAX)] = METRICS_BUCKETS

    def __repr__(self) -> str:
        return _without(self, "token")


class AccessLogConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """A line for each request, in files."""

    path: str = ""
    format: Literal["json", "s3"] = "json"
    file_bytes: Annotated[int, _bytes(64 * 1024, 16 * GIB)] = 128 * MIB
    files_max: Annotated[int, _meta(least=1, most=100_000)] = 20


class AuditConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """The chain of what was administrated and refused."""

    enabled: bool = True
    path: str = ""
    file_bytes: Annotated[int, _bytes(64 * 1024, 16 * GIB)] = 64 * MIB
    webhook_url: str = ""
    webhook_token: Annotated[str, _meta(live=True, secret=True)] = ""
    webhook_token_file: Annotated[str, _meta(live=True)] = ""
    webhook_ca: Annotated[str, _meta(live=True)] = ""
    webhook_seconds: Annotated[float, _seconds(0.1, 600.0, live=True)] = WEBHOOK_SECONDS_MAX

    def __repr__(self) -> str:
        return _without(self, "webhook_token")


class TracingConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """Traces of requests to a collector."""

    endpoint: str = ""
    ratio: Annotated[float, _meta(least=0.0, most=1.0)] = 0.01
    trusted: tuple[str, ...] = ()
    traces_max: Annotated[int, _meta(least=1, most=100_000)] = TRACES_PER_SECOND_MAX


class LogConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """Operator logs on standard error."""

    level: Annotated[Literal["debug", "info", "warning", "error"], _meta(live=True)] = "info"
    format: Literal["text", "json"] = "text"


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """All of it."""

    node: NodeConfig = NodeConfig()
    s3: S3Config = S3Config()
    http: HttpConfig = HttpConfig()
    engine: EngineConfig = EngineConfig()
    kms: KmsConfig = KmsConfig()
    metrics: MetricsConfig = MetricsConfig()
    access_log: AccessLogConfig = AccessLogConfig()
    audit: AuditConfig = AuditConfig()
    tracing: TracingConfig = TracingConfig()
    log: LogConfig = LogConfig()
