"""Generate titans3/s3/operations.py from botocore's S3 model, and docs/s3-compatibility.md from that table.

``python tools/operations.py`` writes the table, ``--docs`` the page, ``--check`` fails if either is not what it would write.
botocore is needed at development time only.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
TABLE = ROOT / "titans3" / "s3" / "operations.py"
PAGE = ROOT / "docs" / "s3-compatibility.md"
RESULTS = ROOT / "tests" / "conformance" / "results.json"

# What an operation that is built does not do yet. Those that are not here do all that S3 says.
_OBJECT_HEADERS = "encryption and object lock are refused"
PARTLY = {
    "CopyObject": _OBJECT_HEADERS + "; access points are no sources",
    "CreateBucket": "object lock is refused",
    "CreateMultipartUpload": _OBJECT_HEADERS,
    "PostObject": _OBJECT_HEADERS,
    "PutBucketVersioning": "MFA delete is refused",
    "PutObject": _OBJECT_HEADERS + "; nothing is appended",
}
_READS = "tells that it is not configured; it cannot be set yet"

# Query keys and headers that tell operations of one method, kind and sub-resource apart.
TELLING_QUERY = ("uploadId", "partNumber", "id", "annotationName")
TELLING_HEADERS = ("x-amz-copy-source", "x-amz-request-route")

# The same wire call under another name, or another endpoint.
ALIASES = {
    "PutBucketLifecycle": "PutBucketLifecycleConfiguration",
    "GetBucketLifecycle": "GetBucketLifecycleConfiguration",
    "PutBucketNotification": "PutBucketNotificationConfiguration",
    "GetBucketNotification": "GetBucketNotificationConfiguration",
    "ListDirectoryBuckets": "ListBuckets",
}

# Rights that are not "s3:" and the operation's name
# (https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazons3.html).
ACTIONS = {
    "ListBuckets": "s3:ListAllMyBuckets",
    "ListDirectoryBuckets": "s3express:ListAllMyDirectoryBuckets",
    "CreateSession": "s3express:CreateSession",
    "HeadBucket": "s3:ListBucket",
    "ListObjects": "s3:ListBucket",
    "ListObjectsV2": "s3:ListBucket",
    "ListObjectVersions": "s3:ListBucketVersions",
    "ListMultipartUploads": "s3:ListBucketMultipartUploads",
    "ListParts": "s3:ListMultipartUploadParts",
    "HeadObject": "s3:GetObject",
    "DeleteObjects": "s3:DeleteObject",
    "CopyObject": "s3:PutObject",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "UploadPartCopy": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "RenameObject": "s3:PutObject",
    "SelectObjectContent": "s3:GetObject",
    "GetObjectAttributes": "s3:GetObject s3:GetObjectAttributes",
    "GetBucketCors": "s3:GetBucketCORS",
    "PutBucketCors": "s3:PutBucketCORS",
    "DeleteBucketCors": "s3:PutBucketCORS",
    "GetBucketEncryption": "s3:GetEncryptionConfiguration",
    "PutBucketEncryption": "s3:PutEncryptionConfiguration",
    "DeleteBucketEncryption": "s3:PutEncryptionConfiguration",
    "GetBucketLifecycle": "s3:GetLifecycleConfiguration",
    "PutBucketLifecycle": "s3:PutLifecycleConfiguration",
    "GetBucketLifecycleConfiguration": "s3:GetLifecycleConfiguration",
    "PutBucketLifecycleConfiguration": "s3:PutLifecycleConfiguration",
    "DeleteBucketLifecycle": "s3:PutLifecycleConfiguration",
    "GetBucketReplication": "s3:GetReplicationConfiguration",
    "PutBucketReplication": "s3:PutReplicationConfiguration",
    "DeleteBucketReplication": "s3:PutReplicationConfiguration",
    "GetBucketAccelerateConfiguration": "s3:GetAccelerateConfiguration",
    "PutBucketAccelerateConfiguration": "s3:PutAccelerateConfiguration",
    "GetBucketNotificationConfiguration": "s3:GetBucketNotification",
    "PutBucketNotificationConfiguration": "s3:PutBucketNotification",
    "GetPublicAccessBlock": "s3:GetBucketPublicAccessBlock",
    "PutPublicAccessBlock": "s3:PutBucketPublicAccessBlock",
    "DeletePublicAccessBlock": "s3:PutBucketPublicAccessBlock",
    "DeleteBucketTagging": "s3:PutBucketTagging",
    "DeleteBucketOwnershipControls": "s3:PutBucketOwnershipControls",
    "GetObjectLockConfiguration": "s3:GetBucketObjectLockConfiguration",
    "PutObjectLockConfiguration": "s3:PutBucketObjectLockConfiguration",
    "DeleteBucketMetadataConfiguration": "s3:DeleteBucketMetadataTableConfiguration",
    "CreateBucketMetadataConfiguration": "s3:CreateBucketMetadataTableConfiguration",
    "GetBucketMetadataConfiguration": "s3:GetBucketMetadataTableConfiguration",
    "WriteGetObjectResponse": "s3-object-lambda:WriteGetObjectResponse",
}

CORE = (
    "ListBuckets CreateBucket HeadBucket DeleteBucket GetBucketLocation ListObjects ListObjectsV2 ListObjectVersions PutObject GetObject "
    "HeadObject DeleteObject DeleteObjects CopyObject CreateMultipartUpload UploadPart UploadPartCopy CompleteMultipartUpload "
    "AbortMultipartUpload ListMultipartUploads ListParts GetObjectAttributes PutBucketVersioning GetBucketVersioning"
).split()
ADVANCED = (
    "PutBucketNotificationConfiguration GetBucketNotificationConfiguration PutBucketLogging GetBucketLogging PutBucketReplication "
    "GetBucketReplication DeleteBucketReplication PutBucketWebsite GetBucketWebsite DeleteBucketWebsite GetBucketRequestPayment "
    "PutBucketRequestPayment GetBucketAccelerateConfiguration PutBucketAccelerateConfiguration PutBucketInventoryConfiguration "
    "GetBucketInventoryConfiguration DeleteBucketInventoryConfiguration ListBucketInventoryConfigurations RestoreObject "
    "SelectObjectContent RenameObject PutObjectAnnotation GetObjectAnnotation ListObjectAnnotations DeleteObjectAnnotation "
    "UpdateObjectEncryption PutBucketLifecycle GetBucketLifecycle PutBucketNotification GetBucketNotification"
).split()
AWS_ONLY_WORDS = ("Analytics", "IntelligentTiering", "BucketMetrics", "BucketMetadata", "Abac", "Torrent", "DirectoryBuckets")
AWS_ONLY = ("CreateSession", "WriteGetObjectResponse")

HEAD = '''"""Every operation of the S3 model. Generated by ``tools/operations.py`` from botocore's model; do not edit.

