"""s3fs-fuse: a bucket as a folder, where the kernel lets this user mount."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.installed import contents, differing, endpoint, environment, program, run, tree
from tests.faults.server import Server


@pytest.fixture
def mounted(server: Server, tmp_path: Path) -> Iterator[Path]:
    s3fs = program("debian", "s3fs")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("FUSE is not allowed here: /dev/fuse cannot be opened")
    run(server, program("python", "s5cmd"), "--endpoint-url", endpoint(server), "mb", "s3://fuse")
    mount = tmp_path / "mount"
    mount.mkdir()
    command = [s3fs, "fuse", str(mount), "-f", "-o", f"url={endpoint(server)}", "-o", "use_path_request_style",
               "-o", "multipart_size=5", "-o", f"use_cache={tmp_path / 'cache'}"]
    with open(tmp_path / "s3fs.log", "wb") as log:
        process = subprocess.Popen(command, env=environment(server), stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while not os.path.ismount(mount):
            assert process.poll() is None, (tmp_path / "s3fs.log").read_text(errors="replace")
            assert time.monotonic() < deadline, "not mounted"
            time.sleep(0.05)
        yield mount
    finally:
        subprocess.run(["umount", mount], check=False, timeout=20)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def test_files_written_renamed_and_removed(mounted: Path) -> None:
    files = tree(mounted)
    assert differing(contents(mounted), files) == []
    (mounted / "large + %41.bin").chmod(0o600)  # a copy onto itself, in parts
    (mounted / "large + %41.bin").rename(mounted / "moved ü")
    assert (mounted / "moved ü").read_bytes() == files["large + %41.bin"]
    with (mounted / "plain.txt").open("ab") as file:
        file.write(b"more")
    assert (mounted / "plain.txt").read_bytes() == files["plain.txt"] + b"more"
    (mounted / "moved ü").unlink()
    assert "moved ü" not in contents(mounted)
