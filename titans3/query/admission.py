"""Who asks one of the APIs beside S3, and with which body.

Invariants
* Nothing of a body is read for a key that is not known; of a stranger's without any signature at most what the API allows.
* The body is what was signed: its SHA-256 is part of the signature, or is compared with what is.
"""

from __future__ import annotations

import hmac
from hashlib import sha256

import msgspec

from titans3.cluster.caller import ANONYMOUS, Caller
from titans3.cluster.identities import Identities
from titans3.http.authentication import AuthError, AuthReason, PayloadMode, Verified
from titans3.http.message import Request
from titans3.http.sigv4 import SigV4
from titans3.s3.call import Context
from titans3.s3.gateway import token_of

_UNKNOWN_YET = "-"


class Admitted(msgspec.Struct, frozen=True):
    """``verified`` is ``None`` for a stranger."""

    caller: Caller
    verified: Verified | None
    body: bytes


class Admission:
    """Of one API and worker. ``seen_as``: what "last used" says of keys that ask it; empty: the signature's service."""

    def __init__(
        self, context: Context, identities: Identities, services: tuple[str, ...], *, body_bytes_max: int, strangers_bytes_max: int = 0,
        seen_as: str = "",
    ) -> None:  # fmt: skip
        self._context, self._identities = context, identities
        self._body_bytes_max, self._strangers_bytes_max, self._seen_as = body_bytes_max, strangers_bytes_max, seen_as
        self._sigv4 = SigV4(lambda access_key: None, services=services)
        self.failures: dict[str, int] = dict.fromkeys(AuthReason, 0)  # requests refused for their authentication, by AuthReason

    async def admit(self, request: Request) -> Admitted:
        """Raises AuthError, ClientError."""
        try:
            return await self._admit(request)
        except AuthError as error:
            self.failures[error.reason] += 1
            raise

    async def _admit(self, request: Request) -> Admitted:
        fields, query = request.fields, request.query
        claim = self._sigv4.claim(query, fields, self._context.clock.wall_ms() / 1000, payload_hash=_UNKNOWN_YET)
        if claim is None:
            body = await request.body.read_all(self._strangers_bytes_max) if self._strangers_bytes_max else b""
            return Admitted(ANONYMOUS, None, body)
        if claim.payload is not PayloadMode.HASHED and not (claim.presigned and claim.payload is PayloadMode.UNSIGNED):
            raise AuthError(AuthReason.UNSUPPORTED, "The body must be signed.")
        caller = self._caller(claim.access_key, token_of(query, fields), self._seen_as or claim.credential.scope.service)
        body = await request.body.read_all(self._body_bytes_max)
        digest = sha256(body).hexdigest()
        if claim.payload_hash == _UNKNOWN_YET or claim.payload is PayloadMode.UNSIGNED:
            claim = msgspec.structs.replace(claim, payload_hash=digest)
        elif not hmac.compare_digest(claim.payload_hash.lower(), digest):
            raise AuthError(AuthReason.SIGNATURE_MISMATCH, "The body is not the one that was signed.")
        return Admitted(caller, self._sigv4.check(claim, caller.secret, request.method, request.path, query, fields), body)

    def _caller(self, access_key: str, token: str, service: str) -> Caller:
        identities = self._identities
        caller = identities.find_session(access_key, token) if token else identities.find(access_key)
        if caller is None:
            raise AuthError(
                AuthReason.ACCESS_KEY_UNKNOWN, "The security token included in the request is invalid.", access_key=access_key
            )
        identities.note(caller, service)
        return caller
