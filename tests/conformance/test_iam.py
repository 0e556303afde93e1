"""IAM's query API, as boto3 sees it: users, keys, groups, policies, roles, simulation.

Source: https://docs.aws.amazon.com/IAM/latest/APIReference/welcome.html
"""

from __future__ import annotations

import itertools
import json
import re
import urllib.parse
from typing import Any

import pytest

from tests.conformance.served import Endpoint, drain, fields_of, refused

_numbers = itertools.count(1)


def document(*actions: str, resource: str = "*", effect: str = "Allow", **more: Any) -> str:
    statement = {"Effect": effect, "Action": list(actions), "Resource": resource, **more}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


@pytest.fixture(scope="module")
def iam(endpoint: Endpoint) -> Any:
    return endpoint.client(service="iam")


@pytest.fixture
def name() -> str:
    """That nobody has yet."""
    return f"Name-{next(_numbers)}"


@pytest.fixture
def user(iam: Any, name: str) -> str:
    iam.create_user(UserName=name)
    return name


@pytest.fixture
def keys(iam: Any, user: str) -> tuple[str, str]:
    """Of ``user``."""
    made = iam.create_access_key(UserName=user)["AccessKey"]
    return made["AccessKeyId"], made["SecretAccessKey"]


def test_a_user_is_made_found_renamed_and_deleted(iam: Any, name: str) -> None:
    made = iam.create_user(UserName=name, Path="/team/", Tags=[{"Key": "Team", "Value": "é ü"}])["User"]
    account = made["Arn"].split(":")[4]
    assert re.fullmatch(r"\d{12}", account)
    assert re.fullmatch(r"AIDA[A-Z0-9]{17}", made["UserId"])
    assert made["Arn"] == f"arn:aws:iam::{account}:user/team/{name}"
    found = iam.get_user(UserName=name)["User"]
    assert found == made
    assert found["Tags"] == [{"Key": "Team", "Value": "é ü"}]
    assert name in [item["UserName"] for item in iam.list_users(PathPrefix="/team/")["Users"]]
    assert name not in [item["UserName"] for item in iam.list_users(PathPrefix="/teams/")["Users"]]
    iam.update_user(UserName=name, NewUserName=f"{name}-new", NewPath="/")
    assert iam.get_user(UserName=f"{name}-new")["User"]["UserId"] == made["UserId"]
    with refused("NoSuchEntity", 404):
        iam.get_user(UserName=name)
    iam.delete_user(UserName=f"{name}-new")
    with refused("NoSuchEntity", 404):
        iam.delete_user(UserName=f"{name}-new")


def test_names_differ_in_more_than_case(iam: Any, user: str) -> None:
    with refused("EntityAlreadyExists", 409) as caught:
        iam.create_user(UserName=user.upper())
    assert fields_of(caught)["Message"] == f"User with name {user.upper()} already exists."
    assert iam.get_user(UserName=user.lower())["User"]["UserName"] == user


@pytest.mark.parametrize(("parameters", "code"), [
    ({"UserName": "white space"}, "ValidationError"),
    ({"UserName": "x" * 65}, "ValidationError"),
    ({"UserName": "ok", "Path": "no-slash"}, "ValidationError"),
    ({"UserName": "ok", "PermissionsBoundary": "arn:aws:iam::aws:policy/readonly"}, "InvalidInput"),
    ({"UserName": "ok", "Tags": [{"Key": "a", "Value": ""}, {"Key": "A", "Value": ""}]}, "InvalidInput"),
    ({"UserName": "ok", "Tags": [{"Key": "aws:a", "Value": ""}]}, "ValidationError"),
])  # fmt: skip
def test_bad_users_are_refused(iam: Any, parameters: dict[str, Any], code: str) -> None:
    with refused(code, 400):
        iam.create_user(**parameters)
    with refused("NoSuchEntity", 404):
        iam.get_user(UserName="ok")


def test_lists_come_in_pages(iam: Any) -> None:
    names = [f"paged-{at:02d}" for at in range(7)]
    for name in names:
        iam.create_user(UserName=name, Path="/paged/")
    first = iam.list_users(PathPrefix="/paged/", MaxItems=3)
    assert first["IsTruncated"] is True
    assert [user["UserName"] for user in first["Users"]] == names[:3]
    paginator = iam.get_paginator("list_users")
    pages = list(paginator.paginate(PathPrefix="/paged/", PaginationConfig={"PageSize": 3}))
    assert [user["UserName"] for page in pages for user in page["Users"]] == names
    assert len(pages) == 3
    with refused("ValidationError", 400):
        iam.list_users(Marker="%%%")
    for name in names:
        iam.delete_user(UserName=name)


