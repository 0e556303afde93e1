"""What of a request's target may be shown: all but the values that prove who asks, or that are secrets of somebody.

Invariants
* A name is known in any spelling: of either case, percent-encoded or not. Hot with an access log: without a query there is no work.
* It hides rather too much than too little.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

# Of signed queries, of IAM's and STS's parameters by GET, of customer keys that an SDK hoists from headers into a query.
_NAMES = (
    rb"x-amz-(?:signature|security-token|credential|(?:copy-source-)?server-side-encryption-customer-key)|signature|awsaccesskeyid|"
    rb"(?:old|new)?password|webidentitytoken|tokencode|(?:access_|id_|refresh_)?token|secret(?:_?key)?"
)
_PLAIN = re.compile(rb"(?i)(&(?:" + _NAMES + rb")=)[^&#]*")
_NAME = re.compile(rb"(?i)(?:" + _NAMES + rb")")


def hidden(target: bytes) -> bytes:
    """A request's target, or a URL, without its secrets. In time proportional to its length: anybody may send one."""
    path, mark, query = target.partition(b"?")
    if not mark:
        return target
    query = _PLAIN.sub(rb"\1...", b"&" + query)[1:]
    if b"%" in query:
        query = b"&".join([_spelled(item) if b"%" in item else item for item in query.split(b"&")])
    return path + mark + query


def _spelled(item: bytes) -> bytes:
    name, equals, _ = item.partition(b"=")
    if equals and b"%" in name and _NAME.fullmatch(unquote_to_bytes(name)):
        return name + b"=..."
    return item
