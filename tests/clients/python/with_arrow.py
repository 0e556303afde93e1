"""pyarrow's file system: raw streams under odd names, then a partitioned data set. Arguments endpoint and bucket."""

import json
import os
import sys

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow import fs

endpoint, bucket = sys.argv[1:]
names = [name for name in json.load(sys.stdin) if "//" not in name]  # Arrow's paths know no empty folder name
store = fs.S3FileSystem(
    endpoint_override=endpoint, region="us-east-1", access_key=os.environ["AWS_ACCESS_KEY_ID"],
    secret_key=os.environ["AWS_SECRET_ACCESS_KEY"], allow_bucket_creation=True, allow_bucket_deletion=True,
)  # fmt: skip
store.create_dir(bucket)
for name in names:
    body = f"body of {name}".encode()
    with store.open_output_stream(f"{bucket}/{name}") as stream:
        stream.write(body)
    with store.open_input_stream(f"{bucket}/{name}") as stream:
        assert stream.read() == body, name
    store.copy_file(f"{bucket}/{name}", f"{bucket}/copy")
    with store.open_input_file(f"{bucket}/copy") as file:
        assert file.read_at(4, 2) == body[2:6], name
    store.move(f"{bucket}/copy", f"{bucket}/moved")
found = store.get_file_info(fs.FileSelector(bucket, recursive=True))
assert {f"{bucket}/{name}" for name in names} <= {item.path for item in found if item.is_file}
large = os.urandom(23 << 20)
with store.open_output_stream(f"{bucket}/large + %41") as stream:
    for begin in range(0, len(large), 1_000_003):
        stream.write(large[begin : begin + 1_000_003])
with store.open_input_stream(f"{bucket}/large + %41") as stream:
    assert stream.read() == large
table = pa.table({"day": ["a b", "a b", "c+d", "é%"] * 5000, "n": list(range(20000))})
ds.write_dataset(table, f"{bucket}/data set", filesystem=store, format="parquet",
                 partitioning=ds.partitioning(pa.schema([("day", pa.string())]), flavor="hive"))
back = ds.dataset(f"{bucket}/data set", filesystem=store, partitioning="hive").to_table().sort_by("n")
assert back.select(["day", "n"]).to_pydict() == table.to_pydict()
pq.write_table(table, f"{bucket}/one.parquet", filesystem=store)
assert pq.read_table(f"{bucket}/one.parquet", filesystem=store).equals(table)
store.delete_dir(bucket)
print(len(names))
