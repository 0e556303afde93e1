"""The account itself: summary, alias, details, and the kinds of credentials that there are none of.

Invariant: what clients ask for before they delete a user (MFA devices, SSH keys, certificates) is answered as an account without any does.

Source: https://docs.aws.amazon.com/IAM/latest/APIReference/API_GetAccountSummary.html and its siblings
"""

from __future__ import annotations

import msgspec

from titans3.cluster.transaction import Transaction
from titans3.iam.builtin import BUILTIN
from titans3.model.identity import (
    Account,
    Attached,
    Group,
    ManagedPolicy,
    OidcProvider,
    Role,
    User,
    account_key,
    alias_key,
    group_key,
    oidc_key,
    policy_key,
    role_key,
    user_key,
)
from titans3.query.answer import Encoded, Entry, Tree
from titans3.query.call import Call
from titans3.query.errors import QueryError, absent
from titans3.query.groups import group_tree
from titans3.query.holders import DOCUMENT_CHARACTERS_MAX, name_of
from titans3.query.parameters import ALIAS
from titans3.query.policies import builtin, policy_arn, policy_tree
from titans3.query.roles import role_tree
from titans3.query.users import find_user, own_or_named, user_tree

_LISTS = ("UserDetailList", "GroupDetailList", "RoleDetailList", "Policies")
_FILTERS = ("User", "Role", "Group", "LocalManagedPolicy", "AWSManagedPolicy")


async def get_account_summary(call: Call) -> dict[str, Tree]:
    call.authorize("*")
    directory, account = call.directory, call.account
    users = await directory.list_of(user_key(account, ""), User)
    counts = {
        "Users": len(users), "UsersQuota": call.limit("iam.users_max"),
        "Groups": len(await directory.list_of(group_key(account, ""), Group)), "GroupsQuota": call.limit("iam.groups_max"),
        "Roles": len(await directory.list_of(role_key(account, ""), Role)), "RolesQuota": call.limit("iam.roles_max"),
        "Policies": len(await directory.list_of(policy_key(account, ""), ManagedPolicy)), "PoliciesQuota": call.limit("iam.policies_max"),
        "Providers": len(await directory.list_of(oidc_key(account, ""), OidcProvider)),
        "AccessKeysPerUserQuota": call.limit("iam.access_keys_max"), "GroupsPerUserQuota": 10,
        "VersionsPerPolicyQuota": 5, "PolicySizeQuota": DOCUMENT_CHARACTERS_MAX,
        "UserPolicySizeQuota": DOCUMENT_CHARACTERS_MAX, "GroupPolicySizeQuota": DOCUMENT_CHARACTERS_MAX,
        "AttachedPoliciesPerUserQuota": 20, "AttachedPoliciesPerGroupQuota": 20, "AttachedPoliciesPerRoleQuota": 20,
        "MFADevices": 0, "MFADevicesInUse": 0, "AccountMFAEnabled": 0, "ServerCertificates": 0, "InstanceProfiles": 0,
        "AccountAccessKeysPresent": 1,
    }  # fmt: skip
    return {"SummaryMap": [Entry(name, count) for name, count in sorted(counts.items())]}


async def list_account_aliases(call: Call) -> dict[str, Tree]:
    call.authorize("*")
    found = await call.directory.read(account_key(call.account), Account)
    aliases = [found[0].alias] if found is not None and found[0].alias else []
    return call.page("AccountAliases", aliases, lambda alias: alias, lambda alias: alias)


async def create_account_alias(call: Call) -> None:
    alias = call.parameters.text("AccountAlias", ALIAS)
    call.authorize("*")

    async def create(transaction: Transaction) -> None:
        account = await transaction.need(account_key(call.account), Account, absent("account", call.account))
        taken = await transaction.read_text(alias_key(alias))
        if taken == call.account:
            return
        if taken:
            raise QueryError("EntityAlreadyExists", f"The account alias {alias} already exists.")
        if account.alias:
            transaction.delete(alias_key(account.alias))
        transaction.put_text(alias_key(alias), call.account)
        transaction.put(account_key(call.account), msgspec.structs.replace(account, alias=alias))

    await call.transact(create)


async def delete_account_alias(call: Call) -> None:
    alias = call.parameters.text("AccountAlias", ALIAS)
    call.authorize("*")

    async def delete(transaction: Transaction) -> None:
        account = await transaction.need(account_key(call.account), Account, absent("account", call.account))
        if account.alias != alias:
            raise absent("account alias", alias)
        transaction.delete(alias_key(alias))
        transaction.put(account_key(call.account), msgspec.structs.replace(account, alias=""))

    await call.transact(delete)


async def get_account_password_policy(call: Call) -> None:
    call.authorize("*")
    raise QueryError("NoSuchEntity", f"The Password Policy with domain name {call.account} cannot be found.")


