"""Sizes and durations as people write them: ``64MiB``, ``1.5 GB``, ``250ms``, ``2m``. Pure.

Invariants
* A bare number is bytes or seconds. ``KiB`` is 1,024 bytes, ``kB`` 1,000; both are taken at their word.
* A size is a whole number of bytes or it is refused.
* What ``show_…`` writes, ``parse_…`` reads back as the same number.
"""

from __future__ import annotations

import re
from decimal import Context, Decimal

_SHAPE = re.compile(r"([0-9]{1,20}(?:\.[0-9]{1,400})?)\s*([A-Za-z]*)", re.ASCII)
_multiply = Context(prec=500).multiply  # exact for everything that _SHAPE takes
_BYTES = {
    "": 1, "b": 1,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40,
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
}  # fmt: skip
_SECONDS = {
    unit: Decimal(text) for unit, text in {"": "1", "s": "1", "ms": "0.001", "m": "60", "min": "60", "h": "3600", "d": "86400"}.items()
}


def parse_bytes(text: str) -> int:
    """Bytes of ``64MiB``, ``64M``, ``64MB`` or ``67108864``. Raises ValueError with what was expected."""
    number, unit = _split(text, _BYTES, "a size such as 64MiB")
    value = _multiply(number, Decimal(_BYTES[unit]))
    if value != int(value):
        raise ValueError(f"{text!r} is not a whole number of bytes")
    return int(value)


def parse_seconds(text: str) -> float:
    """Seconds of ``5s``, ``250ms``, ``2m``, ``1h`` or ``5``. Raises ValueError with what was expected."""
    number, unit = _split(text, _SECONDS, "a duration such as 5s")
    return float(_multiply(number, _SECONDS[unit]))


def _split(text: str, units: dict[str, int] | dict[str, Decimal], expected: str) -> tuple[Decimal, str]:
    match = _SHAPE.fullmatch(text.strip())
    if match is None or match[2].lower() not in units:
        raise ValueError(f"{text!r} is not {expected}")
    return Decimal(match[1]), match[2].lower()


def show_bytes(value: int) -> str:
    """The shortest exact way to write a size: ``64MiB``, ``1000``."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        size = _BYTES[unit.lower()]
        if value >= size and value % size == 0:
            return f"{value // size}{unit}"
    return str(value)


def show_seconds(value: float) -> str:
    """``30s``, ``0.5s``, exact."""
    text = format(Decimal(repr(value)), "f")
    return f"{text.removesuffix('.0')}s"
