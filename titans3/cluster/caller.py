"""Who asks, as requests are judged by it: one access key or session with everything its rights depend on.

Invariants
* A caller is made whole from one state of the records and never changes; a change of any record of identity drops all that were made.
  What it did lately is kept with it (``Recent``, ``sure``) and never decides by itself.
"""

from __future__ import annotations

import msgspec

from titans3.iam.decision import Identity
from titans3.iam.principal import Principal
from titans3.model.identity import ANONYMOUS_ACCOUNT, ANONYMOUS_CANONICAL

# Condition keys that follow from who asks (lower case), with their values.
Keys = dict[str, tuple[str, ...]]


class Recent(msgspec.Struct, gc=False):
    """What a caller was last found to do, in one place: one of thousands has nothing else in the processor's caches.

    ``seen``: the table in which the use of its key for ``service`` is noted. ``sure``: whether ``action`` is allowed in all of ``bucket``
    under ``rules``.
    """

    seen: object = None
    service: str = ""
    bucket: int = -1
    action: str = ""
    rules: object = None
    sure: bool = False


class Caller(msgspec.Struct, frozen=True, gc=False):
    """``account`` is empty for an anonymous request. ``user_id`` is what aws:userid is; ``keys`` are condition keys of who asks.

    ``is_account_root``: the account itself, not limited by a session. ``token`` is the session token its requests must carry.
    """

    account: str
    access_key: str
    secret: str
    canonical: str
    name: str
    rights: Identity
    keys: Keys
    user_id: str = ""
    user: str = ""
    expires_ms: int = 0
    is_account_root: bool = False
    token: str = ""
    recent: Recent = msgspec.field(default_factory=Recent)
    arn: str = ""  # its name; empty for anonymous
    sure: dict[tuple[int, str], tuple[object, bool]] = {}  # what is allowed in a whole bucket, by bucket and action: see s3/authorization

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "arn", self.rights.who.arn)

    def __repr__(self) -> str:
        return f"Caller({self.arn or 'anonymous'})"  # never the secret

    @property
    def is_anonymous(self) -> bool:
        """Whether nobody signed."""
        return not self.account

    @property
    def owns_as(self) -> str:
        """The account that owns what it makes."""
        return self.account or ANONYMOUS_ACCOUNT


ANONYMOUS = Caller(
    "",
    "",
    "",
    ANONYMOUS_CANONICAL,
    "",
    Identity(Principal(canonical=ANONYMOUS_CANONICAL)),
    {"aws:principaltype": ("Anonymous",), "aws:userid": ("anonymous",)},
)
