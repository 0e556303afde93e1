"""The condition operators of policies.

Invariants
* A condition is compiled once; to decide it, only the request's values of its own key are asked for.
* A key that the request does not have fails a condition, unless the operator is negated, ends in IfExists or is ForAllValues.
* What cannot be read (a word where a number belongs) matches nothing, so it fails a condition and passes a negated one.

Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_condition_operators.html and
.../reference_policies_condition-single-vs-multi-valued-context-keys.html
"""

from __future__ import annotations

import binascii
import ipaddress
from base64 import b64decode
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from titans3.iam.arn import split_arn
from titans3.iam.wildcard import Glob, Lookup, Star, Token, VariableMalformed, resolve, tokens

# All values of a key in this request, by its name in lower case; ``None`` if the request does not have it.
Values = Callable[[str], Sequence[str] | None]
# Whether a value of the request is what one value of the policy says.
Test = Callable[[str], bool]
# Makes tests of one value of a policy; the variables in it are resolved.
_Maker = Callable[[tuple[Token, ...]], Test]

_ALL, _ANY, _PLAIN = "forallvalues", "foranyvalue", ""


class ConditionMalformed(ValueError):
    """An operator that does not exist, or a value that it can never take."""


def _literal(value: tuple[Token, ...]) -> str:
    return "".join(token for token in value if isinstance(token, str))


def _equals(value: tuple[Token, ...]) -> Test:
    return _literal(value).__eq__


def _equals_ignoring_case(value: tuple[Token, ...]) -> Test:
    wanted = _literal(value).lower()
    return lambda found: found.lower() == wanted


def _like(value: tuple[Token, ...]) -> Test:
    return Glob(value).matches


def _arn_like(value: tuple[Token, ...]) -> Test:
    parts: list[list[Token]] = [[]]
    for token in value:
        if not isinstance(token, str):
            parts[-1].append(token)
            continue
        while len(parts) < 6 and isinstance(token, str) and ":" in token:
            before, _, token = token.partition(":")
            if before:
                parts[-1].append(before)
            parts.append([])
        if token:
            parts[-1].append(token)
    globs = [Glob(part) for part in parts]
    if value == (Star(),):
        return lambda found: True

    def test(found: str) -> bool:
        pieces = split_arn(found)
        return len(pieces) == len(globs) == 6 and all(glob.matches(piece) for glob, piece in zip(globs, pieces, strict=True))

    return test


def _number(text: str) -> Decimal | None:
    try:
        number = Decimal(text.strip())
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def moment(text: str) -> datetime | None:
    """A date as policies write it: W3C ISO 8601, or seconds since 1970."""
    text = text.strip()
    try:
        if text.lstrip("-").isdecimal():
            return datetime.fromtimestamp(int(text), UTC)
        found = datetime.fromisoformat(text)
    except (ValueError, OverflowError, OSError):
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _compared(read: Callable[[str], Any], compare: Callable[[Any, Any], bool]) -> _Maker:
    def make(value: tuple[Token, ...]) -> Test:
        wanted = read(_literal(value))

        def test(text: str) -> bool:
            found = read(text)
            return found is not None and wanted is not None and compare(found, wanted)

        return test

    return make


def _truth(value: tuple[Token, ...]) -> Test:
    wanted = _literal(value).strip().lower()
    return lambda found: wanted in ("true", "false") and found.lower() == wanted


def _bytes(text: str) -> bytes | None:
    try:
        return b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None


_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def network(text: str) -> _Network | None:
    """An address or a range in CIDR notation; bits behind the prefix do not matter."""
    try:
        return ipaddress.ip_network(text.strip(), strict=False)
    except ValueError:
        return None


def _in_network(value: tuple[Token, ...]) -> Test:
    wanted = network(_literal(value))

    def test(text: str) -> bool:
        try:
            found = ipaddress.ip_address(text)
        except ValueError:
            return False
        if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
            found = found.ipv4_mapped
        return wanted is not None and found.version == wanted.version and found in wanted

    return test


def _numeric(compare: Callable[[Any, Any], bool]) -> _Maker:
    return _compared(_number, compare)


def _dated(compare: Callable[[Any, Any], bool]) -> _Maker:
    return _compared(moment, compare)


