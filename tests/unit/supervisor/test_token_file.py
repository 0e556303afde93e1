"""The token's file: read by the supervisor, refused without showing what is in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from titans3.config.schema import AuditConfig, Config, MetricsConfig
from titans3.errors import ConfigError
from titans3.supervisor.token_file import with_tokens


def of(file: Path) -> Config:
    return with_tokens(Config(metrics=MetricsConfig(token_file=str(file))))


def test_the_token_is_the_only_line_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("  0123456789abcdef\n\n")
    assert of(tmp_path / "token").metrics.token == "0123456789abcdef"
    assert with_tokens(Config()) == Config()
    audit = AuditConfig(webhook_token_file=str(tmp_path / "token"))
    assert with_tokens(Config(audit=audit)).audit.webhook_token == "0123456789abcdef"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "a token has 16 to 1,024 characters"),
        (b"too short", "a token has 16 to 1,024 characters"),
        (b"0123456789abcdef 0123456789abcdef", "a token has 16 to 1,024 characters"),
        (b"0123456789abcdef\n0123456789abcdef", "a token has 16 to 1,024 characters"),
        (b"\xff" * 20, "is not text in UTF-8"),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, content: bytes | None, expected: str) -> None:
    if content is not None:
        (tmp_path / "token").write_bytes(content)
    with pytest.raises(ConfigError, match=expected) as caught:
        of(tmp_path / "token")
    assert "0123456789" not in str(caught.value)
