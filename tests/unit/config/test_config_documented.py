"""Schema, conf/titans3.toml and docs/configuration.md say the same: every key, its default, its option, whether it is live."""

from __future__ import annotations

import itertools
import re
import tomllib
from pathlib import Path

from titans3.config.keys import by_path, keys
from titans3.config.schema import Config
from titans3.config.sources import load

ROOT = Path(__file__).resolve().parents[3]
CONF = ROOT / "conf/titans3.toml"
PAGE = ROOT / "docs/configuration.md"
_ROW = re.compile(r"\| `([a-z0-9_.]+)` \| `(.*?)` \| (?:`(--[a-z0-9-]+)`)? ?\| (live)? ?\| (.+) \|")


def test_conf_file_holds_every_key_in_order_with_its_default() -> None:
    written = [f"{section}.{name}" for section, values in tomllib.loads(CONF.read_text()).items() for name in values]
    assert written == [key.path for key in keys()]
    config, origins = load(str(CONF), environment={})
    assert config == Config()
    assert set(origins.by_path) == {key.path for key in keys()}


def test_conf_file_explains_every_key() -> None:
    lines = CONF.read_text().splitlines()
    explained_together = {"tls_key", "write_seconds", "data_segment_bytes", "checkpoint_bytes", "checkpoint_seconds"}
    for before, line in itertools.pairwise(lines):
        name = line.partition(" = ")[0]
        if " = " in line and not line.startswith("#"):
            assert before.startswith("#") or name in explained_together, line


def test_page_holds_every_key_in_order_with_default_option_and_live() -> None:
    rows = [match.groups() for match in map(_ROW.fullmatch, PAGE.read_text().splitlines()) if match]
    assert [row[0] for row in rows] == [key.path for key in keys()]
    for path, default, flag, live, meaning in rows:
        key = by_path()[path]
        assert (default, flag or "", bool(live)) == (key.show(key.default), key.flag, key.live), path
        assert len(meaning) > 15, path


def test_live_keys_are_the_promised_ones() -> None:
    assert [key.path for key in keys() if key.live] == [
        "node.active_workers", "s3.tls_cert", "s3.tls_key", "metrics.token", "metrics.token_file", "metrics.public", "metrics.buckets_max",
        "audit.webhook_token", "audit.webhook_token_file", "audit.webhook_ca", "audit.webhook_seconds", "log.level",
    ]  # fmt: skip


def test_bounds_hold_for_the_defaults() -> None:
    for key in keys():
        if key.least is not None and not (key.auto and key.default == -1):
            assert key.most is not None
            assert key.least <= key.default <= key.most, key.path  # type: ignore[operator]
