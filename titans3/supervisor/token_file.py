"""The tokens of metrics and webhook as they were when their files were last read: workers never read the operator's files.

Invariants
* A token is in what workers are told and nowhere else; no message shows it.
"""

from __future__ import annotations

from msgspec.structs import replace

from titans3.config.check import check_token
from titans3.config.schema import Config
from titans3.errors import ConfigError

_FILE_BYTES_MAX = 64 * 1024


def with_tokens(config: Config) -> Config:
    """The configuration with the tokens of ``metrics.token_file`` and ``audit.webhook_token_file``. Raises ConfigError."""
    metrics, audit = config.metrics, config.audit
    if metrics.token_file:
        config = replace(config, metrics=replace(metrics, token=_read("metrics.token_file", metrics.token_file)))
    if audit.webhook_token_file:
        token = _read("audit.webhook_token_file", audit.webhook_token_file)
        config = replace(config, audit=replace(audit, webhook_token=token))
    return config


def _read(key: str, file: str) -> str:
    try:
        with open(file, encoding="utf-8") as opened:
            token = opened.read(_FILE_BYTES_MAX).strip()
        check_token(token)
    except UnicodeDecodeError:
        raise ConfigError(f"{key}: {file} is not text in UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{key}: {file} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{key}: {file}: {error}") from None
    return token
