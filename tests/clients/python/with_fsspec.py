"""fsspec with s3fs: what data scientists do. Arguments endpoint and bucket; names as JSON on standard input."""

import json
import os
import sys

import fsspec

endpoint, bucket = sys.argv[1:]
names = json.load(sys.stdin)
store = fsspec.filesystem(
    "s3", key=os.environ["AWS_ACCESS_KEY_ID"], secret=os.environ["AWS_SECRET_ACCESS_KEY"], endpoint_url=endpoint,
    client_kwargs={"region_name": "us-east-1"}, use_listings_cache=False,
)  # fmt: skip
store.mkdir(bucket)
for name in names:
    body = f"body of {name}".encode()
    store.pipe(f"{bucket}/{name}", body)
    assert store.cat(f"{bucket}/{name}") == body, name
    store.copy(f"{bucket}/{name}", f"{bucket}/copy")
    assert store.cat_file(f"{bucket}/copy", start=2, end=6) == body[2:6], name
assert set(store.find(bucket)) == {f"{bucket}/{name}" for name in [*names, "copy"]}
large = os.urandom(17 << 20)
with store.open(f"{bucket}/large + %41", "wb", block_size=5 << 20) as file:
    file.write(large)
with store.open(f"{bucket}/large + %41", "rb") as file:
    file.seek(5 << 20)
    assert file.read(1000) == large[5 << 20 : (5 << 20) + 1000]
assert store.cat(f"{bucket}/large + %41") == large
store.mv(f"{bucket}/large + %41", f"{bucket}/moved/ü")
assert store.size(f"{bucket}/moved/ü") == len(large)
store.rm(bucket, recursive=True)
assert bucket not in store.ls("")
print(len(names))
