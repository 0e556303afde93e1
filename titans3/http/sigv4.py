"""Signature Version 4, verified: the Authorization header and presigned queries. Hot: guarded by ``bench/micro/http_floor.py``.

Sources: https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html and .../sigv4-query-string-auth.html

Invariants
* Pure: time is a number handed in, secrets come from a callable. Nothing is logged.
* The raw path and query are tried first; then each one URI-encoded once, because clients sign ``%28`` and send ``(``.
* Signatures are compared in constant time. An unknown access key and a wrong signature are different answers, as in S3.
* Every ``x-amz-*`` header that is present, and ``host``, must be signed: an unsigned ``x-amz-acl`` beside a presigned URL is an escalation.
* An unknown ``STREAMING-*`` value is refused: framing is never taken for data.
* Caches are bounded: signing keys by LRU, parsed credentials and dates by being emptied when full.
"""

from __future__ import annotations

import calendar
import hmac
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from urllib.parse import unquote_to_bytes

import msgspec

from titans3.http import canonical
from titans3.http.authentication import PAYLOAD_MODES, AuthError, AuthReason, PayloadMode, Verified
from titans3.http.shape import Shape
from titans3.limits import CLOCK_SKEW_SECONDS_MAX, PRESIGN_SECONDS_MAX, SIGNING_KEYS_MAX

_PARSED_MAX = 4096
_HEX64 = re.compile(r"[0-9a-fA-F]{64}\Z").match
_DATE = re.compile(r"\d{8}T\d{6}Z\Z").match
_USE_VERSION_4 = "The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256."
# What x-amz-content-sha256 says without a hash of its own.
_WORDS = {word.encode("ascii"): (mode, word) for word, mode in (*PAYLOAD_MODES.items(), (canonical.EMPTY_SHA256, PayloadMode.HASHED))}
_UNSIGNED_OK = frozenset((b"x-amz-content-sha256",))  # its value is under the signature as the payload hash


class _Scope(msgspec.Struct, frozen=True, gc=False):
    """Day, region and service: what all clients of a day have in common. ``text`` is what is signed."""

    day: str
    region: str
    service: str
    text: str


class _Signed(msgspec.Struct, frozen=True, gc=False):
    """The names of the signed headers, in all forms. ``form`` is the format of a canonical request, from method to the payload's hash."""

    names: tuple[bytes, ...]
    set: frozenset[bytes]
    texts: tuple[str, ...]
    text: bytes
    form: bytes


class _Credential(msgspec.Struct, gc=False):
    """The part of the authorization that does not change between a client's requests of a day.

    A thousand clients in turn find little of theirs in the processor's caches, so they share what they have in common.
    ``key``: the secret that it was last checked with, and the signing key made of that.
    """

    access_key: str
    scope: _Scope
    signed: _Signed
    key: tuple[str, canonical.SigningKey] | None = None

    def __repr__(self) -> str:
        return f"_Credential({self.access_key}, {self.scope.text})"  # never the secret


class Claim(msgspec.Struct, frozen=True, gc=False):
    """A request's authentication as it claims it; nothing is proven yet but form, date and expiry."""

    credential: _Credential
    date: str
    signature: str
    payload: PayloadMode
    payload_hash: str
    presigned: bool

    @property
    def access_key(self) -> str:
        return self.credential.access_key


