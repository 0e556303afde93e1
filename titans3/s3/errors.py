"""The one table of S3 errors: code, status, message; which reason of a lower floor is which code; and the answer as XML.

Source: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html

Invariants
* Low floors never name a code: a :class:`Reason` or :class:`AuthReason` becomes one here and nowhere else.
* What nobody mapped is answered ``InternalError`` with the request id and nothing else.
* HEAD answers and 304 carry no body.
"""

from __future__ import annotations

from urllib.parse import unquote

from titans3.errors import ClientError, Reason, TitanError
from titans3.http.authentication import AuthError, AuthReason
from titans3.http.message import Request, Response
from titans3.s3.xmlout import HEADER, escape_text

Fields = dict[str, str]
Headers = list[tuple[bytes, bytes]]

CODES: dict[str, tuple[int, str]] = {
    "AccessControlListNotSupported": (400, "The bucket does not allow ACLs"),
    "AccessDenied": (403, "Access Denied"),
    "AccessForbidden": (403, "CORSResponse: CORS is not enabled for this bucket."),
    "AuthorizationHeaderMalformed": (400, "The authorization header is malformed."),
    "AuthorizationQueryParametersError": (400, "The query-string authentication parameters are malformed."),
    "BadDigest": (400, "The Content-MD5 or checksum value that you specified did not match what the server received."),
    "BadRequest": (400, "Bad Request"),
    "BucketAlreadyExists": (409, "The requested bucket name is not available. Select a different name and try again."),
    "BucketAlreadyOwnedByYou": (409, "Your previous request to create the named bucket succeeded and you already own it."),
    "BucketNotEmpty": (409, "The bucket you tried to delete is not empty."),
    "ConditionalRequestConflict": (409, "A conflicting operation occurred during the conditional request. Try again."),
    "EntityTooLarge": (400, "Your proposed upload exceeds the maximum allowed object size."),
    "EntityTooSmall": (400, "Your proposed upload is smaller than the minimum allowed object size."),
    "ExpiredToken": (400, "The provided token has expired."),
    "IllegalLocationConstraintException": (
        400,
        "The unspecified location constraint is incompatible for the region specific endpoint this request was sent to.",
    ),
    "IllegalVersioningConfigurationException": (400, "The versioning configuration specified in the request is not valid."),
    "IncompleteBody": (400, "The request body terminated unexpectedly."),
    "IncorrectNumberOfFilesInPostRequest": (400, "POST requires exactly one file upload per request."),
    "InsufficientStorage": (507, "There is not enough free space to write; reads and deletes go on."),
    "InternalError": (500, "We encountered an internal error. Please try again."),
    "InvalidAccessKeyId": (403, "The AWS access key ID you provided does not exist in our records."),
    "InvalidArgument": (400, "Invalid Argument"),
    "InvalidBucketAclWithObjectOwnership": (
        400,
        "Bucket cannot have ACLs set with ObjectOwnership's BucketOwnerEnforced setting",
    ),
    "InvalidBucketName": (400, "The specified bucket is not valid."),
    "InvalidBucketOwnerAWSAccountID": (400, "The value of the expected bucket owner parameter must be an AWS Account ID."),
    "InvalidDigest": (400, "The Content-MD5 you specified was invalid."),
    "InvalidLocationConstraint": (400, "The specified location constraint is not valid."),
    "InvalidPart": (
        400,
        "One or more of the specified parts could not be found. The part may not have been uploaded, or the specified entity tag may not "
        "match the part's entity tag.",
    ),
    "InvalidPartNumber": (416, "The requested partnumber is not satisfiable"),
    "InvalidPartOrder": (400, "The list of parts was not in ascending order. Parts must be ordered by part number."),
    "InvalidPolicyDocument": (400, "The content of the form does not meet the conditions specified in the policy document."),
    "InvalidRange": (416, "The requested range is not satisfiable"),
    "InvalidRedirectLocation": (
        400,
        "The website redirect location must have a prefix of 'http://' or 'https://' or '/'.",
    ),
    "InvalidRequest": (400, "Invalid Request"),
    "InvalidURI": (400, "Couldn't parse the specified URI."),
    "InvalidStorageClass": (400, "The storage class you specified is not valid"),
    "InvalidTag": (400, "The tag provided was not a valid tag. This error can occur if the tag did not pass input validation."),
    "InvalidToken": (400, "The provided token is malformed or otherwise invalid."),
    "KeyTooLongError": (400, "Your key is too long"),
    "MalformedACLError": (400, "The XML you provided was not well-formed or did not validate against our published schema"),
    "MalformedPolicy": (400, "This policy contains invalid Json"),
    "MalformedPOSTRequest": (400, "The body of your POST request is not well-formed multipart/form-data."),
    "MalformedTrailerError": (
        400,
        "The request contained trailing data that was not well-formed or did not conform to our published schema.",
    ),
    "MalformedXML": (400, "The XML you provided was not well-formed or did not validate against our published schema"),
    "MaxPostPreDataLengthExceededError": (400, "Your POST request fields preceding the upload file were too large."),
    "MaxMessageLengthExceeded": (400, "Your request was too big."),
    "MetadataTooLarge": (400, "Your metadata headers exceed the maximum allowed metadata size"),
    "MethodNotAllowed": (405, "The specified method is not allowed against this resource."),
    "MissingContentLength": (411, "You must provide the Content-Length HTTP header."),
    "MissingSecurityHeader": (400, "Your request was missing a required header"),
    "NoSuchBucket": (404, "The specified bucket does not exist"),
    "NoSuchBucketPolicy": (404, "The bucket policy does not exist"),
    "NoSuchCORSConfiguration": (404, "The CORS configuration does not exist"),
    "NoSuchConfiguration": (404, "The specified configuration does not exist."),
    "NoSuchKey": (404, "The specified key does not exist."),
    "NoSuchLifecycleConfiguration": (404, "The lifecycle configuration does not exist"),
    "NoSuchPublicAccessBlockConfiguration": (404, "The public access block configuration was not found"),
    "NoSuchTagSet": (404, "The TagSet does not exist"),
    "NoSuchUpload": (
        404,
        "The specified upload does not exist. The upload ID may be invalid, or the upload may have been aborted or completed.",
    ),
    "NoSuchVersion": (404, "The specified version does not exist."),
    "NoSuchWebsiteConfiguration": (404, "The specified bucket does not have a website configuration"),
    "NotFound": (404, "There is nothing under this path."),
    "NotImplemented": (501, "A header or query you provided implies functionality that is not implemented."),
    "NotModified": (304, "Not Modified"),
    "ObjectLockConfigurationNotFoundError": (404, "Object Lock configuration does not exist for this bucket"),
    "OperationAborted": (409, "A conflicting conditional operation is currently in progress against this resource. Try again."),
    "OwnershipControlsNotFoundError": (404, "The bucket ownership controls were not found"),
    "PreconditionFailed": (412, "At least one of the pre-conditions you specified did not hold"),
    "QuotaExceeded": (403, "The quota of this bucket or account is exhausted."),
    "ReplicationConfigurationNotFoundError": (404, "The replication configuration was not found"),
    "RequestTimeTooSkewed": (403, "The difference between the request time and the server's time is too large."),
    "RequestTimeout": (400, "Your socket connection to the server was not read from or written to within the timeout period."),
    "ServerSideEncryptionConfigurationNotFoundError": (404, "The server side encryption configuration was not found"),
    "ServiceUnavailable": (503, "Service is unable to handle request."),
    "SignatureDoesNotMatch": (
        403,
        "The request signature we calculated does not match the signature you provided. Check your key and signing method.",
    ),
    "SlowDown": (503, "Please reduce your request rate."),
    "UnresolvableGrantByEmailAddress": (400, "The e-mail address you provided does not match any account on record."),
    "XAmzContentSHA256Mismatch": (400, "The provided 'x-amz-content-sha256' header does not match what was computed."),
}

