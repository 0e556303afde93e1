"""What policies a user, group or role has: managed ones attached, and inline ones of its own.

Sources: https://docs.aws.amazon.com/IAM/latest/APIReference/API_AttachUserPolicy.html, .../API_PutUserPolicy.html and their siblings
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from titans3.cluster.transaction import Transaction
from titans3.iam.builtin import BUILTIN, PREFIX
from titans3.iam.document import Kind as DocumentKind
from titans3.iam.document import PolicyMalformed, read_policy
from titans3.model.identity import Attached, Group, ManagedPolicy, Role, User, group_key, policy_key, role_key, user_key
from titans3.query.answer import Encoded, Tree
from titans3.query.call import Call, resource_keys
from titans3.query.errors import QueryError, absent, exceeded
from titans3.query.parameters import ARN, DOCUMENT, GROUP_NAME, PATH_PREFIX, POLICY_NAME, ROLE_NAME, USER_NAME, Kind

_ATTACHED_MAX = 20
DOCUMENT_CHARACTERS_MAX = 20_480  # without white space; of an inline policy: all of its holder's together
_Record = User | Group | Role


class Holder(msgspec.Struct, frozen=True):
    """What has policies."""

    name: str  # as actions spell it
    parameter_kind: Kind
    record: type[Any]
    key: Callable[[str, str], str]

    @property
    def word(self) -> str:
        """As ARNs and messages spell it."""
        return self.name.lower()

    @property
    def parameter(self) -> str:
        """That names one."""
        return f"{self.name}Name"


HOLDERS = (
    Holder("User", USER_NAME, User, user_key),
    Holder("Group", GROUP_NAME, Group, group_key),
    Holder("Role", ROLE_NAME, Role, role_key),
)


async def attach(holder: Holder, call: Call) -> None:
    name, arn = call.parameters.text(holder.parameter, holder.parameter_kind), call.parameters.text("PolicyArn", ARN)
    await _authorize(holder, call, name, {"iam:policyarn": (arn,)})
    key = holder.key(call.account, name)

    async def change(transaction: Transaction) -> None:
        record = await transaction.need(key, holder.record, absent(holder.word, name))
        attached: Attached = record.attached
        await _need_policy(transaction, call.account, arn)
        if arn in attached.managed:
            return
        if len(attached.managed) >= _ATTACHED_MAX:
            raise exceeded(f"PoliciesPer{holder.name}", _ATTACHED_MAX)
        changed = msgspec.structs.replace(attached, managed=(*attached.managed, arn))
        transaction.put(key, msgspec.structs.replace(record, attached=changed))

    await call.transact(change)


async def detach(holder: Holder, call: Call) -> None:
    name, arn = call.parameters.text(holder.parameter, holder.parameter_kind), call.parameters.text("PolicyArn", ARN)
    await _authorize(holder, call, name, {"iam:policyarn": (arn,)})
    key = holder.key(call.account, name)

    async def change(transaction: Transaction) -> None:
        record = await transaction.need(key, holder.record, absent(holder.word, name))
        if arn not in record.attached.managed:
            raise QueryError("NoSuchEntity", f"Policy {arn} was not found.")
        left = tuple(one for one in record.attached.managed if one != arn)
        transaction.put(key, msgspec.structs.replace(record, attached=msgspec.structs.replace(record.attached, managed=left)))

    await call.transact(change)


async def list_attached(holder: Holder, call: Call) -> dict[str, Tree]:
    prefix = call.parameters.text("PathPrefix", PATH_PREFIX, "/")
    record = await _authorize(holder, call, call.parameters.text(holder.parameter, holder.parameter_kind))
    arns = sorted((arn for arn in record.attached.managed if path_of(arn).startswith(prefix)), key=name_of)
    return call.page("AttachedPolicies", arns, name_of, lambda arn: {"PolicyName": name_of(arn), "PolicyArn": arn})


async def put_inline(holder: Holder, call: Call) -> None:
    name = call.parameters.text(holder.parameter, holder.parameter_kind)
    policy = call.parameters.text("PolicyName", POLICY_NAME)
    document = checked_document(call.parameters.text("PolicyDocument", DOCUMENT))
    await _authorize(holder, call, name)
    key = holder.key(call.account, name)

    async def change(transaction: Transaction) -> None:
        record = await transaction.need(key, holder.record, absent(holder.word, name))
        inline = record.attached.inline | {policy: document}
        if sum(map(characters, inline.values())) > DOCUMENT_CHARACTERS_MAX:
            raise QueryError(
                "LimitExceeded", f"Maximum policy size of {DOCUMENT_CHARACTERS_MAX} bytes exceeded for {holder.word} {record.name}"
            )
        transaction.put(key, msgspec.structs.replace(record, attached=msgspec.structs.replace(record.attached, inline=inline)))

    await call.transact(change)


async def get_inline(holder: Holder, call: Call) -> dict[str, Tree]:
    name = call.parameters.text(holder.parameter, holder.parameter_kind)
    policy = call.parameters.text("PolicyName", POLICY_NAME)
    record = await _authorize(holder, call, name)
    document = record.attached.inline.get(policy)
    if document is None:
        raise _no_inline(holder, policy)
    return {holder.parameter: record.name, "PolicyName": policy, "PolicyDocument": Encoded(document)}


async def delete_inline(holder: Holder, call: Call) -> None:
    name = call.parameters.text(holder.parameter, holder.parameter_kind)
    policy = call.parameters.text("PolicyName", POLICY_NAME)
    await _authorize(holder, call, name)
    key = holder.key(call.account, name)

    async def change(transaction: Transaction) -> None:
        record = await transaction.need(key, holder.record, absent(holder.word, name))
        if policy not in record.attached.inline:
            raise _no_inline(holder, policy)
        inline = {one: text for one, text in record.attached.inline.items() if one != policy}
        transaction.put(key, msgspec.structs.replace(record, attached=msgspec.structs.replace(record.attached, inline=inline)))

    await call.transact(change)


async def list_inline(holder: Holder, call: Call) -> dict[str, Tree]:
    record = await _authorize(holder, call, call.parameters.text(holder.parameter, holder.parameter_kind))
    return call.page("PolicyNames", sorted(record.attached.inline), lambda name: name, lambda name: name)


# what others need ------------------------------------------------------------------------------------------------------


def checked_document(text: str) -> str:
    """A policy of an identity as it was sent. Raises QueryError(MalformedPolicyDocument, LimitExceeded)."""
    try:
        read_policy(text, DocumentKind.IDENTITY)
    except PolicyMalformed as error:
        raise QueryError("MalformedPolicyDocument", str(error)) from error
    if characters(text) > DOCUMENT_CHARACTERS_MAX:
        raise QueryError("LimitExceeded", f"Cannot exceed quota for PolicySize: {DOCUMENT_CHARACTERS_MAX}")
    return text


def characters(text: str) -> int:
    """Its length as limits count it: without white space."""
    return len("".join(text.split()))


def name_of(arn: str) -> str:
    """Of a policy."""
    return arn.rpartition("/")[2]


def path_of(arn: str) -> str:
    """Of a policy: begins and ends with a slash."""
    return arn.partition(":policy")[2].rpartition("/")[0] + "/"


def no_policy(arn: str) -> QueryError:
    """There is no such managed policy."""
    return QueryError("NoSuchEntity", f"Policy {arn} does not exist or is not attachable.")


async def _need_policy(transaction: Transaction, account: str, arn: str) -> None:
    """Raises QueryError(NoSuchEntity); a policy that is there stays there until the change is made."""
    if arn.startswith(PREFIX):
        if name_of(arn) not in BUILTIN or arn != PREFIX + name_of(arn):
            raise no_policy(arn)
        return
    key = policy_key(account, name_of(arn))
    policy = await transaction.read(key, ManagedPolicy)
    if policy is None or arn != f"arn:aws:iam::{account}:policy{policy.path}{policy.name}":
        raise no_policy(arn)
    transaction.touch(key)


async def _authorize(holder: Holder, call: Call, name: str, keys: dict[str, tuple[str, ...]] | None = None) -> Any:
    """The record. Raises QueryError(NoSuchEntity), or AccessDenied for whoever may not know that."""
    found = await call.directory.read(holder.key(call.account, name), holder.record)
    if found is None:
        call.authorize(call.arn(holder.word, name), keys)
        raise absent(holder.word, name)
    record = found[0]
    call.authorize(call.arn(holder.word, record.name, record.path), resource_keys(getattr(record, "tags", {})) | (keys or {}))
    return record


def _no_inline(holder: Holder, policy: str) -> QueryError:
    return QueryError("NoSuchEntity", f"The {holder.word} policy with name {policy} cannot be found.")


ACTIONS = {
    form % holder.name: partial(work, holder)
    for holder in HOLDERS
    for form, work in (
        ("Attach%sPolicy", attach),
        ("Delete%sPolicy", delete_inline),
        ("Detach%sPolicy", detach),
        ("Get%sPolicy", get_inline),
        ("ListAttached%sPolicies", list_attached),
        ("List%sPolicies", list_inline),
        ("Put%sPolicy", put_inline),
    )
}
