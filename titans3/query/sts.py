"""Temporary credentials: GetCallerIdentity, AssumeRole, AssumeRoleWithWebIdentity, GetSessionToken, GetAccessKeyInfo.

Invariants
* A session is proven by its token alone (see ``cluster/identities``); nothing is stored for it.
* Who may assume a role is said by the role's trust policy; it must allow, whatever the caller's own policies say.
* A role's session that assumes another role gets an hour at most. Tags that it was told to pass on, it passes on.
* GetSessionToken's sessions may not call IAM, and of STS only AssumeRole and GetCallerIdentity.

Source: https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html and its siblings
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from titans3.cluster.directory import new_access_key, new_secret
from titans3.cluster.identities import SESSION_FORMAT, Identities, Session
from titans3.iam.arn import role_arn, session_arn, split_arn
from titans3.iam.decision import Verdict, decide
from titans3.iam.document import Kind, PolicyMalformed, read_policy
from titans3.iam.policy import Policy
from titans3.iam.principal import Named, Principal
from titans3.model.identity import Credential, OidcProvider, Role, credential_key, oidc_key
from titans3.query.answer import Moment, Tree
from titans3.query.call import Asked, Call, denied, resource_keys, tag_keys
from titans3.query.errors import QueryError, invalid
from titans3.query.parameters import ACCESS_KEY, ARN, EXTERNAL_ID, SESSION_DOCUMENT, SESSION_NAME, WEB_TOKEN

_HOUR, _MINUTES_15 = 3600, 900
_SESSION_SECONDS, _SESSION_SECONDS_MAX = 43_200, 129_600
_ROLE_SECONDS_MAX = 43_200
_POLICIES_MAX = 10
_PACKED_MAX = 2048  # characters of session policies, ARNs and tags together
_KEY_LETTERS = 20


async def get_caller_identity(call: Call) -> dict[str, Tree]:
    """Everybody may ask who he is."""
    return {"UserId": call.caller.user_id, "Account": call.account, "Arn": call.caller.arn}


async def get_access_key_info(call: Call) -> dict[str, Tree]:
    """Whose account a key is of; one that is not known is nobody's."""
    access_key = call.parameters.text("AccessKeyId", ACCESS_KEY)
    call.authorize("*")
    found = await call.directory.read(credential_key(access_key), Credential)
    if found is None:
        raise invalid(f"The access key {access_key[:_KEY_LETTERS]} is not known.")
    return {"Account": found[0].account}


async def get_session_token(call: Call) -> dict[str, Tree]:
    """A session of the caller's own."""
    caller = call.caller
    if caller.token:
        raise QueryError("AccessDenied", "Cannot call GetSessionToken with session credentials")
    if call.parameters.has("SerialNumber") or call.parameters.has("TokenCode"):
        raise QueryError("AccessDenied", "MultiFactorAuthentication failed: no MFA device is assigned.")
    is_root = caller.rights.who.is_root
    most = _HOUR if is_root else _SESSION_SECONDS_MAX
    seconds = call.parameters.number("DurationSeconds", min(_SESSION_SECONDS, most), _MINUTES_15, _SESSION_SECONDS_MAX)
    seconds = min(seconds, most)  # the root's are cut, as AWS does
    limits = caller.rights.session
    policies: tuple[str, ...] = ()
    if limits is not None:  # a service account's key: its session is limited as it is
        found = await call.directory.read(credential_key(caller.access_key), Credential)
        policies = () if found is None else (found[0].session_policy,)
    session = _session(call, seconds, name="", user=caller.user, user_id="" if is_root else caller.user_id, policies=policies,
                       is_limited=limits is not None)  # fmt: skip
    return {"Credentials": _credentials(call.identities, session)}