def test_tags_of_users(iam: Any, user: str) -> None:
    iam.tag_user(UserName=user, Tags=[{"Key": "a", "Value": "1"}, {"Key": "b", "Value": "2"}])
    iam.tag_user(UserName=user, Tags=[{"Key": "A", "Value": "3"}])
    assert iam.list_user_tags(UserName=user)["Tags"] == [{"Key": "A", "Value": "3"}, {"Key": "b", "Value": "2"}]
    iam.untag_user(UserName=user, TagKeys=["a"])
    assert iam.list_user_tags(UserName=user)["Tags"] == [{"Key": "b", "Value": "2"}]
    with refused("LimitExceeded", 409):
        iam.tag_user(UserName=user, Tags=[{"Key": f"k{at}", "Value": ""} for at in range(50)])


def test_keys_are_made_rotated_with_overlap_and_deleted(endpoint: Endpoint, iam: Any, s3: Any, user: str) -> None:
    iam.attach_user_policy(UserName=user, PolicyArn="arn:aws:iam::aws:policy/readwrite")
    made = [iam.create_access_key(UserName=user)["AccessKey"] for _ in range(2)]
    assert re.fullmatch(r"AKIA[A-Z2-7]{16}", made[0]["AccessKeyId"])
    assert len(made[0]["SecretAccessKey"]) == 40
    with refused("LimitExceeded", 409):
        iam.create_access_key(UserName=user)
    old, new = [endpoint.client(keys=(key["AccessKeyId"], key["SecretAccessKey"])) for key in made]
    old.list_buckets()
    new.list_buckets()  # the overlap: both work
    iam.update_access_key(UserName=user, AccessKeyId=made[0]["AccessKeyId"], Status="Inactive")
    with refused("InvalidAccessKeyId", 403):
        old.list_buckets()
    new.list_buckets()
    iam.update_access_key(UserName=user, AccessKeyId=made[0]["AccessKeyId"], Status="Active")
    old.list_buckets()
    iam.delete_access_key(UserName=user, AccessKeyId=made[0]["AccessKeyId"])
    with refused("InvalidAccessKeyId", 403):
        old.list_buckets()
    new.list_buckets()
    listed = iam.list_access_keys(UserName=user)["AccessKeyMetadata"]
    assert [(key["AccessKeyId"], key["Status"]) for key in listed] == [(made[1]["AccessKeyId"], "Active")]
    assert "SecretAccessKey" not in listed[0]
    with refused("NoSuchEntity", 404):
        iam.delete_access_key(UserName=user, AccessKeyId=made[0]["AccessKeyId"])


def test_last_use_of_a_key_that_was_not_used(iam: Any, user: str, keys: tuple[str, str]) -> None:
    found = iam.get_access_key_last_used(AccessKeyId=keys[0])
    assert found["UserName"] == user
    assert found["AccessKeyLastUsed"]["ServiceName"] == "N/A"
    with refused("NoSuchEntity", 404):
        iam.get_access_key_last_used(AccessKeyId="AKIAAAAAAAAAAAAAAAAA")


def test_the_key_of_the_servers_root_is_not_changed_here(endpoint: Endpoint, iam: Any) -> None:
    with refused("UnmodifiableEntity", 400):
        iam.delete_access_key(AccessKeyId=endpoint.keys[0])
    with refused("UnmodifiableEntity", 400):
        iam.update_access_key(AccessKeyId=endpoint.keys[0], Status="Inactive")
    root = iam.get_user()["User"]
    assert root["Arn"].endswith(":root")


def test_a_user_without_policies_may_ask_who_it_is_and_nothing_else(endpoint: Endpoint, keys: tuple[str, str], user: str) -> None:
    own = endpoint.client(service="iam", keys=keys)
    for ask in (
        own.list_users,
        own.get_user,
        lambda: own.get_user(UserName="nobody"),
        lambda: own.create_access_key(UserName=user),
    ):
        with refused("AccessDenied", 403) as caught:
            ask()
        assert "is not authorized to perform: iam:" in fields_of(caught)["Message"]
    assert endpoint.client(service="sts", keys=keys).get_caller_identity()["Arn"].endswith(f":user/{user}")


