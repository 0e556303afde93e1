"""The parameters of one action: names and texts of a form, read by their kinds.

Invariants
* Every error names the parameter as the client wrote it; a parameter that no kind was asked for is ignored, as AWS does.
* What is read has passed the limits that AWS documents for it: length, letters, range.

Source: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-making-api-requests-xml.html (lists), and the
API references of IAM and STS for limits.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from titans3.query.errors import QueryError, invalid

PARAMETERS_MAX = 1000
_TAGS_MAX = 50
_SECRETS = frozenset(("Password", "OldPassword", "NewPassword", "WebIdentityToken", "TokenCode"))
_SHOWN_MAX, _SHOWN_COUNT_MAX = 4096, 200
_NAME = re.compile(r"[\w+=,.@-]+", re.ASCII)
_PATH = re.compile(r"/|/[\x21-\x7e]+/")
_PATH_PREFIX = re.compile(r"/[\x21-\x7e]*")
_ARN = re.compile(r"[\x20-\x7e]+")
_DOCUMENT = re.compile("[\t\n\r\x20-\xff]+")
_KEY_ID = re.compile(r"\w+", re.ASCII)
_TAG = re.compile(r"[\w\s_.:/=+\-@]*")


class Kind(msgspec.Struct, frozen=True):
    """What a text must be: its length and its letters."""

    pattern: re.Pattern[str] | None
    longest: int
    shortest: int = 1


USER_NAME = Kind(_NAME, 64)
ROLE_NAME = Kind(_NAME, 64)
GROUP_NAME = Kind(_NAME, 128)
POLICY_NAME = Kind(_NAME, 128)
SESSION_NAME = Kind(_NAME, 64, 2)
PATH = Kind(_PATH, 512)
PATH_PREFIX = Kind(_PATH_PREFIX, 512)
ARN = Kind(_ARN, 2048, 20)
ARN_OR_ALL = Kind(_ARN, 2048)
DOCUMENT = Kind(_DOCUMENT, 131_072)
SESSION_DOCUMENT = Kind(_DOCUMENT, 2048)
VERSION_ID = Kind(re.compile(r"v[1-9][0-9]{0,8}"), 10)
EXTERNAL_ID = Kind(re.compile(r"[\w+=,.@:/-]+", re.ASCII), 1224, 2)
PASSWORD = Kind(re.compile(r"[\x20-\xff]+"), 128, 8)
ALIAS = Kind(re.compile(r"[a-z0-9](?:[a-z0-9]|-(?!-))*[a-z0-9]"), 63, 3)
URL = Kind(_ARN, 255)
ACTION = Kind(_ARN, 128, 3)
ACCESS_KEY = Kind(_KEY_ID, 128, 16)
WEB_TOKEN = Kind(_ARN, 20_000, 4)
DESCRIPTION = Kind(None, 1000, 0)
ANY = Kind(None, 4096, 0)


class Parameters:
    """Of one request."""

    def __init__(self, body: bytes) -> None:
        """Raises QueryError(MalformedInput)."""
        try:
            pairs = parse_qsl(
                body.decode("ascii"), keep_blank_values=True, strict_parsing=bool(body), max_num_fields=PARAMETERS_MAX, errors="strict"
            )
        except ValueError as error:
            raise QueryError("MalformedInput", "The parameters are no well-formed form of at most 1000 fields.") from error
        self._texts = dict(pairs)
        if len(self._texts) < len(pairs):
            raise QueryError("MalformedInput", "A parameter is there twice.")

    @classmethod
    def of_tree(cls, tree: Mapping[str, Any]) -> Parameters:
        """Of a JSON object: lists become members, objects their fields. Raises QueryError(MalformedInput)."""
        made = cls(b"")
        _flatten(made._texts, "", tree)
        if len(made._texts) > PARAMETERS_MAX:
            raise QueryError("MalformedInput", f"More than {PARAMETERS_MAX} parameters.")
        return made

    def shown(self) -> dict[str, str]:
        """All of them for the audit trail: secrets are hidden, long texts cut."""
        return {
            name[:200]: "..." if name.rpartition(".")[2] in _SECRETS else text[:_SHOWN_MAX]
            for name, text in list(self._texts.items())[:_SHOWN_COUNT_MAX]
        }

    def has(self, name: str) -> bool:
        """Whether it was sent."""
        return name in self._texts

    def text(self, name: str, kind: Kind = ANY, default: str | None = None) -> str:
        """A text; without a default it must be there. Raises QueryError(ValidationError)."""
        text = self._texts.get(name)
        if text is None:
            if default is None:
                raise invalid(
                    f"1 validation error detected: Value null at '{_lower(name)}' failed to satisfy constraint: Member must not be null"
                )
            return default
        return checked(name, text, kind)

    def number(self, name: str, default: int, lowest: int, highest: int) -> int:
        """A whole number. Raises QueryError(ValidationError)."""
        text = self._texts.get(name)
        if text is None:
            return default
        if not re.fullmatch(r"-?[0-9]{1,10}", text):
            raise QueryError("MalformedInput", f"{name} must be a whole number.")
        number = int(text)
        if number < lowest:
            raise _constraint(name, text, f"Member must have value greater than or equal to {lowest}")
        if number > highest:
            raise _constraint(name, text, f"Member must have value less than or equal to {highest}")
        return number

    def boolean(self, name: str, *, default: bool = False) -> bool:
        """``true`` or ``false``. Raises QueryError(MalformedInput)."""
        text = self._texts.get(name)
        if text is None:
            return default
        if text.lower() not in ("true", "false"):
            raise QueryError("MalformedInput", f"{name} must be true or false.")
        return text.lower() == "true"

    def choice(self, name: str, choices: tuple[str, ...], default: str | None = None) -> str:
        """One of several words. Raises QueryError(ValidationError)."""
        text = self.text(name, default=default)
        if text not in choices and text != default:
            raise _constraint(name, text, f"Member must satisfy enum value set: [{', '.join(choices)}]")
        return text

    def members(self, name: str, kind: Kind = ANY, longest: int = PARAMETERS_MAX, *, of: str = "") -> list[str]:
        """A list: ``Name.member.1`` and so on; ``of``: a field of each member. Raises QueryError(ValidationError)."""
        found: list[str] = []
        tail = f".{of}" if of else ""
        while (text := self._texts.get(f"{name}.member.{len(found) + 1}{tail}")) is not None:
            found.append(checked(name, text, kind))
        if len(found) > longest:
            raise _constraint(name, f"{len(found)} members", f"Member must have length less than or equal to {longest}")
        return found

    def context(self, name: str = "ContextEntries") -> dict[str, tuple[str, ...]]:
        """Condition keys (lower case) of a simulation. Raises QueryError(InvalidInput, ValidationError)."""
        found: dict[str, tuple[str, ...]] = {}
        while (key := self._texts.get(f"{name}.member.{len(found) + 1}.ContextKeyName")) is not None:
            if not key or key.lower() in found:
                raise QueryError("InvalidInput", f"The context key {key[:200]!r} is empty or there twice.")
            found[key.lower()] = tuple(self.members(f"{name}.member.{len(found) + 1}.ContextKeyValues"))
        return found

    def tags(self, name: str = "Tags") -> dict[str, str]:
        """``Tags.member.1.Key`` and ``.Value``. Raises QueryError(ValidationError, InvalidInput)."""
        found: dict[str, str] = {}
        lower: set[str] = set()
        at = 1
        while (key := self._texts.get(f"{name}.member.{at}.Key")) is not None:
            value = self._texts.get(f"{name}.member.{at}.Value")
            if value is None:
                raise invalid(f"{name}.member.{at}.Value is missing")
            if not 1 <= len(key) <= 128 or not _TAG.fullmatch(key) or key.lower().startswith("aws:"):
                raise _constraint(f"{name}.{at}.member.key", key[:200], "Member must be a tag key of at most 128 letters")
            if len(value) > 256 or not _TAG.fullmatch(value):
                raise _constraint(f"{name}.{at}.member.value", value[:200], "Member must be a tag value of at most 256 letters")
            if key.lower() in lower:
                raise QueryError("InvalidInput", "Duplicate tag keys found. Please note that Tag keys are case insensitive.")
            lower.add(key.lower())
            found[key] = value
            at += 1
        if len(found) > _TAGS_MAX:
            raise _constraint(name, f"{len(found)} members", f"Member must have length less than or equal to {_TAGS_MAX}")
        return found


def checked(name: str, text: str, kind: Kind) -> str:
    """``text``, if it is of its kind. Raises QueryError(ValidationError)."""
    if len(text) < kind.shortest:
        raise _constraint(name, text, f"Member must have length greater than or equal to {kind.shortest}")
    if len(text) > kind.longest:
        raise _constraint(name, text[:100], f"Member must have length less than or equal to {kind.longest}")
    if kind.pattern is not None and not kind.pattern.fullmatch(text):
        raise _constraint(name, text[:100], f"Member must satisfy regular expression pattern: {kind.pattern.pattern}")
    return text


def _flatten(texts: dict[str, str], name: str, value: Any) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            _flatten(texts, f"{name}.{key}" if name else str(key), item)
    elif isinstance(value, list):
        for at, item in enumerate(value, 1):
            _flatten(texts, f"{name}.member.{at}", item)
    elif isinstance(value, bool):
        texts[name] = "true" if value else "false"
    elif isinstance(value, (str, int)):
        texts[name] = str(value)
    elif value is not None:
        raise QueryError("MalformedInput", f"{name} is of a kind that no parameter has.")


def _lower(name: str) -> str:
    return name[:1].lower() + name[1:]


def _constraint(name: str, text: str, constraint: str) -> QueryError:
    return invalid(f"1 validation error detected: Value '{text}' at '{_lower(name)}' failed to satisfy constraint: {constraint}")
