"""From file, environment and command line to one checked :class:`Config`.

Invariants
* Precedence: command line over environment over file over default, key by key. Lists are replaced, not joined.
* A refusal names where the value came from, the key's path, what was expected, and the nearest key for a typing error.
* ``TITANS3_SECTION__KEY`` (two underscores) are configuration, and ``TITANS3_DATA`` is short for ``TITANS3_NODE__DATA``; other
  ``TITANS3_…`` variables are not, but one that only lacks the second underscore is refused as a slip.
* Nothing is changed on the machine here.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from titans3.config.check import check
from titans3.config.keys import PREFIX, Key, Origins, by_path, keys
from titans3.config.quantity import parse_bytes, parse_seconds
from titans3.config.schema import Config
from titans3.errors import ConfigError

Raw = dict[str, dict[str, Any]]
DATA_VARIABLE = "TITANS3_DATA"
FILE_BYTES_MAX = 1 << 20
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
_KIND = {bool: "true or false", int: "a whole number", float: "a number", str: "a text in quotes"}


def load(
    file: str | None, *, environment: Mapping[str, str] | None = None, flags: Mapping[str, Any] | None = None
) -> tuple[Config, Origins]:
    """The configuration and where its values came from. ``flags`` maps key paths to values as the schema takes them.

    ``environment`` is the process's own if it is not given. Raises ConfigError.
    """
    merged: Raw = {}
    origins = Origins()
    if file is not None:
        for section, values in _read_file(file).items():
            for name, value in values.items():
                _merge(merged, origins, f"{section}.{name}", value, file)
    for variable, key, text in _from_environment(os.environ if environment is None else environment):
        _merge(merged, origins, key.path, _from_text(key, text, variable), variable)
    for path, value in (flags or {}).items():
        _merge(merged, origins, path, value, by_path()[path].flag or "command line")
    config = _convert(merged, origins)
    check(config, origins)
    return config, origins


def _merge(merged: Raw, origins: Origins, path: str, value: object, origin: str) -> None:
    known = by_path()
    key = known.get(path)
    if key is None:
        raise ConfigError(f"{origin}: {path} is not a key{_suggest(path, list(known))}")
    merged.setdefault(key.section, {})[key.name] = _parse(key, value, origin)
    origins.by_path[path] = origin


def _suggest(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, 1, 0.6)
    if "." in word:  # the right name in the wrong section
        name = word.split(".", 1)[1]
        near = [path for path in known if path.split(".", 1)[1] == name][:1] or near
    return f"; did you mean {near[0]}?" if near else f"; `titans3 config show` lists all {len(keys())}"


# file ------------------------------------------------------------------------------------------------------------------


def _read_file(file: str) -> Raw:
    try:
        with open(file, "rb") as stream:
            text = stream.read(FILE_BYTES_MAX + 1)
        if len(text) > FILE_BYTES_MAX:
            raise ConfigError(f"{file}: larger than 1 MiB, which no configuration is")
        raw = tomllib.loads(text.decode())
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{file}: not TOML: {error}") from error
    sections = list(get_type_hints(Config))
    for name, value in raw.items():
        if name not in sections:
            near = [key.path for key in keys() if key.name == name]
            if near and not isinstance(value, dict):
                raise ConfigError(f"{file}: {name} stands outside of a section; did you mean {near[0]}?")
            close = difflib.get_close_matches(name, sections, 1, 0.6)
            hint = f"; did you mean [{close[0]}]?" if close else f"; there are {', '.join(sections)}"
            raise ConfigError(f"{file}: {name} is not a section{hint}")
        if not isinstance(value, dict):
            raise ConfigError(f"{file}: {name} is a section: write [{name}]")
    return raw


# environment -----------------------------------------------------------------------------------------------------------


def _from_environment(environment: Mapping[str, str]) -> list[tuple[str, Key, str]]:
    """(variable, key, text) of each configuration variable. Raises ConfigError for one that names no key."""
    known = {key.variable: key for key in keys()}
    slips = {name.replace("__", "_"): name for name in known}
    found = []
    for name, text in environment.items():
        if name == DATA_VARIABLE:
            found.append((name, known["TITANS3_NODE__DATA"], text))
        elif name in slips:
            raise ConfigError(f"{name}: no such variable; did you mean {slips[name]}?")
        elif name.startswith(PREFIX) and "__" in name:
            if name not in known:
                raise ConfigError(f"{name}: no such variable{_suggest(name, list(known))}")
            found.append((name, known[name], text))
    if {DATA_VARIABLE, "TITANS3_NODE__DATA"} <= environment.keys():
        raise ConfigError(f"{DATA_VARIABLE}: TITANS3_NODE__DATA says the same thing; set one of them")
    return found


def _from_text(key: Key, text: str, variable: str) -> object:
    """A variable's text as the value that TOML would have given."""
    if get_origin(key.type) is tuple:
        return [part.strip() for part in text.split(",") if part.strip()]
    if key.type is bool:
        if text.lower() not in _TRUE + _FALSE:
            raise ConfigError(f"{variable}: {key.path}: {text!r} is not true or false")
        return text.lower() in _TRUE
    if key.type is int and not key.unit:
        if not re.fullmatch(r"-?[0-9]{1,18}", text.strip()):
            raise ConfigError(f"{variable}: {key.path}: {text!r} is not a whole number")
        return int(text)
    if key.type is float and not key.unit:
        try:
            return float(text)
        except ValueError:
            raise ConfigError(f"{variable}: {key.path}: {text!r} is not a number") from None
    if key.auto and text.strip() == "-1":
        return -1
    return text


