"""duckdb with the httpfs extension out of its wheel. Arguments endpoint and bucket; nothing is downloaded."""

import os
import sys
from pathlib import Path

import boto3
import duckdb
import duckdb_extension_httpfs

endpoint, bucket = sys.argv[1:]
s3 = boto3.client("s3", endpoint_url=endpoint)
s3.create_bucket(Bucket=bucket)
[extension] = Path(duckdb_extension_httpfs.__file__).parent.rglob("httpfs.duckdb_extension")
base = duckdb.connect(config={"autoinstall_known_extensions": "false"})
base.execute(f"LOAD '{extension}'")
base.execute(
    f"CREATE SECRET (TYPE s3, KEY_ID '{os.environ['AWS_ACCESS_KEY_ID']}', SECRET '{os.environ['AWS_SECRET_ACCESS_KEY']}',"
    f" ENDPOINT '{endpoint.removeprefix('http://')}', URL_STYLE 'path', USE_SSL false, REGION 'us-east-1')"
)
for folder in ("plain", "sp ace", "pl+us", "per%cent", "ümläut"):
    target = f"s3://{bucket}/{folder}/rows.parquet"
    base.execute(f"COPY (SELECT range AS n, repeat('x', 50) AS text FROM range(100000)) TO '{target}' (FORMAT parquet)")
    assert base.execute(f"SELECT count(*), sum(n) FROM '{target}'").fetchone() == (100000, 4999950000), folder
    assert f"{folder}/rows.parquet" in [item["Key"] for item in s3.list_objects_v2(Bucket=bucket)["Contents"]], folder
assert base.execute(f"SELECT count(*) FROM 's3://{bucket}/*/rows.parquet'").fetchone() == (500000,)
base.execute(f"COPY (SELECT range AS n, range % 3 AS part FROM range(9000)) TO 's3://{bucket}/parts' (FORMAT csv, PARTITION_BY (part))")
shown = base.execute(f"SELECT part, count(*) FROM read_csv('s3://{bucket}/parts/**/*.csv', hive_partitioning = true) GROUP BY 1 ORDER BY 1")
assert [(int(part), count) for part, count in shown.fetchall()] == [(0, 3000), (1, 3000), (2, 3000)]
print("done")
