"""boto3's S3Transfer with many threads on one client."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
from boto3.s3.transfer import S3Transfer, TransferConfig
from botocore.config import Config

from tests.clients.installed import NAMES, endpoint
from tests.faults.server import Server

MIB = 1 << 20


def test_many_threads(server: Server, tmp_path: Path) -> None:
    access_key, secret_key = server.credentials()
    s3 = boto3.client(
        "s3", endpoint_url=endpoint(server), aws_access_key_id=access_key, aws_secret_access_key=secret_key, region_name="us-east-1",
        config=Config(max_pool_connections=64, retries={"max_attempts": 1}),
    )  # fmt: skip
    s3.create_bucket(Bucket="threads")
    config = TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB, max_concurrency=16)
    bodies = {f"{name}/{number}": os.urandom(size) for number, size in enumerate((0, 1000, 11 * MIB)) for name in NAMES}

    def round_trip(transfer: S3Transfer, number: int, key: str) -> bool:
        up, back = tmp_path / f"up-{number}", tmp_path / f"back-{number}"
        up.write_bytes(bodies[key])
        transfer.upload_file(str(up), "threads", key)
        transfer.download_file("threads", key, str(back))
        return back.read_bytes() == bodies[key]

    with S3Transfer(s3, config) as transfer, ThreadPoolExecutor(12) as pool:
        assert all(pool.map(lambda pair: round_trip(transfer, *pair), enumerate(bodies)))
    assert [item["Key"] for item in s3.list_objects_v2(Bucket="threads")["Contents"]] == sorted(bodies, key=str.encode)
    s3.close()