REASONS: dict[Reason, str] = {
    Reason.BUCKET_ABSENT: "NoSuchBucket",
    Reason.BUCKET_EXISTS: "BucketAlreadyExists",
    Reason.BUCKET_OWNED: "BucketAlreadyOwnedByYou",
    Reason.BUCKET_NOT_EMPTY: "BucketNotEmpty",
    Reason.BUCKET_BUSY: "OperationAborted",
    Reason.BUCKET_NAME: "InvalidBucketName",
    Reason.SHARD_ABSENT: "SlowDown",
    Reason.KEY_ABSENT: "NoSuchKey",
    Reason.KEY_TOO_LONG: "KeyTooLongError",
    Reason.KEY_NOT_UTF8: "InvalidURI",
    Reason.VERSION_ABSENT: "NoSuchVersion",
    Reason.METHOD_ON_MARKER: "MethodNotAllowed",
    Reason.PRECONDITION: "PreconditionFailed",
    Reason.NOT_MODIFIED: "NotModified",
    Reason.CONFLICT: "ConditionalRequestConflict",
    Reason.UPLOAD_ABSENT: "NoSuchUpload",
    Reason.PART_INVALID: "InvalidPart",
    Reason.PART_ORDER: "InvalidPartOrder",
    Reason.PART_TOO_SMALL: "EntityTooSmall",
    Reason.PART_NUMBER: "InvalidPartNumber",
    Reason.RANGE: "InvalidRange",
    Reason.TOO_LARGE: "EntityTooLarge",
    Reason.DIGEST: "BadDigest",
    Reason.SLOW_DOWN: "SlowDown",
    Reason.VOLUME_FULL: "InsufficientStorage",
    Reason.UNAVAILABLE: "SlowDown",
    Reason.UNKNOWN_OUTCOME: "InternalError",
    Reason.BODY_DAMAGED: "InternalError",
    Reason.FENCED: "SlowDown",
    Reason.LOCKED: "AccessDenied",
    Reason.QUOTA: "QuotaExceeded",
    Reason.ACCESS_REFUSED: "InvalidAccessKeyId",
    Reason.TOKEN_INVALID: "InvalidToken",
    Reason.TOKEN_EXPIRED: "ExpiredToken",
    Reason.BODY_SHORT: "IncompleteBody",
    Reason.BODY_SLOW: "RequestTimeout",
    Reason.BODY_FRAMING: "IncompleteBody",
    Reason.BODY_SHA256: "XAmzContentSHA256Mismatch",
    Reason.CHUNK_SIGNATURE: "SignatureDoesNotMatch",
    Reason.TRAILER: "MalformedTrailerError",
    Reason.DECODED_LENGTH: "InvalidArgument",
    Reason.FORM_MALFORMED: "MalformedPOSTRequest",
    Reason.FORM_FIELDS: "MaxPostPreDataLengthExceededError",
    Reason.FORM_FILES: "IncorrectNumberOfFilesInPostRequest",
}

