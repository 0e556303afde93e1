"""Sizes, durations and addresses as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from titans3.config.address import Address, parse_address, parse_network
from titans3.config.quantity import parse_bytes, parse_seconds, show_bytes, show_seconds


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0), ("64MiB", 64 << 20), ("64 mib", 64 << 20), ("64M", 64 << 20), ("64MB", 64_000_000), ("1.5GiB", 3 << 29), (" 7 ", 7),
        ("0.1GB", 100_000_000), ("1kB", 1000), ("1KiB", 1024), ("2T", 2 << 40), ("5b", 5), ("18446744073709551615", 2**64 - 1),
        ("9007199254740993", 2**53 + 1),
    ],
)  # fmt: skip
def test_sizes(text: str, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "MiB", "-1", "1e3", "1,5MiB", "0x10", "1.MiB", ".5MiB", "5 m i b", "1s", "٣", "5mïb", "9" * 50, "0.5", "1.0000001kB"],
)
def test_sizes_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a (size such as 64MiB|whole number of bytes)"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("5", 5.0), ("5s", 5.0), ("250ms", 0.25), ("2m", 120.0), ("2min", 120.0), ("1.5h", 5400.0), ("1d", 86_400.0), ("0.3", 0.3)],
)
def test_durations(text: str, expected: float) -> None:
    assert parse_seconds(text) == expected


@pytest.mark.parametrize("text", ["", "s", "-5s", "5 sec", "1h30m", "inf", "nan", "1e3", "5MiB"])
def test_durations_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration such as 5s"):
        parse_seconds(text)


@given(st.integers(0, 2**63))
def test_a_size_that_was_shown_reads_back(value: int) -> None:
    assert parse_bytes(show_bytes(value)) == value
    assert parse_bytes(show_bytes(value << 20 & (2**63 - 1))) == value << 20 & (2**63 - 1)


@given(st.floats(0, 1e9))
def test_a_duration_that_was_shown_reads_back(value: float) -> None:
    assert parse_seconds(show_seconds(value)) == value


def test_shown_short() -> None:
    assert [show_bytes(value) for value in (0, 1000, 1024, 64 << 20, 3 << 40)] == ["0", "1000", "1KiB", "64MiB", "3TiB"]
    assert [show_seconds(value) for value in (0.0, 30.0, 0.5, 86_400.0)] == ["0s", "30s", "0.5s", "86400s"]


@pytest.mark.parametrize(
    ("text", "expected", "shown", "loopback"),
    [
        ("127.0.0.1:9000", Address("127.0.0.1", 9000), "127.0.0.1:9000", True),
        ("localhost:0", Address("localhost", 0), "localhost:0", True),
        ("[::1]:80", Address("::1", 80), "[::1]:80", True),
        ("[0:0::1]:80", Address("::1", 80), "[::1]:80", True),
        ("[::]:9000", Address("::", 9000), "[::]:9000", False),
        ("[fe80::1%eth0]:9000", Address("fe80::1%eth0", 9000), "[fe80::1%eth0]:9000", False),
        ("0.0.0.0:9000", Address("0.0.0.0", 9000), "0.0.0.0:9000", False),
        ("s3.example.org:443", Address("s3.example.org", 443), "s3.example.org:443", False),
        ("127.8.9.1:1", Address("127.8.9.1", 1), "127.8.9.1:1", True),
    ],
)
def test_addresses(text: str, expected: Address, shown: str, loopback: bool) -> None:
    address = parse_address(text)
    assert (address, str(address), address.is_loopback) == (expected, shown, loopback)


@pytest.mark.parametrize(
    "text",
    ["", ":", "h", "h:", ":80", "h:x", "h:٣", "::1:80", "[::1]", "[]:80", "[h]:80", "-h:1", "h-:1", "1.2.3:4", "h:99999", "h_:1"],
)
def test_addresses_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_address(text)


def test_networks() -> None:
    given_texts = ("10.0.0.0/8", "10.1.2.3", "::1", "fd00::/8")
    assert [parse_network(text) for text in given_texts] == ["10.0.0.0/8", "10.1.2.3/32", "::1/128", "fd00::/8"]
    for text in ("10.0.0.1/8", "proxy", ""):
        with pytest.raises(ValueError, match="is not an address or network"):
            parse_network(text)
