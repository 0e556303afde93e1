"""One real server for all client tests, with a virtual-host domain."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.faults.server import Server


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("clients") / "data", env={"TITANS3_S3__DOMAINS": "s3.localhost"})
    server.start()
    try:
        asyncio.run(server.wait_ready())
        yield server
    finally:
        assert server.stop() == 0