AUTH_REASONS: dict[AuthReason, str] = {
    AuthReason.ACCESS_KEY_UNKNOWN: "InvalidAccessKeyId",
    AuthReason.SIGNATURE_MISMATCH: "SignatureDoesNotMatch",
    AuthReason.SKEW: "RequestTimeTooSkewed",
    AuthReason.EXPIRED: "AccessDenied",
    AuthReason.NOT_YET_VALID: "AccessDenied",
    AuthReason.HEADER_MALFORMED: "AuthorizationHeaderMalformed",
    AuthReason.QUERY_MALFORMED: "AuthorizationQueryParametersError",
    AuthReason.HEADER_MISSING: "MissingSecurityHeader",
    AuthReason.DATE_MISSING: "AccessDenied",
    AuthReason.CONTENT_SHA256_INVALID: "InvalidArgument",
    AuthReason.HEADERS_NOT_SIGNED: "AccessDenied",
    AuthReason.REGION: "AuthorizationHeaderMalformed",
    AuthReason.SEVERAL: "InvalidArgument",
    AuthReason.SIGV2: "InvalidRequest",
    AuthReason.HEADER_V2_MALFORMED: "InvalidArgument",
    AuthReason.QUERY_V2_MALFORMED: "AccessDenied",
    AuthReason.SCHEME: "InvalidArgument",
    AuthReason.UNSUPPORTED: "NotImplemented",
}

# Names of an AuthError's fields as S3's error document spells them.
_AUTH_FIELDS = {
    "access_key": "AWSAccessKeyId",
    "signature": "SignatureProvided",
    "string_to_sign": "StringToSign",
    "canonical_request": "CanonicalRequest",
    "request_time": "RequestTime",
    "server_time": "ServerTime",
    "max_allowed_skew_ms": "MaxAllowedSkewMilliseconds",
    "x_amz_expires": "X-Amz-Expires",
    "expires": "Expires",
    "header": "MissingHeaderName",
    "argument_name": "ArgumentName",
    "argument_value": "ArgumentValue",
    "headers": "HeadersNotSigned",
    "region": "Region",
}
_CLOSING = frozenset((Reason.BODY_SHORT, Reason.BODY_SLOW, Reason.BODY_FRAMING))
# Reasons whose message is written for the client; the others' messages are for logs.
_SPEAKING = frozenset((
    Reason.BODY_SHORT, Reason.BODY_SLOW, Reason.BODY_FRAMING, Reason.BODY_SHA256, Reason.CHUNK_SIGNATURE, Reason.TRAILER,
    Reason.DECODED_LENGTH, Reason.ACCESS_REFUSED,
))
_XML = (b"content-type", b"application/xml")


