"""SigV4: our signer and botocore's both verify, every change is noticed, every refusal has its reason."""

from __future__ import annotations

import calendar
import time
from collections.abc import Callable
from urllib.parse import quote, urlsplit

import pytest
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given, settings
from hypothesis import strategies as st

from titans3.http.authentication import AuthError, AuthReason, PayloadMode, Verified
from titans3.http.canonical import EMPTY_SHA256, query_as_sent, string_to_sign
from titans3.http.signing import SigningIdentity, presign, sign_headers
from titans3.http.sigv4 import SigV4

DATE = "20260131T120000Z"
NOW = float(calendar.timegm(time.strptime(DATE, "%Y%m%dT%H%M%SZ")))
IDENTITY = SigningIdentity("AK/with-slash", "secret")
SECRETS = {IDENTITY.access_key: IDENTITY.secret, "AKID": "botosecret"}


def fields_of(headers: dict[str, str]) -> dict[bytes, bytes]:
    return {name.lower().encode(): value.encode("latin-1") for name, value in headers.items()}


def verifier(region: str | None = None) -> SigV4:
    return SigV4(SECRETS.get, region=region)


def verify(headers: dict[str, str], *, method: str = "GET", path: bytes = b"/b/k", query: bytes = b"", now: float = NOW) -> Verified | None:
    return verifier().verify(method, path, query, fields_of(headers), now)


def signed(
    extra: dict[str, str] | None = None, *, payload_hash: str = EMPTY_SHA256, path: bytes = b"/b/k", query: bytes = b""
) -> dict[str, str]:
    headers = {"host": "h:9000", **(extra or {})}
    return sign_headers(IDENTITY, "GET", path, query, headers, date=DATE, payload_hash=payload_hash).headers


def test_the_example_of_the_aws_documentation() -> None:
    """GET test.txt with a range, from sig-v4-header-based-auth."""
    secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
    headers = {
        "host": "examplebucket.s3.amazonaws.com",
        "range": "bytes=0-9",
        "x-amz-content-sha256": EMPTY_SHA256,
        "x-amz-date": "20130524T000000Z",
        "authorization": "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,"
        "SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,"
        "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
    }
    now = calendar.timegm((2013, 5, 24, 0, 1, 0))
    found = SigV4({"AKIAIOSFODNN7EXAMPLE": secret}.get).verify("GET", b"/test.txt", b"", fields_of(headers), now)
    assert found is not None
    assert (found.region, found.date, found.payload) == ("us-east-1", "20130524T000000Z", PayloadMode.HASHED)
    assert found.signed_headers == ("host", "range", "x-amz-content-sha256", "x-amz-date")


PATHS = st.lists(st.sampled_from(["a", "/", "%2F", "%20", "(", ")", "'", "*", "!", "~", "%41", "+", "=", "@", ":", ",", ".."]), max_size=12)
QUERIES = st.lists(
    st.tuples(st.sampled_from(["a", "a-b", "prefix", "uploads", "x%2Fy"]), st.sampled_from(["", "=", "=1", "=%20b", "=c=d"])), max_size=5
)


@given(PATHS, QUERIES, st.sampled_from([" two  spaces ", "plain", "", "\ttab\t tab"]), st.booleans())
@settings(max_examples=300, deadline=None)
def test_what_is_signed_verifies(pieces: list[str], pairs: list[tuple[str, str]], value: str, in_query: bool) -> None:
    path = b"/" + "".join(pieces).encode()
    query = "&".join(name + rest for name, rest in pairs).encode()
    headers = {"host": "h", "x-amz-meta-v": value}
    if in_query:
        query = presign(IDENTITY, "PUT", path, query, headers, date=DATE, expires=60)
    else:
        headers = sign_headers(IDENTITY, "PUT", path, query, headers, date=DATE).headers
    found = verify(headers, method="PUT", path=path, query=query)
    assert found is not None
    assert found.presigned is in_query
    changes: list[tuple[str, bytes, bytes, dict[str, str]]] = [
        ("GET", path, query, headers),
        ("PUT", path + b"x", query, headers),
        ("PUT", path, query + b"&extra", headers),
        ("PUT", path, query, {**headers, "host": "other"}),
        ("PUT", path, query, {**headers, "x-amz-meta-v": value + "x"}),
    ]
    for method, other_path, other_query, other_headers in changes:
        with pytest.raises(AuthError) as caught:
            verify(other_headers, method=method, path=other_path, query=other_query)
        assert caught.value.reason is AuthReason.SIGNATURE_MISMATCH


