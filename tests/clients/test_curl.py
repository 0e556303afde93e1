"""curl with its own Signature Version 4, as people try a store out."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.clients.installed import NAMES, endpoint, run
from tests.faults.server import Server


@pytest.fixture(scope="module")
def curl(server: Server) -> list[str]:
    access_key, secret_key = server.credentials()
    command = ["curl", "--silent", "--show-error", "--fail", "--path-as-is", "--user", f"{access_key}:{secret_key}",
               "--aws-sigv4", "aws:amz:us-east-1:s3", "--header", "x-amz-content-sha256: UNSIGNED-PAYLOAD"]
    run(server, *command, "-X", "PUT", f"{endpoint(server)}/curl")
    return command


@pytest.mark.parametrize("name", NAMES)
def test_round_trip(server: Server, curl: list[str], tmp_path: Path, name: str) -> None:
    body = os.urandom(100_000)
    (tmp_path / "up").write_bytes(body)
    url = f"{endpoint(server)}/curl/{quote(name)}"
    run(server, *curl, "--upload-file", tmp_path / "up", url)
    assert run(server, *curl, url) == body
    assert run(server, *curl, "--range", "10-19", url) == body[10:20]
    assert b"content-length: 100000" in run(server, *curl, "--head", url).lower()
    run(server, *curl, "-X", "DELETE", url)
