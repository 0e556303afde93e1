"""pyiceberg with a SQL catalogue in a local file: create, append, evolve, travel. Arguments endpoint, bucket and a folder."""

import os
import sys

import boto3
import pyarrow as pa
from pyiceberg.catalog.sql import SqlCatalog

endpoint, bucket, folder = sys.argv[1:]
boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket=bucket)
settings = {
    "uri": f"sqlite:///{folder}/catalogue.db", "warehouse": f"s3://{bucket}/ware house", "s3.endpoint": endpoint,
    "s3.access-key-id": os.environ["AWS_ACCESS_KEY_ID"], "s3.secret-access-key": os.environ["AWS_SECRET_ACCESS_KEY"],
    "s3.region": "us-east-1",
}  # fmt: skip
catalogue = SqlCatalog("clients", **settings)
catalogue.create_namespace("space")
rows = pa.table({"n": pa.array(range(1000), pa.int64()), "text": [f"ü {n}" for n in range(1000)]})
table = catalogue.create_table("space.rows", schema=rows.schema)
table.append(rows)
first = table.current_snapshot()
table.append(rows)
table.delete("n < 500")
again = SqlCatalog("clients", **settings).load_table("space.rows")
assert again.scan().to_arrow().num_rows == 1000
assert first is not None
assert again.scan(snapshot_id=first.snapshot_id).to_arrow().sort_by("n").to_pydict() == rows.to_pydict()
catalogue.drop_table("space.rows")
print("done")
