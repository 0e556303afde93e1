"""minio-py: arguments endpoint and bucket; names as JSON on standard input."""

import io
import json
import os
import sys
import urllib.request
from datetime import timedelta

from minio import Minio
from minio.commonconfig import ComposeSource, CopySource
from minio.deleteobjects import DeleteObject

endpoint, bucket = sys.argv[1:]
names = json.load(sys.stdin)
client = Minio(
    endpoint.removeprefix("http://"), access_key=os.environ["AWS_ACCESS_KEY_ID"], secret_key=os.environ["AWS_SECRET_ACCESS_KEY"],
    secure=False,
)  # fmt: skip


def read(name: str, **options: int) -> bytes:
    answer = client.get_object(bucket_name=bucket, object_name=name, **options)
    try:
        return bytes(answer.read())
    finally:
        answer.close()
        answer.release_conn()


client.make_bucket(bucket_name=bucket)
assert client.bucket_exists(bucket_name=bucket)
for name in names:
    body = f"body of {name}".encode()
    client.put_object(bucket_name=bucket, object_name=name, data=io.BytesIO(body), length=len(body), metadata={"a": "b"})
    assert read(name) == body, name
    assert read(name, offset=2, length=4) == body[2:6], name
    assert client.stat_object(bucket_name=bucket, object_name=name).size == len(body)
    client.copy_object(bucket_name=bucket, object_name="copy", source=CopySource(bucket_name=bucket, object_name=name))
    assert read("copy") == body, name
    url = client.get_presigned_url(method="GET", bucket_name=bucket, object_name=name, expires=timedelta(minutes=1))
    with urllib.request.urlopen(url) as answer:
        assert answer.read() == body, name
everything = sorted([*names, "copy"], key=str.encode)
assert [item.object_name for item in client.list_objects(bucket_name=bucket, recursive=True)] == everything
large = os.urandom(11 << 20)
client.put_object(bucket_name=bucket, object_name="large + %41", data=io.BytesIO(large), length=-1, part_size=5 << 20)
assert read("large + %41") == large
source = ComposeSource(bucket_name=bucket, object_name="large + %41")
client.compose_object(bucket_name=bucket, object_name="twice", sources=[source, source])
assert read("twice") == large * 2
everything += ["large + %41", "twice"]
assert not list(client.remove_objects(bucket_name=bucket, delete_object_list=[DeleteObject(name) for name in everything]))
client.remove_bucket(bucket_name=bucket)
print(len(names))
