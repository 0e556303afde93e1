"""django-storages: save, open, list, url, delete under odd names. Arguments endpoint and bucket."""

import json
import os
import sys
import urllib.request

import boto3
import django
from django.conf import settings
from django.core.files.base import ContentFile

endpoint, bucket = sys.argv[1:]
names = [name for name in json.load(sys.stdin) if "//" not in name]  # Django folds empty folder names itself
boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket=bucket)
settings.configure(STORAGES={"default": {"BACKEND": "storages.backends.s3.S3Storage", "OPTIONS": {
    "bucket_name": bucket, "endpoint_url": endpoint, "access_key": os.environ["AWS_ACCESS_KEY_ID"], "region_name": "us-east-1",
    "secret_key": os.environ["AWS_SECRET_ACCESS_KEY"], "addressing_style": "path", "signature_version": "s3v4",
    "file_overwrite": True,
}}})  # fmt: skip
django.setup()
from django.core.files.storage import default_storage as storage  # noqa: E402

for name in names:
    body = f"body of {name}".encode()
    stored = storage.save(name, ContentFile(body))
    with storage.open(stored) as file:
        assert file.read() == body, name
    assert storage.exists(stored)
    assert storage.size(stored) == len(body)
    with urllib.request.urlopen(storage.url(stored)) as answer:
        assert answer.read() == body, name
    storage.delete(stored)
    assert not storage.exists(stored), name
large = os.urandom(12 << 20)
storage.save("large", ContentFile(large))
with storage.open("large") as file:
    assert file.read() == large
print(len(names))
