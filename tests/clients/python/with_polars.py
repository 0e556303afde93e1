"""polars: write, scan and aggregate. Arguments endpoint and bucket."""

import os
import sys

import boto3
import polars as pl

endpoint, bucket = sys.argv[1:]
boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket=bucket)
options = {
    "aws_endpoint_url": endpoint, "aws_access_key_id": os.environ["AWS_ACCESS_KEY_ID"],
    "aws_secret_access_key": os.environ["AWS_SECRET_ACCESS_KEY"], "aws_region": "us-east-1", "aws_allow_http": "true",
}  # fmt: skip
frame = pl.DataFrame({"n": range(200_000), "text": [f"row {n}" for n in range(200_000)]})
for folder in ("plain", "sp ace", "pl+us", "ümläut"):
    path = f"s3://{bucket}/{folder}/rows.parquet"
    frame.write_parquet(path, storage_options=options)
    assert pl.read_parquet(path, storage_options=options).equals(frame), folder
    assert pl.scan_parquet(path, storage_options=options).select(pl.col("n").sum()).collect().item() == 19999900000
assert pl.scan_parquet(f"s3://{bucket}/plain/*.parquet", storage_options=options).select(pl.len()).collect().item() == 200_000
print("done")
