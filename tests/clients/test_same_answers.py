"""A real server and the store in memory, which the S3 floor is tested on, give the same answers to the same requests.

Random sequences over few keys: every difference is a bug in one of the two.
"""

from __future__ import annotations

import hashlib
import random
import re
from base64 import b64encode
from contextlib import closing
from urllib.parse import quote
from xml.sax.saxutils import escape

import pytest

from tests.clients.raw import Raw
from tests.faults.server import Server
from tests.unit.s3.wire import Client
from titans3.limits import MIB

KEYS = ["a", "a/", "a/b", "a/b/c", "a//b", "b", "b/1", "b/2", "c d", "\u00e9", "\U0001f600/x", "z" * 300]
BODIES = [b"", b"x", b"small", b"y" * 65536, b"z" * 65537, b"w" * (MIB + 3)]
# What differs by nature: times, ids, addresses, request ids, who the owner is.
_VARIES = re.compile(
    rb"<(LastModified|Initiated|CreationDate|RequestId|HostId|Location)>[^<]*</\1>"
    rb"|(?<=<ID>)[0-9a-f]{64}(?=</ID><DisplayName>)|<DisplayName>[^<]*</DisplayName>"
    rb"|<(UploadId|NextUploadIdMarker|UploadIdMarker|NextContinuationToken|ContinuationToken)>[0-9A-Za-z_=-]+</\2>"
)
_HEADERS = (
    "etag",
    "content-type",
    "content-range",
    "accept-ranges",
    "x-amz-meta-a",
    "cache-control",
    "content-encoding",
    "x-amz-bucket-region",
    "x-amz-mp-parts-count",
    "x-amz-checksum-crc32",
    "x-amz-checksum-sha256",
    "x-amz-checksum-type",
    "x-amz-delete-marker",
    "x-amz-version-id",
    "location",
)


class Pair:
    """Sends each request to both and compares; ``uploads`` are the open uploads: (key, id here, id there)."""

    def __init__(self, raw: Raw, bucket: str) -> None:
        self.raw, self.model, self.bucket = raw, Client(), bucket
        self.uploads: list[tuple[str, str, str]] = []
        self.answers = 0

    def __call__(
        self,
        method: str,
        path: str,
        query: str = "",
        headers: dict[str, str] | None = None,
        body: bytes = b"",
        upload: tuple[str, str, str] | None = None,
    ) -> tuple[int, str, str]:
        """Status, and the upload ids both named, if they did."""
        targets = []
        for at in (1, 2):
            more = query if upload is None else "&".join(part for part in (f"uploadId={upload[at]}", query) if part)
            targets.append(f"/{self.bucket}{path}" + (f"?{more}" if more else ""))
        there = self.raw(method, targets[0], headers, body)
        here = self.model(method, targets[1], headers, body)
        what = (method, targets[0], headers, len(body), self.answers)
        assert (there.status, _VARIES.sub(b"", there.body)) == (here.status, _VARIES.sub(b"", here.body)), what
        for name in _HEADERS:
            assert there.headers.get(name) == here.headers.get(name), (name, what)
        if method == "HEAD" and here.length is not None:
            assert there.headers["content-length"] == str(here.length), what
        self.answers += 1
        names = [
            str(answer.xml.findtext("UploadId")) if b"<UploadId>" in answer.body else "" for answer in (there, here)
        ]
        return there.status, names[0], names[1]


def key_path(rng: random.Random) -> tuple[str, str]:
    key = rng.choice(KEYS)
    return key, "/" + quote(key, safe="/")


def put(pair: Pair, rng: random.Random) -> None:
    _, path = key_path(rng)
    body = rng.choice(BODIES)
    headers = {}
    if rng.random() < 0.4:
        headers |= {"x-amz-meta-a": "1", "cache-control": "no-store", "content-type": "text/plain"}
    if rng.random() < 0.3:
        headers["x-amz-checksum-sha256"] = b64encode(
            hashlib.sha256(body if rng.random() < 0.8 else b"?").digest()
        ).decode()
    if rng.random() < 0.2:
        headers["content-md5"] = b64encode(hashlib.md5(body).digest()).decode()
    pair("PUT", path, "", headers | conditions(rng), body)


