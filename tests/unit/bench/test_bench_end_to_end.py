"""The commands as they are typed, with real servers: a comparison and one against a revision, short, by the replayer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from bench.peers.recipe import ROOT
from bench.peers.usage import Tree

DISK = os.environ.get("TMPDIR", "/var/tmp")  # pytest's own folders may be in memory, which is refused
SHORT = ("--sizes", "4k", "--concurrency", "4", "--rounds", "1", "--duration", "0.3s", "--folder", DISK)
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
        "bench.peers", "--replay", "--peers", "", "--recipe", str(described), "--operations", "put,mixed,versioned", *SHORT,
        "--workers", "1", "--also-workers", "2", "--out", str(tmp_path / "out"),
    )  # fmt: skip
    done = bench(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "left out without warp: versioned" in done.stdout
    assert done.stdout.count("Another TitanS3") >= 2 and "ERRORS" not in done.stdout and "FAILED" not in done.stdout
    page = (tmp_path / "out/out.md").read_text()
    assert "not warp but the replayer" in page and "bench peers --replay" in page
    assert "| | PUT 4k | mixed 4k |" in page
    assert "**TitanS3 rate, Another TitanS3 = 1**" in page and ", Python 3." in page and "| 4k |" in page
    record = json.loads((tmp_path / "out/out.json").read_text())
    own = {entry["cell"]["operation"]: entry["rounds"][0] for entry in record["results"] if entry["server"] == "titans3"}
    assert set(own) == {"put", "mixed"}
    assert "**TitanS3, 2 workers server CPU, Another TitanS3 = 1**" in page and "--workers 2`" in page and "--workers {workers}`" in page
    assert all(entry["rounds"][0]["requests"] for entry in record["results"] if entry["server"] == "titans3-2")
    for outcome in own.values():
        assert outcome["requests"] > 0 and outcome["server_us"] > 10 and outcome["rss_peak"] > 20 << 20 and outcome["server_errors"] == 0
        assert outcome["disk_bytes"] > 0
    watched = "".join(own["mixed"]["watched"])
    assert 'operation="DeleteObject",code="204"' in watched and "DeleteObjects" not in watched
    assert (tmp_path / "out/put.png").read_bytes().startswith(b"\x89PNG") and b"<svg" in (tmp_path / "out/put.svg").read_bytes()
    again = bench(*command)
    assert again.returncode == 0 and "round 1" not in again.stdout, again.stdout
    assert (tmp_path / "out/out.md").read_text() == page


def test_an_interrupted_comparison_leaves_nothing_running(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=DISK) as disk:
        command = [
            sys.executable, "-m", "bench.peers", "--replay", "--peers", "", "--operations", "put", *SHORT, "--workers", "1",
            "--duration", "60s", "--folder", disk, "--out", str(tmp_path / "out"),
        ]  # fmt: skip
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        tree, deadline = Tree(process.pid), time.monotonic() + 60
        while len(tree.pids) < 3:  # itself, a supervisor, a worker
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
            tree.refresh()
        process.terminate()
        process.communicate(timeout=60)
        assert process.returncode == 128 + signal.SIGTERM
        deadline = time.monotonic() + 10
        while any(Path(f"/proc/{pid}").exists() for pid in tree.pids):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert os.listdir(disk) == [] and not list((tmp_path / "out").glob("*.json"))


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
