"""The schema as a list of keys, and where the values of a configuration came from."""

from __future__ import annotations

from functools import cache
from typing import Any, get_type_hints

import msgspec

from titans3.config.quantity import show_bytes, show_seconds
from titans3.config.schema import Config

PREFIX = "TITANS3_"


class Key(msgspec.Struct, frozen=True):
    """A configuration key: its type without metadata, its default, and its metadata as ``schema`` explains it."""

    section: str
    name: str
    type: Any
    default: object
    unit: str = ""
    auto: bool = False
    live: bool = False
    secret: bool = False
    flag: str = ""
    least: float | None = None
    most: float | None = None

    @property
    def path(self) -> str:
        """``s3.region``."""
        return f"{self.section}.{self.name}"

    @property
    def variable(self) -> str:
        """``TITANS3_S3__REGION``."""
        return f"{PREFIX}{self.section.upper()}__{self.name.upper()}"

    def show(self, value: Any) -> str:
        """A value of this key as TOML; of a secret one only whether it is set."""
        if self.secret and value:
            return '"***"'
        if self.auto and value == -1:
            return '"auto"'
        if self.unit == "bytes":
            return f'"{show_bytes(value)}"'
        if self.unit == "seconds":
            return f'"{show_seconds(value)}"'
        return _toml(value)

    def bound(self, value: float) -> str:
        """``least`` or ``most`` for people."""
        if self.unit == "bytes":
            return show_bytes(int(value))
        return show_seconds(value) if self.unit == "seconds" else f"{value:,}"


class Origins(msgspec.Struct):
    """Where each value that is not a default came from, by key path."""

    by_path: dict[str, str] = {}

    def of(self, path: str) -> str:
        """File name, environment variable, option, or ``default``."""
        return self.by_path.get(path, "default")


@cache
def keys() -> tuple[Key, ...]:
    """All keys in the order of the schema."""
    found = []
    for section, kind in get_type_hints(Config).items():
        hints = get_type_hints(kind, include_extras=True)
        for field in msgspec.structs.fields(kind):
            hint = hints[field.name]
            extra: dict[str, Any] = {}
            if hasattr(hint, "__metadata__"):
                for meta in hint.__metadata__:
                    extra.update(meta.extra)
                hint = hint.__origin__
            found.append(Key(section, field.name, hint, field.default, **extra))
    return tuple(found)


def by_path() -> dict[str, Key]:
    """Keys by ``section.name``."""
    return {key.path: key for key in keys()}


def show(config: Config, origins: Origins) -> str:
    """The configuration as TOML, each value's origin as a comment; loading it gives the same configuration, but for secrets."""
    lines: list[str] = []
    section = ""
    for key in keys():
        if key.section != section:
            section = key.section
            lines += [""] * bool(lines) + [f"[{section}]"]
        value = getattr(getattr(config, key.section), key.name)
        hidden = "# " if key.secret and value else ""  # so that what is printed can be loaded
        lines.append(f"{hidden}{key.name} = {key.show(value)}  # {_printable(origins.of(key.path))}")
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + "".join(_escape(char) for char in value) + '"'
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return str(value)


def _escape(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    return char if char.isprintable() else f"\\U{ord(char):08x}"


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)
