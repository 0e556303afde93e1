"""deltalake: two processes append to one table at once; no commit may be lost. Arguments endpoint and bucket."""

import multiprocessing
import os
import sys

import boto3
import pyarrow as pa
from deltalake import DeltaTable, write_deltalake

COMMITS = 8


def options_of(endpoint: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": os.environ["AWS_ACCESS_KEY_ID"], "AWS_REGION": "us-east-1",
        "AWS_SECRET_ACCESS_KEY": os.environ["AWS_SECRET_ACCESS_KEY"], "AWS_ALLOW_HTTP": "true", "aws_conditional_put": "etag",
    }  # fmt: skip


def append(endpoint: str, table: str, writer: int) -> None:
    for number in range(COMMITS):
        rows = pa.table({"writer": [writer] * 10, "n": list(range(number * 10, number * 10 + 10))})
        write_deltalake(table, rows, mode="append", storage_options=options_of(endpoint))
    os._exit(0)  # the library's threads sometimes abort in the interpreter's teardown, after everything was committed


def main() -> None:
    endpoint, bucket = sys.argv[1:]
    boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket=bucket)
    table = f"s3://{bucket}/ta ble"
    write_deltalake(table, pa.table({"writer": [0], "n": [0]}), storage_options=options_of(endpoint))
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=append, args=(endpoint, table, writer)) for writer in (1, 2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(90)
        assert writer.exitcode == 0, writer.exitcode
    stored = DeltaTable(table, storage_options=options_of(endpoint))
    assert stored.version() == 2 * COMMITS, "a commit overwrote another"
    rows = pa.table(stored.to_pyarrow_table()).to_pylist()
    expected = [(0, 0), *((writer, n) for writer in (1, 2) for n in range(10 * COMMITS))]
    assert sorted((row["writer"], row["n"]) for row in rows) == expected
    print("done", flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
