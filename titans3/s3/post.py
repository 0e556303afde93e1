"""POST form uploads: who asks, what the policy allows, and PostObject.

Source: https://docs.aws.amazon.com/AmazonS3/latest/API/RESTObjectPOST.html and .../sigv4-authentication-HTTPPOST.html

Invariants
* The fields before the file decide everything: signature, policy, bucket and rights are judged before a byte of the file is taken.
* A field that an object keeps goes the way of PutObject's header of that name; what PutObject refuses is refused here.
* The policy is signed as it was sent, in base64. A form without policy is anonymous, unless the request itself is signed.
* Nothing is committed before the form's last boundary was read and the file's length is one that the policy allows.
"""

from __future__ import annotations

import hmac
import re
import string
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

import msgspec

from titans3.http import sigv2
from titans3.http.authentication import AuthError, AuthReason
from titans3.http.canonical import ALGORITHM
from titans3.http.formdata import FormReader, boundary_of
from titans3.http.message import Request, Response
from titans3.http.sigv4 import SigV4
from titans3.limits import OBJECT_PUT_BYTES_MAX
from titans3.model.version import NULL, Version
from titans3.s3 import checksum
from titans3.s3.acl import ownership_of_write
from titans3.s3.address import check_key
from titans3.s3.call import Call
from titans3.s3.checksum import DEFAULT_ALGORITHM
from titans3.s3.conditions import write_condition
from titans3.s3.errors import S3Error, invalid_argument
from titans3.s3.headers import Pairs, etag_header, kept_headers, kept_metadata, storage_class_of
from titans3.s3.postpolicy import Policy, check_policy, parse_policy
from titans3.s3.put import check_early, new_version
from titans3.s3.receive import Received, commit, proof_of, receive, too_large
from titans3.s3.tags import OBJECT_TAGS_MAX, tags_of_document, tags_of_header
from titans3.s3.xmlout import CONTENT_TYPE, HEADER, escape_text

STATE = "form"  # where ``Request.state`` holds the form for the handler
_CONTENT = frozenset(
    ("cache-control", "content-disposition", "content-encoding", "content-language", "content-md5", "content-type", "expires")
)
_OF_SIGNATURE = frozenset(("x-amz-algorithm", "x-amz-credential", "x-amz-date", "x-amz-security-token", "x-amz-signature"))
_OF_REQUEST = (b"if-match", b"if-none-match", b"x-amz-expected-bucket-owner")  # headers that a form's request may have, too
_HEADER_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+\Z").match
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]").search
_URL_SPACE = re.compile(r"[\x00-\x20\x7f]").search
_DATE = re.compile(r"\d{8}T\d{6}Z\Z").match
_MISMATCH = "The request signature we calculated does not match the signature you provided. Check your key and signing method."


class Form(msgspec.Struct):
    """A form up to its file. ``texts`` are the fields by lower-case name, ``fields`` those that become headers of the object."""

    reader: FormReader
    texts: dict[str, str]
    fields: dict[bytes, bytes]
    key: bytes
    policy: Policy | None = None


class Claim(msgspec.Struct, frozen=True):
    """The signature of a policy as the form claims it; ``day``, ``region`` and ``service`` are empty for Signature Version 2."""

    access_key: str
    signature: str
    policy: bytes
    day: str = ""
    region: str = ""
    service: str = ""


# the form --------------------------------------------------------------------------------------------------------------


def form_boundary(fields: dict[bytes, bytes]) -> bytes:
    """The boundary of the request's Content-Type. Raises PreconditionFailed for another type, FORM_MALFORMED."""
    boundary = boundary_of(fields.get(b"content-type", b""))
    if boundary is None:
        raise S3Error("PreconditionFailed", Condition="Bucket POST must be of the enclosure-type multipart/form-data")
    return boundary


async def read_form(reader: FormReader, request: Request, bucket_name: str) -> Form:
    """Everything before the file's bytes. Raises InvalidArgument without key or file, KeyTooLongError, MalformedPOSTRequest."""
    if not await reader.read_fields():
        raise invalid_argument("POST requires exactly one file upload per request.", "file", "0")
    try:
        texts = {name: value.decode("utf-8") for name, value in reader.fields.items()}
    except UnicodeDecodeError as error:
        raise S3Error("MalformedPOSTRequest") from error
    if "key" not in texts:
        raise _missing("key")
    filename = re.split(r"[/\\]", reader.filename)[-1]
    texts["key"] = texts["key"].replace("${filename}", filename)
    texts["bucket"] = bucket_name
    key = texts["key"].encode()
    if not key:
        raise invalid_argument("User key must have a length greater than 0.", "key", "")
    check_key(key)
    fields = {name: request.fields[name] for name in _OF_REQUEST if name in request.fields}
    for name, value in reader.fields.items():
        if name in _CONTENT or (name.startswith("x-amz-") and name not in _OF_SIGNATURE):
            fields[name.encode("ascii")] = _header_value(name, value)
    if "acl" in texts:
        fields[b"x-amz-acl"] = _header_value("acl", reader.fields["acl"])
    if (document := reader.fields.get("tagging", b"").strip()):
        fields[b"x-amz-tagging"] = urlencode(tags_of_document(document, OBJECT_TAGS_MAX)).encode("ascii")
    return Form(reader, texts, fields, key)