# values ----------------------------------------------------------------------------------------------------------------


def _parse(key: Key, value: object, origin: str) -> object:
    """A value as the schema takes it, within its bounds; a wrong type is left for ``_convert`` to name."""
    if key.unit and isinstance(value, str):
        if key.auto and value.strip().lower() == "auto":
            return -1
        try:
            value = parse_bytes(value) if key.unit == "bytes" else parse_seconds(value)
        except ValueError as error:
            raise ConfigError(f"{origin}: {key.path}: {error}{' or auto' if key.auto else ''}") from None
    elif isinstance(value, int | float) and not isinstance(value, bool) and key.auto and value == -1:
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        if key.least is not None and not value >= key.least:  # so that nan is refused, too
            raise ConfigError(f"{origin}: {key.path} = {value} is too small: {key.bound(key.least)} is the least")
        if key.most is not None and not value <= key.most:
            raise ConfigError(f"{origin}: {key.path} = {value} is too large: {key.bound(key.most)} is the most")
    for text in value if isinstance(value, list | tuple) else (value,):
        if isinstance(text, str) and ("\0" in text or not _is_unicode(text)):
            raise ConfigError(f"{origin}: {key.path}: {'it' if key.secret else repr(text)} is not text in UTF-8")
    return value


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _convert(merged: Raw, origins: Origins) -> Config:
    try:
        return msgspec.convert(merged, Config)
    except msgspec.ValidationError as error:
        key = by_path()[_place(str(error))]
        value = merged[key.section][key.name]
        shown = "" if key.secret else f" = {value!r}"
        raise ConfigError(f"{origins.of(key.path)}: {key.path}{shown} is not {_expected(key, value)}") from None


def _place(message: str) -> str:
    """Key path in a message of msgspec; sections are tables and keys are known by now, so there always is one."""
    where = re.search(r"`\$\.([a-z0-9_]+\.[a-z0-9_]+)", message)
    assert where is not None, message
    return where[1]


def _expected(key: Key, value: object) -> str:
    if get_origin(key.type) is Literal:
        choices = [str(choice) for choice in get_args(key.type)]
        near = difflib.get_close_matches(str(value).lower(), choices, 1)
        return f"one of {', '.join(choices)}" + (f"; did you mean {near[0]}?" if near else "")
    if get_origin(key.type) is tuple:
        return f"a list of texts, such as {key.show(key.default or ('…',))}"
    if key.unit:
        return "a size such as 64MiB" if key.unit == "bytes" else "a duration such as 5s"
    return _KIND[key.type]
