"""Text with wildcards, as policies have it: ``*`` is any run of characters (none, and slashes, too), ``?`` exactly one.

Invariants
* A match costs at most the product of both lengths, whatever the pattern: whoever may write a policy must not be able to stall a worker.
* What a policy variable stands for is taken literally: a wildcard in a user's name or tag is no wildcard.

Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_resource.html and .../reference_policies_variables.html
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

# What a variable is in this request; ``None`` if the request does not have it, or has several values.
Lookup = Callable[[str], str | None]


class Star(msgspec.Struct, frozen=True):
    """``*``."""


class One(msgspec.Struct, frozen=True):
    """``?``."""


class Variable(msgspec.Struct, frozen=True):
    """``${name}`` or ``${name, 'default'}``; ``name`` in lower case."""

    name: str
    default: str | None = None


Token = str | Star | One | Variable


class VariableMalformed(ValueError):
    """``${`` without an end, or with something that is no name."""


def tokens(text: str, *, variables: bool, wildcards: bool = True) -> tuple[Token, ...]:
    """Split a pattern; neighbouring literals are joined. Raises VariableMalformed."""
    found: list[Token] = []
    literal: list[str] = []

    def add(token: Token) -> None:
        if literal:
            found.append("".join(literal))
            literal.clear()
        if not (isinstance(token, Star) and found and isinstance(found[-1], Star)):
            found.append(token)

    at = 0
    while at < len(text):
        char = text[at]
        if variables and text.startswith("${", at):
            end = text.find("}", at)
            if end < 0:
                raise VariableMalformed(text[at:])
            token = _variable(text[at + 2 : end])
            at = end + 1
            if isinstance(token, str):
                literal.append(token)
            else:
                add(token)
            continue
        at += 1
        if wildcards and char == "*":
            add(Star())
        elif wildcards and char == "?":
            add(One())
        else:
            literal.append(char)
    if literal:
        found.append("".join(literal))
    return tuple(found)


def _variable(inner: str) -> Token:
    if inner in ("*", "?", "$"):
        return inner
    name, comma, default = inner.partition(",")
    name = name.strip().lower()
    if not name or any(char in name for char in "${}*?'\" "):
        raise VariableMalformed(inner)
    if not comma:
        return Variable(name)
    default = default.strip()
    if len(default) < 2 or default[0] != "'" or default[-1] != "'":
        raise VariableMalformed(inner)
    return Variable(name, default[1:-1])


def resolve(pattern: Sequence[Token], lookup: Lookup) -> tuple[Token, ...] | None:
    """Variables replaced by what they stand for; ``None`` if one stands for nothing."""
    resolved: list[Token] = []
    for token in pattern:
        if isinstance(token, Variable):
            value = lookup(token.name)
            if value is None:
                value = token.default
            if value is None:
                return None
            token = value
        if isinstance(token, str) and resolved and isinstance(resolved[-1], str):
            resolved[-1] += token
        elif token != "":
            resolved.append(token)
    return tuple(resolved)


def has_variables(pattern: Sequence[Token]) -> bool:
    """Whether a pattern depends on the request."""
    return any(isinstance(token, Variable) for token in pattern)


class Glob:
    """A compiled pattern without variables."""

    __slots__ = ("_last", "_middle", "_shortest", "_single", "first")

    def __init__(self, pattern: Sequence[Token]) -> None:
        runs: list[list[str | One]] = [[]]
        for token in pattern:
            if isinstance(token, Star):
                runs.append([])
            elif isinstance(token, (str, One)):
                runs[-1].append(token)
            else:
                raise TypeError("variables are resolved first")
        segments = [_Segment(run) for run in runs]
        self.first = segments[0]
        self._single = len(segments) == 1
        self._last = segments[-1]
        self._middle = [segment for segment in segments[1:-1] if segment.length]
        self._shortest = sum(segment.length for segment in segments)

    def matches(self, text: str) -> bool:
        """Whether the whole text is such a one."""
        if self._single:
            return len(text) == self.first.length and self.first.is_at(text, 0)
        if len(text) < self._shortest or not self.first.is_at(text, 0):
            return False
        end = len(text) - self._last.length
        if not self._last.is_at(text, end):
            return False
        at = self.first.length
        for segment in self._middle:
            at = segment.find(text, at, end)
            if at < 0:
                return False
            at += segment.length
        return True


class _Segment:
    """What stands between two stars: literals, and places of any character."""

    __slots__ = ("_literals", "length", "text")

    def __init__(self, run: Sequence[str | One]) -> None:
        self._literals: list[tuple[int, str]] = []
        at = 0
        for token in run:
            if isinstance(token, str):
                self._literals.append((at, token))
                at += len(token)
            else:
                at += 1
        self.length = at
        self.text = run[0] if len(run) == 1 and isinstance(run[0], str) else "" if not run else None

    def is_at(self, text: str, at: int) -> bool:
        if self.text is not None:
            return text.startswith(self.text, at)
        return at + self.length <= len(text) and all(text.startswith(literal, at + offset) for offset, literal in self._literals)

    def find(self, text: str, at: int, end: int) -> int:
        """The first place from ``at`` on where it ends by ``end``; -1 if there is none."""
        if self.text is not None:
            return text.find(self.text, at, end)
        for start in range(at, end - self.length + 1):
            if self.is_at(text, start):
                return start
        return -1


class Patterns:
    """Any of several patterns: whole texts and beginnings are looked up at once, the rest one by one."""

    __slots__ = ("_any", "_beginnings", "_globs", "_open", "_texts")

    def __init__(self, patterns: Sequence[tuple[Token, ...]]) -> None:
        texts: set[str] = set()
        beginnings: list[str] = []
        globs: list[Glob] = []
        # With variables: what each begins with, whatever they stand for.
        self._open = [(_beginning(pattern), pattern) for pattern in patterns if has_variables(pattern)]
        for pattern in patterns:
            if has_variables(pattern):
                continue
            if all(isinstance(token, str) for token in pattern):
                texts.add("".join(token for token in pattern if isinstance(token, str)))
            elif isinstance(pattern[-1], Star) and all(isinstance(token, str) for token in pattern[:-1]):
                beginnings.append("".join(token for token in pattern if isinstance(token, str)))
            else:
                globs.append(Glob(pattern))
        self._any = "" in beginnings
        self._texts = frozenset(texts)
        self._beginnings = tuple(beginnings)
        self._globs = tuple(globs)

    def match(self, text: str, lookup: Lookup) -> bool:
        """Whether one of them matches; one with a variable that stands for nothing does not."""
        if self._any or text in self._texts or text.startswith(self._beginnings):
            return True
        for glob in self._globs:
            if glob.matches(text):
                return True
        for start, pattern in self._open:
            if text.startswith(start):
                resolved = resolve(pattern, lookup)
                if resolved is not None and Glob(resolved).matches(text):
                    return True
        return False


def _beginning(pattern: Sequence[Token]) -> str:
    """The text before the first wildcard or variable."""
    return pattern[0] if pattern and isinstance(pattern[0], str) else ""