KEYS = ["k", "a b", "a(1)", "ä/ö", "a+b", "a%b", "x//y", "./z", "~!*'"]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("query", ["", "?list-type=2&prefix=a%2Fb&delimiter=", "?uploads", "?a-b=1&a=2"])
@pytest.mark.parametrize("auth", [S3SigV4Auth, S3SigV4QueryAuth])
def test_botocore_agrees(key: str, query: str, auth: Callable[..., S3SigV4Auth]) -> None:
    url = f"http://127.0.0.1:9000/bucket/{quote(key, safe='/~')}{query}"
    request = AWSRequest("PUT", url, headers={"x-amz-meta-a": "  b   c "}, data=b"")
    auth(Credentials("AKID", "botosecret"), "s3", "eu-west-1").add_auth(request)
    parts = urlsplit(request.url)
    headers = {"host": "127.0.0.1:9000", **dict(request.headers.items())}
    found = SigV4(SECRETS.get).verify(
        "PUT", parts.path.encode(), parts.query.encode(), fields_of(headers), time.time()
    )
    assert found is not None
    assert (found.access_key, found.region) == ("AKID", "eu-west-1")
    assert found.presigned is (auth is S3SigV4QueryAuth)
    identity = SigningIdentity("AKID", "botosecret", "eu-west-1")
    if auth is S3SigV4Auth:  # our signer makes the same signature from the same input
        plain = {"host": "127.0.0.1:9000", "x-amz-meta-a": "  b   c "}
        assert plain.keys() <= {name.lower() for name in headers}
        payload_hash = headers["X-Amz-Content-SHA256"]
        again = sign_headers(identity, "PUT", parts.path.encode(), parts.query.encode(), plain, date=found.date, payload_hash=payload_hash)
        assert again.signature == found.signature


def test_signed_encoded_but_sent_raw() -> None:
    """minio-go signs %28 and sends ( ; the same for a + that stands for a space in a query."""
    headers = signed(path=b"/b/k%281%29", query=b"prefix=a%20b")
    assert verify(headers, path=b"/b/k(1)", query=b"prefix=a+b") is not None
    assert verify(headers, path=b"/b/k%281%29", query=b"prefix=a+b") is not None
    with pytest.raises(AuthError):
        verify(headers, path=b"/b/k(2)", query=b"prefix=a+b")


def test_anonymous_is_none() -> None:
    assert verify({"host": "h"}, query=b"list-type=2&prefix=X-Amz-") is None


def auth_with(old: str, new: str) -> dict[str, str]:
    headers = signed()
    assert old in headers["authorization"]
    headers["authorization"] = headers["authorization"].replace(old, new)
    return headers


def without(name: str) -> dict[str, str]:
    return {key: value for key, value in signed().items() if key != name}


