"""The evaluation of policies as the documentation tells it, as simply as it can be written: the model that the compiled one must equal.

It works on the JSON itself, looks at every statement of every policy for every request, and turns wildcards into regular expressions.

Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html
"""

from __future__ import annotations

import ipaddress
import re
from base64 import b64decode
from datetime import UTC, datetime
from typing import Any

Request = dict[str, Any]  # action, resource, context (lower-case key → values), account, canonical, arn, role, root, owner …


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def substituted(text: str, request: Request, version: str, *, wildcards: bool) -> str | None:
    """A regular expression, or without ``wildcards`` the plain text; ``None`` if a variable stands for nothing."""
    keep = re.escape if wildcards else str
    out = []
    for piece in re.split(r"(\$\{[^}]*\}|\*|\?)" if version == "2012-10-17" else r"(\*|\?)", text):
        if version == "2012-10-17" and piece.startswith("${"):
            inner = piece[2:-1]
            if inner in ("*", "?", "$"):
                out.append(keep(inner))
                continue
            name, _, default = inner.partition(",")
            values = request["context"].get(name.strip().lower())
            if values is not None and len(values) == 1:
                out.append(keep(values[0]))
            elif default:
                out.append(keep(default.strip()[1:-1]))
            else:
                return None
        elif wildcards and piece == "*":
            out.append(".*")
        elif wildcards and piece == "?":
            out.append(".")
        else:
            out.append(keep(piece))
    return "".join(out)


def like(text: str, pattern: str) -> bool:
    return re.fullmatch(pattern, text, re.DOTALL) is not None


def arn_parts(text: str) -> list[str]:
    hidden = re.sub(r"\$\{[^}]*\}", lambda found: found[0].replace(":", "\0"), text)
    return [part.replace("\0", ":") for part in hidden.split(":", 5)]


def resource_matches(pattern: str, request: Request, version: str) -> bool:
    if pattern == "*":
        return True
    parts, found = arn_parts(pattern), request["resource"].split(":", 5)
    if len(parts) != 6 or len(found) != 6:
        return False
    for part, piece in zip(parts, found, strict=True):
        expression = substituted(part, request, version, wildcards=True)
        if expression is None or not like(piece, expression):
            return False
    return True


def number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def date(text: str) -> datetime | None:
    try:
        if re.fullmatch(r"-?[0-9]+", text):
            return datetime.fromtimestamp(int(text), UTC)
        found = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        return None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found


def test(operator: str, found: str, wanted: str, request: Request, version: str) -> bool:
    """One value of the request against one of the policy; the operator without its negation."""
    if operator in ("stringlike", "arnlike", "arnequals"):
        if operator != "stringlike":
            if wanted == "*":
                return True
            parts, pieces = arn_parts(wanted), found.split(":", 5)
            expressions = [substituted(part, request, version, wildcards=True) for part in parts]
            return len(parts) == len(pieces) == 6 and all(
                expression is not None and like(piece, expression) for expression, piece in zip(expressions, pieces, strict=True)
            )
        expression = substituted(wanted, request, version, wildcards=True)
        return expression is not None and like(found, expression)
    plain = substituted(wanted, request, version, wildcards=False)
    if plain is None:
        return False
    if operator == "stringequals":
        return found == plain
    if operator == "stringequalsignorecase":
        return found.lower() == plain.lower()
    if operator == "bool":
        return plain.lower() in ("true", "false") and found.lower() == plain.lower()
    if operator == "binaryequals":
        try:
            return b64decode(found, validate=True) == b64decode(plain, validate=True)
        except ValueError:
            return False
    if operator == "ipaddress":
        try:
            return ipaddress.ip_address(found) in ipaddress.ip_network(plain, strict=False)
        except ValueError:
            return False
    read = number if operator.startswith("numeric") else date
    left, right = read(found), read(plain)
    if left is None or right is None:
        return False
    return {
        "equals": left == right, "lessthan": left < right, "lessthanequals": left <= right,  # type: ignore[operator]
        "greaterthan": left > right, "greaterthanequals": left >= right,  # type: ignore[operator]
    }[re.sub("^(numeric|date)", "", operator)]  # fmt: skip


