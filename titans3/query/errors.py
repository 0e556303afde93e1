"""The errors of IAM and STS, and their document.

Sources: https://docs.aws.amazon.com/IAM/latest/APIReference/CommonErrors.html, https://docs.aws.amazon.com/STS/latest/APIReference/CommonErrors.html
"""

from __future__ import annotations

from titans3.errors import ClientError, PeerError, Reason, TitanError, VolumeFull
from titans3.http.authentication import AuthError, AuthReason

_STATUS = {
    "AccessDenied": 403,
    "AccountNotEmpty": 409,
    "ConcurrentModification": 409,
    "DeleteConflict": 409,
    "EntityAlreadyExists": 409,
    "ExpiredToken": 403,
    "ExpiredTokenException": 400,
    "IDPCommunicationError": 400,
    "IDPRejectedClaim": 403,
    "IncompleteSignature": 403,
    "InternalFailure": 500,
    "InvalidAction": 400,
    "InvalidAuthorizationMessageException": 400,
    "InvalidClientTokenId": 403,
    "InvalidIdentityToken": 400,
    "InvalidInput": 400,
    "LimitExceeded": 409,
    "MalformedInput": 400,
    "MalformedPolicyDocument": 400,
    "MethodNotAllowed": 405,
    "MissingAuthenticationToken": 403,
    "NoSuchEntity": 404,
    "NotFound": 404,
    "NotImplemented": 501,
    "PackedPolicyTooLarge": 400,
    "PasswordPolicyViolation": 400,
    "PolicyNotAttachable": 400,
    "RequestEntityTooLarge": 413,
    "ServiceUnavailable": 503,
    "SignatureDoesNotMatch": 403,
    "Throttling": 400,
    "UnmodifiableEntity": 400,
    "ValidationError": 400,
}
_OF_AUTH = {
    AuthReason.ACCESS_KEY_UNKNOWN: "InvalidClientTokenId",
    AuthReason.SIGNATURE_MISMATCH: "SignatureDoesNotMatch",
    AuthReason.SKEW: "SignatureDoesNotMatch",
    AuthReason.EXPIRED: "SignatureDoesNotMatch",
    AuthReason.NOT_YET_VALID: "SignatureDoesNotMatch",
    AuthReason.SIGV2: "IncompleteSignature",
}
_OF_REASON = {
    Reason.ACCESS_REFUSED: "InvalidClientTokenId",
    Reason.TOKEN_INVALID: "InvalidClientTokenId",
    Reason.TOKEN_EXPIRED: "ExpiredToken",
    Reason.SLOW_DOWN: "ServiceUnavailable",
    Reason.UNAVAILABLE: "ServiceUnavailable",
    Reason.UNKNOWN_OUTCOME: "ServiceUnavailable",
    Reason.TOO_LARGE: "RequestEntityTooLarge",
    Reason.CONFLICT: "ConcurrentModification",
    Reason.NAME_EXISTS: "EntityAlreadyExists",
}
# A body that was not read to its end: the connection cannot go on.
CLOSING = (Reason.TOO_LARGE, Reason.BODY_SHORT, Reason.BODY_SLOW, Reason.BODY_FRAMING)
_TEXTS = {
    Reason.TOKEN_INVALID: "The security token included in the request is invalid.",
    Reason.TOKEN_EXPIRED: "The security token included in the request is expired",
    Reason.TOO_LARGE: "The request is too large.",
    Reason.SLOW_DOWN: "The request has failed due to a temporary failure of the server.",
}


class QueryError(TitanError):
    """An answer that is an error. ``code`` is IAM's or STS's name for it."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message, self.status = code, message, _STATUS[code]


def invalid(message: str) -> QueryError:
    """A parameter that is not what it must be."""
    return QueryError("ValidationError", message)


def absent(kind: str, name: str) -> QueryError:
    """``kind``: ``user``, ``role``, …"""
    return QueryError("NoSuchEntity", f"The {kind} with name {name} cannot be found.")


def exists(kind: str, name: str) -> QueryError:
    """``kind``: ``User``, ``Role``, …"""
    return QueryError("EntityAlreadyExists", f"{kind} with name {name} already exists.")


def exceeded(kind: str, limit: int) -> QueryError:
    """``kind``: what there are too many of, as AWS names its quota."""
    return QueryError("LimitExceeded", f"Cannot exceed quota for {kind}: {limit}")


def from_titan_error(error: TitanError) -> QueryError | None:
    """What a lower floor's error is called here; ``None`` for what is nobody's fault but ours."""
    if isinstance(error, QueryError):
        return error
    if isinstance(error, AuthError):
        return QueryError(_OF_AUTH.get(error.reason, "IncompleteSignature"), error.message)
    if isinstance(error, ClientError):
        code = _OF_REASON.get(error.reason, "InvalidInput")
        return QueryError(code, _TEXTS.get(error.reason) or error.message)
    if isinstance(error, (PeerError, VolumeFull)):
        return QueryError("ServiceUnavailable", "The request has failed due to a temporary failure of the server.")
    return None
