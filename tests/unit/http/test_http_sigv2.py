"""Signature Version 2: AWS's examples and botocore's signers verify, every change is noticed, every refusal has its reason."""

from __future__ import annotations

import calendar
import time
from email.utils import formatdate
from urllib.parse import quote, urlsplit

import pytest
from botocore.auth import HmacV1Auth, HmacV1QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given, settings
from hypothesis import strategies as st

from titans3.http import sigv2
from titans3.http.authentication import AuthError, AuthReason, PayloadMode, Verified

ACCESS_KEY = "AKIAIOSFODNN7EXAMPLE"
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
CREDENTIALS = Credentials(ACCESS_KEY, SECRET)
NOW = float(calendar.timegm((2007, 3, 27, 19, 40, 0)))


def fields_of(headers: dict[str, str]) -> dict[bytes, bytes]:
    return {name.lower().encode(): value.encode("latin-1") for name, value in headers.items()}


def verify(
    method: str, target: str, headers: dict[str, str], *, now: float = NOW, host_bucket: str = "", secret: str | None = SECRET
) -> Verified | None:
    path, _, query = target.encode().partition(b"?")
    fields = fields_of(headers)
    claim = sigv2.claim(query, fields, now)
    return None if claim is None else sigv2.check(claim, secret, method, path, query, fields, host_bucket)


def refused(method: str, target: str, headers: dict[str, str], **options: object) -> AuthError:
    with pytest.raises(AuthError) as caught:
        verify(method, target, headers, **options)  # type: ignore[arg-type]
    return caught.value