def test_policies_on_iam_itself_are_judged_by_resource(endpoint: Endpoint, iam: Any, user: str, keys: tuple[str, str]) -> None:
    arn = iam.get_user(UserName=user)["User"]["Arn"]
    own = endpoint.client(service="iam", keys=keys)
    iam.put_user_policy(
        UserName=user,
        PolicyName="self",
        PolicyDocument=document("iam:GetUser", "iam:*AccessKey*", resource=arn.replace(user, "${aws:username}")),
    )
    assert own.get_user()["User"]["UserName"] == user
    assert [key["AccessKeyId"] for key in own.list_access_keys()["AccessKeyMetadata"]] == [keys[0]]
    with refused("AccessDenied", 403):
        own.put_user_policy(UserName=user, PolicyName="more", PolicyDocument=document("*"))
    with refused("AccessDenied", 403):
        own.get_user(UserName="another")


def test_groups(endpoint: Endpoint, iam: Any, s3: Any, bucket: str, user: str, keys: tuple[str, str], name: str) -> None:
    group = f"g-{name}"
    made = iam.create_group(GroupName=group)["Group"]
    assert re.fullmatch(r"AGPA[A-Z0-9]{17}", made["GroupId"])
    iam.add_user_to_group(GroupName=group, UserName=user)
    iam.add_user_to_group(GroupName=group.upper(), UserName=user)  # nothing new
    assert [item["UserName"] for item in iam.get_group(GroupName=group)["Users"]] == [user]
    assert [item["GroupName"] for item in iam.list_groups_for_user(UserName=user)["Groups"]] == [group]
    own = endpoint.client(keys=keys)
    with refused("AccessDenied", 403):
        own.put_object(Bucket=bucket, Key="k", Body=b"")
    iam.put_group_policy(GroupName=group, PolicyName="write", PolicyDocument=document("s3:PutObject"))
    own.put_object(Bucket=bucket, Key="k", Body=b"")
    with refused("DeleteConflict", 409):
        iam.delete_group(GroupName=group)
    with refused("DeleteConflict", 409):
        iam.delete_user(UserName=user)
    iam.update_group(GroupName=group, NewGroupName=f"{group}-new")
    own.put_object(Bucket=bucket, Key="k", Body=b"")
    iam.remove_user_from_group(GroupName=f"{group}-new", UserName=user)
    with refused("AccessDenied", 403):
        own.put_object(Bucket=bucket, Key="k", Body=b"")
    with refused("NoSuchEntity", 404):
        iam.remove_user_from_group(GroupName=f"{group}-new", UserName=user)
    iam.delete_group_policy(GroupName=f"{group}-new", PolicyName="write")
    iam.delete_group(GroupName=f"{group}-new")


def test_inline_policies(iam: Any, user: str) -> None:
    text = document("s3:GetObject", resource="arn:aws:s3:::bucket/é*").replace("\\u00e9", "é")
    iam.put_user_policy(UserName=user, PolicyName="read", PolicyDocument=text)
    found = iam.get_user_policy(UserName=user, PolicyName="read")
    assert found["PolicyDocument"] == json.loads(text)
    assert iam.list_user_policies(UserName=user)["PolicyNames"] == ["read"]
    with refused("MalformedPolicyDocument", 400):
        iam.put_user_policy(
            UserName=user, PolicyName="bad", PolicyDocument='{"Statement": [{"Effect": "Allow", "Action": "x:y"}]}'
        )
    with refused("NoSuchEntity", 404):
        iam.get_user_policy(UserName=user, PolicyName="bad")
    with refused("DeleteConflict", 409):
        iam.delete_user(UserName=user)
    iam.delete_user_policy(UserName=user, PolicyName="read")
    with refused("NoSuchEntity", 404):
        iam.delete_user_policy(UserName=user, PolicyName="read")


def test_inline_policies_have_a_limit_together(iam: Any, user: str) -> None:
    big = document("s3:GetObject", Sid="x" * 15_000)
    iam.put_user_policy(UserName=user, PolicyName="one", PolicyDocument=big)
    with refused("LimitExceeded", 409):
        iam.put_user_policy(UserName=user, PolicyName="two", PolicyDocument=big)