def _header_value(name: str, value: bytes) -> bytes:
    """A field's value as a header has it: what could end the header's line is refused."""
    if not _HEADER_NAME(name) or _CONTROL(value):
        raise invalid_argument("The field cannot be a header: it has characters that headers do not have.", name[:100], "")
    return value.strip(b" \t")


def _missing(name: str) -> S3Error:
    return invalid_argument(
        f"Bucket POST must contain a field named '{name}'.  If it is specified, please check the order of the fields.", name, ""
    )


# who asks --------------------------------------------------------------------------------------------------------------


def claim_of(form: Form) -> Claim | None:
    """Whose policy it is; ``None`` for a form without. Raises InvalidArgument for what is missing."""
    texts = form.texts
    version_4 = not texts.keys().isdisjoint(("x-amz-signature", "x-amz-credential", "x-amz-algorithm"))
    if "policy" not in texts:
        if version_4 or "signature" in texts or "awsaccesskeyid" in texts:
            raise _missing("policy")
        return None
    policy = form.reader.fields["policy"]
    if version_4:
        return _claim_version_4(texts, policy)
    for name in ("AWSAccessKeyId", "signature"):
        if name.lower() not in texts:
            raise _missing(name)
    return Claim(texts["awsaccesskeyid"], texts["signature"].strip(), policy)


def _claim_version_4(texts: dict[str, str], policy: bytes) -> Claim:
    for name in ("X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-Signature"):
        if name.lower() not in texts:
            raise _missing(name)
    if texts["x-amz-algorithm"] != ALGORITHM:
        raise invalid_argument(f'X-Amz-Algorithm only supports "{ALGORITHM}"', "X-Amz-Algorithm", texts["x-amz-algorithm"])
    credential, date = texts["x-amz-credential"], texts["x-amz-date"]
    pieces = credential.rsplit("/", 4)
    if len(pieces) != 5 or not pieces[0] or not pieces[2] or pieces[3] != "s3" or pieces[4] != "aws4_request":
        raise invalid_argument(
            'The Credential is mal-formed; expecting "<YOUR-AKID>/YYYYMMDD/REGION/s3/aws4_request".', "X-Amz-Credential", credential
        )
    if _DATE(date) is None or not date.isascii() or date[:8] != pieces[1]:
        raise invalid_argument("X-Amz-Date must be the ISO8601 basic form of a time on the Credential's day.", "X-Amz-Date", date)
    if not credential.isascii():
        raise invalid_argument("The Credential is mal-formed.", "X-Amz-Credential", credential)
    return Claim(pieces[0], texts["x-amz-signature"].strip(), policy, pieces[1], pieces[2], pieces[3])


def check_claim(claim: Claim, secret: str | None, sigv4: SigV4, *, region: str | None, version_2: bool) -> None:
    """Compare the signature under ``secret``. Raises AuthError: ACCESS_KEY_UNKNOWN, SIGNATURE_MISMATCH, REGION, SIGV2 when that is off."""
    if not claim.day and not version_2:
        raise AuthError(AuthReason.SIGV2, "The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256.")
    if claim.day and region is not None and claim.region != region:
        raise AuthError(AuthReason.REGION, f"The region {claim.region[:40]!r} is wrong; expecting {region!r}.", region=region)
    if secret is None:
        raise AuthError(AuthReason.ACCESS_KEY_UNKNOWN, "The access key is not known.", access_key=claim.access_key)
    signature = claim.signature.encode()
    if claim.day:
        key = sigv4.signing_key(claim.access_key, secret, claim.day, claim.region, claim.service)
        matches = hmac.compare_digest(key.sign(claim.policy).encode("ascii"), signature)
    else:
        matches = sigv2.matches(secret, claim.policy, signature)
    if not matches:
        raise AuthError(
            AuthReason.SIGNATURE_MISMATCH,
            _MISMATCH,
            access_key=claim.access_key,
            signature=claim.signature[:200],
            string_to_sign=claim.policy.decode("latin-1"),
        )


