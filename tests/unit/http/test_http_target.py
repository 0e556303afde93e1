"""What of a target is shown: never what proves who asks, in whatever spelling."""

from __future__ import annotations

import pytest

from titans3.http.target import hidden


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        (b"/b/k", b"/b/k"),
        (b"/b/Signature=x", b"/b/Signature=x"),
        (b"/b?list-type=2&prefix=a%2Fb&delimiter=", b"/b?list-type=2&prefix=a%2Fb&delimiter="),
        (b"/b/k?X-Amz-Date=1&X-Amz-Signature=abc&x=1", b"/b/k?X-Amz-Date=1&X-Amz-Signature=...&x=1"),
        (b"/b/k?x-AMZ-security-TOKEN=abc%2F+", b"/b/k?x-AMZ-security-TOKEN=..."),
        (b"/b/k?X-Amz-Credential=AKIA/2026", b"/b/k?X-Amz-Credential=..."),
        (b"/b/k?AWSAccessKeyId=A&Expires=1&Signature=a%3D", b"/b/k?AWSAccessKeyId=...&Expires=1&Signature=..."),
        (b"/b/k?X-Amz-%53ignature=abc&a=1", b"/b/k?X-Amz-%53ignature=...&a=1"),
        (b"/b/k?%58%2Damz-signature=abc", b"/b/k?%58%2Damz-signature=..."),
        (b"/b/k?a%62=1&%73ignature=2&signature=3", b"/b/k?a%62=1&%73ignature=...&signature=..."),
        (b"/b/k?a%zz=1&b%ff=2", b"/b/k?a%zz=1&b%ff=2"),
        (b"/?Action=ChangePassword&OldPassword=a&NewPassword=b", b"/?Action=ChangePassword&OldPassword=...&NewPassword=..."),
        (b"/?WebIdentityToken=a.b.c&RoleArn=r", b"/?WebIdentityToken=...&RoleArn=r"),
        (b"/b/k?x-amz-server-side-encryption-customer-key=a&x-amz-server-side-encryption-customer-key-MD5=b",
         b"/b/k?x-amz-server-side-encryption-customer-key=...&x-amz-server-side-encryption-customer-key-MD5=b"),
        (b"/?x-amz-copy-source-server-side-encryption-customer-key=a", b"/?x-amz-copy-source-server-side-encryption-customer-key=..."),
        (b"https://h/b/k?Signature=a#signature=b", b"https://h/b/k?Signature=...#signature=b"),
        (b"/b?continuation-token=kept&notsignature=kept", b"/b?continuation-token=kept&notsignature=kept"),
        (b"/b?signature", b"/b?signature"),
    ],
)  # fmt: skip
def test_values_that_prove_who_asks_are_hidden_and_others_are_not(target: bytes, shown: bytes) -> None:
    assert hidden(target) == shown


def test_it_takes_time_in_proportion_to_the_target() -> None:
    import time

    for text in (b"/b?" + b"%" * 16_000, b"/b?" + b"&" * 16_000, b"/b?" + b"%41&" * 4_000, b"/b?" + b"signature=&" * 1_500):
        begin = time.perf_counter()
        hidden(text)
        assert time.perf_counter() - begin < 0.5
