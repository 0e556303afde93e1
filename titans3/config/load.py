"""Configuration from TOML, environment and command line, in that order; the last word wins.

Invariants
* An unknown key or a bad value is refused with its path, and with the nearest key there is.
* Nothing is guessed: a size without a unit is bytes, a duration without one is seconds.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from typing import Any, get_type_hints

import msgspec

from titans3.config.schema import Config
from titans3.errors import ConfigError

ENVIRONMENT_PREFIX = "TITANS3_"
RESERVED = frozenset({"TITANS3_ROOT_ACCESS_KEY", "TITANS3_ROOT_SECRET_KEY", "TITANS3_DATA", "TITANS3_FAILPOINT", "TITANS3_FAILPOINT_LOG"})
_UNITS = {"": 1, "b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_NUMBER = re.compile(r"\s*(-?\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*\Z")
_LEVELS = ("debug", "info", "warning", "error")


def load(path: str | None, environment: Mapping[str, str], flags: Mapping[str, Any]) -> Config:
    """The configuration. ``flags`` maps ``section.key`` to a value; ``None`` values are left out. Raises ConfigError."""
    raw: dict[str, dict[str, Any]] = {}
    if path is not None:
        try:
            with open(path, "rb") as file:
                raw = tomllib.load(file)
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from error
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{path}: {error}") from error
    for section, keys in raw.items():
        if not isinstance(keys, dict):
            raise ConfigError(f"{section}: keys stand in sections, as in [node]{_near(section, list(_sections()))}")
    for name, value in environment.items():
        if name.startswith(ENVIRONMENT_PREFIX) and name not in RESERVED and "__" in name:
            section, _, key = name[len(ENVIRONMENT_PREFIX) :].lower().partition("__")
            raw.setdefault(section, {})[key] = _from_text(section, key, value, name)
    for name, value in flags.items():
        if value is not None:
            section, _, key = name.partition(".")
            raw.setdefault(section, {})[key] = value
    return _check(_build(raw))


def _sections() -> dict[str, type]:
    return get_type_hints(Config)


def _near(name: str, names: list[str]) -> str:
    close = difflib.get_close_matches(name, names, 1)
    return f"; did you mean {close[0]}?" if close else f"; there are: {', '.join(names)}"


def _hints(section: str) -> dict[str, Any]:
    sections = _sections()
    if section not in sections:
        raise ConfigError(f"{section}: no such section{_near(section, list(sections))}")
    return get_type_hints(sections[section])


def _from_text(section: str, key: str, text: str, name: str) -> Any:
    hint = _hints(section).get(key)
    if hint is None:
        raise ConfigError(f"{name}: no such key {section}.{key}{_near(key, list(_hints(section)))}")
    if hint is bool:
        if text.lower() not in ("true", "false", "1", "0", "yes", "no"):
            raise ConfigError(f"{name}: {text!r} is not true or false")
        return text.lower() in ("true", "1", "yes")
    if hint == list[str]:
        return [item.strip() for item in text.split(",") if item.strip()]
    return text


def _build(raw: dict[str, dict[str, Any]]) -> Config:
    for section, keys in raw.items():
        hints = _hints(section)
        for key, value in keys.items():
            if key not in hints:
                raise ConfigError(f"{section}.{key}: no such key{_near(key, list(hints))}")
            keys[key] = _value(f"{section}.{key}", hints[key], value)
    try:
        return msgspec.convert(raw, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(str(error)) from error


def _value(path: str, hint: Any, value: Any) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint in (int, float) and isinstance(value, str):
        match = _NUMBER.match(value)
        units: Mapping[str, float] = _UNITS if hint is int else _SECONDS
        if match is None or match[2].lower() not in units:
            raise ConfigError(f"{path}: {value!r} is not {'a size like 64MiB' if hint is int else 'a duration like 5s'}")
        number = float(match[1]) * units[match[2].lower()]
        return int(number) if hint is int else number
    return value


def _check(config: Config) -> Config:
    if len(config.node.data) != 1:
        raise ConfigError(
            "node.data: exactly one path for now; several disks come with erasure coding, and a path that is taken and ignored would be a lie"
        )
    if not 0 <= config.node.workers <= 256:
        raise ConfigError("node.workers: 0 (one per CPU) to 256")
    if bool(config.s3.tls_cert) != bool(config.s3.tls_key):
        raise ConfigError("s3.tls_cert and s3.tls_key come together")
    if config.log.level not in _LEVELS:
        raise ConfigError(f"log.level: one of {', '.join(_LEVELS)}{_near(config.log.level, list(_LEVELS))}")
    if config.log.format not in ("text", "json"):
        raise ConfigError("log.format: text or json")
    if not 0 <= config.engine.small_body_bytes <= 1 << 20:
        raise ConfigError("engine.small_body_bytes: 0 to 1MiB")
    if config.engine.log_segment_bytes < 16 << 20 or config.engine.data_segment_bytes < 16 << 20:
        raise ConfigError("engine.log_segment_bytes and engine.data_segment_bytes: at least 16MiB")
    for address in config.s3.listen:
        split_address(address)
    return config


def split_address(address: str) -> tuple[str, int]:
    """(host, port) of ``HOST:PORT`` or ``[IPV6]:PORT``. Raises ConfigError."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535 or (":" in host and not host.startswith("[")):
        raise ConfigError(f"s3.listen: {address!r} is not HOST:PORT or [IPV6]:PORT")
    return host.strip("[]"), int(port)


def show(config: Config) -> str:
    """The configuration as TOML."""
    lines = []
    for section, keys in msgspec.to_builtins(config).items():
        lines.append(f"[{section}]")
        lines.extend(f"{key} = {_toml(value)}" for key, value in keys.items())
        lines.append("")
    return "\n".join(lines)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return str(value)


def from_environment(path: str | None, flags: Mapping[str, Any]) -> Config:
    """``load`` with this process's environment."""
    return load(path, os.environ, flags)
