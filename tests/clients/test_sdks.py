"""SDKs of other makers and languages, each driven by a small program that compares bytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.clients.installed import HERE, NAMES, PLACES, endpoint, missing, program, run, script
from tests.faults.server import Server


def test_minio_py(server: Server) -> None:
    assert int(script(server, "with_minio.py", "minio-py")) == len(NAMES)


def test_django_storages(server: Server) -> None:
    assert int(script(server, "with_django.py", "django")) == len(NAMES) - 1


def test_aws_sdk_for_javascript(server: Server) -> None:
    modules = PLACES["node"] / "node_modules"
    if not (modules / "@aws-sdk/client-s3").exists():
        missing("@aws-sdk/client-s3", "python tools/clients.py node")
    feed = json.dumps(NAMES).encode()
    shown = run(server, "node", HERE / "node/sdk.mjs", endpoint(server), "js-sdk", feed=feed, TITANS3_NODE_MODULES=str(modules))
    assert int(shown) == len(NAMES)


@pytest.mark.parametrize(("name", "address"), [("awsv2", "http://127.0.0.1:{}"), ("miniogo", "127.0.0.1:{}")])
def test_go(server: Server, tmp_path: Path, name: str, address: str) -> None:
    shown = run(server, program("go", name), address.format(server.port), f"go-{name}", feed=json.dumps(NAMES).encode())
    assert int(shown) == len(NAMES)
