"""SimulatePrincipalPolicy, SimulateCustomPolicy, GetContextKeysForPrincipalPolicy, GetContextKeysForCustomPolicy.

Invariant: the decision is made by the evaluator that decides about requests, for the condition keys that were given and no others.

Source: https://docs.aws.amazon.com/IAM/latest/APIReference/API_SimulatePrincipalPolicy.html and its siblings
"""

from __future__ import annotations

from titans3.iam.arn import split_arn
from titans3.iam.decision import Identity, Verdict, decide
from titans3.iam.document import Kind, PolicyMalformed, read_policy
from titans3.iam.explain import Imagined, condition_keys, explain
from titans3.iam.policy import Policy
from titans3.iam.principal import Principal
from titans3.model.identity import Group, Role, User
from titans3.query.answer import Tree
from titans3.query.call import Call
from titans3.query.errors import QueryError, invalid
from titans3.query.holders import HOLDERS, name_of
from titans3.query.parameters import ACTION, ARN, ARN_OR_ALL, DOCUMENT

_ACTIONS_MAX = 100
_RESOURCES_MAX = 100


async def simulate_principal_policy(call: Call) -> dict[str, Tree]:
    who, policies = await _source(call)
    return _simulate(call, who, (*policies, *_given(call)))


async def simulate_custom_policy(call: Call) -> dict[str, Tree]:
    call.authorize("*")
    policies = _given(call)
    if not policies:
        raise invalid("PolicyInputList must not be empty")
    who = Principal(call.account, call.caller.canonical, call.caller.arn)
    return _simulate(call, who, policies)


async def get_context_keys_for_principal_policy(call: Call) -> dict[str, Tree]:
    _, policies = await _source(call)
    return {"ContextKeyNames": condition_keys((*policies, *_given(call)))}


async def get_context_keys_for_custom_policy(call: Call) -> dict[str, Tree]:
    call.authorize("*")
    return {"ContextKeyNames": condition_keys(_given(call))}


async def _source(call: Call) -> tuple[Principal, tuple[Policy, ...]]:
    """PolicySourceArn's. Raises QueryError(NoSuchEntity)."""
    arn = call.parameters.text("PolicySourceArn", ARN)
    parts = split_arn(arn)
    kind, _, rest = parts[-1].partition("/")
    for holder in HOLDERS:
        if len(parts) == 6 and kind == holder.word and parts[4] == call.account:
            call.authorize(arn)
            record = call.identities.record(holder.key(call.account, rest.rpartition("/")[2]), holder.record)
            if record is not None and call.arn(holder.word, record.name, record.path) == arn:
                return _principal(call, record, arn), _policies(call, record)
    call.authorize(arn)
    raise QueryError("NoSuchEntity", f"The policy source {arn[:300]} cannot be found.")


def _principal(call: Call, record: User | Group | Role, arn: str) -> Principal:
    if isinstance(record, Role):
        name = f"arn:aws:sts::{call.account}:assumed-role/{record.name}/simulation"
        return Principal(call.account, call.caller.canonical, name, arn)
    return Principal(call.account, call.caller.canonical, arn)


def _policies(call: Call, record: User | Group | Role) -> tuple[Policy, ...]:
    identities = call.identities
    policies = identities.policies_of(call.account, record.attached)
    if isinstance(record, User):
        for name in record.groups:
            group = identities.group(call.account, name)
            if group is not None:
                policies += identities.policies_of(call.account, group.attached)
    return policies


def _given(call: Call) -> tuple[Policy, ...]:
    """PolicyInputList. Raises QueryError(InvalidInput)."""
    found = []
    for number, text in enumerate(call.parameters.members("PolicyInputList", DOCUMENT), 1):
        try:
            found.append(Policy(read_policy(text, Kind.IDENTITY), f"PolicyInputList.{number}"))
        except PolicyMalformed as error:
            raise QueryError("InvalidInput", f"PolicyInputList.{number}: {error}") from error
    return tuple(found)


def _simulate(call: Call, who: Principal, policies: tuple[Policy, ...]) -> dict[str, Tree]:
    actions = call.parameters.members("ActionNames", ACTION, _ACTIONS_MAX)
    if not actions:
        raise invalid("ActionNames must not be empty")
    for action in actions:
        if ":" not in action:
            raise QueryError("InvalidInput", f"Invalid action {action}: it has no service.")
    resources = call.parameters.members("ResourceArns", ARN_OR_ALL, _RESOURCES_MAX) or ["*"]
    keys = call.parameters.context()
    resource_policy = None
    if call.parameters.has("ResourcePolicy"):
        try:
            document = read_policy(call.parameters.text("ResourcePolicy", DOCUMENT), Kind.BUCKET, strict=False)
        except PolicyMalformed as error:
            raise QueryError("InvalidInput", f"ResourcePolicy: {error}") from error
        resource_policy = Policy(document, "ResourcePolicy")
    if call.parameters.has("CallerArn"):
        arn = call.parameters.text("CallerArn", ARN)
        who = Principal(split_arn(arn)[4] if arn.count(":") >= 5 else "", "", arn)
    owner = call.account
    if call.parameters.has("ResourceOwner"):
        text = call.parameters.text("ResourceOwner", ARN_OR_ALL)
        owner = split_arn(text)[4] if text.count(":") >= 5 else text
    items: list[Tree] = []
    for action in actions:
        missing = [key for key in condition_keys(policies, action.lower()) if key not in keys]
        for resource in resources:
            ask = Imagined(action, resource, keys)
            verdict = decide(Identity(who, policies), ask, owner, resource_policy)
            matched = [
                {"SourcePolicyId": name_of(step.policy), "SourcePolicyType": "IAM Policy"}
                for policy in policies
                for step in explain(policy, ask, who)
                if step.applies and (verdict is not Verdict.EXPLICIT or step.effect == "Deny")
            ]
            if resource_policy is not None:
                matched += [
                    {"SourcePolicyId": "ResourcePolicy", "SourcePolicyType": "Resource Policy"}
                    for step in explain(resource_policy, ask, who)
                    if step.applies and (verdict is not Verdict.EXPLICIT or step.effect == "Deny")
                ]
            items.append({
                "EvalActionName": action, "EvalResourceName": resource, "EvalDecision": str(verdict), "MatchedStatements": matched,
                "MissingContextValues": missing,
            })  # fmt: skip
    numbered = [(f"{at:06d}", item) for at, item in enumerate(items)]
    return call.page("EvaluationResults", numbered, lambda item: item[0], lambda item: item[1])


ACTIONS = {
    "GetContextKeysForCustomPolicy": get_context_keys_for_custom_policy,
    "GetContextKeysForPrincipalPolicy": get_context_keys_for_principal_policy,
    "SimulateCustomPolicy": simulate_custom_policy,
    "SimulatePrincipalPolicy": simulate_principal_policy,
}