def test_managed_policies_and_their_versions(
    endpoint: Endpoint, iam: Any, bucket: str, user: str, keys: tuple[str, str], name: str
) -> None:
    made = iam.create_policy(
        PolicyName=name, PolicyDocument=document("s3:ListBucket"), Description="what it is for", Tags=[{"Key": "k", "Value": "v"}]
    )["Policy"]
    arn = made["Arn"]
    assert re.fullmatch(r"ANPA[A-Z0-9]{17}", made["PolicyId"])
    iam.attach_user_policy(UserName=user, PolicyArn=arn)
    iam.attach_user_policy(UserName=user, PolicyArn=arn)
    found = iam.get_policy(PolicyArn=arn)["Policy"]
    assert (found["AttachmentCount"], found["DefaultVersionId"], found["Description"]) == (1, "v1", "what it is for")
    assert found["Tags"] == [{"Key": "k", "Value": "v"}]
    assert iam.list_attached_user_policies(UserName=user)["AttachedPolicies"] == [{"PolicyName": name, "PolicyArn": arn}]
    entities = iam.list_entities_for_policy(PolicyArn=arn)
    assert [item["UserName"] for item in entities["PolicyUsers"]] == [user]
    own = endpoint.client(keys=keys)
    own.list_objects_v2(Bucket=bucket)
    version = iam.create_policy_version(PolicyArn=arn, PolicyDocument=document("s3:PutObject"), SetAsDefault=True)[
        "PolicyVersion"
    ]
    assert (version["VersionId"], version["IsDefaultVersion"]) == ("v2", True)
    with refused("AccessDenied", 403):
        own.list_objects_v2(Bucket=bucket)
    own.put_object(Bucket=bucket, Key="k", Body=b"")
    iam.set_default_policy_version(PolicyArn=arn, VersionId="v1")
    own.list_objects_v2(Bucket=bucket)
    assert iam.get_policy_version(PolicyArn=arn, VersionId="v2")["PolicyVersion"]["Document"] == json.loads(
        document("s3:PutObject")
    )
    for _ in range(3):
        iam.create_policy_version(PolicyArn=arn, PolicyDocument=document("s3:GetObject"))
    with refused("LimitExceeded", 409):
        iam.create_policy_version(PolicyArn=arn, PolicyDocument=document("s3:GetObject"))
    assert [item["VersionId"] for item in iam.list_policy_versions(PolicyArn=arn)["Versions"]] == ["v5", "v4", "v3", "v2", "v1"]
    with refused("DeleteConflict", 409):
        iam.delete_policy_version(PolicyArn=arn, VersionId="v1")
    with refused("NoSuchEntity", 404):
        iam.set_default_policy_version(PolicyArn=arn, VersionId="v9")
    with refused("DeleteConflict", 409):
        iam.delete_policy(PolicyArn=arn)
    for number in range(2, 6):
        iam.delete_policy_version(PolicyArn=arn, VersionId=f"v{number}")
    with refused("DeleteConflict", 409):
        iam.delete_policy(PolicyArn=arn)
    iam.detach_user_policy(UserName=user, PolicyArn=arn)
    with refused("NoSuchEntity", 404):
        iam.detach_user_policy(UserName=user, PolicyArn=arn)
    iam.delete_policy(PolicyArn=arn)
    with refused("NoSuchEntity", 404):
        iam.get_policy(PolicyArn=arn)
    with refused("NoSuchEntity", 404):
        iam.attach_user_policy(UserName=user, PolicyArn=arn)


def test_the_builtin_policies(iam: Any) -> None:
    names = {policy["PolicyName"] for policy in drain(iam, "list_policies", "Policies", Scope="AWS")}
    assert {"readonly", "readwrite", "writeonly", "diagnostics", "consoleAdmin", "AdministratorAccess"} <= names
    arn = "arn:aws:iam::aws:policy/readonly"
    assert iam.get_policy(PolicyArn=arn)["Policy"]["IsAttachable"] is True
    assert iam.get_policy_version(PolicyArn=arn, VersionId="v1")["PolicyVersion"]["Document"]["Statement"]
    for change in (
        lambda: iam.delete_policy(PolicyArn=arn),
        lambda: iam.create_policy_version(PolicyArn=arn, PolicyDocument=document("*")),
    ):
        with refused("InvalidInput", 400):
            change()


