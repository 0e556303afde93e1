"""One S3 call: what a handler is given.

Invariants
* When a handler runs, the request is authenticated, its bucket exists (but for CreateBucket and ListBuckets) and the caller may do the
  operation on it, or it is left to ``access`` what the version says about that. Nothing of an object's body was read.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import msgspec

from titans3.clock import Clock
from titans3.cluster.caller import Caller
from titans3.cluster.settings import Settings
from titans3.cluster.store import Store
from titans3.engine.hot import Kept
from titans3.http.authentication import Verified
from titans3.http.forwarded import TrustedProxies
from titans3.http.hashing import BodyHashing
from titans3.http.message import Request, Response
from titans3.http.payload import Payload, open_payload
from titans3.limits import BODY_XML_BYTES_MAX
from titans3.model.control import BucketRecord
from titans3.model.version import NULL, Version
from titans3.s3.contents import Contents
from titans3.s3.errors import S3Error, invalid_argument
from titans3.s3.operation import Operation
from titans3.s3.receive import judge_small, proof_of
from titans3.s3.xmlout import owner_element

if TYPE_CHECKING:
    from titans3.s3.authorization import Access


class Context(msgspec.Struct, frozen=True):
    """What all calls of a worker share. ``hashing``: how the digests of large bodies are computed.

    ``required_region`` is the only one there is, if so configured.
    """

    store: Store
    clock: Clock
    region: str = "us-east-1"
    hashing: BodyHashing = msgspec.field(default_factory=BodyHashing)
    required_region: str | None = None
    proxies: TrustedProxies = TrustedProxies(())
    settings: Settings | None = None
    contents: Contents = msgspec.field(default_factory=Contents)

    @property
    def is_public(self) -> bool:
        """Whether requests that nobody signed can be allowed at all."""
        return self.settings is None or self.settings.flag("access.public")


class Call(msgspec.Struct, eq=False):
    """One request on its way through a handler.

    ``is_bare``: whether no header asks for anything beyond the operation, so that conditions, ranges, checksums, metadata and the like need
    not be looked for. ``access`` decides about rights; ``None``: all is plainly the caller's own, or ``is_sure``. ``kept``: where the
    version that was found stays, if it does.
    """

    context: Context
    store: Store
    request: Request
    fields: dict[bytes, bytes]
    query: dict[str, str]
    operation: Operation
    identity: Caller
    verified: Verified | None
    bucket_name: str
    _bucket: BucketRecord | None
    key: bytes
    is_bare: bool = False
    is_sure: bool = False
    access: Access | None = None
    kept: Kept | None = None

    def __repr__(self) -> str:
        return f"Call({self.operation.name}, {self.request.request_id})"  # never the caller's secret

    @property
    def bucket(self) -> BucketRecord:
        """The bucket of the path."""
        assert self._bucket is not None
        return self._bucket

    def header(self, name: bytes) -> str | None:
        """A header's text; in a presigned request also one that stands in the query."""
        value = self.fields.get(name)
        return None if value is None else value.decode("latin-1")

    def version_id(self) -> str:
        """``versionId`` of the query, empty if absent. Raises InvalidArgument for a text that is no version id."""
        text = self.query.get("versionId")
        return "" if text is None else checked_version_id(text)

    def shows(self, version: Version) -> bool:
        """Whether answers about ``version`` carry its id: not in a bucket that never knew versioning."""
        return self.bucket.versioning != 0 or not version.flags & NULL

    def owner_element(self, account: str, name: str = "Owner") -> str:
        """Owner or Initiator of an account."""
        return owner_element(self.store.identities.owner(account), name)

    def owners_of_objects(self) -> tuple[str, bool]:
        """What ``object_owner`` depends on, but for what accounts are called."""
        return self.bucket.owner, self.store.rules.find(self.bucket).has_acls

    def object_owner(self, account: str) -> str:
        """The Owner element of an object that an account wrote."""
        base, has_acls = self.owners_of_objects()
        if not account or not has_acls:
            account = base
        return owner_element(self.store.identities.owner(account))

    def payload(self) -> Payload:
        """The body's reader, verified against the signature."""
        return open_payload(self.request.body, self.verified, self.fields, self.context.hashing)

    async def read_document(self) -> tuple[bytes, Payload]:
        """A small body that must be whole in memory. Raises MaxMessageLengthExceeded past BODY_XML_BYTES_MAX."""
        payload = self.payload()
        if payload.length is not None and payload.length > BODY_XML_BYTES_MAX:
            raise S3Error("MaxMessageLengthExceeded", MaxMessageLengthBytes=str(BODY_XML_BYTES_MAX))
        return await payload.read_all(BODY_XML_BYTES_MAX), payload

    async def read_proven(self, *, required: bool = False) -> bytes:
        """A small body that is what its sender meant; ``required``: it has to say a digest. Raises BadDigest, InvalidRequest."""
        state = self.request.state
        if state is not None and isinstance(known := state.get("body"), bytes):
            return known  # read and proven when its rights were decided
        proof = proof_of(self.fields)
        if required and proof.md5 is None and proof.claim is None:
            raise S3Error("InvalidRequest", "Missing required header for this request: Content-MD5 OR x-amz-checksum-*")
        data, payload = await self.read_document()
        judge_small(data, payload, proof)
        return data


Handler = Callable[[Call], Coroutine[Any, Any, Response]]


def checked_version_id(text: str) -> str:
    """``null`` or 32 hex digits, lower case. Raises InvalidArgument."""
    if text == "null":
        return text
    if not text:
        raise invalid_argument("Version id cannot be the empty string", "versionId", text)
    if len(text) != 32 or not set(text) <= set("0123456789abcdef"):
        raise invalid_argument("Invalid version id specified", "versionId", text)
    return text
