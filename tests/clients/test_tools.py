"""Command-line tools: a tree of odd names goes up, comes back equal, and nothing is left to do."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import boto3
import pytest

from tests.clients.installed import contents, differing, endpoint, program, run, tree
from tests.faults.server import Server


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path, dict[str, bytes]]:
    """A tree to send, an empty place for what comes back, and the files."""
    up, back = tmp_path / "up", tmp_path / "back"
    up.mkdir()
    back.mkdir()
    return up, back, tree(up)


def stored(server: Server, bucket: str) -> dict[str, bytes]:
    """Every object of a bucket, as boto3 reads it."""
    access_key, secret_key = server.credentials()
    s3: Any = boto3.client(
        "s3", endpoint_url=endpoint(server), aws_access_key_id=access_key, aws_secret_access_key=secret_key, region_name="us-east-1"
    )
    found = s3.list_objects_v2(Bucket=bucket).get("Contents", [])
    bodies = {item["Key"]: s3.get_object(Bucket=bucket, Key=item["Key"])["Body"].read() for item in found}
    s3.close()
    return bodies


def of_rclone(server: Server) -> dict[str, str]:
    """A remote called ``t``."""
    access_key, secret_key = server.credentials()
    settings = {
        "TYPE": "s3", "PROVIDER": "Other", "ACCESS_KEY_ID": access_key, "SECRET_ACCESS_KEY": secret_key, "ENDPOINT": endpoint(server),
        "REGION": "us-east-1",
    }  # fmt: skip
    return {f"RCLONE_CONFIG_T_{name}": value for name, value in settings.items()} | {"RCLONE_CONFIG": "/dev/null"}


@pytest.mark.parametrize("kind", ["python", "debian"])
def test_rclone(server: Server, folders: tuple[Path, Path, dict[str, bytes]], kind: str) -> None:
    up, back, files = folders
    rclone, bucket, remote = program(kind, "rclone"), f"rclone-{kind}", of_rclone(server)
    run(server, rclone, "sync", up, f"t:{bucket}", "--s3-upload-cutoff", "8M", "--s3-chunk-size", "5M", **remote)
    assert differing(stored(server, bucket), files) == []
    run(server, rclone, "check", "--download", up, f"t:{bucket}", **remote)
    run(server, rclone, "copyto", f"t:{bucket}/sp ace/a b", f"t:{bucket}/copied + %41", **remote)
    run(server, rclone, "moveto", f"t:{bucket}/copied + %41", f"t:{bucket}/moved/ü", **remote)
    assert run(server, rclone, "cat", f"t:{bucket}/moved/ü", **remote) == files["sp ace/a b"]
    run(server, rclone, "sync", f"t:{bucket}", back, **remote)
    assert differing(contents(back), files | {"moved/ü": files["sp ace/a b"]}) == []
    run(server, rclone, "sync", up, f"t:{bucket}", **remote)
    assert differing(stored(server, bucket), files) == [], "what the source lost is gone"
    run(server, rclone, "purge", f"t:{bucket}", **remote)


def test_s5cmd(server: Server, folders: tuple[Path, Path, dict[str, bytes]]) -> None:
    up, back, files = folders
    s5cmd = [program("python", "s5cmd"), "--endpoint-url", endpoint(server)]
    run(server, *s5cmd, "mb", "s3://s5cmd")
    run(server, *s5cmd, "cp", "--part-size", "5", f"{up}/", "s3://s5cmd/")
    assert differing(stored(server, "s5cmd"), files) == []
    run(server, *s5cmd, "sync", "s3://s5cmd/*", f"{back}/")
    assert differing(contents(back), files) == []
    run(server, *s5cmd, "mv", "s3://s5cmd/plain.txt", "s3://s5cmd/moved + %41/ü")
    assert run(server, *s5cmd, "cat", "s3://s5cmd/moved + %41/ü") == files["plain.txt"]
    assert len(run(server, *s5cmd, "ls", "s3://s5cmd/*").splitlines()) == len(files)
    run(server, *s5cmd, "rm", "s3://s5cmd/*")
    run(server, *s5cmd, "rb", "s3://s5cmd")


@pytest.mark.parametrize("more", [[], ["--signature-v2"]], ids=["v4", "v2"])
def test_s3cmd(server: Server, folders: tuple[Path, Path, dict[str, bytes]], tmp_path: Path, more: list[str]) -> None:
    up, back, files = folders
    access_key, secret_key = server.credentials()
    settings = tmp_path / "s3cfg"
    host = f"127.0.0.1:{server.port}"
    settings.write_text(
        f"[default]\naccess_key = {access_key}\nsecret_key = {secret_key}\nhost_base = {host}\nhost_bucket = {host}\n"
        "use_https = False\nmultipart_chunk_size_mb = 5\n"
    )
    s3cmd = [program("python", "s3cmd"), "-c", settings, "--no-progress", *more]
    bucket = "s3cmd-v2" if more else "s3cmd-v4"
    run(server, *s3cmd, "mb", f"s3://{bucket}")
    run(server, *s3cmd, "sync", f"{up}/", f"s3://{bucket}/")
    assert differing(stored(server, bucket), files) == []
    run(server, *s3cmd, "sync", f"s3://{bucket}/", f"{back}/")
    assert differing(contents(back), files) == []
    run(server, *s3cmd, "cp", f"s3://{bucket}/sp ace/a b", f"s3://{bucket}/copied + %41")
    run(server, *s3cmd, "mv", f"s3://{bucket}/copied + %41", f"s3://{bucket}/moved/ü")
    assert stored(server, bucket)["moved/ü"] == files["sp ace/a b"]
    run(server, *s3cmd, "info", f"s3://{bucket}")
    run(server, *s3cmd, "info", f"s3://{bucket}/moved/ü")
    run(server, *s3cmd, "del", "--recursive", "--force", f"s3://{bucket}")
    run(server, *s3cmd, "rb", f"s3://{bucket}")


def test_mc(server: Server, folders: tuple[Path, Path, dict[str, bytes]], tmp_path: Path) -> None:
    up, back, files = folders
    access_key, secret_key = server.credentials()
    mc = [program("go", "mc"), "--config-dir", tmp_path / "mc", "--quiet"]
    run(server, *mc, "alias", "set", "t", endpoint(server), access_key, secret_key, "--api", "S3v4", "--path", "on")
    run(server, *mc, "mb", "t/mc-bucket")
    run(server, *mc, "mirror", up, "t/mc-bucket")
    assert differing(stored(server, "mc-bucket"), files) == []
    assert run(server, *mc, "cat", "t/mc-bucket/sp ace/a b") == files["sp ace/a b"]
    run(server, *mc, "mv", "t/mc-bucket/plain.txt", "t/mc-bucket/moved + %41/ü")
    run(server, *mc, "pipe", "t/mc-bucket/plain.txt", feed=files["plain.txt"])
    run(server, *mc, "mirror", "t/mc-bucket", back)
    assert differing(contents(back), files | {"moved + %41/ü": files["plain.txt"]}) == []
    shown = [json.loads(line) for line in run(server, *mc, "--json", "ls", "--recursive", "t/mc-bucket").splitlines()]
    assert {item["key"] for item in shown} == files.keys() | {"moved + %41/ü"}
    run(server, *mc, "stat", "t/mc-bucket/empty")
    run(server, *mc, "rb", "--force", "t/mc-bucket")


@pytest.mark.parametrize("kind", ["pypi", "debian"])
def test_aws(server: Server, folders: tuple[Path, Path, dict[str, bytes]], kind: str) -> None:
    """The newest, out of the development extras, and Debian's version 2 of before the default checksums."""
    up, back, files = folders
    command = [program("debian", "aws")] if kind == "debian" else [sys.executable, str(Path(sys.executable).with_name("aws"))]
    aws = [*command, "--endpoint-url", endpoint(server)]
    run(server, *aws, "s3", "mb", "s3://aws-cli")
    run(server, *aws, "s3", "sync", "--quiet", up, "s3://aws-cli")
    assert differing(stored(server, "aws-cli"), files) == []
    run(server, *aws, "s3", "cp", "-", "s3://aws-cli/from stdin+%41", feed=b"typed")
    run(server, *aws, "s3", "mv", "s3://aws-cli/from stdin+%41", "s3://aws-cli/moved//ü")
    assert run(server, *aws, "s3", "cp", "s3://aws-cli/moved//ü", "-") == b"typed"
    url = run(server, *aws, "s3", "presign", "s3://aws-cli/moved//ü").decode().strip()
    assert run(server, "curl", "--silent", "--fail", "--path-as-is", url) == b"typed"
    run(server, *aws, "s3", "rm", "--quiet", "s3://aws-cli/moved//ü")
    run(server, *aws, "s3", "sync", "--quiet", "s3://aws-cli", back)
    assert differing(contents(back), files) == []
    run(server, *aws, "s3", "rm", "--quiet", "--recursive", "s3://aws-cli")
    run(server, *aws, "s3", "rb", "s3://aws-cli")