async def assume_role(call: Call) -> dict[str, Tree]:
    """A session of a role, by who its trust policy names."""
    role, arn = _role(call)
    name = call.parameters.text("RoleSessionName", SESSION_NAME)
    caller = call.caller
    if caller.rights.who.is_root:
        raise QueryError("AccessDenied", "Roles may not be assumed by root accounts.")
    keys: dict[str, Sequence[str]] = {"sts:rolesessionname": (name,)}
    if call.parameters.has("ExternalId"):
        keys["sts:externalid"] = (call.parameters.text("ExternalId", EXTERNAL_ID),)
    tags, passed_on = call.parameters.tags(), call.parameters.members("TransitiveTagKeys", longest=50)
    if tags:
        keys |= tag_keys(tags)
    if passed_on:
        keys["sts:transitivetagkeys"] = tuple(passed_on)
    before = call.identities.open_session(caller.token) if caller.token else None
    source = _source(call, keys, "" if before is None else before.keys.get("aws:sourceidentity", ("",))[0])
    trust = _trust(call.identities, role)
    _judge(call, role, arn, trust, keys, "sts:AssumeRole")
    if tags:
        _judge(call, role, arn, trust, keys, "sts:TagSession")
    if call.parameters.has("SourceIdentity"):
        _judge(call, role, arn, trust, keys, "sts:SetSourceIdentity")
    transitive = tuple(passed_on)
    if before is not None:
        kept = {tag: before.tags[tag] for tag in before.transitive if tag in before.tags}
        if any(tag.lower() in {one.lower() for one in kept} for tag in tags):
            raise QueryError("InvalidInput", "A tag that is passed on cannot be replaced.")
        tags, transitive = kept | tags, (*before.transitive, *passed_on)
    more: dict[str, tuple[str, ...]] = {"aws:sourceidentity": (source,)} if source else {}
    session = _role_session(call, role, name, tags=tags, transitive=transitive, keys=more, chained=bool(caller.rights.who.role))
    return _assumed(call, role, session) | ({"SourceIdentity": source} if source else {})


async def assume_role_with_web_identity(call: Call) -> dict[str, Tree]:
    """A session of a role for whom an OpenID Connect issuer vouches; nobody signs this."""
    from titans3.query.web_identity import WebIdentity, verify

    role, arn = _role(call)
    name = call.parameters.text("RoleSessionName", SESSION_NAME)
    token = call.parameters.text("WebIdentityToken", WEB_TOKEN)

    def provider(url: str) -> OidcProvider | None:
        return call.identities.record(oidc_key(role.account, url), OidcProvider)

    identity: WebIdentity = await verify(token, provider, call.now_ms / 1000)
    keys: dict[str, Sequence[str]] = {
        "sts:rolesessionname": (name,), "aws:federatedprovider": (identity.provider_arn,), **identity.keys,
    }  # fmt: skip
    says = _trust(call.identities, role).says(
        Asked(call, "sts:AssumeRoleWithWebIdentity", arn, keys), Principal(federated=identity.provider_arn)
    )
    if says.denies or says.allows is Named.NOT:
        raise QueryError("AccessDenied", "Not authorized to perform sts:AssumeRoleWithWebIdentity")
    kept = {key: tuple(values) for key, values in keys.items() if key != "sts:rolesessionname"}
    session = _role_session(call, role, name, keys=kept)
    return _assumed(call, role, session) | {
        "SubjectFromWebIdentityToken": identity.subject, "Audience": identity.audience, "Provider": identity.provider_arn,
    }  # fmt: skip


# parts -----------------------------------------------------------------------------------------------------------------


def _role(call: Call) -> tuple[Role, str]:
    """RoleArn's. Raises QueryError(AccessDenied) for one that is not there: nobody learns which roles others have."""
    arn = call.parameters.text("RoleArn", ARN)
    parts = split_arn(arn)
    if len(parts) == 6 and parts[:4] == ["arn", "aws", "iam", ""] and parts[5].startswith("role/"):
        role = call.identities.role(parts[4], parts[5].rpartition("/")[2])
        if role is not None and role_arn(role.account, role.path, role.name) == arn:
            account = call.identities.account(role.account)
            if account is not None and account.enabled:
                return role, arn
    elif not arn.startswith("arn:"):
        raise invalid(f"{arn[:200]} is invalid")
    raise _not_authorized(call, arn)


def _not_authorized(call: Call, arn: str) -> QueryError:
    if call.caller.is_anonymous:
        return QueryError("AccessDenied", f"Not authorized to perform sts:{call.action}")
    return QueryError("AccessDenied", f"User: {call.caller.arn} is not authorized to perform: sts:{call.action} on resource: {arn}")


def _trust(identities: Identities, role: Role) -> Policy:
    """The role's trust policy, without names that mean somebody else by now."""
    try:
        document = read_policy(role.trust, Kind.TRUST, strict=False)
    except PolicyMalformed as error:
        raise QueryError("AccessDenied", "The role's trust policy is not readable.") from error
    return Policy(identities.bound(document, role.trust_ids), "trust policy")


