"""``titanctl status`` without a server, and how sizes are written; with one it is in tests/faults/test_operator.py."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from titans3.cli.status import size
from titans3.cli.titanctl import titanctl
from titans3.errors import ConfigError


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536 * 1024**2, "1.5 GiB"), (5 * 1024**5, "5.0 PiB"), (2**63, "8192.0 PiB")],
)
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text


def test_without_a_server_there_is_a_word_and_no_table(tmp_path: Path) -> None:
    for folder, word in ((tmp_path, f"no server runs on {tmp_path}"), (tmp_path / "no", f"there is no folder {tmp_path}/no")):
        done = CliRunner().invoke(titanctl, ["status", "--data", str(folder)])
        assert isinstance(done.exception, ConfigError)
        assert word in str(done.exception)
        assert done.stdout == ""


def test_a_server_that_was_killed_is_told_from_one_that_runs(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    said = {"format": 1, "url": "http://127.0.0.1:1", "region": "r", "pid": 7, "board": f"/proc/{os.getpid()}/fd/9999", "version": "0"}
    (tmp_path / "run" / "endpoint.json").write_text(json.dumps(said))
    done = CliRunner().invoke(titanctl, ["status", "--data", str(tmp_path)])
    assert isinstance(done.exception, ConfigError)
    assert "(process 7) is not there any more" in str(done.exception)
    (tmp_path / "board").write_bytes(bytes(100))
    (tmp_path / "run" / "endpoint.json").write_text(json.dumps(said | {"board": str(tmp_path / "board")}))
    assert "is no board of this version" in str(CliRunner().invoke(titanctl, ["status", "--data", str(tmp_path)]).exception)
