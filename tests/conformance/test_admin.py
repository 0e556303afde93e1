"""The admin API as its users see it: accounts, users, keys, simulation, configuration, the server."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conformance.served import Endpoint, canonical, refused
from tests.conformance.test_iam import document

_names = iter(f"admin-{number}" for number in range(1, 10_000))


@pytest.fixture
def name() -> str:
    """That nobody has yet."""
    return next(_names)


def done(answer: tuple[int, Any], status: int = 200) -> Any:
    assert answer[0] == status, answer
    return answer[1]


def code(answer: tuple[int, Any]) -> tuple[int, str]:
    return answer[0], answer[1]["error"]["code"]


@pytest.fixture
def account(endpoint: Endpoint, name: str) -> Any:
    return done(endpoint.admin("POST", "/accounts", {"name": name, "email": f"{name}@example.org"}), 201)


def keys_of(made: Any) -> tuple[str, str]:
    return made["access_key"], made["secret_key"]


# accounts --------------------------------------------------------------------------------------------------------------


def test_an_account_owns_what_is_made_under_it(endpoint: Endpoint, s3: Any, account: Any, bucket: str) -> None:
    assert re.fullmatch(r"[0-9]{12}", account["account_id"])
    assert re.fullmatch(r"[0-9a-f]{64}", account["canonical_id"])
    theirs = endpoint.client(keys=keys_of(account))
    own = f"own-{account['account_id']}"
    theirs.create_bucket(Bucket=own)
    theirs.put_object(Bucket=own, Key="k", Body=b"theirs")
    assert canonical(theirs) == account["canonical_id"] != canonical(s3)
    assert [item["Name"] for item in theirs.list_buckets()["Buckets"]] == [own]
    assert own not in [item["Name"] for item in s3.list_buckets()["Buckets"]]
    for client, name in ((s3, own), (theirs, bucket)):
        with refused("AccessDenied", 403):
            client.list_objects_v2(Bucket=name)
        with refused("AccessDenied", 403):
            client.put_object(Bucket=name, Key="k", Body=b"")
        with refused("BucketAlreadyExists", 409):
            client.create_bucket(Bucket=name)
    shown = done(endpoint.admin("GET", f"/accounts/{account['account_id']}"))
    assert (shown["display_name"], shown["buckets"], shown["enabled"]) == (account["display_name"], 1, True)
    assert done(endpoint.admin("GET", f"/accounts/{account['display_name'].upper()}")) == shown
    assert shown in done(endpoint.admin("GET", "/accounts"))["items"]
    assert code(endpoint.admin("DELETE", f"/accounts/{account['account_id']}")) == (409, "AccountNotEmpty")
    theirs.delete_object(Bucket=own, Key="k")
    theirs.delete_bucket(Bucket=own)
    done(endpoint.admin("DELETE", f"/accounts/{account['account_id']}"), 204)
    with refused("InvalidAccessKeyId", 403):
        theirs.list_buckets()
    assert code(endpoint.admin("GET", f"/accounts/{account['account_id']}")) == (404, "NoSuchEntity")


def test_names_and_addresses_of_accounts_are_taken_once(endpoint: Endpoint, account: Any) -> None:
    for body in (
        {"name": account["display_name"].upper()}, {"name": account["display_name"] + "-other", "email": account["email"]},
    ):  # fmt: skip
        assert code(endpoint.admin("POST", "/accounts", body)) == (409, "EntityAlreadyExists")
    for bad in ({"name": ""}, {"name": "a\nb"}, {"name": "123456789012"}, {"name": "a", "email": "x"}):
        assert code(endpoint.admin("POST", "/accounts", bad)) == (400, "ValidationError")
    for bad in ({}, {"name": 5}, {"name": "a", "colour": "blue"}):
        assert code(endpoint.admin("POST", "/accounts", bad)) == (400, "MalformedInput")


def test_a_disabled_accounts_keys_are_refused(endpoint: Endpoint, account: Any) -> None:
    theirs = endpoint.client(keys=keys_of(account))
    session = endpoint.client(service="sts", keys=keys_of(account)).get_session_token()["Credentials"]
    by_session = endpoint.client(keys=(session["AccessKeyId"], session["SecretAccessKey"], session["SessionToken"]))
    theirs.list_buckets()
    by_session.list_buckets()
    assert done(endpoint.admin("POST", f"/accounts/{account['account_id']}/disable"))["enabled"] is False
    for client in (theirs, by_session):
        with refused("InvalidAccessKeyId", 403):
            client.list_buckets()
    done(endpoint.admin("POST", f"/accounts/{account['account_id']}/enable"))
    theirs.list_buckets()
    assert code(endpoint.admin("POST", "/accounts/root/disable")) == (400, "UnmodifiableEntity")
    assert code(endpoint.admin("DELETE", "/accounts/000000000000")) == (400, "UnmodifiableEntity")


def test_other_accounts_do_not_administrate_the_server(endpoint: Endpoint, account: Any) -> None:
    theirs = keys_of(account)
    for method, path, body in (
        ("GET", "/info", None), ("GET", "/accounts", None), ("POST", "/accounts", {"name": "x"}), ("GET", "/config", None),
        ("PUT", "/config/iam.users_max", {"value": 1}), ("POST", "/service/stop", None), ("GET", "/buckets", None),
        ("DELETE", f"/accounts/{account['account_id']}", None), ("POST", "/config/restore", {"number": 0}),
    ):  # fmt: skip
        assert code(endpoint.admin(method, path, body, keys=theirs)) == (403, "AccessDenied"), path


def test_users_of_two_accounts_with_one_name(endpoint: Endpoint, account: Any, name: str) -> None:
    for keys in (endpoint.keys, keys_of(account)):
        made = done(endpoint.admin("POST", "/iam/CreateUser", {"UserName": f"u-{name}"}, keys=keys))
        assert made["User"]["UserName"] == f"u-{name}"
    theirs = done(endpoint.admin("GET", f"/users/u-{name}", keys=keys_of(account)))
    assert theirs["arn"] == f"arn:aws:iam::{account['account_id']}:user/u-{name}"
    assert theirs["user_id"] != done(endpoint.admin("GET", f"/users/u-{name}"))["user_id"]


# across accounts -------------------------------------------------------------------------------------------------------


def test_access_across_accounts_by_policy(endpoint: Endpoint, s3: Any, bucket: str, account: Any) -> None:
    """Both must allow: the bucket's owner by its policy, the other account by its user's."""
    s3.put_object(Bucket=bucket, Key="k", Body=b"body")
    iam = endpoint.client(service="iam", keys=keys_of(account))
    iam.create_user(UserName="other")
    key = iam.create_access_key(UserName="other")["AccessKey"]
    user, root = endpoint.client(keys=(key["AccessKeyId"], key["SecretAccessKey"])), endpoint.client(keys=keys_of(account))
    allow = {
        "Version": "2012-10-17",
        "Statement": [{
            "Effect": "Allow", "Principal": {"AWS": account["account_id"]}, "Action": "s3:GetObject",
            "Resource": f"arn:aws:s3:::{bucket}/*",
        }],
    }  # fmt: skip
    s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps(allow))
    assert root.get_object(Bucket=bucket, Key="k")["Body"].read() == b"body"
    with refused("AccessDenied", 403):
        user.get_object(Bucket=bucket, Key="k")
    iam.put_user_policy(UserName="other", PolicyName="p", PolicyDocument=document("s3:GetObject", resource=f"arn:aws:s3:::{bucket}/*"))
    assert user.get_object(Bucket=bucket, Key="k")["Body"].read() == b"body"
    with refused("AccessDenied", 403):
        user.put_object(Bucket=bucket, Key="k", Body=b"")
    with refused("AccessDenied", 403):
        user.get_bucket_policy(Bucket=bucket)
    s3.delete_bucket_policy(Bucket=bucket)
    with refused("AccessDenied", 403):
        user.get_object(Bucket=bucket, Key="k")


def test_access_across_accounts_by_list(endpoint: Endpoint, s3: Any, bucket: str, account: Any) -> None:
    other = endpoint.client(keys=keys_of(account))
    s3.put_object(Bucket=bucket, Key="k", Body=b"body", GrantRead=f"id={account['canonical_id']}")
    assert other.get_object(Bucket=bucket, Key="k")["Body"].read() == b"body"
    with refused("AccessDenied", 403):
        other.put_object(Bucket=bucket, Key="new", Body=b"")
    s3.put_bucket_acl(Bucket=bucket, GrantWrite=f"emailaddress={account['email']}", GrantFullControl=f"id={canonical(s3)}")
    other.put_object(Bucket=bucket, Key="new", Body=b"theirs")
    with refused("AccessDenied", 403):  # the object is the writer's
        s3.get_object(Bucket=bucket, Key="new")
    other.put_object(Bucket=bucket, Key="given", Body=b"given", ACL="bucket-owner-full-control")
    assert s3.get_object(Bucket=bucket, Key="given")["Body"].read() == b"given"
    s3.delete_object(Bucket=bucket, Key="new")  # the bucket's owner may always delete


def test_a_role_of_another_account(endpoint: Endpoint, account: Any, name: str) -> None:
    """Both must allow, and an external id keeps a third from being sent."""
    iam = endpoint.client(service="iam")
    user = iam.create_user(UserName=f"guest-{name}")["User"]
    key = iam.create_access_key(UserName=user["UserName"])["AccessKey"]
    theirs = endpoint.client(service="iam", keys=keys_of(account))
    trust = {
        "Version": "2012-10-17",
        "Statement": [{
            "Effect": "Allow", "Principal": {"AWS": user["Arn"]}, "Action": "sts:AssumeRole",
            "Condition": {"StringEquals": {"sts:ExternalId": "word"}},
        }],
    }  # fmt: skip
    role = theirs.create_role(RoleName="guests", AssumeRolePolicyDocument=json.dumps(trust))["Role"]["Arn"]
    theirs.attach_role_policy(RoleName="guests", PolicyArn="arn:aws:iam::aws:policy/readwrite")
    sts = endpoint.client(service="sts", keys=(key["AccessKeyId"], key["SecretAccessKey"]))
    with refused("AccessDenied", 403):
        sts.assume_role(RoleArn=role, RoleSessionName="visit", ExternalId="word")
    iam.put_user_policy(UserName=user["UserName"], PolicyName="p", PolicyDocument=document("sts:AssumeRole", resource=role))
    with refused("AccessDenied", 403):
        sts.assume_role(RoleArn=role, RoleSessionName="visit")
    found = sts.assume_role(RoleArn=role, RoleSessionName="visit", ExternalId="word")["Credentials"]
    visitor = endpoint.client(keys=(found["AccessKeyId"], found["SecretAccessKey"], found["SessionToken"]))
    visitor.create_bucket(Bucket=f"visit-{account['account_id']}")
    assert canonical(endpoint.client(keys=keys_of(account))) == account["canonical_id"]
    owned = [item["Name"] for item in endpoint.client(keys=keys_of(account)).list_buckets()["Buckets"]]
    assert owned == [f"visit-{account['account_id']}"]


# users and keys --------------------------------------------------------------------------------------------------------


@pytest.fixture
def user(endpoint: Endpoint, name: str) -> tuple[str, tuple[str, str]]:
    """A user with readwrite, and keys."""
    done(endpoint.admin("POST", "/iam/CreateUser", {"UserName": name, "Tags": [{"Key": "k", "Value": "v"}]}))
    done(endpoint.admin("POST", "/iam/AttachUserPolicy", {"UserName": name, "PolicyArn": "arn:aws:iam::aws:policy/readwrite"}))
    made = done(endpoint.admin("POST", "/keys", {"user": name}), 201)
    return name, keys_of(made)


def test_iam_over_json(endpoint: Endpoint, name: str) -> None:
    text = document("s3:Get*")
    made = done(endpoint.admin("POST", "/iam/CreatePolicy", {"PolicyName": name, "PolicyDocument": text}))["Policy"]
    assert made["IsAttachable"] is True
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", made["CreateDate"])
    version = done(endpoint.admin("POST", "/iam/GetPolicyVersion", {"PolicyArn": made["Arn"], "VersionId": "v1"}))
    assert version["PolicyVersion"]["Document"] == text
    summary = done(endpoint.admin("POST", "/iam/GetAccountSummary", {}))["SummaryMap"]
    assert summary["Policies"] >= 1
    assert code(endpoint.admin("POST", "/iam/NoSuchThing", {})) == (400, "InvalidAction")
    assert code(endpoint.admin("POST", "/iam/GetUser", {"UserName": "nobody"})) == (404, "NoSuchEntity")
    assert code(endpoint.admin("POST", "/iam/GetUser", {"UserName": 1.5})) == (400, "MalformedInput")


def test_a_disabled_user_is_refused_and_comes_back(endpoint: Endpoint, user: tuple[str, tuple[str, str]]) -> None:
    name, keys = user
    client = endpoint.client(keys=keys)
    client.list_buckets()
    assert done(endpoint.admin("POST", f"/users/{name}/disable")) == {"name": name, "enabled": False}
    with refused("InvalidAccessKeyId", 403):
        client.list_buckets()
    shown = done(endpoint.admin("GET", f"/users/{name}"))
    assert (shown["enabled"], shown["policies"], shown["tags"]) == (False, ["arn:aws:iam::aws:policy/readwrite"], {"k": "v"})
    assert [key["access_key"] for key in shown["keys"]] == [keys[0]]
    done(endpoint.admin("POST", f"/users/{name}/enable"))
    client.list_buckets()
    assert code(endpoint.admin("POST", "/users/nobody/enable")) == (404, "NoSuchEntity")


def test_a_key_is_rotated_with_an_overlap(endpoint: Endpoint, user: tuple[str, tuple[str, str]]) -> None:
    name, keys = user
    old = endpoint.client(keys=keys)
    made = done(endpoint.admin("POST", f"/keys/{keys[0]}/rotate", {"overlap_seconds": 2}), 201)
    new = endpoint.client(keys=keys_of(made))
    new.list_buckets()
    old.list_buckets()  # the overlap
    shown = {key["access_key"]: key for key in done(endpoint.admin("GET", f"/keys?user={name}"))["items"]}
    assert shown[keys[0]]["expires"]
    assert not shown[made["access_key"]]["expires"]
    time.sleep(2.2)
    with refused("InvalidAccessKeyId", 403):
        old.list_buckets()
    new.list_buckets()
    assert done(endpoint.admin("GET", f"/keys/{keys[0]}"))["status"] == "Expired"
    done(endpoint.admin("POST", f"/keys/{made['access_key']}/rotate", {"overlap_seconds": 0}), 201)  # what ended makes room
    with refused("InvalidAccessKeyId", 403):
        new.list_buckets()


def test_a_service_account_does_less_than_its_user(endpoint: Endpoint, s3: Any, bucket: str, user: tuple[str, tuple[str, str]]) -> None:
    s3.put_object(Bucket=bucket, Key="a/k", Body=b"")
    policy = json.loads(document("s3:GetObject", resource=f"arn:aws:s3:::{bucket}/a/*"))
    made = done(
        endpoint.admin(
            "POST", "/keys", {"user": user[0], "service_account": True, "name": "backup", "policy": policy, "expires_seconds": 900}
        ),
        201,
    )
    client = endpoint.client(keys=keys_of(made))
    client.get_object(Bucket=bucket, Key="a/k")
    with refused("AccessDenied", 403):
        client.put_object(Bucket=bucket, Key="a/k", Body=b"")
    with refused("AccessDenied", 403):
        client.list_objects_v2(Bucket=bucket)
    shown = done(endpoint.admin("GET", f"/keys/{made['access_key']}"))
    assert (shown["name"], shown["policy"], shown["is_service_account"], shown["status"]) == ("backup", policy, True, "Active")
    assert "secret_key" not in shown
    done(endpoint.admin("POST", f"/keys/{made['access_key']}", {"policy": {}}))
    client.put_object(Bucket=bucket, Key="a/k", Body=b"")
    done(endpoint.admin("POST", f"/keys/{made['access_key']}", {"enabled": False}))
    with refused("InvalidAccessKeyId", 403):
        client.get_object(Bucket=bucket, Key="a/k")
    done(endpoint.admin("DELETE", f"/keys/{made['access_key']}"), 204)
    assert code(endpoint.admin("GET", f"/keys/{made['access_key']}")) == (404, "NoSuchEntity")


def test_who_is_limited_makes_no_keys(endpoint: Endpoint, user: tuple[str, tuple[str, str]]) -> None:
    done(endpoint.admin("POST", "/iam/AttachUserPolicy", {"UserName": user[0], "PolicyArn": "arn:aws:iam::aws:policy/consoleAdmin"}))
    everything = json.loads(document("*"))
    made = done(endpoint.admin("POST", "/keys", {"user": user[0], "service_account": True, "policy": everything}), 201)
    for method, path, body in (
        ("POST", "/keys", {"user": user[0]}), ("POST", f"/keys/{made['access_key']}", {"policy": {}}),
        ("POST", f"/keys/{user[1][0]}/rotate", {}), ("POST", f"/keys/{made['access_key']}", {"expires_seconds": 0}),
    ):  # fmt: skip
        assert code(endpoint.admin(method, path, body, keys=keys_of(made))) == (403, "AccessDenied")


def test_keys_of_the_root_account_and_bad_requests(endpoint: Endpoint, user: tuple[str, tuple[str, str]]) -> None:
    root = endpoint.keys[0]
    assert code(endpoint.admin("DELETE", f"/keys/{root}")) == (400, "UnmodifiableEntity")
    assert code(endpoint.admin("POST", f"/keys/{root}/rotate", {})) == (400, "UnmodifiableEntity")
    assert root in [key["access_key"] for key in done(endpoint.admin("GET", "/keys?all=true"))["items"]]
    for body, expected in (
        ({"user": user[0], "policy": {"Statement": []}}, (400, "MalformedPolicyDocument")),
        ({"user": user[0], "name": "x"}, (400, "InvalidInput")), ({"user": "nobody"}, (404, "NoSuchEntity")),
        ({"user": user[0], "expires_seconds": -1}, (400, "ValidationError")), ({"users": ""}, (400, "MalformedInput")),
    ):  # fmt: skip
        assert code(endpoint.admin("POST", "/keys", body)) == expected
    assert code(endpoint.admin("GET", "/keys?colour=blue")) == (400, "ValidationError")


def test_a_user_administrates_as_far_as_its_policies_go(endpoint: Endpoint, user: tuple[str, tuple[str, str]]) -> None:
    name, keys = user
    assert code(endpoint.admin("GET", "/info", keys=keys)) == (403, "AccessDenied")
    assert code(endpoint.admin("POST", "/keys", {}, keys=keys)) == (403, "AccessDenied")
    own = document("titans3:CreateKey", "titans3:ListKeys", resource="arn:aws:titans3:::user/${aws:username}")
    done(endpoint.admin("POST", "/iam/PutUserPolicy", {"UserName": name, "PolicyName": "own", "PolicyDocument": own}))
    done(endpoint.admin("POST", "/keys", {}, keys=keys), 201)
    assert len(done(endpoint.admin("GET", "/keys", keys=keys))["items"]) == 2
    assert code(endpoint.admin("POST", "/keys", {"user": ""}, keys=keys)) == (403, "AccessDenied")  # the account's root
    done(endpoint.admin("POST", "/iam/AttachUserPolicy", {"UserName": name, "PolicyArn": "arn:aws:iam::aws:policy/diagnostics"}))
    assert done(endpoint.admin("GET", "/info", keys=keys))["version"]
    assert code(endpoint.admin("POST", "/service/restart", keys=keys)) == (403, "AccessDenied")


# simulation ------------------------------------------------------------------------------------------------------------


def test_simulation_explains_each_statement(endpoint: Endpoint, s3: Any, bucket: str, user: tuple[str, tuple[str, str]]) -> None:
    name, keys = user
    deny = document("s3:DeleteObject", effect="Deny", Sid="keep", Condition={"StringNotEquals": {"aws:PrincipalTag/k": "w"}})
    done(endpoint.admin("POST", "/iam/PutUserPolicy", {"UserName": name, "PolicyName": "keep", "PolicyDocument": deny}))
    question = {"principal": name, "action": "s3:DeleteObject", "resource": f"{bucket}/k"}
    found = done(endpoint.admin("POST", "/simulate", question))
    assert found["decision"] == "explicitDeny"
    assert [(step["policy"], step["sid"], step["applies"]) for step in found["statements"]] == [
        ("arn:aws:iam::aws:policy/readwrite", "", True), ("keep", "keep", True),
    ]  # fmt: skip
    with refused("AccessDenied", 403):  # and so it is
        endpoint.client(keys=keys).delete_object(Bucket=bucket, Key="k")
    again = done(endpoint.admin("POST", "/simulate", question | {"action": "s3:GetObject", "principal": keys[0]}))
    assert again["decision"] == "allowed"
    assert [step["why"] for step in again["statements"]] == ["", "the action is another"]
    strangers = done(endpoint.admin("POST", "/simulate", question | {"principal": "anonymous"}))
    assert strangers["decision"] == "implicitDeny"
    policy = {"Version": "2012-10-17", "Statement": [{
        "Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{bucket}/*",
        "Condition": {"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}},
    }]}  # fmt: skip
    s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))
    question = {"principal": "anonymous", "action": "s3:GetObject", "resource": f"{bucket}/k"}
    found = done(endpoint.admin("POST", "/simulate", question))
    assert (found["decision"], found["missing_context"]) == ("implicitDeny", ["aws:sourceip"])
    assert "10.0.0.0/8" in found["statements"][0]["why"]
    found = done(endpoint.admin("POST", "/simulate", question | {"context": {"aws:SourceIp": ["10.1.2.3"]}}))
    assert found["decision"] == "allowed"
    assert code(endpoint.admin("POST", "/simulate", question | {"principal": "role/none"})) == (404, "NoSuchEntity")


# configuration ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def restored(endpoint: Endpoint) -> Iterator[int]:
    """The number of the last change; afterwards all is as it was."""
    changes = done(endpoint.admin("GET", "/config/history"))["items"]
    number = changes[0]["number"] if changes else 0
    yield number
    done(endpoint.admin("POST", "/config/restore", {"number": number}))


def test_cluster_keys_are_set_shown_and_restored(endpoint: Endpoint, restored: int) -> None:
    before = done(endpoint.admin("GET", "/config/iam.users_max"))
    assert (before["scope"], before["is_default"]) == ("cluster", True)
    done(endpoint.admin("PUT", "/config/iam.users_max", {"value": 7}))
    done(endpoint.admin("PUT", "/config/iam.users_max", {"value": 8}))
    assert done(endpoint.admin("GET", "/config/iam.users_max"))["value"] == 8
    first, second = done(endpoint.admin("GET", "/config/history"))["items"][:2]
    assert (first["old"], first["new"], second["old"], second["new"]) == (7, 8, None, 7)
    assert first["who"].endswith(":root")
    done(endpoint.admin("POST", "/config/restore", {"number": second["number"]}))
    assert done(endpoint.admin("GET", "/config/iam.users_max"))["value"] == 7
    assert done(endpoint.admin("DELETE", "/config/iam.users_max"))["value"] == before["default"]


def test_a_limit_that_was_set_holds(endpoint: Endpoint, restored: int, user: tuple[str, tuple[str, str]]) -> None:
    done(endpoint.admin("PUT", "/config/iam.access_keys_max", {"value": 1}))
    assert code(endpoint.admin("POST", "/keys", {"user": user[0]})) == (409, "LimitExceeded")
    with refused("LimitExceeded", 409):
        endpoint.client(service="iam").create_access_key(UserName=user[0])


def test_public_access_can_be_switched_off_for_everybody(endpoint: Endpoint, s3: Any, bucket: str, restored: int) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"", ACL="public-read")
    assert endpoint.raw("GET", f"/{bucket}/k", sign=False).status == 200
    done(endpoint.admin("PUT", "/config/access.public", {"value": False}))
    assert endpoint.raw("GET", f"/{bucket}/k", sign=False).status == 403
    s3.get_object(Bucket=bucket, Key="k")


def test_bad_configuration_is_refused(endpoint: Endpoint) -> None:
    for key, value, expected in (
        ("iam.users_max", "many", (400, "ValidationError")), ("iam.users_max", 0, (400, "ValidationError")),
        ("access.public", 1, (400, "ValidationError")), ("s3.region", "x", (400, "InvalidInput")), ("zzz", 1, (404, "NoSuchEntity")),
    ):  # fmt: skip
        assert code(endpoint.admin("PUT", f"/config/{key}", {"value": value})) == expected
    shown = {item["name"]: item for item in done(endpoint.admin("GET", "/config"))["items"]}
    assert shown["s3.region"]["scope"] == "start-up"
    assert code(endpoint.admin("POST", "/config/restore", {"number": 10**9})) == (404, "NoSuchEntity")


# the server ------------------------------------------------------------------------------------------------------------


def test_info_and_buckets(endpoint: Endpoint, bucket: str) -> None:
    info = done(endpoint.admin("GET", "/info"))
    assert info["healthy"] is True
    assert len(info["workers"]) == 2
    assert info["tolerance"]["volumes"] == 0
    shown = done(endpoint.admin("GET", f"/buckets/{bucket}"))
    assert (shown["owner_name"], shown["is_public"], shown["versioning"]) == ("root", False, "")
    listed = {item["name"]: item for item in done(endpoint.admin("GET", "/buckets"))["items"]}
    assert listed[bucket].items() <= shown.items()


def test_the_openapi_document_names_every_route(endpoint: Endpoint) -> None:
    status, found = endpoint.admin("GET", "/openapi.json", sign=False)
    assert (status, found["openapi"]) == (200, "3.1.0")
    assert {"get", "post"} <= found["paths"]["/_titans3/admin/v1/accounts"].keys()


def test_strangers_and_wrong_paths(endpoint: Endpoint) -> None:
    assert code(endpoint.admin("GET", "/info", sign=False)) == (403, "MissingAuthenticationToken")
    assert code(endpoint.admin("GET", "/info", keys=("AKIAAAAAAAAAAAAAAAAA", "x"))) == (403, "InvalidClientTokenId")
    assert code(endpoint.admin("GET", "/info", keys=(endpoint.keys[0], "x"))) == (403, "SignatureDoesNotMatch")
    assert code(endpoint.admin("GET", "/nothing")) == (404, "NotFound")
    assert code(endpoint.admin("DELETE", "/info")) == (405, "MethodNotAllowed")
    big = {"name": "x" * 300_000}
    assert code(endpoint.admin("POST", "/accounts", big)) == (413, "RequestEntityTooLarge")
    answer = endpoint.raw("POST", "/_titans3/admin/v1/accounts", {"x-amz-content-sha256": "UNSIGNED-PAYLOAD"}, b"{}")
    assert answer.status == 403