# The examples of "Signing and authenticating REST requests": method, target, headers, host bucket, moment.
EXAMPLES = [
    ("GET", "/photos/puppy.jpg", {"Date": "Tue, 27 Mar 2007 19:36:42 +0000"}, "bWq2s1WEIj+Ydj0vQ697zp+IXMU=", "johnsmith"),
    (
        "PUT", "/photos/puppy.jpg", {"Content-Type": "image/jpeg", "Content-Length": "94328", "Date": "Tue, 27 Mar 2007 21:15:45 +0000"},
        "MyyxeRY7whkBe+bq8fHCL/2kKUg=", "johnsmith",
    ),
    (
        "GET", "/?prefix=photos&max-keys=50&marker=puppy", {"Date": "Tue, 27 Mar 2007 19:42:41 +0000", "User-Agent": "Mozilla/5.0"},
        "htDYFYduRNen8P9ZfE/s9SuKy0U=", "johnsmith",
    ),
    ("GET", "/?acl", {"Date": "Tue, 27 Mar 2007 19:44:46 +0000"}, "c2WLPFtWHVgbEmeEG93a4cG37dM=", "johnsmith"),
    (
        "DELETE", "/awsexamplebucket1/photos/puppy.jpg",
        {"User-Agent": "dotnet", "Date": "Tue, 27 Mar 2007 21:20:27 +0000", "x-amz-date": "Tue, 27 Mar 2007 21:20:26 +0000"},
        None, "",
    ),
    ("GET", "/", {"Date": "Wed, 28 Mar 2007 01:29:59 +0000"}, "qGdzdERIC03wnaRNKh6OqZehG9s=", ""),
    (
        "GET", "/dictionary/fran%C3%A7ais/pr%c3%a9f%c3%a8re", {"Date": "Wed, 28 Mar 2007 01:49:49 +0000"},
        "DNEZGsoieTZ92F3bUfSPQcbGmlM=", "",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("method", "target", "headers", "signature", "bucket"), [row for row in EXAMPLES if row[3]])
def test_the_examples_of_the_aws_documentation(method: str, target: str, headers: dict[str, str], signature: str, bucket: str) -> None:
    moment = calendar.timegm(time.strptime(headers["Date"], "%a, %d %b %Y %H:%M:%S +0000"))
    found = verify(method, target, {**headers, "Authorization": f"AWS {ACCESS_KEY}:{signature}"}, now=moment + 5, host_bucket=bucket)
    assert found is not None
    assert (found.access_key, found.payload, found.presigned) == (ACCESS_KEY, PayloadMode.UNSIGNED, False)


def test_x_amz_date_takes_the_place_of_date() -> None:
    method, target, headers, _, bucket = EXAMPLES[4]
    moment = calendar.timegm((2007, 3, 27, 21, 20, 26))
    text = f"DELETE\n\n\n\nx-amz-date:{headers['x-amz-date']}\n/awsexamplebucket1/photos/puppy.jpg"
    signature = sigv2.sign(SECRET, text.encode()).decode()
    assert verify(method, target, {**headers, "Authorization": f"AWS {ACCESS_KEY}:{signature}"}, now=moment, host_bucket=bucket) is not None
    late = {**headers, "x-amz-date": "Tue, 27 Mar 2007 23:20:26 +0000", "Authorization": f"AWS {ACCESS_KEY}:{signature}"}
    assert refused(method, target, late, now=moment).reason is AuthReason.SKEW


KEYS = ["k", "a b", "a(1)", "ä/ö", "a+b", "a%b", "x//y", "./z", "~!*'"]
QUERIES = [
    "", "?prefix=a%2Fb&delimiter=", "?uploads", "?uploadId=a%2Bb&partNumber=7", "?versionId=null&acl", "?tagging=", "?delete",
    "?response-content-type=text%2Fplain%3B%20a%3D1&response-expires=now", "?list-type=2&prefix=x", "?object-lock", "?retention",
]  # fmt: skip


def signed_by_botocore(kind: type[HmacV1Auth], method: str, url: str, headers: dict[str, str]) -> tuple[str, dict[str, str]]:
    """(target, headers to send) with Date in the request's own spelling."""
    request = AWSRequest(method, url, headers=headers, data=b"")
    kind(CREDENTIALS).add_auth(request)
    parts = urlsplit(request.url)
    sent = {name: request.headers[name] for name in request.headers}
    return parts.path + ("?" + parts.query if parts.query else ""), {"Host": "h:9000", **sent}


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("query", QUERIES)
def test_botocore_headers_verify(key: str, query: str) -> None:
    url = f"http://h:9000/bucket/{quote(key, safe='/~')}{query}"
    headers = {"x-amz-meta-b": "  two  ", "x-amz-meta-a": "1", "Content-Type": "text/plain", "Content-MD5": "AAAAAAAAAAAAAAAAAAAAAA=="}
    target, sent = signed_by_botocore(HmacV1Auth, "PUT", url, headers)
    found = verify("PUT", target, sent, now=time.time())
    assert found is not None
    assert not found.presigned
    for name in ("x-amz-meta-a", "Content-Type", "Content-MD5"):
        assert refused("PUT", target, {**sent, name: "other"}, now=time.time()).reason is AuthReason.SIGNATURE_MISMATCH
    assert refused("PUT", target, {**sent, "x-amz-acl": "public-read"}, now=time.time()).reason is AuthReason.SIGNATURE_MISMATCH
    assert refused("GET", target, sent, now=time.time()).reason is AuthReason.SIGNATURE_MISMATCH
    assert refused("PUT", target.replace("/bucket/", "/other/"), sent, now=time.time()).reason is AuthReason.SIGNATURE_MISMATCH


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("query", [item for item in QUERIES if item != "?retention"])
def test_botocore_queries_verify(key: str, query: str) -> None:
    url = f"http://h:9000/bucket/{quote(key, safe='/~')}{query}"
    target, _ = signed_by_botocore(HmacV1QueryAuth, "GET", url, {"x-amz-meta-a": "1 + 2", "Content-Type": "text/plain"})
    assert "content-type=text%2Fplain" in target
    found = verify("GET", target, {"host": "h:9000"}, now=time.time())
    assert found is not None
    assert found.presigned
    assert verify("GET", target, {"host": "h:9000", "content-type": "text/plain"}, now=time.time()) is not None
    bad = refused("GET", target, {"host": "h:9000", "content-type": "text/html"}, now=time.time())
    assert bad.reason is AuthReason.SIGNATURE_MISMATCH
    assert refused("GET", target.replace("meta-a=1", "meta-a=2"), {"host": "h"}, now=time.time()).reason is AuthReason.SIGNATURE_MISMATCH


@pytest.mark.parametrize("name", sorted(name.decode() for name in sigv2.SUBRESOURCES))
def test_nobody_adds_a_sub_resource_to_a_signed_query(name: str) -> None:
    """Else a URL for storing an object would also set its retention."""
    target, _ = signed_by_botocore(HmacV1QueryAuth, "PUT", "http://h:9000/bucket/key", {})
    assert verify("PUT", target, {"host": "h"}, now=time.time()) is not None
    for more in (f"{target}&{name}", f"{target}&{name}=x"):
        assert refused("PUT", more, {"host": "h"}, now=time.time()).reason is AuthReason.SIGNATURE_MISMATCH


def test_a_bucket_may_be_signed_with_its_slash() -> None:
    """As clients do that sign one resource for both styles of address."""
    date = formatdate(NOW, usegmt=True)
    signature = sigv2.sign(SECRET, f"GET\n\n\n{date}\n/bucket/".encode()).decode()
    headers = {"date": date, "authorization": f"AWS {ACCESS_KEY}:{signature}"}
    assert verify("GET", "/bucket", headers) is not None
    assert verify("GET", "/", headers, host_bucket="bucket") is not None
    assert refused("GET", "/other", headers).reason is AuthReason.SIGNATURE_MISMATCH


def test_what_a_mismatch_shows() -> None:
    date = formatdate(NOW, usegmt=True)
    error = refused("GET", "/b/k?acl", {"date": date, "x-amz-meta-a": "1", "authorization": f"AWS {ACCESS_KEY}:bad="})
    assert error.fields == {
        "access_key": ACCESS_KEY, "signature": "bad=", "string_to_sign": f"GET\n\n\n{date}\nx-amz-meta-a:1\n/b/k?acl",
    }  # fmt: skip
    assert refused("GET", "/b/k", {"date": date, "authorization": f"AWS {ACCESS_KEY}:\xe4\xf6"}).reason is AuthReason.SIGNATURE_MISMATCH
    unknown = refused("GET", "/b/k", {"date": date, "authorization": f"AWS {ACCESS_KEY}:bad="}, secret=None)
    assert (unknown.reason, unknown.fields) == (AuthReason.ACCESS_KEY_UNKNOWN, {"access_key": ACCESS_KEY})


GOOD_DATE = {"date": formatdate(NOW, usegmt=True)}
GOOD_QUERY = f"/b/k?AWSAccessKeyId={ACCESS_KEY}&Expires={int(NOW) + 9}&Signature=c2ln"


@pytest.mark.parametrize(
    ("target", "headers", "reason"),
    [
        ("/b/k", {"authorization": "AWS nothing", **GOOD_DATE}, AuthReason.HEADER_V2_MALFORMED),
        ("/b/k", {"authorization": "AWS :sig", **GOOD_DATE}, AuthReason.HEADER_V2_MALFORMED),
        ("/b/k", {"authorization": "AWS key:", **GOOD_DATE}, AuthReason.HEADER_V2_MALFORMED),
        ("/b/k", {"authorization": "AWS key:sig"}, AuthReason.DATE_MISSING),
        ("/b/k", {"authorization": "AWS key:sig", "date": ""}, AuthReason.DATE_MISSING),
        ("/b/k", {"authorization": "AWS key:sig", "date": "Bad Date"}, AuthReason.DATE_MISSING),
        ("/b/k", {"authorization": "AWS key:sig", "x-amz-date": "\x07", **GOOD_DATE}, AuthReason.DATE_MISSING),
        ("/b/k", {"authorization": "AWS key:sig", "date": "Tue, 07 Jul 9999 21:53:04 -2359"}, AuthReason.SKEW),
        ("/b/k", {"authorization": "AWS key:sig", "date": formatdate(NOW - 901, usegmt=True)}, AuthReason.SKEW),
        ("/b/k", {"authorization": "AWS key:sig", "date": formatdate(NOW + 901, usegmt=True)}, AuthReason.SKEW),
        ("/b/k", {"authorization": "AWS key:sig", "x-amz-date": "20070327T120000Z"}, AuthReason.SKEW),
        (GOOD_QUERY, {"authorization": "AWS key:sig", **GOOD_DATE}, AuthReason.SEVERAL),
        (GOOD_QUERY, {}, AuthReason.SIGNATURE_MISMATCH),
        (GOOD_QUERY.replace("Signature=", "Sig="), {}, AuthReason.QUERY_V2_MALFORMED),
        (GOOD_QUERY.replace("Expires=", "Exp="), {}, AuthReason.QUERY_V2_MALFORMED),
        (GOOD_QUERY.replace("Expires=", "Expires=x"), {}, AuthReason.QUERY_V2_MALFORMED),
        (GOOD_QUERY.replace("Expires=", "Expires=-"), {}, AuthReason.QUERY_V2_MALFORMED),
        (GOOD_QUERY.replace("Expires=", "Expires=" + "9" * 30), {}, AuthReason.QUERY_V2_MALFORMED),
        (GOOD_QUERY.replace(str(int(NOW) + 9), str(int(NOW) - 1)), {}, AuthReason.EXPIRED),
    ],
)
def test_refusals(target: str, headers: dict[str, str], reason: AuthReason) -> None:
    assert refused("GET", target, headers).reason is reason


def test_the_edges_of_skew_and_expiry() -> None:
    for moved in (-900, 0, 900):
        assert refused("GET", "/b/k", {"authorization": "AWS k:s", "date": formatdate(NOW + moved, usegmt=True)}).reason is (
            AuthReason.SIGNATURE_MISMATCH
        )
    expired = refused("GET", GOOD_QUERY, {}, now=NOW + 10)
    assert expired.fields == {"expires": "2007-03-27T19:40:09Z", "server_time": "2007-03-27T19:40:10Z"}
    assert expired.message == "Request has expired"


def test_what_is_not_version_2() -> None:
    assert verify("GET", "/b/k", {"host": "h"}) is None
    assert verify("GET", "/b/k?prefix=Signature=", {"authorization": "Bearer x"}) is None


@pytest.mark.parametrize(
    ("word", "mode"),
    [
        ("UNSIGNED-PAYLOAD", PayloadMode.UNSIGNED),
        ("STREAMING-UNSIGNED-PAYLOAD-TRAILER", PayloadMode.UNSIGNED_TRAILER),
        ("0" * 64, PayloadMode.HASHED),
        ("nonsense", PayloadMode.UNSIGNED),
        ("STREAMING-AWS4-HMAC-SHA256-PAYLOAD", None),
        ("STREAMING-SOMETHING", None),
    ],
)
def test_how_the_body_is_read(word: str, mode: PayloadMode | None) -> None:
    """Framing is never taken for data."""
    url = "http://h:9000/bucket/key"
    target, sent = signed_by_botocore(HmacV1Auth, "PUT", url, {"x-amz-content-sha256": word})
    if mode is None:
        assert refused("PUT", target, sent, now=time.time()).reason is AuthReason.UNSUPPORTED
    else:
        found = verify("PUT", target, sent, now=time.time())
        assert found is not None
        assert found.payload is mode


@given(
    st.binary(max_size=200),
    st.binary(max_size=200),
    st.dictionaries(st.sampled_from([b"authorization", b"date", b"x-amz-date"]), st.binary(max_size=60)),
)
@settings(max_examples=300, deadline=None)
def test_anything_is_accepted_or_the_named_error(path: bytes, query: bytes, fields: dict[bytes, bytes]) -> None:
    if b"authorization" in fields:
        fields[b"authorization"] = b"AWS " + fields[b"authorization"]
    for text in (query, b"AWSAccessKeyId=a&Expires=99999999999&Signature=" + query):
        try:
            claim = sigv2.claim(text, fields, NOW)
            if claim is not None:
                sigv2.check(claim, SECRET, "GET", b"/" + path, text, fields, "")
        except AuthError:
            continue
