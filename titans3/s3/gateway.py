"""The door of the S3 port: address, authenticate, route, authorize, hand to the operation, turn errors into answers. Hot.

Guarded by ``bench/micro/s3.py``.

Invariants
* Nothing of a body is read before the request is authenticated and authorized; that is what keeps ``100 Continue`` back. Of a form
  the fields are, which say who asks; nothing of its file.
* What Signature Version 2 and forms need is looked at only by requests that have it.
* Every error leaves as S3's document with the request id; what nobody foresaw is logged with it and answered InternalError.
  InvariantError is not caught: it stops the process.
* Health answers need no authentication; ``/_titans3/`` is no bucket and never reaches the S3 operations.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec

from titans3.clock import Clock
from titans3.cluster.caller import ANONYMOUS, Caller
from titans3.cluster.settings import Settings
from titans3.cluster.store import Store
from titans3.errors import ClientError, DiskError, InvariantError, PeerError, Reason, VolumeFull
from titans3.http import sigv2
from titans3.http.authentication import AuthError, AuthReason, Verified
from titans3.http.formdata import FormReader
from titans3.http.forwarded import TrustedProxies
from titans3.http.hashing import BodyHashing
from titans3.http.message import Request, Response
from titans3.http.payload import open_payload
from titans3.http.sigv4 import SigV4
from titans3.http.target import hidden
from titans3.model.control import BucketRecord
from titans3.s3.address import Domains, split_path
from titans3.s3.asked import FORM_VERSION_4
from titans3.s3.authorization import authorize, check_owner, is_plain, is_sure_of
from titans3.s3.call import Call, Context
from titans3.s3.errors import S3Error, closes, error_response, from_auth_error, from_client_error, not_implemented
from titans3.s3.handlers import HANDLERS
from titans3.s3.headers import refuse_unbuilt
from titans3.s3.operation import BUCKET, OBJECT, SERVICE, Operation
from titans3.s3.post import STATE, apply_policy, check_claim, claim_of, form_boundary, read_form
from titans3.s3.preflight import allow, preflight
from titans3.s3.put import require_length
from titans3.s3.query import parse_query
from titans3.s3.router import LAMBDA_PATH, POST_OBJECT, route

logger = logging.getLogger("titans3.s3")

# Answers ``live``, ``ready`` or ``cluster``: (healthy, text to show).
Health = Callable[[str], tuple[bool, str]]
Admin = Callable[[Request], Coroutine[Any, Any, Response]]

_CREATE_BUCKET = "CreateBucket"
_HEALTH_PREFIX = b"/health/"
_RESERVED_PREFIX = b"/_titans3"
_FORM = b"application/x-www-form-urlencoded"
METRICS_PATH = b"/_titans3/metrics"
_NO_QUERY: dict[str, str] = {}


class GatewayStatistics(msgspec.Struct, frozen=True):
    """Counters since start."""

    client_errors: int
    server_errors: int
    refused: int
    errors: dict[str, int] = {}  # by S3 code
    auth_failures: dict[str, int] = {}  # by AuthReason


class Gateway:
    """Answers every request of the S3 port. One per worker."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        region: str = "us-east-1",
        domains: tuple[str, ...] = (),
        required_region: str | None = None,
        hashing: BodyHashing | None = None,
        host_id: str = "titans3",
        health: Health | None = None,
        admin: Admin | None = None,
        query_api: Admin | None = None,
        metrics: Admin | None = None,
        proxies: TrustedProxies | None = None,
        settings: Settings | None = None,
        signature_v2: bool = True,
    ) -> None:
        """``required_region`` refuses signatures for another one; ``health`` answers the endpoints; ``admin`` takes ``/_titans3/``, but for
        METRICS_PATH, which ``metrics`` takes. ``query_api`` answers IAM and STS, whose requests have a form instead of a bucket.
        """
        self._proxies = proxies or TrustedProxies(())
        self._context = Context(store, clock, region, hashing or BodyHashing(), required_region, self._proxies, settings)
        self._store = store
        store.identities.on_change.append(self._context.contents.forget)
        self._clock = clock
        self._host_id = host_id
        self._domains = Domains(domains)
        self._health = health
        self._admin = admin
        self._query_api = query_api
        self._metrics = metrics
        self._sigv4 = SigV4(lambda access_key: None, region=required_region)
        self._required_region = required_region
        self._signature_v2 = signature_v2
        self._handlers = HANDLERS
        self._client_errors = self._server_errors = self._refused = 0
        self._errors: dict[str, int] = {}
        self._auth_failures: dict[str, int] = dict.fromkeys(AuthReason, 0)

    def statistics(self) -> GatewayStatistics:
        """Counters of this worker."""
        return GatewayStatistics(
            self._client_errors, self._server_errors, self._refused, dict(self._errors), dict(self._auth_failures)
        )

    def handle(self, request: Request) -> Coroutine[Any, Any, Response]:
        """The answer; raises only InvariantError and what is no Exception."""
        if b"origin" in request.fields:
            return self._answer_cross_origin(request)
        return self._answer(request)

    async def _answer_cross_origin(self, request: Request) -> Response:
        """The answer, with what the bucket allows to the request's origin."""
        response = await self._answer(request)
        if request.method != "OPTIONS":
            name, _ = split_path(request.path, self._domains.bucket_of(request.host) if self._domains.active else "")
            bucket = self._store.bucket_nowait(name)
            if bucket is not None:
                allow(self._store, request, bucket, response)
        return response

    async def _answer(self, request: Request) -> Response:
        try:
            host_bucket = self._domains.bucket_of(request.host) if self._domains.active else ""
            if not host_bucket and request.path.startswith((_HEALTH_PREFIX, _RESERVED_PREFIX)):
                special = await self._special(request)
                if special is not None:
                    return special
            bucket_name, key = split_path(request.path, host_bucket)
            if not bucket_name and self._query_api is not None and _is_query_api(request):
                request.operation = "Query"
                return self._count(await self._query_api(request))
            if request.method == "OPTIONS":
                request.operation = "Options"
                return await self._preflight(request, bucket_name, key)
            verified, identity = self._authenticate(request)
            request.caller = identity
            query = parse_query(request.query) if request.query else _NO_QUERY
            fields = request.fields
            if verified is not None and verified.presigned:
                fields = with_hoisted(fields, query, content=not verified.scope)
            kind = OBJECT if key else BUCKET if bucket_name else SERVICE
            if kind is BUCKET and request.path == LAMBDA_PATH and request.method == "POST" and not host_bucket:
                kind, bucket_name = SERVICE, ""
            operation = route(request.method, kind, query, fields)
            if operation is POST_OBJECT:
                return await self._post_form(request, query, identity, verified, bucket_name)
            return await self._perform(request, fields, query, operation, identity, verified, bucket_name, key)
        except S3Error as error:
            return self._refuse(request, error)
        except ClientError as error:
            return self._refuse(request, from_client_error(error), error, close=closes(error))
        except AuthError as error:
            self._refused += 1
            self._auth_failures[error.reason] += 1
            return self._refuse(request, from_auth_error(error))
        except VolumeFull as error:
            return self._refuse(request, S3Error("InsufficientStorage"), error)
        except PeerError as error:
            return self._refuse(request, S3Error("SlowDown"), error)
        except DiskError as error:
            return self._refuse(request, S3Error("InternalError"), error)
        except InvariantError:
            raise
        except Exception as error:  # noqa: BLE001 - the client gets an answer with the request id whatever went wrong
            return self._refuse(request, S3Error("InternalError"), error)

    async def _perform(
        self,
        request: Request,
        fields: dict[bytes, bytes],
        query: dict[str, str],
        operation: Operation,
        identity: Caller,
        verified: Verified | None,
        bucket_name: str,
        key: bytes,
    ) -> Response:
        """Find the bucket, authorize, refuse what is not built, run the handler."""
        bucket, name = None, operation.name
        request.operation = name
        if bucket_name and name != _CREATE_BUCKET:
            bucket = self._store.bucket_nowait(bucket_name)
            if bucket is None:
                bucket = await self._bucket(bucket_name)
            request.bucket = bucket_name
            expected = fields.get(b"x-amz-expected-bucket-owner")
            if expected is not None:
                check_owner(expected, bucket)
        shape, store = request.shape, self._store
        is_bare = shape is not None and shape.is_bare and fields is request.fields
        call = Call(self._context, store, request, fields, query, operation, identity, verified, bucket_name, bucket, key, is_bare)
        if not is_plain(identity, bucket, store) and not is_sure_of(call, bucket):
            await authorize(call, bucket)
        handler = self._handlers.get(name)
        if handler is None:
            raise not_implemented(name)
        if not is_bare:
            refuse_unbuilt(fields)
        return await handler(call)

    async def _preflight(self, request: Request, bucket_name: str, key: bytes) -> Response:
        """OPTIONS, which nobody signs. Raises BadRequest, AccessForbidden."""
        bucket = None
        if bucket_name:
            try:
                bucket = self._store.bucket_nowait(bucket_name) or await self._store.bucket(bucket_name)
            except ClientError as error:
                if error.reason is not Reason.BUCKET_ABSENT:
                    raise
                raise S3Error("AccessForbidden", "CORSResponse: Bucket not found") from error
        return preflight(self._store, request, bucket, key)

    async def _bucket(self, name: str) -> BucketRecord:
        """A bucket that the cache does not have. Raises NoSuchBucket naming it."""
        try:
            return await self._store.bucket(name)
        except ClientError as error:
            converted = from_client_error(error)
            if converted.code == "NoSuchBucket":
                converted.fields["BucketName"] = name[:255]
            raise converted from error

    # authentication

    def _authenticate(self, request: Request) -> tuple[Verified | None, Caller]:
        """Who asks. Raises AuthError."""
        fields, query = request.fields, request.query
        try:
            claim = self._sigv4.claim(query, fields, self._clock.wall_ms() / 1000, shape=request.shape)
        except AuthError as error:
            if error.reason is AuthReason.SIGV2 and self._signature_v2:
                return self._authenticate_v2(request)
            raise
        if claim is None:
            return None, ANONYMOUS
        token = ""
        if b"x-amz-security-token" in fields or b"X-Amz-Security-Token=" in query:
            token = token_of(query, fields)
        caller = self._caller(claim.access_key, token)
        return self._sigv4.check(claim, caller.secret, request.method, request.path, query, fields), caller

    def _authenticate_v2(self, request: Request) -> tuple[Verified | None, Caller]:
        """Who asks with Signature Version 2. Raises AuthError."""
        fields, query = request.fields, request.query
        claim = sigv2.claim(query, fields, self._clock.wall_ms() / 1000)
        if claim is None:
            return None, ANONYMOUS
        caller = self._caller(claim.access_key, token_of(query, fields))
        host_bucket = self._domains.bucket_of(request.host) if self._domains.active else ""
        return sigv2.check(claim, caller.secret, request.method, request.path, query, fields, host_bucket), caller

    def _caller(self, access_key: str, token: str) -> Caller:
        """Whose key it is, or whose session. Raises AuthError, ClientError."""
        identities = self._store.identities
        caller = identities.find_session(access_key, token) if token else identities.find(access_key)
        if caller is None:
            raise AuthError(
                AuthReason.ACCESS_KEY_UNKNOWN, "The AWS Access Key Id you provided does not exist in our records.", access_key=access_key
            )
        identities.note(caller, "s3")
        return caller

    async def _post_form(
        self, request: Request, query: dict[str, str], identity: Caller, verified: Verified | None, bucket_name: str
    ) -> Response:
        """A form upload: its fields say who asks and for which key; then it goes the way of every operation."""
        boundary = form_boundary(request.fields)
        require_length(request.fields)
        reader = FormReader(open_payload(request.body, verified, request.fields, self._context.hashing), boundary)
        try:
            form = await read_form(reader, request, bucket_name)
            claim = claim_of(form)
            if claim is not None:
                if verified is not None:
                    raise AuthError(AuthReason.SEVERAL, "Only one authentication mechanism may be used.")
                request.caller = identity = self._caller(claim.access_key, form.texts.get("x-amz-security-token", ""))
                check_claim(claim, identity.secret, self._sigv4, region=self._required_region, version_2=self._signature_v2)
                apply_policy(form, self._clock.wall_ms() / 1000)
            request.state = {STATE: form, FORM_VERSION_4: claim is not None and bool(claim.day)}
            return await self._perform(request, form.fields, query, POST_OBJECT, identity, verified, bucket_name, form.key)
        finally:
            reader.close()

    # what is not S3

    async def _special(self, request: Request) -> Response | None:
        """Health and the administrative prefix; ``None`` if the path only looks like them."""
        path = request.path
        if path.startswith(_HEALTH_PREFIX):
            request.operation = "Health"
            word = path[len(_HEALTH_PREFIX) :].decode("latin-1")
            if word not in ("live", "ready", "cluster") or request.method not in ("GET", "HEAD"):
                raise S3Error("NotFound")
            healthy, text = self._health(word) if self._health is not None else (True, "ok")
            return Response(200 if healthy else 503, [(b"content-type", b"text/plain; charset=utf-8")], text.encode() + b"\n")
        if path == METRICS_PATH and self._metrics is not None:
            request.operation = "Metrics"
            return await self._metrics(request)
        if path == _RESERVED_PREFIX or path.startswith(_RESERVED_PREFIX + b"/"):
            request.operation = "Admin"
            if self._admin is None:
                raise S3Error("NotFound")
            return await self._admin(request)
        return None

    # errors

    def _refuse(
        self, request: Request, error: S3Error, cause: Exception | None = None, *, close: bool = False
    ) -> Response:
        """The answer of an error; what is our fault is logged with its cause."""
        response = error_response(error, request, self._host_id, close=close)
        request.error = error.code
        self._errors[error.code] = self._errors.get(error.code, 0) + 1
        if response.status >= 500 and error.code != "NotImplemented":
            self._server_errors += 1
            if error.code == "InternalError":
                logger.error("request failed", exc_info=cause, extra=self._who(request))
            else:
                logger.warning("request refused: %s: %s", error.code, cause, extra=self._who(request))
        else:
            self._client_errors += 1
            if logger.isEnabledFor(logging.DEBUG):
                shown = hidden(request.target)[:200].decode("latin-1")
                logger.debug("%s %s: %s", request.method, shown, error.code, extra=self._who(request))
        return response

    def _count(self, response: Response) -> Response:
        """An answer of another API on this port."""
        if response.status >= 500:
            self._server_errors += 1
        elif response.status >= 400:
            self._client_errors += 1
        return response

    def _who(self, request: Request) -> dict[str, str]:
        """Fields of a log line about a request."""
        client = self._proxies.client(request.peer, request.fields.get(b"x-forwarded-for"))
        return {"request_id": request.request_id, "client": client}