Invariants
* One row per operation of the model, in order of name; the router is built from it, so that nothing is routed by hand twice.
"""

# ruff: noqa: E501

from __future__ import annotations

from titans3.s3.operation import Operation

MODEL_VERSION = "{version}"

_ROWS: tuple[tuple[object, ...], ...] = (
'''
TAIL = ''')

OPERATIONS: dict[str, Operation] = {str(row[0]): Operation(*row) for row in _ROWS}  # type: ignore[arg-type]
'''


def tier(name: str) -> str:
    """Which step of the plan an operation belongs to."""
    if name in CORE:
        return "core"
    if name in ADVANCED:
        return "advanced"
    if name in AWS_ONLY or any(word in name for word in AWS_ONLY_WORDS):
        return "aws-only"
    return "important"


def actions(name: str) -> tuple[str, ...]:
    """IAM actions an operation asks for on its own resource."""
    for word in ("Analytics", "Inventory", "Metrics", "IntelligentTiering"):
        if word in name and "Configuration" in name and "Metadata" not in name:
            verb = "Get" if name.startswith(("Get", "List")) else "Put"
            return (f"s3:{verb}{word}Configuration",)
    return tuple(ACTIONS.get(name, f"s3:{name}").split())


def row(name: str, operation: dict[str, Any], shapes: dict[str, Any]) -> tuple[object, ...]:
    """The table's row of one operation of the model."""
    http = operation["http"]
    path, _, query = http["requestUri"].partition("?")
    kind = "object" if "{Key" in path else "bucket" if "{Bucket}" in path else "service"
    resource, _, value = query.split("&")[0].partition("=")
    shape = shapes.get(operation.get("input", {}).get("shape"), {})
    required = [
        (member.get("location"), member["locationName"])
        for key, member in shape.get("members", {}).items()
        if key in shape.get("required", ()) and member.get("location") in ("querystring", "header")
    ]
    telling = tuple(known for known in TELLING_QUERY if ("querystring", known) in required)
    headers = tuple(known for known in TELLING_HEADERS if ("header", known) in required)
    if "uploadId" in telling and not resource:
        resource, telling = "uploadId", tuple(known for known in telling if known != "uploadId")
    alias = ALIASES.get(name, "")
    status = http.get("responseCode", 200)
    return (name, http["method"], kind, resource, value, telling, headers, actions(name), status, tier(name), alias)


