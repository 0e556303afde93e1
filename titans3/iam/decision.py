"""The decision between all rules that are about a request.

Invariants
* An explicit deny in any of them wins. Without an allow the answer is no.
* Within an account, its own policy or the resource's is enough; across accounts both have to allow.
* A session is never allowed more than its session policy says, unless a resource's policy names that very session.
* The root of an account is limited by denies of resources alone; whoever owns a bucket can always mend its policy.

Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic_policy-eval-basics.html
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from titans3.iam.policy import Ask, Policy
from titans3.iam.principal import Named, Principal


class Verdict(StrEnum):
    """What comes of it, with the reason that ``titanctl policy simulate`` and the audit trail show."""

    ALLOWED = "allowed"
    IMPLICIT = "implicitDeny"
    EXPLICIT = "explicitDeny"


class Identity(msgspec.Struct, frozen=True):
    """Who asks, with its policies. ``session``: the policies of its session, which together limit it; ``None`` is no limit."""

    who: Principal
    policies: tuple[Policy, ...] = ()
    session: tuple[Policy, ...] | None = None


# What the owner's root may do whatever the bucket's policy denies, so that nobody locks himself out.
_MENDING = frozenset(("s3:getbucketpolicy", "s3:putbucketpolicy", "s3:deletebucketpolicy"))


def decide(
    identity: Identity,
    ask: Ask,
    owner: str,
    resource: Policy | None = None,
    *,
    granted: Named = Named.NOT,
    restricted: bool = False,
) -> Verdict:
    """``owner``: account of the resource. ``resource``: its policy; ``restricted``: that allows nothing to other accounts.

    ``granted``: how the resource's access control list names who asks.
    """
    who = identity.who
    same = who.account == owner and owner != ""
    by_resource = Named.NOT
    if resource is not None and not (same and who.is_root and ask.action in _MENDING):
        says = resource.says(ask, who)
        if says.denies:
            return Verdict.EXPLICIT
        if same or not restricted:
            by_resource = says.allows
    by_resource = max(by_resource, granted)
    if not who.account:
        return Verdict.ALLOWED if by_resource else Verdict.IMPLICIT
    by_identity = who.is_root
    for policy in identity.policies:
        says = policy.says(ask, who)
        if says.denies:
            return Verdict.EXPLICIT
        by_identity = by_identity or says.allows is not Named.NOT
    by_session = True
    if identity.session is not None:
        by_session = False
        for policy in identity.session:
            says = policy.says(ask, who)
            if says.denies:
                return Verdict.EXPLICIT
            by_session = by_session or says.allows is not Named.NOT
    if by_resource is Named.ITSELF and same:
        return Verdict.ALLOWED if by_session or who.role else Verdict.IMPLICIT
    across = by_identity and by_resource is not Named.NOT
    allowed = across or (same and (by_identity or by_resource is Named.BY_ROLE))
    return Verdict.ALLOWED if allowed and by_session else Verdict.IMPLICIT


def allows_all(identity: Identity, action: str, folder: str, owner: str, resource: Policy | None) -> bool:
    """Whether ``decide`` allows every request for an action (lower case) on names in S3 that begin with ``folder``, whatever else it is
    like, and whatever lists grant. Slower than a decision, and worth keeping: it holds as long as the policies do.
    """
    who = identity.who
    if not who.account or who.account != owner:
        return False
    by_identity = who.is_root
    for policy in identity.policies:
        may_deny, always_allows = policy.always(action, folder)
        if may_deny:
            return False
        by_identity = by_identity or always_allows
    by_session = identity.session is None
    for policy in identity.session or ():
        may_deny, always_allows = policy.always(action, folder)
        if may_deny:
            return False
        by_session = by_session or always_allows
    return by_identity and by_session and (resource is None or not resource.always(action, folder)[0])