def conditions(rng: random.Random) -> dict[str, str]:
    found = {}
    etag = f'"{hashlib.md5(rng.choice(BODIES)).hexdigest()}"'
    if rng.random() < 0.15:
        found["if-match"] = rng.choice([etag, "*"])
    if rng.random() < 0.15:
        found["if-none-match"] = rng.choice([etag, "*"])
    return found


def get(pair: Pair, rng: random.Random) -> None:
    _, path = key_path(rng)
    headers = conditions(rng)
    if rng.random() < 0.4:
        headers["range"] = rng.choice(
            ["bytes=0-0", "bytes=3-", "bytes=-2", "bytes=65535-65537", "bytes=99999999-", "bytes=x", "bytes=5-1"]
        )
    if rng.random() < 0.3:
        headers["x-amz-checksum-mode"] = "ENABLED"
    query = rng.choice(["", "", "", "partNumber=1", "partNumber=2", "versionId=null", "response-content-type=a%2Fb"])
    if query == "partNumber=1" or query == "partNumber=2":
        headers.pop("range", None)
    pair(rng.choice(["GET", "GET", "HEAD"]), path, query, headers)


def delete(pair: Pair, rng: random.Random) -> None:
    _, path = key_path(rng)
    pair(
        "DELETE",
        path,
        rng.choice(["", "", "versionId=null", "versionId=" + "0" * 32]),
        conditions(rng) if rng.random() < 0.5 else None,
    )


def delete_many(pair: Pair, rng: random.Random) -> None:
    items = "".join(f"<Object><Key>{escape(key)}</Key></Object>" for key in rng.sample(KEYS, rng.randint(1, 5)))
    body = f"<Delete>{items}<Quiet>{rng.choice(['true', 'false'])}</Quiet></Delete>".encode()
    pair("POST", "", "delete", {"content-md5": b64encode(hashlib.md5(body).digest()).decode()}, body)


def copy(pair: Pair, rng: random.Random) -> None:
    source, _ = key_path(rng)
    _, path = key_path(rng)
    headers = {"x-amz-copy-source": f"/{pair.bucket}/{quote(source)}"} | conditions(rng)
    if rng.random() < 0.4:
        headers |= {"x-amz-metadata-directive": "REPLACE", "x-amz-meta-a": "copied"}
    if rng.random() < 0.3:
        headers["x-amz-checksum-algorithm"] = "CRC32"
    if rng.random() < 0.3:
        headers["x-amz-copy-source-if-match"] = f'"{hashlib.md5(rng.choice(BODIES)).hexdigest()}"'
    pair("PUT", path, "", headers)


def list_keys(pair: Pair, rng: random.Random) -> None:
    parameters = {
        "prefix": rng.choice(["", "a", "a/", "b/", "z", "\U0001f600"]),
        "delimiter": rng.choice(["", "/", "b", "//"]),
        "max-keys": rng.choice(["", "0", "1", "2", "3", "1000"]),
        rng.choice(["marker", "start-after"]): rng.choice(["", "a", "a/", "a/b", "b/1", "zz", "a0"]),
        "encoding-type": rng.choice(["", "url"]),
        "fetch-owner": rng.choice(["", "true"]),
    }
    query = "&".join(f"{name}={quote(value, safe='')}" for name, value in parameters.items() if value)
    pair("GET", "", rng.choice(["list-type=2&", ""]) + query)


def begin(pair: Pair, rng: random.Random) -> None:
    _, path = key_path(rng)
    headers = {"x-amz-meta-a": "parts"}
    if rng.random() < 0.3:
        headers |= {
            "x-amz-checksum-algorithm": "CRC32",
            "x-amz-checksum-type": rng.choice(["COMPOSITE", "FULL_OBJECT"]),
        }
    _, there, here = pair("POST", path, "uploads", headers)
    pair.uploads.append((path, there, here))