def apply_policy(form: Form, now: float) -> None:
    """Judge the fields by the signed policy and keep what it says about the file. Raises InvalidPolicyDocument, AccessDenied."""
    form.policy = parse_policy(form.reader.fields["policy"])
    check_policy(form.policy, form.texts, now)


# the object ------------------------------------------------------------------------------------------------------------


async def post_object(call: Call) -> Response:
    """Store the file of a form. Raises EntityTooSmall, EntityTooLarge, BadDigest, MalformedPOSTRequest and what PutObject raises."""
    state = call.request.state
    assert state is not None
    form = state[STATE]
    assert isinstance(form, Form)
    fields = call.fields
    proof = proof_of(fields, algorithm=DEFAULT_ALGORITHM)
    headers = kept_headers(fields)
    metadata = kept_metadata(fields)
    storage_class = storage_class_of(fields)
    tags = tags_of_header(call.header(b"x-amz-tagging"))
    ownership = ownership_of_write(call)
    condition = write_condition(fields)
    if condition is not None:
        await check_early(call, condition)
    least, most = _bounds(form.policy)
    store, bucket, key = call.store, call.bucket, call.key
    received = await receive(
        form.reader,
        proof,
        small=store.small_body_bytes,
        limit=most,
        open_sink=lambda length: store.sink(bucket, key, length=length, headers=headers, metadata=metadata),
        hashing=call.context.hashing,
    )
    _check_size(received, least, most)
    asked = proof.claim is not None
    version = new_version(call, received, headers, metadata, received.checksum, storage_class, tags, ownership, asked=asked)
    done = await commit(received.sink, store.put(bucket, key, version, received.data, condition))
    return _answer(call, form, done)


def _bounds(policy: Policy | None) -> tuple[int, int]:
    """Least and most bytes of the file."""
    if policy is None or policy.most < 0:
        return 0, OBJECT_PUT_BYTES_MAX
    return policy.least, min(policy.most, OBJECT_PUT_BYTES_MAX)


def _check_size(received: Received, least: int, most: int) -> None:
    """Raises EntityTooSmall, EntityTooLarge."""
    if least <= received.size <= most:
        return
    if received.sink is not None:
        received.sink.abandon()
    if received.size > most:
        raise too_large(received.size, most)
    raise S3Error("EntityTooSmall", ProposedSize=str(received.size), MinSizeAllowed=str(least))


def _answer(call: Call, form: Form, done: Version) -> Response:
    """303 to where the form wants to go, else the status that it asks for; 204 when it asks for none that there is."""
    headers: Pairs = [(b"etag", etag_header(done))]
    if done.checksum is not None:
        headers += checksum.header_pairs(done.checksum, 0)
    if not done.flags & NULL:
        headers.append((b"x-amz-version-id", done.version_id.encode("ascii")))
    etag = f'"{done.etag_text}"'
    wanted = form.texts.get("success_action_redirect") or form.texts.get("redirect")
    target = _redirect(wanted, call.bucket_name, call.key, etag) if wanted else None
    if target is not None:
        return Response(303, [*headers, (b"location", target)])
    location = _location(call)
    headers.append((b"location", location.encode("latin-1")))
    status = form.texts.get("success_action_status")
    if status == "201":
        document = (
            f"{HEADER}<PostResponse><Location>{escape_text(location)}</Location><Bucket>{escape_text(call.bucket_name)}</Bucket>"
            f"<Key>{escape_text(call.key.decode())}</Key><ETag>{escape_text(etag)}</ETag></PostResponse>"
        )
        return Response(201, [*headers, CONTENT_TYPE], document.encode())
    return Response(200 if status == "200" else 204, headers)


def _location(call: Call) -> str:
    """The URL of the object, with every byte of the key escaped that may be."""
    request = call.request
    bucket = "" if request.path == b"/" else "/" + quote(call.bucket_name, safe="")
    start = f"{'https' if request.secure else 'http'}://{request.host}" if request.host else ""
    return f"{start}{bucket}/{quote(call.key, safe='')}"


def _redirect(url: str, bucket: str, key: bytes, etag: str) -> bytes | None:
    """``url`` with bucket, key and etag in its query; ``None`` for what is no URL of the web, which counts as not given."""
    if _URL_SPACE(url):
        return None
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not parts.netloc:
        return None
    added = f"bucket={quote(bucket, safe='')}&key={quote(key, safe='')}&etag={quote(etag, safe='')}"
    full = urlunsplit(parts._replace(query=f"{parts.query}&{added}" if parts.query else added))
    return quote(full, safe=string.punctuation).encode("ascii")
