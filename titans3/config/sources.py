"""From file, environment and command line to one checked :class:`Config`.

Invariants
* Precedence: command line over environment over file over default, key by key. Lists are replaced, not joined.
* A refusal names where the value came from, the key's path, what was expected, and the nearest key for a typing error.
* ``TITANS3_SECTION__KEY`` (two underscores) are configuration; other ``TITANS3_…`` variables are not.
* Nothing is changed on the machine here; certificate files are looked at, not loaded.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from titans3.config.address import parse_address, parse_network
from titans3.config.quantity import parse_bytes, parse_seconds
from titans3.config.schema import Config
from titans3.errors import ConfigError

Raw = dict[str, dict[str, object]]
PREFIX = "TITANS3_"
_BUCKET_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_DOMAIN = re.compile(r"[a-z0-9]([a-z0-9.-]{0,200}[a-z0-9])?")


class Key(msgspec.Struct, frozen=True):
    """A configuration key: its type without metadata, and its metadata."""

    section: str
    name: str
    type: Any
    default: object
    unit: str = ""
    auto: bool = False
    live: bool = False

    @property
    def path(self) -> str:
        return f"{self.section}.{self.name}"

    @property
    def variable(self) -> str:
        return f"{PREFIX}{self.section.upper()}__{self.name.upper()}"


class Origins(msgspec.Struct):
    """Where each value that is not a default came from, by key path."""

    by_path: dict[str, str] = {}

    def of(self, path: str) -> str:
        return self.by_path.get(path, "default")


def keys() -> list[Key]:
    """All keys in the order of the schema."""
    found = []
    sections = get_type_hints(Config)
    for section, kind in sections.items():
        hints = get_type_hints(kind, include_extras=True)
        for field in msgspec.structs.fields(kind):
            kind_of = hints[field.name]
            extra: dict[str, Any] = {}
            for meta in getattr(kind_of, "__metadata__", ()):
                extra.update(meta.extra or {})
            found.append(Key(section, field.name, getattr(kind_of, "__origin__", kind_of)
                             if hasattr(kind_of, "__metadata__") else kind_of, field.default, **extra))
    return found


def load(
    file: str | None, *, environment: Mapping[str, str] | None = None, flags: Raw | None = None
) -> tuple[Config, Origins]:
    """The configuration and where its values came from. Raises ConfigError."""
    environment = os.environ if environment is None else environment
    merged: Raw = {}
    origins = Origins()
    if file is not None:
        _merge(merged, origins, _read_file(file), file)
    for name, section, key, value in _from_environment(environment):
        _merge(merged, origins, {section: {key: value}}, name)
    _merge(merged, origins, flags or {}, "command line")
    config = _convert(merged, origins)
    check(config, origins)
    return config, origins


def _merge(merged: Raw, origins: Origins, raw: Raw, origin: str) -> None:
    known = {key.path: key for key in keys()}
    for section, values in raw.items():
        for name, value in values.items():
            path = f"{section}.{name}"
            key = known.get(path)
            if key is None:
                raise ConfigError(f"{origin}: {path} is not a key{_suggest(path, list(known))}")
            merged.setdefault(section, {})[name] = _parse(key, value, origin)
            origins.by_path[path] = origin


def _suggest(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, 1, 0.6)
    if not near and "." in word:  # the right name in the wrong section
        name = word.split(".", 1)[1]
        near = [path for path in known if path.split(".", 1)[1] == name][:1]
    return f"; did you mean {near[0]}?" if near else f"; `titans3 config show` lists all {len(known)}"


def _read_file(file: str) -> Raw:
    try:
        with open(file, "rb") as stream:
            raw = tomllib.load(stream)
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not TOML: {error}") from error
    sections = list(get_type_hints(Config))
    for name, value in raw.items():
        if name not in sections:
            near = [key.path for key in keys() if key.name == name]
            hint = f"; did you mean {near[0]}?" if near and not isinstance(value, dict) else _suggest(name, sections)
            raise ConfigError(f"{file}: {name} is not a section{hint}")
        if not isinstance(value, dict):
            raise ConfigError(f"{file}: {name} is a section: write [{name}]")
    return raw


def _from_environment(environment: Mapping[str, str]) -> list[tuple[str, str, str, str]]:
    """(variable, section, key, text) of each configuration variable. Raises ConfigError for one that names no key."""
    known = {key.variable: key for key in keys()}
    found = []
    for name, value in environment.items():
        if not name.startswith(PREFIX) or "__" not in name:
            continue
        key = known.get(name)
        if key is None:
            raise ConfigError(f"environment: {name} names no key{_suggest(name, list(known))}")
        found.append((name, key.section, key.name, value))
    return found


def _parse(key: Key, value: object, origin: str) -> object:
    """Text of the environment, sizes and durations to what the schema takes; all else as it is."""
    try:
        if isinstance(value, str):
            if key.auto and value == "auto":
                return -1
            if key.unit:
                return parse_bytes(value) if key.unit == "bytes" else parse_seconds(value)
            if key.type is int and origin == key.variable:
                return int(value)
            if get_origin(key.type) is tuple:
                return [part.strip() for part in value.split(",") if part.strip()] if origin == key.variable else [value]
    except ValueError as error:
        raise ConfigError(f"{origin}: {key.path}: {error}") from None
    return value


def _convert(merged: Raw, origins: Origins) -> Config:
    try:
        return msgspec.convert(merged, Config)
    except msgspec.ValidationError as error:
        text, _, where = str(error).partition(" - at `$.")
        path = where.rstrip("`")
        path = re.sub(r"\[.*", "", path)
        section, _, name = path.partition(".")
        value = merged.get(section, {}).get(name)
        message = f"{origins.of(path)}: {path} = {value!r}: {text[0].lower()}{text[1:]}"
        kind = next((key.type for key in keys() if key.path == path), None)
        if get_origin(kind) is Literal:
            choices = [str(choice) for choice in get_args(kind)]
            message = f"{origins.of(path)}: {path} = {value!r} is not one of {', '.join(choices)}"
            near = difflib.get_close_matches(str(value), choices, 1)
            message += f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(message) from error


def check(config: Config, origins: Origins) -> None:
    """What a type cannot say: addresses, networks, pairs. Raises ConfigError."""

    def refuse(path: str, reason: str) -> ConfigError:
        return ConfigError(f"{origins.of(path)}: {path}: {reason}")

    s3, node = config.s3, config.node
    for path, values, parse in (("s3.listen", s3.listen, parse_address), ("s3.trusted_proxies", s3.trusted_proxies, parse_network)):
        for value in values:
            try:
                parse(value)
            except ValueError as error:
                raise refuse(path, str(error)) from None
    if not s3.listen:
        raise refuse("s3.listen", "at least one address is needed")
    if not node.data or not all(node.data):
        raise refuse("node.data", "a path is needed")
    if len(node.data) > 1:
        raise refuse("node.data", "several data paths need erasure coding, which this version does not have; give one path")
    for bucket in s3.buckets:
        if not _BUCKET_NAME.fullmatch(bucket):
            raise refuse("s3.buckets", f"{bucket!r} is not a bucket name: 3 to 63 of a-z, 0-9, '-' and '.'")
    if s3.domain and not _DOMAIN.fullmatch(s3.domain):
        raise refuse("s3.domain", f"{s3.domain!r} is not a domain name in lower case, without port")
    if bool(s3.tls_cert) != bool(s3.tls_key):
        missing = "s3.tls_key" if s3.tls_cert else "s3.tls_cert"
        raise refuse(missing, "a certificate and its key are given together")
    for path, value in (("s3.tls_cert", s3.tls_cert), ("s3.tls_key", s3.tls_key)):
        if value and not os.access(value, os.R_OK):
            raise refuse(path, f"{value} is not there or cannot be read")
