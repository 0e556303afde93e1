"""Amazon Resource Names: ``arn:partition:service:region:account:resource``.

Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference-arns.html
"""

from __future__ import annotations

PARTITION = "aws"
S3_PREFIX = "arn:aws:s3:::"


def split_arn(text: str) -> list[str]:
    """Its six parts, the last with whatever colons it has; fewer if it is none. Colons inside ``${…}`` do not separate."""
    parts: list[str] = []
    start = at = 0
    while at < len(text) and len(parts) < 5:
        if text.startswith("${", at):
            end = text.find("}", at)
            at = len(text) if end < 0 else end + 1
            continue
        if text[at] == ":":
            parts.append(text[start:at])
            start = at + 1
        at += 1
    parts.append(text[start:])
    return parts


def user_arn(account: str, path: str, name: str) -> str:
    """Of a user; ``path`` begins and ends with a slash."""
    return f"arn:aws:iam::{account}:user{path}{name}"


def root_arn(account: str) -> str:
    """Of an account's root."""
    return f"arn:aws:iam::{account}:root"


def role_arn(account: str, path: str, name: str) -> str:
    """Of a role."""
    return f"arn:aws:iam::{account}:role{path}{name}"


def session_arn(account: str, role: str, session: str) -> str:
    """Of somebody who assumed a role."""
    return f"arn:aws:sts::{account}:assumed-role/{role}/{session}"
