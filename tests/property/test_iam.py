"""The compiled evaluator equals the naive one, for any policies and any request."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from typing import Any

from tests.property import iam_model as model
from titans3.iam.decision import Identity, allows_all, decide
from titans3.iam.document import Kind, read_policy
from titans3.iam.policy import Policy
from titans3.iam.principal import Named, Principal

PAIRS = 1_000_000 if os.environ.get("TITANS3_LONG") else 20_000
A, B = "111122223333", "444455556666"
CANONICAL = {A: "a" * 64, B: "b" * 64}
ACTIONS = ["s3:GetObject", "s3:PutObject", "s3:ListBucket", "s3:GetBucketPolicy", "s3:DeleteObject", "iam:CreateUser"]
ACTION_PATTERNS = [*ACTIONS, "*", "s3:*", "s3:Get*", "S3:get?bject", "s3:*Object", "iam:*", "s3:putobject"]
RESOURCES = [
    "arn:aws:s3:::b",
    "arn:aws:s3:::b/k",
    "arn:aws:s3:::b/desk/al/x",
    "arn:aws:s3:::b/desk/*/x",
    "arn:aws:s3:::b/a:b:c",
    "arn:aws:s3:::bb/k",
    f"arn:aws:iam::{A}:user/al",
    f"arn:aws:iam::{B}:user/al",
]
PATTERNS = [
    "arn:aws:s3:::b",
    "arn:aws:s3:::b/*",
    "arn:aws:s3:::b*",
    "arn:aws:s3:::*",
    "arn:aws:s3:::b/k",
    "arn:aws:s3:::b/desk/${aws:username}/*",
    "arn:aws:s3:::b/desk/${aws:username, 'nobody'}/x",
    "arn:aws:s3:::?/k",
    "arn:aws:s3:::b/*:c",
    "arn:aws:s3:::b/desk/*/x",
    "arn:aws:s3:::b/desk/${*}/x",
    "arn:aws:s3:*:*:b/k",
    f"arn:aws:iam::{A}:user/*",
    "arn:aws:iam::*:user/al",
    "arn:aws:iam::${aws:principalaccount}:user/*",
]
WORDS = [
    "al",
    "AL",
    "b",
    "",
    "*",
    "10",
    "9.5",
    "x",
    "true",
    "False",
    "2026-01-01T00:00:00Z",
    "10.1.2.3",
    "desk/al/x",
    "YWw=",
    f"arn:aws:iam::{A}:user/al",
]
KEYS = [
    "aws:username",
    "s3:prefix",
    "aws:SourceIp",
    "aws:CurrentTime",
    "aws:SecureTransport",
    "s3:max-keys",
    "aws:TagKeys",
    "aws:PrincipalArn",
]
VALUES: dict[str, list[str]] = {
    "string": ["al", "AL", "b", "${aws:username}", "${aws:username, 'x'}", "x"],
    "like": ["a*", "*", "?l", "${aws:username}*", "${*}", "desk/*/x"],
    "numeric": ["10", "9.5", "-1"],
    "date": ["2026-01-01T00:00:00Z", "1767225600", "2030-01-01"],
    "bool": ["true", "FALSE"],
    "ip": ["10.0.0.0/8", "10.1.2.3", "192.168.0.0/16", "::1/128"],
    "arn": [f"arn:aws:iam::{A}:user/*", "arn:aws:iam::*:user/al", "*"],
    "binary": ["YWw="],
    "null": ["true", "false"],
}
OPERATORS = {
    "StringEquals": "string",
    "StringNotEquals": "string",
    "StringEqualsIgnoreCase": "string",
    "StringNotEqualsIgnoreCase": "string",
    "StringLike": "like",
    "StringNotLike": "like",
    "NumericEquals": "numeric",
    "NumericNotEquals": "numeric",
    "NumericLessThan": "numeric",
    "NumericLessThanEquals": "numeric",
    "NumericGreaterThan": "numeric",
    "NumericGreaterThanEquals": "numeric",
    "DateEquals": "date",
    "DateNotEquals": "date",
    "DateLessThan": "date",
    "DateLessThanEquals": "date",
    "DateGreaterThan": "date",
    "DateGreaterThanEquals": "date",
    "Bool": "bool",
    "BinaryEquals": "binary",
    "IpAddress": "ip",
    "NotIpAddress": "ip",
    "ArnEquals": "arn",
    "ArnLike": "arn",
    "ArnNotEquals": "arn",
    "ArnNotLike": "arn",
}
USER, ROLE, SESSION = f"arn:aws:iam::{A}:user/al", f"arn:aws:iam::{A}:role/r", f"arn:aws:sts::{A}:assumed-role/r/s"
PRINCIPALS: list[Any] = [
    "*",
    {"AWS": "*"},
    {"AWS": A},
    {"AWS": [USER, B]},
    {"AWS": f"arn:aws:iam::{A}:root"},
    {"AWS": ROLE},
    {"AWS": SESSION},
    {"CanonicalUser": CANONICAL[A]},
    {"AWS": f"arn:aws:iam::{B}:user/al"},
]
WHO: list[dict[str, Any]] = [
    {"account": "", "canonical": "", "arn": "", "role": "", "root": False},
    {"account": A, "canonical": CANONICAL[A], "arn": f"arn:aws:iam::{A}:root", "role": "", "root": True},
    {"account": A, "canonical": CANONICAL[A], "arn": USER, "role": "", "root": False},
    {"account": A, "canonical": CANONICAL[A], "arn": SESSION, "role": ROLE, "root": False},
    {"account": B, "canonical": CANONICAL[B], "arn": f"arn:aws:iam::{B}:user/al", "role": "", "root": False},
]


class Asked:
    """A request of the model as the evaluator wants it."""

    def __init__(self, request: dict[str, Any]) -> None:
        self.action = request["action"].lower()
        self.resource = request["resource"]
        self._context = request["context"]

    def values(self, key: str) -> list[str] | None:
        found: list[str] | None = self._context.get(key)
        return found

    def value(self, key: str) -> str | None:
        found = self._context.get(key)
        return found[0] if found is not None and len(found) == 1 else None


def some(rng: random.Random, choices: list[Any], most: int = 3) -> Any:
    """One, or a list of some."""
    return rng.choice(choices) if rng.random() < 0.6 else [rng.choice(choices) for _ in range(rng.randint(1, most))]


def conditions(rng: random.Random) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for _ in range(rng.choice([0, 0, 1, 1, 2])):
        if rng.random() < 0.1:
            found["Null"] = {rng.choice(KEYS): rng.choice(["true", "false", True, False])}
            continue
        name, kind = rng.choice(list(OPERATORS.items()))
        operator = rng.choice(["", "", "", "ForAllValues:", "ForAnyValue:"]) + name + rng.choice(["", "", "IfExists"])
        found.setdefault(operator, {})[rng.choice(KEYS)] = some(rng, VALUES[kind])
    return found


def statement(rng: random.Random, *, principal: bool) -> dict[str, Any]:
    effect = rng.choice(["Allow", "Allow", "Deny"])
    made: dict[str, Any] = {"Effect": effect}
    if principal:
        word = "NotPrincipal" if effect == "Deny" and rng.random() < 0.3 else "Principal"
        made[word] = rng.choice(PRINCIPALS)
    made[rng.choice(["Action", "Action", "Action", "NotAction"])] = some(rng, ACTION_PATTERNS)
    made[rng.choice(["Resource", "Resource", "Resource", "NotResource"])] = some(rng, PATTERNS if principal else [*PATTERNS, "*"])
    if condition := conditions(rng):
        made["Condition"] = condition
    return made


def document(rng: random.Random, *, principal: bool = False) -> dict[str, Any]:
    statements = [statement(rng, principal=principal) for _ in range(rng.choice([1, 1, 2, 4]))]
    made: dict[str, Any] = {"Statement": statements if len(statements) > 1 or rng.random() < 0.5 else statements[0]}
    if rng.random() < 0.9:
        made["Version"] = rng.choice(["2012-10-17", "2012-10-17", "2008-10-17"])
    return made


def request_of(rng: random.Random) -> dict[str, Any]:
    context = {}
    for key in KEYS:
        if rng.random() < 0.6:
            context[key.lower()] = [rng.choice(WORDS) for _ in range(rng.choice([1, 1, 1, 2, 0]))]
    action = rng.choice(ACTIONS)
    return {
        "action": action,
        "resource": rng.choice(RESOURCES),
        "context": context,
        "owner": rng.choice([A, A, B]),
        "granted": rng.choice([*[Named.NOT] * 6, Named.AS_ACCOUNT, Named.BY_ROLE, Named.ITSELF]),
        "restricted": rng.random() < 0.1,
        **rng.choice(WHO),
    }


def compiled(tree: dict[str, Any] | None, kind: Kind) -> Policy | None:
    """As the server has it: an identity's policy by its text, a bucket's by its document."""
    if tree is None:
        return None
    text = json.dumps(tree)
    return Policy.of_text(text) if kind is Kind.IDENTITY else Policy(read_policy(text, kind, strict=False))


def pair(rng: random.Random) -> tuple[list[dict[str, Any]], dict[str, Any] | None, dict[str, Any] | None]:
    identity = [document(rng) for _ in range(rng.choice([0, 1, 1, 2, 3]))]
    session = document(rng) if rng.random() < 0.2 else None
    resource = document(rng, principal=True) if rng.random() < 0.6 else None
    return identity, session, resource


def check(rng: random.Random, requests: int, tell: Callable[[str], None] = lambda verdict: None) -> None:
    identity, session, resource = pair(rng)
    policies = tuple(policy for tree in identity if (policy := compiled(tree, Kind.IDENTITY)) is not None)
    in_session, of_resource = compiled(session, Kind.IDENTITY), compiled(resource, Kind.BUCKET)
    for _ in range(requests):
        request = request_of(rng)
        who = Principal(request["account"], request["canonical"], request["arn"], request["role"], request["root"])
        whole = Identity(who, policies, None if in_session is None else (in_session,))
        found = decide(
            whole,
            Asked(request),
            request["owner"],
            of_resource,
            granted=request["granted"],
            restricted=request["restricted"],
        )
        expected = model.decide(request, identity, session, resource)
        assert found == expected, (request, identity, session, resource)
        tell(expected)
        head, _, name = request["resource"].partition(":::")
        folder, slash, _ = name.partition("/")
        if slash and head == "arn:aws:s3" and allows_all(whole, request["action"].lower(), f"{folder}/", request["owner"], of_resource):
            assert found == "allowed", ("sure", request, identity, session, resource)
            tell("sure")


def test_the_compiled_evaluator_equals_the_naive_one() -> None:
    seed = random.randrange(1 << 32)
    verdicts = {"allowed": 0, "implicitDeny": 0, "explicitDeny": 0, "sure": 0}

    def tell(verdict: str) -> None:
        verdicts[verdict] += 1

    for number in range(PAIRS // 5):
        try:
            check(random.Random(f"{seed} {number}"), 5, tell)
        except AssertionError as error:
            raise AssertionError(f"seed {seed} {number}: {error}") from error
    assert verdicts.pop("sure") > PAIRS / 1000
    assert min(verdicts.values()) > PAIRS / 50, verdicts  # each verdict is met often