def table() -> str:
    """The text of operations.py."""
    import botocore

    model_path = Path(botocore.__file__).parent / "data" / "s3" / "2006-03-01" / "service-2.json.gz"
    model = json.loads(gzip.decompress(model_path.read_bytes()))
    out = [HEAD.replace("{version}", botocore.__version__)]
    for name, operation in sorted(model["operations"].items()):
        items = ", ".join(json.dumps(item) if isinstance(item, str) else _tuple(item) for item in row(name, operation, model["shapes"]))
        out.append(f"    ({items}),\n")
    out.append(TAIL)
    return "".join(out)


def _tuple(item: object) -> str:
    if isinstance(item, tuple):
        inner = ", ".join(json.dumps(word) for word in item)
        return f"({inner},)" if len(item) == 1 else f"({inner})"
    return repr(item)


def page() -> str:
    """The text of docs/s3-compatibility.md."""
    from titans3.s3.handlers import HANDLERS
    from titans3.s3.headers import REFUSED_HEADERS
    from titans3.s3.operations import MODEL_VERSION, OPERATIONS
    from titans3.s3.router import POST_OBJECT

    built = [name for name, item in OPERATIONS.items() if name in HANDLERS]
    out = [
        "# S3 compatibility\n\n"
        "Generated by `python tools/operations.py --docs` from the operation table, the handlers and the results of the conformance suite\n"
        "(`python -m pytest tests/conformance --write-results`); do not edit. The last column is the number of conformance tests,\n"
        "over HTTP and TLS, that show the operation and passed.\n\n",
        f"The model (botocore {MODEL_VERSION}) has {len(OPERATIONS)} operations; {len(built)} are built. What is not built answers\n"
        "`501 NotImplemented` and names the operation. A header that asks for something that is not built answers `501` and names the\n"
        "header; it is never ignored.\n",
    ]
    for name, title in (
        ("core", "Core"),
        ("important", "Important"),
        ("advanced", "Advanced"),
        ("aws-only", "Only meaningful at AWS"),
    ):
        out.append(f"\n## {title}\n\n| operation | request | rights | state | tests |\n|---|---|---|---|---|\n")
        out += [_line(item) for item in OPERATIONS.values() if item.tier == name]
        if name == "core":
            out.append(_line(POST_OBJECT))
    out.append("\n## Headers that answer 501\n\n")
    for header, allowed in sorted(REFUSED_HEADERS.items()):
        out.append(f"* `{header}`{', any value but ' + _values(allowed) if allowed else ''}\n")
    out.append(NOTES)
    return "".join(out)


