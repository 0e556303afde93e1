"""What the options of the benchmarks' commands may say. ArgumentTypeError tells what is meant."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable


def names(known: tuple[str, ...]) -> Callable[[str], list[str]]:
    """Some of those that are known."""

    def listed(text: str) -> list[str]:
        found = [part.strip() for part in text.lower().split(",") if part.strip()]
        if not found or not {*found} <= {*known}:
            raise argparse.ArgumentTypeError(f"of {','.join(known)}")
        return found

    return listed


def counts(text: str) -> list[int]:
    """10k,1m,500: thousands and millions."""
    if not re.fullmatch(r"[1-9]\d{0,8}[km]?(,[1-9]\d{0,8}[km]?)*", text):
        raise argparse.ArgumentTypeError("numbers, comma-separated, of thousands and millions: 10k,1m,10m")
    return [int(part.rstrip("km")) * {"k": 1_000, "m": 1_000_000}.get(part[-1], 1) for part in text.split(",")]


def sizes(text: str) -> list[str]:
    """1k,64k,1m,5g, of which a body of at most 5 GiB can be put at once."""
    found = text.lower().split(",")
    if not all(re.fullmatch(r"[1-9]\d{0,3}[kmg]", part) for part in found):
        raise argparse.ArgumentTypeError("sizes, comma-separated: 1k,64k,1m,5g")
    return found


def numbers(text: str) -> list[int]:
    """1,16,64"""
    if not re.fullmatch(r"[1-9]\d{0,4}(,[1-9]\d{0,4})*", text):
        raise argparse.ArgumentTypeError("numbers, comma-separated: 1,16,64")
    return [int(part) for part in text.split(",")]


def cpus(text: str) -> frozenset[int]:
    """0,1"""
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise argparse.ArgumentTypeError("processors, comma-separated: 0,1")
    return frozenset(int(part) for part in text.split(","))


def seconds(text: str) -> float:
    """20, 5s or 1m."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m|)", text)
    if not found or not float(found.group(1)):
        raise argparse.ArgumentTypeError("5s, 1m")
    return float(found.group(1)) * (60 if found.group(2) == "m" else 1)