async def get_account_authorization_details(call: Call) -> dict[str, Tree]:
    """Everybody with all policies."""
    call.authorize("*")
    wanted = call.parameters.members("Filter") or list(_FILTERS)
    for kind in wanted:
        if kind not in _FILTERS:
            raise QueryError("ValidationError", f"Filter {kind[:100]} is none of {', '.join(_FILTERS)}")
    directory, account = call.directory, call.account
    users = await directory.list_of(user_key(account, ""), User)
    groups = await directory.list_of(group_key(account, ""), Group)
    roles = await directory.list_of(role_key(account, ""), Role)
    policies = await directory.list_of(policy_key(account, ""), ManagedPolicy)
    counts: dict[str, int] = {}
    everybody = [user.attached for user in users] + [group.attached for group in groups] + [role.attached for role in roles]
    for attached in everybody:
        for arn in attached.managed:
            counts[arn] = counts.get(arn, 0) + 1
    items: list[tuple[str, str, dict[str, Tree]]] = []
    if "User" in wanted:
        items += [
            (_LISTS[0], user.name.lower(), user_tree(user, tags=True) | {"GroupList": list(user.groups)} | _has(user.attached, "User"))
            for user in users
        ]
    if "Group" in wanted:
        items += [(_LISTS[1], group.name.lower(), group_tree(group) | _has(group.attached, "Group")) for group in groups]
    if "Role" in wanted:
        items += [
            (_LISTS[2], role.name.lower(), role_tree(role, tags=True) | {"InstanceProfileList": []} | _has(role.attached, "Role"))
            for role in roles
        ]
    shown = policies if "LocalManagedPolicy" in wanted else []
    if "AWSManagedPolicy" in wanted:
        shown = shown + [builtin(name) for name in BUILTIN]
    items += [(_LISTS[3], policy_arn(policy), _policy(policy, counts)) for policy in shown]
    items.sort(key=_order)
    page, more = call.cut(items, _order)
    lists: dict[str, Tree] = {field: [tree for name, _, tree in page if name == field] for field in _LISTS}
    return lists | more


def _order(item: tuple[str, str, dict[str, Tree]]) -> str:
    return f"{item[0]} {item[1]}"


def _has(attached: Attached, kind: str) -> dict[str, Tree]:
    return {
        "AttachedManagedPolicies": [{"PolicyName": name_of(arn), "PolicyArn": arn} for arn in attached.managed],
        f"{kind}PolicyList": [
            {"PolicyName": name, "PolicyDocument": Encoded(text)} for name, text in sorted(attached.inline.items())
        ],
    }  # fmt: skip


def _policy(policy: ManagedPolicy, counts: dict[str, int]) -> dict[str, Tree]:
    versions: list[Tree] = [
        {
            "Document": Encoded(version.document), "VersionId": f"v{version.number}",
            "IsDefaultVersion": version.number == policy.default,
        }
        for version in policy.versions
    ]  # fmt: skip
    return policy_tree(policy, counts.get(policy_arn(policy), 0)) | {"PolicyVersionList": versions}


# what there is none of -------------------------------------------------------------------------------------------------


async def _none_of_user(call: Call, field: str) -> dict[str, Tree]:
    user = await find_user(call, own_or_named(call))
    call.authorize(call.arn("user", user.name, user.path))
    return {field: [], "IsTruncated": False}


async def list_mfa_devices(call: Call) -> dict[str, Tree]:
    return await _none_of_user(call, "MFADevices")


async def list_ssh_public_keys(call: Call) -> dict[str, Tree]:
    return await _none_of_user(call, "SSHPublicKeys")


async def list_signing_certificates(call: Call) -> dict[str, Tree]:
    return await _none_of_user(call, "Certificates")


async def list_service_specific_credentials(call: Call) -> dict[str, Tree]:
    return await _none_of_user(call, "ServiceSpecificCredentials")


async def list_virtual_mfa_devices(call: Call) -> dict[str, Tree]:
    call.authorize("*")
    return {"VirtualMFADevices": [], "IsTruncated": False}


async def list_instance_profiles(call: Call) -> dict[str, Tree]:
    call.authorize("*")
    return {"InstanceProfiles": [], "IsTruncated": False}


async def list_saml_providers(call: Call) -> dict[str, Tree]:
    call.authorize("*")
    return {"SAMLProviderList": []}


async def list_server_certificates(call: Call) -> dict[str, Tree]:
    call.authorize("*")
    return {"ServerCertificateMetadataList": [], "IsTruncated": False}


ACTIONS = {
    "CreateAccountAlias": create_account_alias,
    "DeleteAccountAlias": delete_account_alias,
    "GetAccountAuthorizationDetails": get_account_authorization_details,
    "GetAccountPasswordPolicy": get_account_password_policy,
    "GetAccountSummary": get_account_summary,
    "ListAccountAliases": list_account_aliases,
    "ListInstanceProfiles": list_instance_profiles,
    "ListMFADevices": list_mfa_devices,
    "ListSAMLProviders": list_saml_providers,
    "ListSSHPublicKeys": list_ssh_public_keys,
    "ListServerCertificates": list_server_certificates,
    "ListServiceSpecificCredentials": list_service_specific_credentials,
    "ListSigningCertificates": list_signing_certificates,
    "ListVirtualMFADevices": list_virtual_mfa_devices,
}