def _is_query_api(request: Request) -> bool:
    """Whether a request without a bucket is one of IAM or STS: a form, or a query that names an action."""
    if request.path != b"/" or request.method not in ("GET", "POST"):
        return False
    return b"Action=" in request.query or request.fields.get(b"content-type", b"").lower().startswith(_FORM)


def token_of(query: bytes, fields: dict[bytes, bytes]) -> str:
    """The session token of a request, empty if it has none; a header wins."""
    sent = fields.get(b"x-amz-security-token")
    if sent is None:
        for item in query.split(b"&"):
            name, _, value = item.partition(b"=")
            if name.lower() == b"x-amz-security-token":
                return unquote_to_bytes(value).decode("latin-1")
        return ""
    return sent.decode("latin-1")


def with_hoisted(fields: dict[bytes, bytes], query: dict[str, str], *, content: bool = False) -> dict[bytes, bytes]:
    """Headers of a presigned request that its signer moved into the query. A header that is really there wins.

    ``content``: Content-Type and Content-MD5, too, as signers of version 2 do.

    Checksums are left out: SDKs hoist the checksum of an empty body, and no server of theirs verifies it.
    """
    merged = fields
    for name, value in query.items():
        lower = name.lower()
        if (lower.startswith("x-amz-") and name == lower and not lower.startswith(("x-amz-checksum-", "x-amz-sdk-"))) or (
            content and lower in ("content-type", "content-md5")
        ):
            raw = lower.encode("latin-1", "replace")
            if raw not in merged:
                if merged is fields:
                    merged = dict(fields)
                merged[raw] = value.encode("utf-8")
    return merged