# Operator without qualifier and IfExists: how a value is tested, whether it is negated, whether its values have wildcards.
_OPERATORS: dict[str, tuple[_Maker, bool, bool]] = {
    "stringequals": (_equals, False, False),
    "stringnotequals": (_equals, True, False),
    "stringequalsignorecase": (_equals_ignoring_case, False, False),
    "stringnotequalsignorecase": (_equals_ignoring_case, True, False),
    "stringlike": (_like, False, True),
    "stringnotlike": (_like, True, True),
    "numericequals": (_numeric(lambda found, wanted: found == wanted), False, False),
    "numericnotequals": (_numeric(lambda found, wanted: found == wanted), True, False),
    "numericlessthan": (_numeric(lambda found, wanted: found < wanted), False, False),
    "numericlessthanequals": (_numeric(lambda found, wanted: found <= wanted), False, False),
    "numericgreaterthan": (_numeric(lambda found, wanted: found > wanted), False, False),
    "numericgreaterthanequals": (_numeric(lambda found, wanted: found >= wanted), False, False),
    "dateequals": (_dated(lambda found, wanted: found == wanted), False, False),
    "datenotequals": (_dated(lambda found, wanted: found == wanted), True, False),
    "datelessthan": (_dated(lambda found, wanted: found < wanted), False, False),
    "datelessthanequals": (_dated(lambda found, wanted: found <= wanted), False, False),
    "dategreaterthan": (_dated(lambda found, wanted: found > wanted), False, False),
    "dategreaterthanequals": (_dated(lambda found, wanted: found >= wanted), False, False),
    "bool": (_truth, False, False),
    "binaryequals": (_compared(_bytes, lambda found, wanted: found == wanted), False, False),
    "ipaddress": (_in_network, False, False),
    "notipaddress": (_in_network, True, False),
    "arnequals": (_arn_like, False, True),
    "arnlike": (_arn_like, False, True),
    "arnnotequals": (_arn_like, True, True),
    "arnnotlike": (_arn_like, True, True),
}  # fmt: skip
# What a value must be readable as when a policy is written: a rule that can never match is a mistake of its author.
_READERS: dict[str, Callable[[str], object]] = {"numeric": _number, "date": moment, "ipaddress": network, "notipaddress": network}


class Condition:
    """One operator and one key, with all its values."""

    __slots__ = ("_if_exists", "_makers", "_negated", "_null", "_qualifier", "_tests", "key", "operator", "values")

    def __init__(self, operator: str, key: str, values: Sequence[str], *, variables: bool) -> None:
        """Raises ConditionMalformed."""
        self.operator, self.key, self.values = operator, key.lower(), tuple(values)
        name = operator.lower()
        qualifier, colon, rest = name.partition(":")
        self._qualifier = qualifier if colon else _PLAIN
        if colon:
            name = rest
        if self._qualifier not in (_ALL, _ANY, _PLAIN):
            raise ConditionMalformed(f"Invalid Condition type : {operator}")
        self._null: bool | None = None
        self._if_exists = self._negated = False
        self._tests: list[Test] = []
        self._makers: list[tuple[_Maker, tuple[Token, ...]]] = []
        if name == "null":
            self._set_null(values)
            return
        self._if_exists = name.endswith("ifexists")
        name = name.removesuffix("ifexists")
        if name not in _OPERATORS:
            raise ConditionMalformed(f"Invalid Condition type : {operator}")
        maker, self._negated, wildcards = _OPERATORS[name]
        reader = next((reader for start, reader in _READERS.items() if name.startswith(start)), None)
        for value in values:
            try:
                pattern = tokens(value, variables=variables, wildcards=wildcards)
            except VariableMalformed as error:
                raise ConditionMalformed(f"Invalid variable in Condition value : {value}") from error
            if resolve(pattern, _nothing) is None:
                self._makers.append((maker, pattern))
                continue
            if reader is not None and reader(value) is None:
                raise ConditionMalformed(f"Invalid value in Condition {operator} : {value}")
            resolved = resolve(pattern, _nothing)
            if resolved != pattern:  # a variable with a default
                self._makers.append((maker, pattern))
            else:
                self._tests.append(maker(pattern))

    def _set_null(self, values: Sequence[str]) -> None:
        words = {value.lower() for value in values}
        if len(words) != 1 or not words <= {"true", "false"}:
            raise ConditionMalformed("Invalid value in Condition Null : it is true or false")
        self._null = words == {"true"}

    def holds(self, values: Values, lookup: Lookup) -> bool:
        """Whether the request meets it."""
        found = values(self.key)
        if self._null is not None:
            return (not found) is self._null
        if not found:
            if self._qualifier == _ALL:
                return True
            if self._qualifier == _ANY:
                return self._if_exists and found is None
            return self._negated or self._if_exists
        tests = self._tests
        if self._makers:
            tests = [*tests]
            for maker, pattern in self._makers:
                resolved = resolve(pattern, lookup)
                if resolved is not None:
                    tests.append(maker(resolved))
        if self._qualifier == _ALL:
            return all(self._passes(value, tests) for value in found)
        if self._qualifier == _ANY or not self._negated:
            return any(self._passes(value, tests) for value in found)
        return all(self._passes(value, tests) for value in found)

    def _passes(self, value: str, tests: Sequence[Test]) -> bool:
        return any(test(value) for test in tests) is not self._negated


def _nothing(name: str) -> None:
    """The lookup in which no variable stands for anything."""
