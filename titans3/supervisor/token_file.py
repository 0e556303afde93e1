"""The token of the metrics as it was when its file was last read: workers never read the operator's files.

Invariants
* The token is in what workers are told and nowhere else; no message shows it.
"""

from __future__ import annotations

import msgspec

from titans3.config.check import check_token
from titans3.config.schema import Config
from titans3.errors import ConfigError

_FILE_BYTES_MAX = 64 * 1024


def with_token(config: Config) -> Config:
    """The configuration with the token of ``metrics.token_file``. Raises ConfigError."""
    file = config.metrics.token_file
    if not file:
        return config
    try:
        with open(file, encoding="utf-8") as opened:
            token = opened.read(_FILE_BYTES_MAX).strip()
        check_token(token)
    except UnicodeDecodeError:
        raise ConfigError(f"metrics.token_file: {file} is not text in UTF-8") from None
    except OSError as error:
        raise ConfigError(f"metrics.token_file: {file} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"metrics.token_file: {file}: {error}") from None
    return msgspec.structs.replace(config, metrics=msgspec.structs.replace(config.metrics, token=token))
