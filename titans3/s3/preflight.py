"""OPTIONS: what a browser asks before a cross-origin request, and what every answer to one says.

Source: https://docs.aws.amazon.com/AmazonS3/latest/API/RESTOPTIONSobject.html

Invariants
* Nobody signs a preflight: a browser sends it without credentials, also for a presigned URL.
* Answers say what the bucket allows, errors too; a request without Origin pays for none of this.
"""

from __future__ import annotations

from titans3.cluster.store import Store
from titans3.http.message import Request, Response
from titans3.model.configuration import Cors
from titans3.model.control import BucketRecord
from titans3.s3.cors import METHODS, cors_headers, header_names, matching_rule
from titans3.s3.errors import S3Error

_REFUSED = (
    "CORSResponse: This CORS request is not allowed. This is usually because the evalution of Origin, request method / "
    "Access-Control-Request-Method or Access-Control-Request-Headers are not whitelisted by the resource's CORS spec."
)


def preflight(store: Store, request: Request, bucket: BucketRecord | None, key: bytes) -> Response:
    """The answer to OPTIONS. Raises BadRequest, AccessForbidden."""
    origin, method = request.header(b"origin"), request.header(b"access-control-request-method")
    if origin is None:
        raise S3Error("BadRequest", "Insufficient information. Origin request header needed.")
    if method not in METHODS:
        raise S3Error("BadRequest", f"Invalid Access-Control-Request-Method: {'null' if method is None else method[:100]}")
    cors = None if bucket is None else store.configurations.find_nowait(bucket, Cors)
    kind = "OBJECT" if key else "BUCKET"
    if cors is None:
        raise S3Error("AccessForbidden", Method=method, ResourceType=kind)
    names = header_names(request.header(b"access-control-request-headers") or "")
    rule = matching_rule(cors, origin, method, names)
    if rule is None:
        raise S3Error("AccessForbidden", _REFUSED, Method=method, ResourceType=kind)
    return Response(200, cors_headers(rule, origin, names))


def allow(store: Store, request: Request, bucket: BucketRecord, response: Response) -> None:
    """Add to an answer what the bucket allows the request's origin."""
    cors = store.configurations.find_nowait(bucket, Cors)
    origin = request.header(b"origin")
    if cors is not None and origin is not None:
        names = header_names(request.header(b"access-control-request-headers") or "")
        rule = matching_rule(cors, origin, request.header(b"access-control-request-method") or request.method, names)
        if rule is not None:
            response.headers = [*response.headers, *cors_headers(rule, origin, names)]
