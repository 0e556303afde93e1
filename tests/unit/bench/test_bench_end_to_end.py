"""The commands as they are typed, with real servers: a comparison and one against a revision, short, by the replayer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.peers.recipe import ROOT

SHORT = ("--sizes", "4k", "--concurrency", "4", "--rounds", "1", "--duration", "0.3s", "--folder", os.environ.get("TMPDIR", "/var/tmp"))
OTHER = """\
name = "other"
title = "Another TitanS3"
program = {python}
command = [
  "{{program}}", "-P", "-m", "titans3.cli.main", "run", "--data", "{{data}}/kept", "--s3", "127.0.0.1:{{port}}", "--workers", "1",
]
env = {{ PYTHONPATH = {root} }}
version = ["-m", "titans3.cli.main", "version"]
ready = "/health/ready"
credentials = "kept/credentials.json"
durability = "syncs all before the answer"
syncs = true
"""


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=110, check=False, env=dict(os.environ)
    )


def test_a_comparison_from_start_to_table(tmp_path: Path) -> None:
    """Without warp, with another server by a recipe, then once more with nothing left to do."""
    described = tmp_path / "other.toml"
    described.write_text(OTHER.format(python=json.dumps(sys.executable), root=json.dumps(str(ROOT))))
    command = (
        "bench.peers", "--replay", "--peers", "", "--recipe", str(described), "--operations", "get,put,delete,stat,mixed,versioned", *SHORT,
        "--workers", "1", "--out", str(tmp_path / "out"),
    )  # fmt: skip
    done = bench(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "left out without warp: versioned" in done.stdout
    assert done.stdout.count("Another TitanS3") >= 5 and "ERRORS" not in done.stdout and "FAILED" not in done.stdout
    page = (tmp_path / "out/out.md").read_text()
    assert "not warp, which was not found" in page and "bench peers --replay" in page
    assert "| | STAT | mixed 4k |" not in page and "| | GET 4k | STAT | PUT 4k | DELETE | mixed 4k |" in page
    assert "**TitanS3 rate, Another TitanS3 = 1**" in page and "PGO" in page and "| 4k |" in page
    record = json.loads((tmp_path / "out/out.json").read_text())
    own = {entry["cell"]["operation"]: entry["rounds"][0] for entry in record["results"] if entry["server"] == "titans3"}
    assert set(own) == {"get", "put", "delete", "stat", "mixed"}
    for outcome in own.values():
        assert outcome["requests"] > 0 and outcome["server_us"] > 10 and outcome["rss_peak"] > 20 << 20 and outcome["server_errors"] == 0
        assert outcome["disk_bytes"] > 0
    watched = "".join(own["delete"]["watched"])
    assert 'operation="DeleteObject",code="204"' in watched and "DeleteObjects" not in watched
    assert (tmp_path / "out/get.png").read_bytes().startswith(b"\x89PNG") and b"<svg" in (tmp_path / "out/get.svg").read_bytes()
    again = bench(*command)
    assert again.returncode == 0 and "round 1" not in again.stdout, again.stdout
    assert (tmp_path / "out/out.md").read_text() == page


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="compares with a revision of git")
def test_this_tree_beside_a_revision(tmp_path: Path) -> None:
    done = bench("bench.ab", "HEAD", "--operations", "get", *SHORT, "--workers", "1", "--no-charts", "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "out/out.md").read_text()
    assert "**TitanS3 rate, TitanS3 HEAD = 1**" in page and "aim" not in page
    listed = subprocess.run(["git", "worktree", "list"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "titans3-ab-" not in listed
    refused = bench("bench.ab", "no-such-revision", *SHORT, "--out", str(tmp_path / "out"))
    assert refused.returncode == 1 and "no-such-revision" in refused.stderr
