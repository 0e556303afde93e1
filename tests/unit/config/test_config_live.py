"""A reload takes up live keys alone, says what waits for a restart, and leaves everything as it was when the file is bad."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from titans3.config.live import LiveConfig, with_live
from titans3.config.schema import Config, LogConfig, NodeConfig, S3Config
from titans3.config.sources import load
from titans3.errors import ConfigError


def test_live_keys_change_and_the_others_wait() -> None:
    running = Config()
    said = Config(node=NodeConfig(workers=7), s3=S3Config(region="x", tls_cert="c", tls_key="k"), log=LogConfig("debug", "json"))
    merged, waiting = with_live(running, said)
    assert merged == Config(s3=S3Config(tls_cert="c", tls_key="k"), log=LogConfig("debug", "text"))
    assert waiting == ["node.workers", "s3.region", "log.format"]


def test_nothing_changed_is_the_same() -> None:
    assert with_live(Config(), Config()) == (Config(), [])


def test_reload_reads_the_file_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "titans3.toml"
    file.write_text("")
    live = LiveConfig(load(str(file), environment={})[0], lambda: load(str(file), environment={})[0])
    with caplog.at_level(logging.WARNING):
        file.write_text('[log]\nlevel = "debug"\n')
        assert live.reload().log.level == "debug"
        assert caplog.messages == []
        file.write_text('[log]\nlevel = "loud"\n')
        with pytest.raises(ConfigError, match=r"log.level = 'loud' is not one of"):
            live.reload()
        assert live.config.log.level == "debug"
        file.write_text('[log]\nlevel = "error"\n[s3]\nregion = "x"\n')
        assert (live.reload().log.level, live.config.s3.region) == ("error", "us-east-1")
        assert caplog.messages == ["changed, but only a restart takes it up: s3.region"]