def test_roles(iam: Any, user: str, name: str) -> None:
    arn = iam.get_user(UserName=user)["User"]["Arn"]
    trust = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"AWS": arn}, "Action": "sts:AssumeRole"}]}
    made = iam.create_role(
        RoleName=name, AssumeRolePolicyDocument=json.dumps(trust), Description="d", MaxSessionDuration=7200, Path="/p/",
        Tags=[{"Key": "k", "Value": "v"}],
    )["Role"]  # fmt: skip
    assert re.fullmatch(r"AROA[A-Z0-9]{17}", made["RoleId"])
    found = iam.get_role(RoleName=name)["Role"]
    assert (found["AssumeRolePolicyDocument"], found["MaxSessionDuration"], found["Description"]) == (trust, 7200, "d")
    iam.update_role(RoleName=name, Description="e")
    assert iam.get_role(RoleName=name)["Role"]["MaxSessionDuration"] == 7200
    assert iam.get_role(RoleName=name)["Role"]["Description"] == "e"
    trust["Statement"][0]["Principal"] = "*"  # type: ignore[index]
    iam.update_assume_role_policy(RoleName=name, PolicyDocument=json.dumps(trust))
    assert iam.get_role(RoleName=name)["Role"]["AssumeRolePolicyDocument"] == trust
    trust["Statement"][0]["Principal"] = {"AWS": arn + "-gone"}  # type: ignore[index]
    with refused("MalformedPolicyDocument", 400):
        iam.update_assume_role_policy(RoleName=name, PolicyDocument=json.dumps(trust))
    iam.attach_role_policy(RoleName=name, PolicyArn="arn:aws:iam::aws:policy/readonly")
    iam.put_role_policy(RoleName=name, PolicyName="p", PolicyDocument=document("s3:*"))
    assert iam.list_role_policies(RoleName=name)["PolicyNames"] == ["p"]
    assert iam.list_instance_profiles_for_role(RoleName=name)["InstanceProfiles"] == []
    iam.untag_role(RoleName=name, TagKeys=["k"])
    assert iam.list_role_tags(RoleName=name)["Tags"] == []
    with refused("DeleteConflict", 409):
        iam.delete_role(RoleName=name)
    iam.delete_role_policy(RoleName=name, PolicyName="p")
    iam.detach_role_policy(RoleName=name, PolicyArn="arn:aws:iam::aws:policy/readonly")
    assert name in [role["RoleName"] for role in iam.list_roles(PathPrefix="/p/")["Roles"]]
    iam.delete_role(RoleName=name)
    with refused("NoSuchEntity", 404):
        iam.get_role(RoleName=name)