def _judge(call: Call, role: Role, arn: str, trust: Policy, keys: Mapping[str, Sequence[str]], action: str) -> None:
    """Raises QueryError(AccessDenied) unless both the trust policy and, as far as it takes it, the caller's own allow."""
    asked = Asked(call, action, arn, {**keys, **resource_keys(role.tags)})
    rights = call.caller.rights
    says = trust.says(asked, rights.who)
    verdict = Verdict.EXPLICIT if says.denies else Verdict.IMPLICIT
    if not says.denies and says.allows is not Named.NOT:
        verdict = decide(rights, asked, role.account, trust)
    if verdict is not Verdict.ALLOWED:
        raise denied(asked, verdict)


def _source(call: Call, keys: dict[str, Sequence[str]], before: str) -> str:
    """SourceIdentity, which a chain of sessions never changes. Raises QueryError(AccessDenied)."""
    if before:
        keys["aws:sourceidentity"] = (before,)
    if not call.parameters.has("SourceIdentity"):
        return before
    source = call.parameters.text("SourceIdentity", SESSION_NAME)
    if before and source != before:
        raise QueryError("AccessDenied", "The source identity of a session cannot be changed.")
    keys["sts:sourceidentity"] = (source,)
    return source


def _role_session(
    call: Call, role: Role, name: str, *, tags: dict[str, str] | None = None, transitive: tuple[str, ...] = (),
    keys: dict[str, tuple[str, ...]] | None = None, chained: bool = False,
) -> Session:  # fmt: skip
    """Its duration and limits by the parameters. Raises QueryError."""
    seconds = call.parameters.number("DurationSeconds", _HOUR, _MINUTES_15, _ROLE_SECONDS_MAX)
    most = _HOUR if chained else role.session_seconds_max
    if seconds > most:
        if chained:
            raise invalid(f"The requested DurationSeconds exceeds the {_HOUR} second session limit for roles assumed by role chaining")
        raise invalid("The requested DurationSeconds exceeds the MaxSessionDuration set for this role.")
    policies = (call.parameters.text("Policy", SESSION_DOCUMENT),) if call.parameters.has("Policy") else ()
    for text in policies:
        try:
            read_policy(text, Kind.IDENTITY)
        except PolicyMalformed as error:
            raise QueryError("MalformedPolicyDocument", str(error)) from error
    managed = tuple(call.parameters.members("PolicyArns", ARN, _POLICIES_MAX, of="arn"))
    for arn in managed:
        if call.identities.managed_document(role.account, arn) is None:
            raise QueryError("MalformedPolicyDocument", f"The policy {arn[:200]} does not exist in the role's account.")
    return _session(
        call, seconds, name=name, account=role.account, role=role.name, role_id=role.role_id, policies=policies, managed=managed,
        tags=tags or {}, keys=keys or {}, is_limited=bool(policies or managed), transitive=transitive,
    )  # fmt: skip


def _session(call: Call, seconds: int, *, name: str, account: str = "", **more: object) -> Session:
    now = call.now_ms
    return Session(
        SESSION_FORMAT, new_access_key("ASIA"), new_secret(), account or call.account, name, now, now + seconds * 1000, **more  # type: ignore[arg-type]
    )  # fmt: skip


def _credentials(identities: Identities, session: Session) -> dict[str, Tree]:
    return {
        "AccessKeyId": session.access_key, "SecretAccessKey": session.secret, "SessionToken": identities.seal_session(session),
        "Expiration": Moment(session.expires_ms),
    }  # fmt: skip


def _assumed(call: Call, role: Role, session: Session) -> dict[str, Tree]:
    size = sum(map(len, (*session.policies, *session.managed, *session.tags.keys(), *session.tags.values())))
    if size > _PACKED_MAX:
        raise QueryError("PackedPolicyTooLarge", f"Session policies, ARNs and tags have {size} characters, {_PACKED_MAX} are allowed.")
    return {
        "Credentials": _credentials(call.identities, session),
        "AssumedRoleUser": {
            "AssumedRoleId": f"{role.role_id}:{session.name}", "Arn": session_arn(role.account, role.name, session.name),
        },
        "PackedPolicySize": -(-size * 100 // _PACKED_MAX) if size else None,
    }  # fmt: skip


ACTIONS = {
    "AssumeRole": assume_role,
    "AssumeRoleWithWebIdentity": assume_role_with_web_identity,
    "GetAccessKeyInfo": get_access_key_info,
    "GetCallerIdentity": get_caller_identity,
    "GetSessionToken": get_session_token,
}
# What nobody needs to sign, and what needs no right.
ANONYMOUS = frozenset(("AssumeRoleWithWebIdentity",))