def condition_holds(operator: str, key: str, values: list[Any], request: Request, version: str) -> bool:
    name = operator.lower()
    qualifier = ""
    if ":" in name:
        qualifier, _, name = name.partition(":")
    texts = [str(value).lower() if isinstance(value, bool) else str(value) for value in values]
    found = request["context"].get(key.lower())
    if name == "null":
        return (not found) == (texts[0].lower() == "true")
    if_exists = name.endswith("ifexists")
    name = name.removesuffix("ifexists")
    negated = name.startswith("not") or "not" in name
    name = name.replace("not", "")
    if not found:
        if qualifier == "forallvalues":
            return True
        if qualifier == "foranyvalue":
            return if_exists and found is None
        return negated or if_exists
    hits = [any(test(name, value, text, request, version) for text in texts) for value in found]
    if negated:
        hits = [not hit for hit in hits]
    if qualifier == "forallvalues":
        return all(hits)
    if qualifier == "foranyvalue":
        return any(hits)
    return all(hits) if negated else any(hits)


def principal_named(element: Any, request: Request) -> str:
    """``itself``, ``role`` (a session by its role or as everybody), ``account`` or nothing."""
    if element == "*":
        element = {"AWS": "*"}
    names = listed(element.get("AWS", []))
    if request["arn"] and request["arn"] in names:
        return "itself"
    if "*" in names or (request["role"] and request["role"] in names):
        return "role" if request["role"] else "itself"
    account = request["account"]
    if account and (
        account in names or f"arn:aws:iam::{account}:root" in names or request["canonical"] in listed(element.get("CanonicalUser", []))
    ):
        return "itself" if request["root"] else "account"
    return ""


def statement_named(statement: dict[str, Any], request: Request) -> str:
    if "Principal" in statement:
        return principal_named(statement["Principal"], request)
    if "NotPrincipal" in statement:
        return "" if principal_named(statement["NotPrincipal"], request) in ("itself", "role") else "itself"
    return "itself"


def statement_applies(statement: dict[str, Any], request: Request, version: str) -> bool:
    actions = listed(statement.get("Action", statement.get("NotAction")))
    is_action = any(
        like(request["action"].lower(), re.escape(action.lower()).replace(r"\*", ".*").replace(r"\?", ".")) for action in actions
    )
    if is_action is ("NotAction" in statement):
        return False
    if "Resource" in statement or "NotResource" in statement:
        resources = listed(statement.get("Resource", statement.get("NotResource")))
        is_resource = any(resource_matches(pattern, request, version) for pattern in resources)
        if is_resource is ("NotResource" in statement):
            return False
    return all(
        condition_holds(operator, key, listed(values), request, version)
        for operator, keys in statement.get("Condition", {}).items()
        for key, values in keys.items()
    )


def says(policy: dict[str, Any] | None, request: Request) -> tuple[bool, set[str]]:
    """Whether a policy denies, and how its allowing statements name who asks."""
    if policy is None:
        return False, set()
    version = policy.get("Version", "2008-10-17")
    denies, allows = False, set()
    for statement in listed(policy["Statement"]):
        named = statement_named(statement, request)
        if named and statement_applies(statement, request, version):
            if statement["Effect"] == "Deny":
                denies = True
            else:
                allows.add(named)
    return denies, allows


def decide(
    request: Request, identity: list[dict[str, Any]], session: dict[str, Any] | None, resource: dict[str, Any] | None
) -> str:
    """``allowed``, ``implicitDeny`` or ``explicitDeny``."""
    same = bool(request["account"]) and request["account"] == request["owner"]
    mending = ("s3:getbucketpolicy", "s3:putbucketpolicy", "s3:deletebucketpolicy")
    if same and request["root"] and request["action"].lower() in mending:
        resource = None
    resource_denies, resource_allows = says(resource, request)
    if request["restricted"] and not same:
        resource_allows = set()
    if request["granted"]:
        resource_allows = resource_allows | {("", "account", "role", "itself")[request["granted"]]}
    mine = [says(policy, request) for policy in identity]
    session_denies, session_allows = says(session, request)
    if resource_denies or (request["account"] and (any(denies for denies, _ in mine) or session_denies)):
        return "explicitDeny"
    if not request["account"]:
        return "allowed" if resource_allows else "implicitDeny"
    identity_allows = request["root"] or any(allows for _, allows in mine)
    in_session = session is None or bool(session_allows)
    if same:
        if "itself" in resource_allows and request["role"]:
            return "allowed"  # the session by its own name: nothing of the account limits that
        allowed = identity_allows or bool(resource_allows & {"itself", "role"})
    else:
        allowed = identity_allows and bool(resource_allows)
    return "allowed" if allowed and in_session else "implicitDeny"
