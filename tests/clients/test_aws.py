"""The aws command line against a real server, set up the way the ready block says."""

from __future__ import annotations

import filecmp
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.server import Server

BIN = Path(sys.executable).parent
FILES = int(os.environ.get("TITANS3_SYNC_FILES", "300"))


@pytest.fixture(scope="module")
def environment(server: Server) -> dict[str, str]:
    """What ``eval "$(titanctl env)"`` sets."""
    script = f'eval "$({BIN / "titanctl"} env --data {server.data})" && env -0'
    shown = subprocess.run(["/bin/sh", "-c", script], capture_output=True, timeout=60, check=True)
    pairs = [pair.partition("=") for pair in shown.stdout.decode().split("\0") if pair]
    return {name: value for name, _, value in pairs} | {"AWS_MAX_ATTEMPTS": "1", "AWS_CONFIG_FILE": os.devnull}


def aws(environment: dict[str, str], *arguments: str, codes: tuple[int, ...] = (0,)) -> str:
    shown = subprocess.run(
        [sys.executable, BIN / "aws", *arguments], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert shown.returncode in codes, (arguments, shown.stdout, shown.stderr)
    return shown.stdout


def tree(root: Path, count: int) -> None:
    rng = random.Random(7)
    names = ["plain", "sp ace", "pl+us", "per%cent", "ü☃", "per'iod.", "am&per"]
    for number in range(count):
        folder = root / names[number % len(names)] / str(number % 13)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{names[number % 5]} {number}.bin").write_bytes(rng.randbytes(rng.choice((0, 10, 4000, 70_000))))
    (root / "big.bin").write_bytes(rng.randbytes(18 << 20))


def differences(left: Path, right: Path) -> list[str]:
    compared = filecmp.dircmp(left, right)
    found = [str(left / name) for name in (*compared.left_only, *compared.right_only, *compared.diff_files, *compared.funny_files)]
    for name in compared.common_dirs:
        found += differences(left / name, right / name)
    found += filecmp.cmpfiles(left, right, compared.common_files, shallow=False)[1]
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_sync_up_and_back(environment: dict[str, str], tmp_path: Path) -> None:
    up, back = tmp_path / "up", tmp_path / "back"
    tree(up, FILES)
    aws(environment, "s3", "mb", "s3://synced")
    aws(environment, "s3", "sync", "--quiet", str(up), "s3://synced/some where")
    assert len(aws(environment, "s3", "ls", "--recursive", "s3://synced").splitlines()) == FILES + 1
    aws(environment, "s3", "sync", "--quiet", "s3://synced/some where", str(back))
    assert differences(up, back) == []
    assert aws(environment, "s3", "sync", str(up), "s3://synced/some where") == "", "nothing is left to do"
    aws(environment, "s3", "rb", "--force", "s3://synced")


def test_copy_move_presign_and_api(environment: dict[str, str], tmp_path: Path) -> None:
    source = tmp_path / "file.txt"
    source.write_text("hello")
    aws(environment, "s3", "mb", "s3://commands")
    aws(environment, "s3", "cp", "--quiet", str(source), "s3://commands/a/file.txt")
    aws(environment, "s3", "mv", "--quiet", "s3://commands/a/file.txt", "s3://commands/b/file.txt")
    assert aws(environment, "s3", "cp", "s3://commands/b/file.txt", "-") == "hello"
    assert "b/" in aws(environment, "s3", "ls", "s3://commands")
    assert '"ContentLength": 5' in aws(environment, "s3api", "head-object", "--bucket", "commands", "--key", "b/file.txt")
    aws(environment, "s3api", "head-object", "--bucket", "commands", "--key", "a/file.txt", codes=(254, 255))
    aws(environment, "s3", "rm", "--quiet", "s3://commands/b/file.txt")
    aws(environment, "s3", "rb", "s3://commands")