def _values(allowed: tuple[str, ...]) -> str:
    return " or ".join(f"`{value}`" if value else "an empty one" for value in allowed)


def _state(name: str) -> str:
    """done, partly and what is missing, or not yet."""
    from titans3.s3.configuration import UNCONFIGURED
    from titans3.s3.handlers import HANDLERS

    if name not in HANDLERS:
        return "not yet"
    return f"partly: {PARTLY[name]}" if name in PARTLY else f"partly: {_READS}" if name in UNCONFIGURED else "done"


def _line(item: Any) -> str:
    path = {"service": "/", "bucket": "/bucket", "object": "/bucket/key"}[item.kind]
    words = [f"{item.resource}={item.value}" if item.value else item.resource] if item.resource else []
    words += item.query
    query = "?" + "&".join(words) if words else ""
    header = f", {', '.join(item.headers)}" if item.headers else ""
    state = f"as {item.alias_of}" if item.alias_of else _state(item.name)
    shown = json.loads(RESULTS.read_text(encoding="utf-8")).get(item.name, "")
    return f"| {item.name} | `{item.method} {path}{query}`{header} | {' '.join(item.actions)} | {state} | {shown} |\n"


NOTES = """
## Where AWS and this server differ on purpose

* Creating one's own bucket again answers 200 in us-east-1 and 409 BucketAlreadyOwnedByYou elsewhere, as AWS does.
* Any region is accepted in signatures and as a LocationConstraint unless a region is configured.
* `If-None-Match` on writes takes ETags too, `If-Match: *` is accepted on PUT, and If-Match on DELETE may come with size and time.
* Reads by `partNumber` count parts from 1 to `x-amz-mp-parts-count` in their order, whatever numbers they were uploaded under; a part
  number beyond the last part answers 416 InvalidPartNumber.
* A checksum that stands in the query of a presigned URL is ignored: SDKs put the checksum of an empty body there.
* The bucket name `health` is not allowed: `/health/…` answers health checks.
* PutBucketVersioning and object tagging take a body without Content-MD5 or checksum, as many clients send it; PutBucketCors,
  PutBucketTagging and DeleteObjects need one of them, as AWS has it.
* Listings tell the checksum algorithm of objects whose client gave a checksum or asked for one. The CRC64NVME that the server computes
  for an object that came in one piece without any is told by its PUT, by HEAD and GET with `x-amz-checksum-mode: ENABLED`, and by
  GetObjectAttributes; AWS lists it as well. Two more elements a key take a fifth of what a client needs to read a page
  ([figures](internals/hot-path.md#list)).
* A part of an upload that was created with a checksum algorithm may come without its value; it is computed then.
* GetBucketPolicyStatus answers for a bucket without a policy, too: whether its ACL lets everybody in counts like the policy.
* A new bucket has ACLs enabled and ObjectWriter, as buckets of AWS had until 2023; `s3.object_ownership` changes that.
* A write that gives nobody but the object's and the bucket's owner anything (`bucket-owner-full-control`) needs s3:PutObject alone, as the
  examples of AWS's guide have it; every other ACL needs s3:PutObjectAcl, too.
* GetBucketEncryption tells that nothing is configured, because nothing is encrypted yet; AWS encrypts everything.
"""


def main() -> int:
    """Write or check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--docs", action="store_true", help="write docs/s3-compatibility.md instead of the table")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file is not up to date")
    options = parser.parse_args()
    if options.check:
        stale = [str(path) for path, text in ((TABLE, table()), (PAGE, page())) if path.read_text() != text]
        print("\n".join(f"{path} is not up to date" for path in stale) or "up to date")
        return bool(stale)
    target, text = (PAGE, page()) if options.docs else (TABLE, table())
    target.write_text(text)
    print(target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