def part(pair: Pair, rng: random.Random) -> None:
    if pair.uploads:
        upload = rng.choice(pair.uploads)
        number = rng.choice([1, 2, 3, 9])
        if rng.random() < 0.3:
            source, _ = key_path(rng)
            headers = {"x-amz-copy-source": f"{pair.bucket}/{quote(source)}"}
            if rng.random() < 0.5:
                headers["x-amz-copy-source-range"] = rng.choice(["bytes=0-3", "bytes=1-70000", "bytes=2-1"])
            pair("PUT", upload[0], f"partNumber={number}", headers, upload=upload)
        else:
            pair("PUT", upload[0], f"partNumber={number}", None, rng.choice(BODIES), upload=upload)


def list_parts(pair: Pair, rng: random.Random) -> None:
    if pair.uploads and rng.random() < 0.5:
        upload = rng.choice(pair.uploads)
        pair(
            "GET",
            upload[0],
            rng.choice(["", "max-parts=1", "part-number-marker=1", "max-parts=1&part-number-marker=2"]),
            upload=upload,
        )
    else:
        more = [
            rng.choice(["", "prefix=a", "prefix=a/"]),
            rng.choice(["", "delimiter=/"]),
            rng.choice(["", "max-uploads=1", "max-uploads=2"]),
        ]
        pair(
            "GET",
            "",
            "&".join(
                [
                    "uploads",
                    *(item for item in more if item),
                    rng.choice(["key-marker=", "key-marker=a", "key-marker=a/b"]),
                ]
            ),
        )


def complete(pair: Pair, rng: random.Random) -> None:
    if not pair.uploads:
        return
    upload = rng.choice(pair.uploads)
    listed = pair.model("GET", f"/{pair.bucket}{upload[0]}?uploadId={upload[2]}")
    lines = []
    for number, etag in zip(listed.all("Part/PartNumber"), listed.all("Part/ETag"), strict=True):
        if rng.random() < 0.6:
            lines.append(
                f"<Part><PartNumber>{number}</PartNumber><ETag>{etag if rng.random() < 0.95 else 'x'}</ETag></Part>"
            )
    body = f"<CompleteMultipartUpload>{''.join(lines[:1] if rng.random() < 0.5 else lines)}</CompleteMultipartUpload>".encode()
    status, _, _ = pair("POST", upload[0], "", conditions(rng), body, upload=upload)
    if status == 200 and rng.random() < 0.5:
        pair("POST", upload[0], "", None, body, upload=upload)  # a repeat


def abort(pair: Pair, rng: random.Random) -> None:
    if pair.uploads:
        upload = rng.choice(pair.uploads)
        pair("DELETE", upload[0], "", upload=upload)
        if rng.random() < 0.7:
            pair.uploads.remove(upload)


def buckets(pair: Pair, rng: random.Random) -> None:
    pair(
        rng.choice(["HEAD", "GET", "GET", "PUT", "DELETE"]),
        "",
        rng.choice(["location", "versioning"]) if rng.random() < 0.5 else "",
    )


STEPS = (
    [put] * 6
    + [get] * 8
    + [delete] * 2
    + [delete_many, copy, copy, list_keys, list_keys, list_keys, list_keys, begin, part, part, part, list_parts]
)
STEPS += [list_parts, complete, complete, abort, buckets]


@pytest.mark.parametrize("seed", range(4))
def test_random_requests_have_the_same_answers(server: Server, seed: int) -> None:
    rng = random.Random(seed)
    with closing(Raw(server)) as raw:
        pair = Pair(raw, f"same-{seed}")
        pair("PUT", "")
        for _ in range(400):
            rng.choice(STEPS)(pair, rng)
            if rng.random() < 0.02:
                pair("PUT", "")  # the bucket may have been deleted
        assert pair.answers > 300