def test_simulation_says_what_would_happen(endpoint: Endpoint, iam: Any, bucket: str, user: str, keys: tuple[str, str]) -> None:
    arn = iam.get_user(UserName=user)["User"]["Arn"]
    iam.put_user_policy(
        UserName=user, PolicyName="p",
        PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [
            {"Effect": "Allow", "Action": "s3:*", "Resource": "*", "Condition": {"StringEquals": {"s3:prefix": "x"}}},
            {"Effect": "Allow", "Action": "s3:PutObject", "Resource": "*"},
            {"Effect": "Deny", "Action": "s3:PutObject", "Resource": "arn:aws:s3:::*/secret*"},
        ]}),
    )  # fmt: skip
    found = iam.simulate_principal_policy(
        PolicySourceArn=arn, ActionNames=["s3:PutObject", "s3:ListBucket"],
        ResourceArns=[f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/secret"],
    )["EvaluationResults"]  # fmt: skip
    verdicts = [(item["EvalActionName"], item["EvalDecision"]) for item in found]
    assert verdicts == [
        ("s3:PutObject", "allowed"), ("s3:PutObject", "explicitDeny"), ("s3:ListBucket", "implicitDeny"), ("s3:ListBucket", "implicitDeny"),
    ]  # fmt: skip
    assert found[2]["MissingContextValues"] == ["s3:prefix"]
    entry = {"ContextKeyName": "s3:prefix", "ContextKeyValues": ["x"], "ContextKeyType": "string"}
    again = iam.simulate_principal_policy(PolicySourceArn=arn, ActionNames=["s3:ListBucket"], ContextEntries=[entry])
    assert again["EvaluationResults"][0]["EvalDecision"] == "allowed"
    assert iam.get_context_keys_for_principal_policy(PolicySourceArn=arn)["ContextKeyNames"] == ["s3:prefix"]
    custom = iam.simulate_custom_policy(PolicyInputList=[document("s3:Get*")], ActionNames=["s3:GetObject", "s3:PutObject"])
    assert [item["EvalDecision"] for item in custom["EvaluationResults"]] == ["allowed", "implicitDeny"]
    own = endpoint.client(keys=keys)  # and so it happens
    own.put_object(Bucket=bucket, Key="open", Body=b"")
    with refused("AccessDenied", 403):
        own.put_object(Bucket=bucket, Key="secret", Body=b"")


def test_passwords_are_kept_as_hashes_and_changed_by_their_owner(
    endpoint: Endpoint, iam: Any, user: str, keys: tuple[str, str]
) -> None:
    with refused("NoSuchEntity", 404):
        iam.get_login_profile(UserName=user)
    made = iam.create_login_profile(UserName=user, Password="first password", PasswordResetRequired=True)["LoginProfile"]
    assert made["PasswordResetRequired"] is True
    with refused("EntityAlreadyExists", 409):
        iam.create_login_profile(UserName=user, Password="another one")
    with refused("PasswordPolicyViolation", 400) as caught:
        iam.update_login_profile(UserName=user, Password="sm-all1")
    assert "sm-all1" not in str(fields_of(caught))
    iam.put_user_policy(UserName=user, PolicyName="p", PolicyDocument=document("iam:ChangePassword"))
    own = endpoint.client(service="iam", keys=keys)
    with refused("AccessDenied", 403):
        own.change_password(OldPassword="wrong password", NewPassword="second password")
    own.change_password(OldPassword="first password", NewPassword="second password")
    assert iam.get_login_profile(UserName=user)["LoginProfile"]["PasswordResetRequired"] is False
    with refused("AccessDenied", 403):
        own.change_password(OldPassword="first password", NewPassword="second password")
    iam.delete_login_profile(UserName=user)


def test_what_terraform_reads_before_it_deletes(iam: Any, user: str) -> None:
    for action, field in (
        ("list_mfa_devices", "MFADevices"), ("list_ssh_public_keys", "SSHPublicKeys"), ("list_signing_certificates", "Certificates"),
        ("list_service_specific_credentials", "ServiceSpecificCredentials"), ("list_groups_for_user", "Groups"),
        ("list_access_keys", "AccessKeyMetadata"), ("list_user_policies", "PolicyNames"),
        ("list_attached_user_policies", "AttachedPolicies"),
    ):  # fmt: skip
        assert getattr(iam, action)(UserName=user)[field] == []
    assert iam.list_virtual_mfa_devices()["VirtualMFADevices"] == []
    with refused("NoSuchEntity", 404):
        iam.get_account_password_policy()
    assert iam.get_account_summary()["SummaryMap"]["Users"] >= 1
    iam.delete_user(UserName=user)


def test_the_accounts_alias(iam: Any) -> None:
    iam.create_account_alias(AccountAlias="an-alias")
    iam.create_account_alias(AccountAlias="another-alias")
    assert iam.list_account_aliases()["AccountAliases"] == ["another-alias"]
    with refused("NoSuchEntity", 404):
        iam.delete_account_alias(AccountAlias="an-alias")
    iam.delete_account_alias(AccountAlias="another-alias")
    assert iam.list_account_aliases()["AccountAliases"] == []
    with refused("ValidationError", 400):
        iam.create_account_alias(AccountAlias="An--alias")


def test_everything_at_once(iam: Any, user: str) -> None:
    iam.put_user_policy(UserName=user, PolicyName="p", PolicyDocument=document("s3:*"))
    users = drain(iam, "get_account_authorization_details", "UserDetailList", Filter=["User"])
    mine = next(item for item in users if item["UserName"] == user)
    assert mine["UserPolicyList"] == [{"PolicyName": "p", "PolicyDocument": json.loads(document("s3:*"))}]


def test_what_is_not_there_is_an_invalid_action(endpoint: Endpoint, iam: Any) -> None:
    with refused("InvalidAction", 400):
        iam.create_saml_provider(SAMLMetadataDocument="x" * 1000, Name="name")
    body = urllib.parse.urlencode({"Action": "ListUsers", "Version": "2010-05-08"}).encode()
    answer = endpoint.raw("POST", "/", {"Content-Type": "application/x-www-form-urlencoded"}, body, sign=False)
    assert (answer.status, answer.xml.findtext("Error/Code")) == (403, "MissingAuthenticationToken")


def test_wrong_keys_are_refused(endpoint: Endpoint, keys: tuple[str, str]) -> None:
    with refused("InvalidClientTokenId", 403):
        endpoint.client(service="iam", keys=("AKIAAAAAAAAAAAAAAAAA", keys[1])).list_users()
    with refused("SignatureDoesNotMatch", 403):
        endpoint.client(service="iam", keys=(keys[0], "x" * 40)).list_users()
    with refused("InvalidClientTokenId", 403):
        endpoint.client(service="iam", keys=(*keys, "no token")).list_users()
