"""Sizes, times and durations as people write and read them."""

from __future__ import annotations

import re

import click

_UNITS = {
    "": 1, "b": 1, "k": 1000, "kb": 1000, "kib": 1024, "m": 1000**2, "mb": 1000**2, "mib": 1024**2, "g": 1000**3, "gb": 1000**3,
    "gib": 1024**3, "t": 1000**4, "tb": 1000**4, "tib": 1024**4, "p": 1000**5, "pb": 1000**5, "pib": 1024**5,
}  # fmt: skip
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


class Size(click.ParamType[int]):
    """``10GiB``, ``500MB``, ``1000``: bytes."""

    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]*)", str(value).strip())
        if found is None or found[2].lower() not in _UNITS:
            self.fail(f"{value} is no size, as 10GiB or 500MB", param, ctx)
        return int(float(found[1]) * _UNITS[found[2].lower()])


class Duration(click.ParamType[int]):
    """``15m``, ``12h``, ``7d``: seconds."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"([0-9]+) ?([smhdw]?)", str(value).strip().lower())
        if found is None:
            self.fail(f"{value} is no duration, as 15m, 12h or 7d", param, ctx)
        return int(found[1]) * _SECONDS[found[2]]


SIZE, DURATION = Size(), Duration()


def shown_size(count: int) -> str:
    """``0 B``, ``1.5 GiB``."""
    value, units = float(count), ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
    unit = 0
    while value >= 1024 and unit < len(units) - 1:
        value, unit = value / 1024, unit + 1
    return f"{count} B" if unit == 0 else f"{value:.1f} {units[unit]}"


def shown_seconds(seconds: int) -> str:
    """``3 days 4 h``, ``5 min``."""
    days, rest = divmod(seconds, 86_400)
    hours, rest = divmod(rest, 3600)
    minutes, left = divmod(rest, 60)
    if days:
        return f"{days} day{'s' * (days != 1)} {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{left} s"
