"""Policies that every account has without making them: ``arn:aws:iam::aws:policy/<name>``.

The first five are TitanS3's own; the others are those of AWS's names that clients attach most, as far as they mean anything here.
"""

from __future__ import annotations

import json
from typing import Any

PREFIX = "arn:aws:iam::aws:policy/"
_READS = ["s3:Get*", "s3:List*"]
_ADMIN = "titans3:*"


def _allow(actions: list[str], description: str) -> tuple[str, str]:
    statement: dict[str, Any] = {"Effect": "Allow", "Action": actions, "Resource": "*"}
    return description, json.dumps({"Version": "2012-10-17", "Statement": [statement]})


# Name: description, document.
BUILTIN: dict[str, tuple[str, str]] = {
    "readonly": _allow(
        ["s3:GetBucketLocation", "s3:GetObject", "s3:GetObjectVersion", "s3:ListBucket"], "Read objects whose bucket is known"
    ),
    "readwrite": _allow(["s3:*"], "Everything on buckets and objects"),
    "writeonly": _allow(["s3:PutObject", "s3:AbortMultipartUpload"], "Write objects, read none"),
    "diagnostics": _allow(
        ["titans3:ServerInfo", "titans3:Metrics", "titans3:Trace", "titans3:Logs", "titans3:Top", "titans3:GetConfig", "titans3:GetRing"],
        "Look at the server, change nothing",
    ),
    "consoleAdmin": _allow(["s3:*", "iam:*", "sts:*", "kms:*", _ADMIN], "Everything that there is"),
    "AdministratorAccess": _allow(["*"], "Everything"),
    "AmazonS3FullAccess": _allow(["s3:*"], "Everything on buckets and objects"),
    "AmazonS3ReadOnlyAccess": _allow(_READS, "Read buckets and objects"),
    "IAMFullAccess": _allow(["iam:*"], "Users, groups, roles and policies of the account"),
    "IAMReadOnlyAccess": _allow(["iam:Get*", "iam:List*", "iam:Simulate*"], "Look at users, groups, roles and policies"),
}