@pytest.mark.parametrize(
    ("headers", "now", "reason"),
    [
        (signed(), NOW + 901, AuthReason.SKEW),
        (signed(), NOW - 901, AuthReason.SKEW),
        (auth_with("AK/with", "UNKNOWN/with"), NOW, AuthReason.ACCESS_KEY_UNKNOWN),
        (auth_with("/20260131/", "/20260130/"), NOW, AuthReason.HEADER_MALFORMED),
        (auth_with("/20260131/", "/2026²131/"), NOW, AuthReason.HEADER_MALFORMED),
        (auth_with("/s3/", "/ec2/"), NOW, AuthReason.HEADER_MALFORMED),
        (auth_with("aws4_request", "aws5_request"), NOW, AuthReason.HEADER_MALFORMED),
        (auth_with("Signature=", "Signature=x"), NOW, AuthReason.HEADER_MALFORMED),
        (auth_with("SignedHeaders=", "Signed="), NOW, AuthReason.HEADER_MALFORMED),
        (auth_with("SignedHeaders=host", "SignedHeaders=Host"), NOW, AuthReason.HEADER_MALFORMED),
        (auth_with("SignedHeaders=host;", "SignedHeaders="), NOW, AuthReason.HEADERS_NOT_SIGNED),
        (auth_with("AWS4-HMAC-SHA256 ", "AWS4-ECDSA-P256-SHA256 "), NOW, AuthReason.UNSUPPORTED),
        ({"host": "h", "authorization": "AWS AK:sig"}, NOW, AuthReason.SIGV2),
        ({"host": "h", "authorization": "Bearer x"}, NOW, AuthReason.SCHEME),
        ({"host": "h", "authorization": ""}, NOW, AuthReason.SCHEME),
        (without("x-amz-content-sha256"), NOW, AuthReason.HEADER_MISSING),
        ({**signed(), "x-amz-date": "yesterday"}, NOW, AuthReason.DATE_MISSING),
        (without("x-amz-date"), NOW, AuthReason.DATE_MISSING),
        ({**signed(), "x-amz-date": "20260131T996199Z"}, NOW, AuthReason.DATE_MISSING),
        ({**signed(), "x-amz-acl": "public-read"}, NOW, AuthReason.HEADERS_NOT_SIGNED),
        ({**signed(), "x-amz-content-sha256": "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD"}, NOW, AuthReason.UNSUPPORTED),
        ({**signed(), "x-amz-content-sha256": "STREAMING-NEW"}, NOW, AuthReason.UNSUPPORTED),
        ({**signed(), "x-amz-content-sha256": "abc"}, NOW, AuthReason.CONTENT_SHA256_INVALID),
    ],
)
def test_header_refusals(headers: dict[str, str], now: float, reason: AuthReason) -> None:
    with pytest.raises(AuthError) as caught:
        verify(headers, now=now)
    assert caught.value.reason is reason, caught.value.message


@pytest.mark.parametrize(
    ("old", "new", "now", "reason"),
    [
        (b"", b"", NOW + 61, AuthReason.EXPIRED),
        (b"", b"", NOW - 1000, AuthReason.NOT_YET_VALID),
        (b"Expires=60", b"Expires=0", NOW, AuthReason.QUERY_MALFORMED),
        (b"Expires=60", b"Expires=604801", NOW, AuthReason.QUERY_MALFORMED),
        (b"Expires=60", b"Expires=-5", NOW, AuthReason.QUERY_MALFORMED),
        (b"Expires=60", b"Expires=61", NOW, AuthReason.SIGNATURE_MISMATCH),
        (b"X-Amz-Expires=60&", b"", NOW, AuthReason.QUERY_MALFORMED),
        (b"X-Amz-Expires=60&", b"X-Amz-Expires=60&X-Amz-Expires=99&", NOW, AuthReason.QUERY_MALFORMED),
        (b"HMAC-SHA256", b"ECDSA-P256-SHA256", NOW, AuthReason.UNSUPPORTED),
        (b"HMAC-SHA256", b"HMAC-SHA1", NOW, AuthReason.QUERY_MALFORMED),
        (b"Date=2026", b"Date=x026", NOW, AuthReason.QUERY_MALFORMED),
        (b"Signature=", b"Signature=z", NOW, AuthReason.QUERY_MALFORMED),
        (b"aws4_request", b"aws4", NOW, AuthReason.QUERY_MALFORMED),
    ],
)
def test_presign_refusals(old: bytes, new: bytes, now: float, reason: AuthReason) -> None:
    query = presign(IDENTITY, "GET", b"/b/k", b"", {"host": "h"}, date=DATE, expires=60)
    assert old in query
    with pytest.raises(AuthError) as caught:
        verify({"host": "h"}, query=query.replace(old, new, 1) if old else query, now=now)
    assert caught.value.reason is reason, caught.value.message