class SigV4:
    """Verifier of one worker. ``region=None`` accepts any region; ``lookup`` gives the secret of an access key or ``None``."""

    def __init__(
        self,
        lookup: Callable[[str], str | None],
        *,
        region: str | None = None,
        services: tuple[str, ...] = ("s3",),
        skew_seconds: int = CLOCK_SKEW_SECONDS_MAX,
    ) -> None:
        self._lookup = lookup
        self._region = region
        self._services = services
        self._skew_seconds = skew_seconds
        self._keys: OrderedDict[tuple[str, str, str, str, str], canonical.SigningKey] = OrderedDict()
        self._credentials: dict[bytes, _Credential] = {}
        self._dates: dict[str, int] = {}
        self._sent_dates: dict[bytes | None, tuple[str, int]] = {}  # x-amz-date as it was sent, and its moment
        self._signed: dict[str, _Signed] = {}
        self._scopes: dict[tuple[str, str, str], _Scope] = {}

    def verify(
        self,
        method: str,
        path: bytes,
        query: bytes,
        fields: dict[bytes, bytes],
        now: float,
        *,
        payload_hash: str | None = None,
    ) -> Verified | None:
        """The verified identity, or ``None`` for an anonymous request. Raises :class:`AuthError`.

        ``path`` and ``query`` are raw; ``fields`` are lower-case names with joined values (``Request.fields``); ``now`` is seconds since
        1970. ``payload_hash`` is the body's hex SHA-256 for services that send no x-amz-content-sha256 (sts).
        """
        claim = self.claim(query, fields, now, payload_hash=payload_hash)
        if claim is None:
            return None
        return self.check(claim, self._lookup(claim.credential.access_key), method, path, query, fields)

    def claim(
        self, query: bytes, fields: dict[bytes, bytes], now: float, *, payload_hash: str | None = None, shape: Shape | None = None
    ) -> Claim | None:
        """Parse and judge everything but the signature; ``None`` for an anonymous request. Raises :class:`AuthError`.

        ``shape`` stands for the names in ``fields``: that they are signed as they have to be is found out once for it.
        """
        authorization = fields.get(b"authorization")
        if query and b"X-Amz-" in query and (b"X-Amz-Algorithm=" in query or b"X-Amz-Credential=" in query):
            if authorization is not None:
                raise AuthError(AuthReason.SEVERAL, "Only one authentication mechanism may be used.")
            return self._claim_query(query, fields, now)
        if authorization is None:
            if b"AWSAccessKeyId=" in query and b"Signature=" in query:
                raise AuthError(AuthReason.SIGV2, _USE_VERSION_4)
            return None
        return self._claim_header(authorization, fields, now, payload_hash, shape)

    def check(
        self, claim: Claim, secret: str | None, method: str, path: bytes, query: bytes, fields: dict[bytes, bytes]
    ) -> Verified:
        """Compare the signature under ``secret``. Raises ACCESS_KEY_UNKNOWN, SIGNATURE_MISMATCH."""
        credential = claim.credential
        if secret is None:
            raise AuthError(
                AuthReason.ACCESS_KEY_UNKNOWN, "The access key is not known.", access_key=credential.access_key
            )
        scope, signed = credential.scope, credential.signed
        kept = credential.key
        if kept is not None and kept[0] == secret:
            key = kept[1]
        else:
            key = self.signing_key(credential.access_key, secret, scope.day, scope.region, scope.service)
            credential.key = secret, key
        get = fields.get
        values = [get(name, b"") for name in signed.names]
        start = method.encode("latin-1")
        skip = b"X-Amz-Signature" if claim.presigned else b"\n"
        sent = canonical.query_as_sent(query, skip) if query else b""
        word = claim.payload_hash.encode("latin-1")
        request = signed.form % (start, path, sent, *values, word)
        text = canonical.string_to_sign(claim.date, scope.text, request)
        if canonical.needs_folding(request) or not hmac.compare_digest(key.sign(text), claim.signature):
            lines = [b"%b:%b" % pair for pair in zip(signed.names, values, strict=True)]
            tail = b"%b\n%b\n%b" % (canonical.header_block(lines), signed.text, word)
            self._try_forms(key, claim, start, path, query, skip, tail)
        return Verified(
            credential.access_key,
            scope.region,
            scope.service,
            claim.date,
            scope.text,
            claim.signature,
            key,
            claim.payload,
            claim.payload_hash,
            claim.presigned,
            signed.texts,
        )

    def signing_key(self, access_key: str, secret: str, day: str, region: str, service: str) -> canonical.SigningKey:
        """Cached; a changed secret is another entry."""
        name = (access_key, secret, day, region, service)
        key = self._keys.get(name)
        if key is None:
            key = self._keys[name] = canonical.derive_key(secret, day, region, service)
            if len(self._keys) > SIGNING_KEYS_MAX:
                self._keys.popitem(last=False)
        else:
            self._keys.move_to_end(name)
        return key

    @staticmethod
    def _matches(key: canonical.SigningKey, claim: Claim, request: bytes) -> bool:
        text = canonical.string_to_sign(claim.date, claim.credential.scope.text, request)
        return hmac.compare_digest(key.sign(text), claim.signature)

    def _try_forms(
        self, key: canonical.SigningKey, claim: Claim, method: bytes, path: bytes, query: bytes, skip: bytes, tail: bytes
    ) -> None:
        """Path and query as they were sent, then the once-encoded forms. Raises SIGNATURE_MISMATCH with the texts of the first try."""
        queries = dict.fromkeys((canonical.query_as_sent(query, skip), canonical.query_once_encoded(query, skip)))
        paths = dict.fromkeys((path, canonical.path_once_encoded(path)))
        forms = [b"%b\n%b\n%b\n%b" % (method, one, sent, tail) for one in paths for sent in queries]
        if any(self._matches(key, claim, request) for request in forms):
            return
        raise AuthError(
            AuthReason.SIGNATURE_MISMATCH,
            "The request signature we calculated does not match the signature you provided. "
            "Check your key and signing method.",
            access_key=claim.credential.access_key,
            signature=claim.signature,
            string_to_sign=canonical.string_to_sign(claim.date, claim.credential.scope.text, forms[0]).decode("latin-1"),
            canonical_request=forms[0].decode("latin-1"),
        )

    # parsing

    def _claim_header(
        self, authorization: bytes, fields: dict[bytes, bytes], now: float, payload_hash: str | None, shape: Shape | None
    ) -> Claim:
        """From ``AWS4-HMAC-SHA256 Credential=…, SignedHeaders=…, Signature=…``."""
        head, mark, signed = authorization.rpartition(b"Signature=")
        credential = self._credentials.get(head) if mark else None
        if credential is None:
            credential, signed = self._parse_authorization(authorization.decode("latin-1"), head)
        if len(signed) != 64 or not signed.isalnum():
            raise AuthError(AuthReason.HEADER_MALFORMED, "The authorization header's Signature is malformed.")
        date, moment = self._sent_dates.get(fields.get(b"x-amz-date")) or self._read_date(fields)
        if not date.startswith(credential.scope.day):
            raise _other_day(credential, AuthReason.HEADER_MALFORMED)
        if abs(now - moment) > self._skew_seconds:
            raise self._skewed(date, now)
        sent_hash = fields.get(b"x-amz-content-sha256")
        if sent_hash is None:
            if payload_hash is None:
                raise AuthError(
                    AuthReason.HEADER_MISSING,
                    "Missing required header for this request: x-amz-content-sha256",
                    header="x-amz-content-sha256",
                )
            mode, word = PayloadMode.HASHED, payload_hash
        else:
            mode, word = _WORDS.get(sent_hash) or self._payload(sent_hash.decode("latin-1"))
        if shape is None:
            self._check_signed(credential, fields)
        elif shape.signed_by is not credential.signed.set:
            self._check_signed(credential, fields)
            shape.signed_by = credential.signed.set
        return Claim(credential, date, signed.decode("ascii"), mode, word, False)

    def _parse_authorization(self, authorization: str, head: bytes) -> tuple[_Credential, bytes]:
        """Slow path: parse, judge, and remember everything before ``Signature=``."""
        scheme, _, rest = authorization.partition(" ")
        if scheme != canonical.ALGORITHM:
            if scheme == "AWS":
                raise AuthError(AuthReason.SIGV2, _USE_VERSION_4)
            if scheme.startswith("AWS4-ECDSA"):
                raise AuthError(AuthReason.UNSUPPORTED, "Asymmetric signatures are not supported.")
            # S3 tells the value, too; an answer may be kept in a log, and the value may be good elsewhere.
            raise AuthError(AuthReason.SCHEME, "Unsupported Authorization Type", argument_name="Authorization", argument_value="...")
        parts: dict[str, str] = {}
        for item in rest.split(","):
            name, _, value = item.strip().partition("=")
            if name in parts:
                raise AuthError(AuthReason.HEADER_MALFORMED, f"The authorization header repeats {name[:40]}.")
            parts[name] = value
        if parts.keys() != {"Credential", "SignedHeaders", "Signature"}:
            raise AuthError(
                AuthReason.HEADER_MALFORMED,
                "The authorization header must hold Credential, SignedHeaders and Signature and nothing else.",
            )
        credential = self._credential(parts["Credential"], parts["SignedHeaders"], AuthReason.HEADER_MALFORMED)
        if head and authorization == head.decode("latin-1") + "Signature=" + parts["Signature"]:
            if len(self._credentials) >= _PARSED_MAX:
                self._credentials.clear()
            self._credentials[head] = credential
        return credential, parts["Signature"].encode("latin-1")

    def _credential(self, text: str, signed_text: str, reason: AuthReason) -> _Credential:
        """``access key/day/region/service/aws4_request``; the access key may hold slashes."""
        pieces = text.rsplit("/", 4)
        if len(pieces) != 5 or not pieces[0] or pieces[4] != "aws4_request":
            raise AuthError(reason, 'The Credential is malformed; expecting "<access-key>/YYYYMMDD/REGION/SERVICE/aws4_request".')
        access_key, day, region, service, _ = pieces
        if len(day) != 8 or not day.isdecimal() or not region:
            raise AuthError(reason, "The Credential's date or region is malformed.")
        if service not in self._services:
            raise AuthError(reason, f"The Credential's service must be one of {', '.join(self._services)}.")
        if self._region is not None and region != self._region:
            raise AuthError(
                AuthReason.REGION, f"The region {region[:40]!r} is wrong; expecting {self._region!r}.", region=self._region
            )
        signed = tuple(name.encode("latin-1") for name in signed_text.split(";"))
        if any(not name or name != name.lower() for name in signed):
            raise AuthError(reason, "SignedHeaders is malformed.")
        if b"host" not in signed:
            raise AuthError(AuthReason.HEADERS_NOT_SIGNED, "The header host must be signed.", headers="host")
        return _Credential(access_key, self._scope(day, region, service), self._signed_of(signed_text, signed))

    def _scope(self, day: str, region: str, service: str) -> _Scope:
        """One for all credentials."""
        name = day, region, service
        found = self._scopes.get(name)
        if found is None:
            if len(self._scopes) >= _PARSED_MAX:
                self._scopes.clear()
            found = self._scopes[name] = _Scope(day, region, service, f"{day}/{region}/{service}/aws4_request")
        return found

    def _signed_of(self, text: str, names: tuple[bytes, ...]) -> _Signed:
        """One for all credentials of the same text."""
        found = self._signed.get(text)
        if found is None:
            if len(self._signed) >= _PARSED_MAX:
                self._signed.clear()
            raw = text.encode("latin-1")
            lines = b"".join(name.replace(b"%", b"%%") + b":%b\n" for name in names)
            form = b"%b\n%b\n%b\n" + lines + b"\n" + raw.replace(b"%", b"%%") + b"\n%b"
            found = self._signed[text] = _Signed(names, frozenset(names), tuple(text.split(";")), raw, form)
        return found

    def _claim_query(self, query: bytes, fields: dict[bytes, bytes], now: float) -> Claim:
        """From X-Amz-Algorithm, -Credential, -Date, -Expires, -SignedHeaders and -Signature."""
        given: dict[str, str] = {}
        for item in query.split(b"&"):
            if item.startswith((b"X-Amz-", b"x-amz-")):
                name, _, value = item.partition(b"=")
                text = unquote_to_bytes(value).decode("latin-1")
                if given.setdefault(name.decode("latin-1"), text) is not text:
                    raise AuthError(AuthReason.QUERY_MALFORMED, f"The query repeats {name[:40].decode('latin-1')}.")
        algorithm = given.get("X-Amz-Algorithm", "")
        if algorithm != canonical.ALGORITHM:
            if algorithm.startswith("AWS4-ECDSA"):
                raise AuthError(AuthReason.UNSUPPORTED, "Asymmetric signatures are not supported.")
            raise AuthError(AuthReason.QUERY_MALFORMED, 'X-Amz-Algorithm only supports "AWS4-HMAC-SHA256".')
        needed = ("X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-SignedHeaders", "X-Amz-Signature")
        if not all(name in given for name in needed):
            raise AuthError(
                AuthReason.QUERY_MALFORMED,
                "Query-string authentication version 4 requires the X-Amz-Algorithm, X-Amz-Credential, X-Amz-Signature, "
                "X-Amz-Date, X-Amz-SignedHeaders, and X-Amz-Expires parameters.",
            )
        text, date, expires, signed, signature = (given[name] for name in needed)
        seconds = int(expires) if expires.isdecimal() and expires.isascii() and len(expires) < 10 else -1
        if not 1 <= seconds <= PRESIGN_SECONDS_MAX:
            raise AuthError(
                AuthReason.QUERY_MALFORMED, f"X-Amz-Expires must be between 1 and {PRESIGN_SECONDS_MAX} seconds."
            )
        if _HEX64(signature) is None:
            raise AuthError(AuthReason.QUERY_MALFORMED, "X-Amz-Signature is malformed.")
        moment = self._moment(date)
        if moment is None:
            raise AuthError(AuthReason.QUERY_MALFORMED, "X-Amz-Date must be in the ISO8601 Long Format \"yyyyMMdd'T'HHmmss'Z'\".")
        credential = self._credential(text, signed, AuthReason.QUERY_MALFORMED)
        if not date.startswith(credential.scope.day):
            raise _other_day(credential, AuthReason.QUERY_MALFORMED)
        self._check_expiry(moment, seconds, now)
        self._check_signed(credential, fields)
        header_hash = fields.get(b"x-amz-content-sha256", b"UNSIGNED-PAYLOAD").decode("latin-1")
        mode, word = self._payload(given.get("X-Amz-Content-Sha256", header_hash))
        return Claim(credential, date, signature, mode, word, True)

    # judging

    def _check_expiry(self, moment: int, seconds: int, now: float) -> None:
        if moment - now > self._skew_seconds:
            raise AuthError(AuthReason.NOT_YET_VALID, "The request is not valid yet.", server_time=iso_time(now))
        if now > moment + seconds:
            raise AuthError(
                AuthReason.EXPIRED,
                "Request has expired",
                x_amz_expires=str(seconds),
                expires=iso_time(moment + seconds),
                server_time=iso_time(now),
            )

    @staticmethod
    def _check_signed(credential: _Credential, fields: dict[bytes, bytes]) -> None:
        missing = [
            name
            for name in fields.keys() - credential.signed.set
            if name.startswith(b"x-amz-") and name not in _UNSIGNED_OK
        ]
        if missing:
            names = ", ".join(sorted(name.decode("latin-1") for name in missing))
            raise AuthError(
                AuthReason.HEADERS_NOT_SIGNED, "There were headers present in the request which were not signed", headers=names
            )

    @staticmethod
    def _payload(word: str) -> tuple[PayloadMode, str]:
        """Mode, and the word as it stands in the canonical request."""
        known = _WORDS.get(word.encode("latin-1"))
        if known is not None:
            return known
        if _HEX64(word) is not None:
            return PayloadMode.HASHED, word
        if word.startswith("STREAMING-"):
            raise AuthError(AuthReason.UNSUPPORTED, f"The x-amz-content-sha256 value {word[:60]!r} is not supported.")
        raise AuthError(
            AuthReason.CONTENT_SHA256_INVALID,
            "x-amz-content-sha256 must be UNSIGNED-PAYLOAD, a known STREAMING-… value, or a valid sha256 value.",
        )

    def _skewed(self, date: str, now: float) -> AuthError:
        return AuthError(
            AuthReason.SKEW,
            "The difference between the request time and the current time is too large.",
            request_time=date,
            server_time=iso_time(now),
            max_allowed_skew_ms=str(self._skew_seconds * 1000),
        )

    def _read_date(self, fields: dict[bytes, bytes]) -> tuple[str, int]:
        """The date of a request, and its moment in seconds since 1970. Raises DATE_MISSING."""
        date = self._header_date(fields)
        moment = self._moment(date)
        if moment is None:
            raise AuthError(AuthReason.DATE_MISSING, "AWS authentication requires a valid Date or x-amz-date header.")
        sent = fields.get(b"x-amz-date")
        if sent is not None:
            if len(self._sent_dates) >= _PARSED_MAX:
                self._sent_dates.clear()
            self._sent_dates[sent] = date, moment
        return date, moment

    @staticmethod
    def _header_date(fields: dict[bytes, bytes]) -> str:
        """x-amz-date, or the Date header in that form; an empty text if neither is there."""
        value = fields.get(b"x-amz-date")
        if value is not None:
            return value.decode("latin-1")
        text = fields.get(b"date", b"").decode("latin-1")
        if not text or _DATE(text):
            return text
        try:
            moment = parsedate_to_datetime(text)
            return time.strftime("%Y%m%dT%H%M%SZ", moment.utctimetuple())
        except (ValueError, TypeError, OverflowError):
            return ""

    def _moment(self, date: str) -> int | None:
        """Seconds since 1970 of ``20260131T235959Z``; ``None`` if it is no date."""
        moment = self._dates.get(date)
        if moment is None:
            if _DATE(date) is None:
                return None
            try:
                moment = calendar.timegm(time.strptime(date, "%Y%m%dT%H%M%SZ"))
            except ValueError:
                return None
            if len(self._dates) >= _PARSED_MAX:
                self._dates.clear()
            self._dates[date] = moment
        return moment


def _other_day(credential: _Credential, reason: AuthReason) -> AuthError:
    return AuthError(reason, f"The Credential's date {credential.scope.day!r} is not the day of the request's date.")


def iso_time(seconds: float) -> str:
    """``2026-01-31T23:59:59Z``."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
