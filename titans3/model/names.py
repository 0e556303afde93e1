"""What a bucket may be called.

Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html

Invariants
* What S3 refuses for general-purpose buckets is refused, so that every bucket can move there; beyond that only names that belong to
  this server are. S3's ``amzn-s3-demo-`` is allowed: its documentation uses such names for examples.
"""

from __future__ import annotations

import re

_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]\Z").match
_ADDRESS = re.compile(r"\d+\.\d+\.\d+\.\d+\Z").match
_PREFIXES = ("xn--", "sthree-")
_SUFFIXES = ("-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3")
RESERVED_NAMES = frozenset(("health",))


def is_bucket_name(name: str) -> bool:
    """The naming rules of general-purpose buckets, and names that belong to this server."""
    if _NAME(name) is None or name in RESERVED_NAMES or name.startswith(_PREFIXES) or name.endswith(_SUFFIXES):
        return False
    return ".." not in name and ".-" not in name and "-." not in name and _ADDRESS(name) is None