def test_a_presigned_url_does_not_carry_unsigned_amz_headers() -> None:
    query = presign(IDENTITY, "PUT", b"/b/k", b"", {"host": "h"}, date=DATE, expires=60)
    with pytest.raises(AuthError) as caught:
        verify({"host": "h", "x-amz-acl": "public-read"}, method="PUT", query=query)
    assert caught.value.reason is AuthReason.HEADERS_NOT_SIGNED


def test_header_and_query_together_are_refused() -> None:
    query = presign(IDENTITY, "GET", b"/b/k", b"", {"host": "h"}, date=DATE, expires=60)
    with pytest.raises(AuthError) as caught:
        verify(signed(), query=query)
    assert caught.value.reason is AuthReason.SEVERAL


def test_a_region_may_be_required() -> None:
    fields = fields_of(signed())
    assert verifier("us-east-1").verify("GET", b"/b/k", b"", fields, NOW) is not None
    with pytest.raises(AuthError) as caught:
        verifier("eu-central-1").verify("GET", b"/b/k", b"", fields, NOW)
    assert caught.value.reason is AuthReason.REGION
    assert caught.value.fields["region"] == "eu-central-1"


def test_a_mismatch_explains_itself_without_the_right_signature() -> None:
    headers = auth_with("Signature=", "Signature=")
    with pytest.raises(AuthError) as caught:
        verify({**headers, "host": "evil"})
    told = caught.value.fields
    assert told["canonical_request"].startswith("GET\n/b/k\n\nhost:evil\n")
    assert told["string_to_sign"].startswith("AWS4-HMAC-SHA256\n" + DATE)
    assert told["signature"] == headers["authorization"].rpartition("=")[2]
    assert "secret" not in str(told)


def test_a_changed_secret_takes_effect_at_once() -> None:
    secrets = {"AK": "one"}
    checker = SigV4(secrets.get)
    headers = fields_of(sign_headers(SigningIdentity("AK", "one"), "GET", b"/", b"", {"host": "h"}, date=DATE).headers)
    assert checker.verify("GET", b"/", b"", headers, NOW) is not None
    secrets["AK"] = "two"
    with pytest.raises(AuthError):
        checker.verify("GET", b"/", b"", headers, NOW)


def test_the_date_header_serves_without_x_amz_date() -> None:
    headers = signed()
    del headers["x-amz-date"]
    names = "host;x-amz-content-sha256"
    request = f"GET\n/b/k\n\nhost:h:9000\nx-amz-content-sha256:{EMPTY_SHA256}\n\n{names}\n{EMPTY_SHA256}".encode()
    signature = IDENTITY.key(DATE).sign(string_to_sign(DATE, IDENTITY.scope(DATE), request))
    headers["date"] = "Sat, 31 Jan 2026 12:00:00 GMT"
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={IDENTITY.access_key}/{IDENTITY.scope(DATE)}, SignedHeaders={names}, Signature={signature}"
    )
    found = verify(headers)
    assert found is not None
    assert found.date == DATE


@pytest.mark.parametrize(
    ("query", "signed"),
    [
        (b"", b""), (b"delete", b"delete="), (b"delete=", b"delete="), (b"a=b=c", b"a=b=c"), (b"b&a=1", b"a=1&b="), (b"&a&", b"a="),
        (b"X-Amz-Signature=ab", b""), (b"X-Amz-Signature", b""), (b"X-Amz-SignatureX=1", b"X-Amz-SignatureX=1"),
        (b"a=1&X-Amz-Signature=ab", b"a=1"),
    ],
)
def test_a_query_as_it_is_signed(query: bytes, signed: bytes) -> None:
    assert query_as_sent(query, b"X-Amz-Signature") == signed
