"""One S3 operation as the model describes it: the row type of the generated table in ``operations.py``.

Invariants
* A row says how an operation is recognised and which rights it asks for; it never says whether it is built (handlers do).
"""

from __future__ import annotations

import msgspec

SERVICE = "service"
BUCKET = "bucket"
OBJECT = "object"


class Operation(msgspec.Struct, frozen=True):
    """``resource`` is the sub-resource in the query (``uploads``), ``value`` the value it must have (``2`` of list-type).

    ``query`` and ``headers`` are the further names that tell it from operations of the same method, kind and sub-resource.
    ``alias_of`` names the operation that owns the same wire call. ``status`` is that of success; ``tier`` is core, important,
    advanced or aws-only.
    """

    name: str
    method: str
    kind: str
    resource: str
    value: str
    query: tuple[str, ...]
    headers: tuple[str, ...]
    actions: tuple[str, ...]
    status: int
    tier: str
    alias_of: str = ""