class S3Error(TitanError):
    """An error by its S3 code. ``fields`` become elements of the document, ``headers`` go into the answer's head."""

    def __init__(self, code: str, message: str = "", *, headers: Headers | None = None, **fields: str) -> None:
        assert code in CODES, code
        super().__init__(message or code)
        self.code = code
        self.message = message or CODES[code][1]
        self.fields = fields
        self.headers: Headers = [] if headers is None else headers


def invalid_argument(message: str, name: str, value: str) -> S3Error:
    """InvalidArgument with the argument's name and value."""
    return S3Error("InvalidArgument", message, ArgumentName=name, ArgumentValue=value[:1024])


def not_implemented(what: str) -> S3Error:
    """NotImplemented naming the header or operation."""
    return S3Error("NotImplemented", f"{what} is not implemented.", Header=what)


def from_client_error(error: ClientError) -> S3Error:
    """The S3 error of a low floor's reason; an unknown one is InternalError."""
    code = REASONS.get(error.reason, "InternalError")
    message = error.message if error.reason in _SPEAKING and error.message != str(error.reason) else ""
    fields: Fields = {}
    if error.reason is Reason.PART_TOO_SMALL and error.message.count(" ") == 3:
        fields = dict(zip(("PartNumber", "ProposedSize", "MinSizeAllowed", "ETag"), error.message.split(" "), strict=True))
    if code == "EntityTooLarge":
        if "limit" in error.fields:
            fields["MaxSizeAllowed"] = str(error.fields["limit"])
        if "length" in error.fields:
            fields["ProposedSize"] = str(error.fields["length"])
    elif error.reason is Reason.BODY_SHA256:
        fields["ClientComputedContentSHA256"] = str(error.fields.get("client", ""))
        fields["S3ComputedContentSHA256"] = str(error.fields.get("computed", ""))
    elif error.reason is Reason.DECODED_LENGTH and error.fields.get("missing"):
        code, message = "MissingContentLength", ""
    converted = S3Error(code, message)
    converted.fields = fields
    return converted


def from_auth_error(error: AuthError) -> S3Error:
    """The S3 error of a refused signature, with the fields AWS shows."""
    fields = {_AUTH_FIELDS[name]: value for name, value in error.fields.items() if name in _AUTH_FIELDS}
    if "StringToSign" in fields:
        fields["StringToSignBytes"] = _hex_bytes(fields["StringToSign"])
        if "CanonicalRequest" in fields:
            fields["CanonicalRequestBytes"] = _hex_bytes(fields["CanonicalRequest"])
    converted = S3Error(AUTH_REASONS[error.reason], error.message)
    converted.fields = fields
    return converted


def _hex_bytes(text: str) -> str:
    return text.encode("latin-1", "replace").hex(" ")


def error_response(error: S3Error, request: Request, host_id: str, *, close: bool = False) -> Response:
    """The answer of an error: status from the table, document unless HEAD or 304."""
    status = CODES[error.code][0]
    if status == 304:
        return Response(304, error.headers, close=close)
    headers = [*error.headers, _XML]
    if request.method == "HEAD":
        return Response(status, headers, close=close)
    return Response(status, headers, error_document(error, request, host_id), close=close)


def error_document(error: S3Error, request: Request, host_id: str) -> bytes:
    """``<Error>`` with Code, Message, the fields, Resource, RequestId and HostId."""
    fields = "".join([f"<{name}>{escape_text(value)}</{name}>" for name, value in error.fields.items()])
    resource = escape_text(unquote(request.path.decode("latin-1"), errors="replace")[:2048])
    return (
        f"{HEADER}<Error><Code>{error.code}</Code><Message>{escape_text(error.message)}</Message>{fields}<Resource>{resource}</Resource>"
        f"<RequestId>{request.request_id}</RequestId><HostId>{escape_text(host_id)}</HostId></Error>"
    ).encode()


def closes(error: ClientError) -> bool:
    """Whether the connection cannot go on after this error: the rest of the body cannot be told from a request."""
    return error.reason in _CLOSING
