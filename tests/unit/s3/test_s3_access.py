"""Who may do what: policies, lists, ownership and public access block, through the gateway."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.unit.s3.memory_store import canonical_of, encode
from tests.unit.s3.test_s3_post import body_of, send, signed
from tests.unit.s3.wire import OTHER, ROOT, Answer, Client
from titans3.http.signing import SigningIdentity
from titans3.model.configuration import PublicAccessBlock
from titans3.model.identity import Attached, Credential, Group, User, credential_key, group_key, user_key

MINE, THEIRS = "000000000000", "111111111111"
USER = SigningIdentity("AKUSER", "user-secret")
PAT = SigningIdentity("AKPAT", "pat-secret")  # a user of the other account
ALL = "http://acs.amazonaws.com/groups/global/AllUsers"
SIGNED = "http://acs.amazonaws.com/groups/global/AuthenticatedUsers"


def document(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def allow(actions: Any, resources: Any, **more: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": actions, "Resource": resources, **more}


def deny(actions: Any, resources: Any, **more: Any) -> dict[str, Any]:
    return {"Effect": "Deny", "Action": actions, "Resource": resources, **more}


EVERYBODY = {"Principal": "*"}
BUCKET, OBJECTS = "arn:aws:s3:::bucket", "arn:aws:s3:::bucket/*"


class World(Client):
    """A bucket of the root account with an object, a user in each account."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.user("uma", USER)
        self.user("pat", PAT, account=THEIRS)
        self.bucket()
        self("PUT", "/bucket/key", body=b"body")

    def user(self, name: str, identity: SigningIdentity, *policies: str, account: str = MINE, **more: Any) -> None:
        """A user with a key and policies of its own; again: the same user with others."""
        record = User(1, account, name, f"AIDA{name.upper()}", "/", 0, Attached((), dict(enumerate_texts(policies))), **more)
        sealed = self.store.identities.seal_secret(identity.access_key, identity.secret)
        credential = Credential(2, identity.access_key, sealed, account, name)
        self.store.control.cas_nowait(
            [(user_key(account, name), encode(record)), (credential_key(identity.access_key), encode(credential))], {}
        )

    def allows(self, *statements: dict[str, Any], name: str = "uma", identity: SigningIdentity = USER, account: str = MINE) -> None:
        self.user(name, identity, document(*statements), account=account)

    def policy(self, *statements: dict[str, Any], status: int = 204) -> Answer:
        answer = self("PUT", "/bucket?policy", body=document(*statements).encode())
        assert answer.status == status, answer.body
        return answer

    def acl(self, target: str, canned: str) -> None:
        mark = "&" if "?" in target else "?"
        answer = self("PUT", f"{target}{mark}acl", {"x-amz-acl": canned})
        assert answer.status == 200, answer.body


def enumerate_texts(texts: Any) -> list[tuple[str, str]]:
    return [(f"p{number}", text) for number, text in enumerate(texts)]


@pytest.fixture
def world() -> World:
    return World()


# identity policies -----------------------------------------------------------------------------------------------------


def test_a_user_may_nothing_at_first(world: World) -> None:
    asked = ("GET", "/bucket/key"), ("PUT", "/bucket/key"), ("GET", "/bucket"), ("GET", "/"), ("PUT", "/new"), ("DELETE", "/bucket")
    for method, target in asked:
        answer = world(method, target, identity=USER)
        assert (answer.status, answer.code) == (403, "AccessDenied"), (method, target)
    answer = world("GET", "/bucket/key", identity=USER)
    assert 'User: arn:aws:iam::000000000000:user/uma is not authorized to perform: s3:GetObject on resource: "arn:aws:s3:::bucket/key"' in (
        answer.xml.findtext("Message")
    )


def test_nothing_of_a_body_is_read_for_who_may_not(world: World) -> None:
    assert world("PUT", "/bucket/key", body=b"x" * 1000, identity=USER).status == 403
    assert world.last_body is not None
    assert world.last_body.reads == 0


def test_what_a_policy_allows_and_no_more(world: World) -> None:
    world.allows(allow("s3:GetObject", "arn:aws:s3:::bucket/k*"), allow("s3:ListBucket", BUCKET))
    assert world("GET", "/bucket/key", identity=USER).body == b"body"
    assert world("HEAD", "/bucket/key", identity=USER).status == 200
    assert world("GET", "/bucket", identity=USER).status == 200
    world("PUT", "/bucket/other", body=b"hidden")
    assert world("GET", "/bucket/other", identity=USER).status == 403
    assert world("PUT", "/bucket/key", identity=USER).status == 403
    assert world("GET", "/bucket?versions", identity=USER).status == 403


def test_a_group_brings_its_policies_and_a_deny_wins(world: World) -> None:
    group = Group(1, MINE, "readers", "AGPAR", "/", 0, Attached(("arn:aws:iam::aws:policy/readonly",)))
    world.store.control.cas_nowait([(group_key(MINE, "readers"), encode(group))], {})
    world.user("uma", USER, groups=("readers",))
    assert world("GET", "/bucket/key", identity=USER).status == 200
    world.user("uma", USER, document(deny("s3:*", "arn:aws:s3:::bucket/key")), groups=("readers",))
    answer = world("GET", "/bucket/key", identity=USER)
    assert "with an explicit deny" in answer.xml.findtext("Message")


def test_variables_of_who_asks(world: World) -> None:
    world.allows(allow("s3:*", "arn:aws:s3:::bucket/desk/${aws:username}/*"))
    assert world("PUT", "/bucket/desk/uma/x", body=b"x", identity=USER).status == 200
    assert world("PUT", "/bucket/desk/pat/x", body=b"x", identity=USER).status == 403
    assert world("PUT", "/bucket/desk/uma", body=b"x", identity=USER).status == 403


def test_a_missing_key_is_told_to_whom_may_list(world: World) -> None:
    world.allows(allow("s3:GetObject", OBJECTS))
    for method in ("GET", "HEAD"):
        assert world(method, "/bucket/absent", identity=USER).status == 403
    assert world("GET", "/bucket/key?versionId=" + "0" * 32, identity=USER).status == 403
    world.allows(allow("s3:GetObject*", OBJECTS), allow("s3:ListBucket", BUCKET))
    assert world("GET", "/bucket/absent", identity=USER).code == "NoSuchKey"
    assert world("GET", "/bucket/key?versionId=" + "0" * 32, identity=USER).code == "NoSuchVersion"


@pytest.mark.parametrize(
    ("method", "target", "headers", "needs"),
    [
        ("GET", "/bucket/key?versionId=null", {}, ["s3:GetObjectVersion"]),
        ("GET", "/bucket/key?tagging&versionId=null", {}, ["s3:GetObjectVersionTagging"]),
        ("GET", "/bucket/key?acl", {}, ["s3:GetObjectAcl"]),
        ("GET", "/bucket/key?attributes", {"x-amz-object-attributes": "ETag"}, ["s3:GetObject", "s3:GetObjectAttributes"]),
        ("DELETE", "/bucket/key", {}, ["s3:DeleteObject"]),
        ("DELETE", "/bucket/key?versionId=null", {}, ["s3:DeleteObjectVersion"]),
        ("PUT", "/bucket/new", {}, ["s3:PutObject"]),
        ("PUT", "/bucket/new", {"x-amz-tagging": "a=1"}, ["s3:PutObject", "s3:PutObjectTagging"]),
        ("PUT", "/bucket/new", {"x-amz-acl": "public-read"}, ["s3:PutObject", "s3:PutObjectAcl"]),
        ("PUT", "/bucket/new", {"x-amz-grant-read": f'uri="{ALL}"'}, ["s3:PutObject", "s3:PutObjectAcl"]),
        ("PUT", "/bucket/new", {"x-amz-acl": "bucket-owner-full-control"}, ["s3:PutObject"]),
        ("PUT", "/bucket/new", {"x-amz-copy-source": "/bucket/key"}, ["s3:PutObject", "s3:GetObject"]),
        ("PUT", "/bucket/new", {"x-amz-copy-source": "/bucket/key?versionId=null"}, ["s3:PutObject", "s3:GetObjectVersion"]),
        ("POST", "/bucket/new?uploads", {}, ["s3:PutObject"]),
        ("POST", "/bucket/new?uploads", {"x-amz-acl": "public-read"}, ["s3:PutObject", "s3:PutObjectAcl"]),
        ("GET", "/bucket?uploads", {}, ["s3:ListBucketMultipartUploads"]),
        ("GET", "/bucket?policyStatus", {}, ["s3:GetBucketPolicyStatus"]),
        ("GET", "/", {}, ["s3:ListAllMyBuckets"]),
        ("PUT", "/fresh", {}, ["s3:CreateBucket"]),
        ("PUT", "/fresh", {"x-amz-acl": "public-read"}, ["s3:CreateBucket", "s3:PutBucketAcl"]),
        ("PUT", "/fresh", {"x-amz-object-ownership": "ObjectWriter"}, ["s3:CreateBucket", "s3:PutBucketOwnershipControls"]),
    ],
)
def test_each_right_that_a_request_needs(method: str, target: str, headers: dict[str, str], needs: list[str]) -> None:
    world = World()
    for missing in needs:
        others = [need for need in needs if need != missing]
        world.allows(allow([*others, "s3:NoSuchAction"], "*"))
        assert world(method, target, headers, identity=USER).status == 403, missing
    world.allows(allow(needs, "*"))
    assert world(method, target, headers, identity=USER).status in (200, 204)


def test_a_tagged_source_asks_for_the_rights_on_tags(world: World) -> None:
    world("PUT", "/bucket/key?tagging", body=b"<Tagging><TagSet><Tag><Key>a</Key><Value>1</Value></Tag></TagSet></Tagging>")
    source = {"x-amz-copy-source": "/bucket/key"}
    for granted in (["s3:GetObjectTagging"], ["s3:PutObjectTagging"]):
        world.allows(allow(["s3:GetObject", "s3:PutObject", *granted], OBJECTS))
        assert world("PUT", "/bucket/new", source, identity=USER).status == 403
    world.allows(allow(["s3:GetObject", "s3:PutObject", "s3:GetObjectTagging", "s3:PutObjectTagging"], OBJECTS))
    assert world("PUT", "/bucket/new", source, identity=USER).status == 200
    world.allows(allow(["s3:GetObject", "s3:PutObject", "s3:PutObjectTagging"], OBJECTS))
    replaced = {**source, "x-amz-tagging-directive": "REPLACE", "x-amz-tagging": "b=2"}
    assert world("PUT", "/bucket/new", replaced, identity=USER).status == 200


def test_deletes_of_many_are_judged_one_by_one(world: World) -> None:
    for key in ("a/1", "a/2", "b/1"):
        world("PUT", f"/bucket/{key}", body=b"x")
    world.allows(allow("s3:DeleteObject", "arn:aws:s3:::bucket/a/*"))
    items = "".join(f"<Object><Key>{key}</Key></Object>" for key in ("a/1", "b/1", "a/2"))
    items += "<Object><Key>a/2</Key><VersionId>null</VersionId></Object>"
    body = f"<Delete>{items}</Delete>".encode()
    answer = world("POST", "/bucket?delete", checksum_of(body), body, identity=USER)
    assert answer.status == 200
    assert answer.all("Deleted/Key") == ["a/1", "a/2"]
    assert list(zip(answer.all("Error/Key"), answer.all("Error/Code"), strict=True)) == [("b/1", "AccessDenied"), ("a/2", "AccessDenied")]
    assert world("HEAD", "/bucket/b/1").status == 200


def checksum_of(body: bytes) -> dict[str, str]:
    import base64
    import hashlib

    return {"content-md5": base64.b64encode(hashlib.md5(body).digest()).decode()}


# keys and their state --------------------------------------------------------------------------------------------------


def test_disabled_keys_users_and_accounts(world: World) -> None:
    world.allows(allow("s3:*", "*"))
    assert world("GET", "/bucket/key", identity=USER).status == 200
    world.user("uma", USER, document(allow("s3:*", "*")), enabled=False)
    answer = world("GET", "/bucket/key", identity=USER)
    assert (answer.status, answer.code, answer.xml.findtext("Message")) == (403, "InvalidAccessKeyId", "The user is disabled.")
    world.store.control.cas_nowait([(user_key(MINE, "uma"), None)], {})
    assert world("GET", "/bucket/key", identity=USER).code == "InvalidAccessKeyId"
    world.store.control.cas_nowait([(credential_key(USER.access_key), None)], {})
    assert world("GET", "/bucket/key", identity=USER).code == "InvalidAccessKeyId"
    account = world.store.identities.account(THEIRS)
    assert account is not None
    assert world("GET", "/", identity=OTHER).status == 200
    import msgspec

    world.store.control.cas_nowait([(f"/accounts/{THEIRS}", encode(msgspec.structs.replace(account, enabled=False)))], {})
    assert world("GET", "/", identity=OTHER).code == "InvalidAccessKeyId"


def test_a_key_expires(world: World) -> None:
    sealed = world.store.identities.seal_secret("AKSOON", "soon-secret")
    credential = Credential(2, "AKSOON", sealed, MINE, expires_ms=world.clock.now_ms + 1000)
    world.store.control.cas_nowait([(credential_key("AKSOON"), encode(credential))], {})
    soon = SigningIdentity("AKSOON", "soon-secret")
    assert world("GET", "/bucket/key", identity=soon).status == 200
    world.clock.now_ms += 1000
    answer = world("GET", "/bucket/key", identity=soon)
    assert (answer.code, answer.xml.findtext("Message")) == ("InvalidAccessKeyId", "The access key is expired.")


def test_a_service_account_is_limited_by_its_policy(world: World) -> None:
    sealed = world.store.identities.seal_secret("AKSERVICE", "service-secret")
    text = document(allow("s3:GetObject", "arn:aws:s3:::bucket/key"))
    for user in ("", "uma"):
        world.allows(allow("s3:*", "*"))
        credential = Credential(2, "AKSERVICE", sealed, MINE, user, session_policy=text, is_service_account=True)
        world.store.control.cas_nowait([(credential_key("AKSERVICE"), encode(credential))], {})
        service = SigningIdentity("AKSERVICE", "service-secret")
        assert world("GET", "/bucket/key", identity=service).status == 200
        assert world("PUT", "/bucket/key", body=b"body", identity=service).status == 403
        assert world("GET", "/bucket", identity=service).status == 403
    world.allows(allow("s3:ListBucket", "*"))
    assert world("GET", "/bucket/key", identity=service).status == 403  # never more than its user


def test_a_worker_that_does_not_reach_the_control_plane_lets_only_the_root_in(world: World) -> None:
    world.allows(allow("s3:*", "*"))
    world.store.control.cache.is_stale = True
    assert world("GET", "/bucket/key").status == 200
    for identity in (USER, OTHER):
        assert world("GET", "/bucket/key", identity=identity).code == "SlowDown"
    world.store.control.cache.is_stale = False
    assert world("GET", "/bucket/key", identity=USER).status == 200


# bucket policies -------------------------------------------------------------------------------------------------------


def test_a_policy_comes_back_byte_for_byte(world: World) -> None:
    text = b' {"Version" : "2012-10-17",\n "Statement":[{"Effect":"Allow","Principal":"*",'
    text += b'"Action":"s3:GetObject","Resource":"arn:aws:s3:::bucket/*"}]}'
    assert world("GET", "/bucket?policy").code == "NoSuchBucketPolicy"
    assert world("PUT", "/bucket?policy", body=text).status == 204
    answer = world("GET", "/bucket?policy")
    assert (answer.body, answer.headers["content-type"]) == (text, "application/json")
    assert world("DELETE", "/bucket?policy").status == 204
    assert world("DELETE", "/bucket?policy").status == 204
    assert world("GET", "/bucket?policy").status == 404


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        (allow("s3:GetObject", OBJECTS), "Missing required field Principal"),
        (allow("s3:GetObject", OBJECTS, NotPrincipal="*"), "Allow with NotPrincipal is not allowed."),
        (allow("s3:GetObject", OBJECTS, Principal={"AWS": "arn:aws:iam::000000000000:user/nobody"}), "Invalid principal in policy"),
        (allow("s3:GetObject", OBJECTS, Principal={"AWS": "999999999999"}), "Invalid principal in policy"),
        (allow("s3:GetObject", OBJECTS, Principal={"CanonicalUser": "0" * 64}), "Invalid principal in policy"),
        (allow("s3:GetObject", "arn:aws:s3:::other/*", **EVERYBODY), "Policy has invalid resource"),
        (allow("s3:NoSuchThing", OBJECTS, **EVERYBODY), "Policy has invalid action"),
        (allow("s3:GetObject", BUCKET, **EVERYBODY), "Action does not apply to any resource(s) in statement"),
        (allow("s3:GetObject", OBJECTS, Condition={"NoSuch": {"aws:username": "x"}}, **EVERYBODY), "Invalid Condition type : NoSuch"),
    ],
)
def test_policies_that_are_refused(world: World, statement: dict[str, Any], message: str) -> None:
    answer = world.policy(statement, status=400)
    assert (answer.code, answer.xml.findtext("Message")) == ("MalformedPolicy", message)
    assert world("GET", "/bucket?policy").status == 404


def test_a_body_that_is_no_policy(world: World) -> None:
    for body in (b"", b"{", b"[]", b"{}", b'{"Statement": []}', b"\xff", b'{"Statement": 1, "Statement": 2}', b"x" * 21_000):
        assert world("PUT", "/bucket?policy", body=body).code == "MalformedPolicy", body


def test_anonymous_reads_by_policy(world: World) -> None:
    assert world("GET", "/bucket/key", identity=None).status == 403
    world.policy(allow("s3:GetObject", OBJECTS, **EVERYBODY))
    assert world("GET", "/bucket/key", identity=None).body == b"body"
    assert world("GET", "/bucket/absent", identity=None).status == 403
    assert world("PUT", "/bucket/key", identity=None).status == 403
    assert world("GET", "/bucket", identity=None).status == 403
    assert world("GET", "/bucket/key", identity=USER).status == 200  # as anybody
    assert world("GET", "/bucket/key", identity=OTHER).status == 200
    assert world("GET", "/bucket/key", identity=PAT).status == 403  # its account does not let it
    world.allows(allow("s3:GetObject", "*"), name="pat", identity=PAT, account=THEIRS)
    assert world("GET", "/bucket/key", identity=PAT).status == 200


def test_access_across_accounts_needs_both(world: World) -> None:
    assert world("GET", "/bucket/key", identity=OTHER).status == 403
    world.allows(allow("s3:*", "*"), name="pat", identity=PAT, account=THEIRS)
    assert world("GET", "/bucket/key", identity=PAT).status == 403
    world.policy(allow("s3:GetObject", OBJECTS, Principal={"AWS": THEIRS}))
    assert world("GET", "/bucket/key", identity=OTHER).status == 200
    assert world("GET", "/bucket/key", identity=PAT).status == 200
    assert world("PUT", "/bucket/key", body=b"x", identity=PAT).status == 403
    world.user("pat", PAT, account=THEIRS)
    assert world("GET", "/bucket/key", identity=PAT).status == 403
    world.policy(allow("s3:GetObject", OBJECTS, Principal={"CanonicalUser": canonical_of(THEIRS)}))
    assert world("GET", "/bucket/key", identity=OTHER).status == 200


def test_a_user_of_the_account_by_policy_alone(world: World) -> None:
    world.policy(allow("s3:GetObject", OBJECTS, Principal={"AWS": "arn:aws:iam::000000000000:user/uma"}))
    assert world("GET", "/bucket/key", identity=USER).status == 200
    assert world("PUT", "/bucket/key", identity=USER).status == 403


def test_a_name_that_was_given_again_is_somebody_else(world: World) -> None:
    world.policy(allow("s3:GetObject", OBJECTS, Principal={"AWS": "arn:aws:iam::000000000000:user/uma"}))
    assert world("GET", "/bucket/key", identity=USER).status == 200
    again = User(1, MINE, "uma", "AIDASOMEBODYELSE", "/", 0)
    world.store.control.cas_nowait([(user_key(MINE, "uma"), encode(again))], {})
    assert world("GET", "/bucket/key", identity=USER).status == 403


def test_a_deny_binds_the_root_but_it_can_always_mend_the_policy(world: World) -> None:
    world.policy(deny("s3:*", [BUCKET, OBJECTS], **EVERYBODY))
    assert world("GET", "/bucket/key").status == 403
    assert world("GET", "/bucket").status == 403
    assert world("GET", "/bucket?policy").status == 200
    assert world("DELETE", "/bucket?policy").status == 204
    assert world("GET", "/bucket/key").status == 200


def test_a_bucket_policy_is_its_owners_affair(world: World) -> None:
    world.policy(allow("s3:*", [BUCKET, OBJECTS], Principal={"AWS": THEIRS}))
    for method in ("GET", "PUT", "DELETE"):
        answer = world(method, "/bucket?policy", body=b"{}" if method == "PUT" else b"", identity=OTHER)
        assert (answer.status, answer.code) == (405, "MethodNotAllowed")


CONDITIONS: list[tuple[dict[str, Any], str, str, dict[str, str], bool]] = [
    ({"StringLike": {"s3:prefix": "desk/*"}}, "GET", "/bucket?prefix=desk/uma", {}, True),
    ({"StringLike": {"s3:prefix": "desk/*"}}, "GET", "/bucket?prefix=other/", {}, False),
    ({"StringEquals": {"s3:delimiter": "/"}}, "GET", "/bucket?delimiter=/", {}, True),
    ({"Null": {"s3:prefix": "true"}}, "GET", "/bucket", {}, True),
    ({"NumericLessThanEquals": {"s3:max-keys": "10"}}, "GET", "/bucket?max-keys=10", {}, True),
    ({"NumericLessThanEquals": {"s3:max-keys": "10"}}, "GET", "/bucket?max-keys=11", {}, False),
    ({"NumericLessThanEquals": {"s3:max-keys": "10"}}, "GET", "/bucket", {}, False),
    ({"StringEquals": {"s3:x-amz-acl": "bucket-owner-full-control"}}, "PUT", "/bucket/k", {"x-amz-acl": "bucket-owner-full-control"}, True),
    ({"StringEquals": {"s3:x-amz-acl": "bucket-owner-full-control"}}, "PUT", "/bucket/k", {}, False),
    ({"StringEquals": {"s3:x-amz-storage-class": "STANDARD"}}, "PUT", "/bucket/k", {"x-amz-storage-class": "STANDARD"}, True),
    ({"StringEquals": {"s3:RequestObjectTag/team": "blue"}}, "PUT", "/bucket/k", {"x-amz-tagging": "team=blue"}, True),
    ({"StringEquals": {"s3:RequestObjectTag/team": "blue"}}, "PUT", "/bucket/k", {"x-amz-tagging": "team=red"}, False),
    ({"ForAllValues:StringEquals": {"s3:RequestObjectTagKeys": ["a", "b"]}}, "PUT", "/bucket/k", {"x-amz-tagging": "a=1&b=2"}, True),
    ({"ForAllValues:StringEquals": {"s3:RequestObjectTagKeys": ["a"]}}, "PUT", "/bucket/k", {"x-amz-tagging": "a=1&b=2"}, False),
    ({"StringEquals": {"s3:x-amz-copy-source": "/bucket/key"}}, "PUT", "/bucket/k", {"x-amz-copy-source": "/bucket/key"}, True),
    ({"StringEquals": {"s3:x-amz-metadata-directive": "COPY"}}, "PUT", "/bucket/k", {"x-amz-copy-source": "/bucket/key"}, False),
    ({"StringEquals": {"s3:VersionId": "null"}}, "GET", "/bucket/key?versionId=null", {}, True),
    ({"StringEquals": {"s3:if-none-match": "*"}}, "PUT", "/bucket/k", {"if-none-match": "*"}, True),
    ({"Bool": {"s3:ObjectCreationOperation": "true"}}, "PUT", "/bucket/k", {}, True),
    ({"StringLike": {"aws:Referer": "http://example.com/*"}}, "GET", "/bucket/key", {"referer": "http://example.com/x"}, True),
    ({"StringLike": {"aws:Referer": "http://example.com/*"}}, "GET", "/bucket/key", {}, False),
    ({"StringLike": {"aws:UserAgent": "probe*"}}, "GET", "/bucket/key", {"user-agent": "probe/1"}, True),
    ({"IpAddress": {"aws:SourceIp": "127.0.0.0/8"}}, "GET", "/bucket/key", {}, True),
    ({"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}, "GET", "/bucket/key", {"x-forwarded-for": "10.0.0.1"}, False),
    ({"Bool": {"aws:SecureTransport": "false"}}, "GET", "/bucket/key", {}, True),
    ({"NumericGreaterThanEquals": {"s3:TlsVersion": "1.2"}}, "GET", "/bucket/key", {}, False),
    ({"StringEquals": {"s3:authType": "REST-HEADER"}}, "GET", "/bucket/key", {}, True),
    ({"StringEquals": {"s3:signatureversion": "AWS4-HMAC-SHA256"}}, "GET", "/bucket/key", {}, True),
    ({"NumericLessThan": {"s3:signatureAge": "600000"}}, "GET", "/bucket/key", {}, True),
    ({"StringEquals": {"s3:x-amz-content-sha256": "UNSIGNED-PAYLOAD"}}, "GET", "/bucket/key", {}, False),
    ({"StringEquals": {"aws:PrincipalAccount": THEIRS}}, "GET", "/bucket/key", {}, True),
    ({"StringEquals": {"aws:PrincipalType": "Account"}}, "GET", "/bucket/key", {}, True),
    ({"ArnLike": {"aws:PrincipalArn": f"arn:aws:iam::{THEIRS}:*"}}, "GET", "/bucket/key", {}, True),
    ({"StringEquals": {"s3:ResourceAccount": MINE}}, "GET", "/bucket/key", {}, True),
    ({"StringEquals": {"aws:RequestedRegion": "us-east-1"}}, "GET", "/bucket/key", {}, True),
    ({"DateLessThan": {"aws:CurrentTime": "2030-01-01T00:00:00Z"}}, "GET", "/bucket/key", {}, True),
    ({"DateGreaterThan": {"aws:EpochTime": "1900000000"}}, "GET", "/bucket/key", {}, False),
    ({"StringEquals": {"s3:ExistingObjectTag/color": "red"}}, "GET", "/bucket/key", {}, True),
    ({"StringEquals": {"s3:ExistingObjectTag/color": "blue"}}, "GET", "/bucket/key", {}, False),
    ({"StringEquals": {"s3:ExistingObjectTag/color": "red"}}, "GET", "/bucket/key?tagging", {}, True),
    ({"StringEquals": {"s3:ExistingObjectTag/color": "red"}}, "DELETE", "/bucket/key?tagging", {}, True),
    ({"StringEquals": {"s3:ExistingObjectTag/color": "red"}}, "PUT", "/bucket/k", {"x-amz-copy-source": "/bucket/key"}, False),
]


@pytest.mark.parametrize(("condition", "method", "target", "headers", "allowed"), CONDITIONS)
def test_condition_keys(condition: dict[str, Any], method: str, target: str, headers: dict[str, str], allowed: bool) -> None:
    world = World()
    world("PUT", "/bucket/key", {"x-amz-tagging": "color=red"}, b"body")
    world.policy(allow("s3:*", [BUCKET, OBJECTS], Principal={"AWS": THEIRS}, Condition=condition))
    answer = world(method, target, headers, b"", identity=OTHER)
    assert (answer.status < 300) is allowed, answer.body
    if not allowed:
        assert answer.status == 403


def test_tags_of_a_body_count(world: World) -> None:
    world.policy(
        allow("s3:PutObjectTagging", OBJECTS, Principal={"AWS": THEIRS}, Condition={"StringEquals": {"s3:RequestObjectTag/team": "blue"}})
    )
    for value, status in (("blue", 200), ("red", 403)):
        body = f"<Tagging><TagSet><Tag><Key>team</Key><Value>{value}</Value></Tag></TagSet></Tagging>".encode()
        assert world("PUT", "/bucket/key?tagging", body=body, identity=OTHER).status == status
    assert world("GET", "/bucket/key?tagging").all("TagSet/Tag/Value") == ["blue"]


def test_the_region_of_a_new_bucket_counts(world: World) -> None:
    world.allows(allow("s3:CreateBucket", "*", Condition={"StringEquals": {"s3:LocationConstraint": "eu-west-1"}}))
    body = b"<CreateBucketConfiguration><LocationConstraint>%b</LocationConstraint></CreateBucketConfiguration>"
    assert world("PUT", "/fresh", body=body % b"us-west-2", identity=USER).status == 403
    assert world("PUT", "/fresh", identity=USER).status == 403
    assert world("PUT", "/fresh", body=body % b"eu-west-1", identity=USER).status == 200
    assert world("GET", "/fresh?location").xml.text == "eu-west-1"


@pytest.mark.parametrize(
    ("principal", "condition", "public"),
    [
        ("*", None, True),
        ({"AWS": "*"}, None, True),
        ({"AWS": THEIRS}, None, False),
        ("*", {"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}, False),
        ("*", {"IpAddress": {"aws:SourceIp": "0.0.0.0/1"}}, True),
        ("*", {"NotIpAddress": {"aws:SourceIp": "10.0.0.0/8"}}, True),
        ("*", {"StringEquals": {"aws:SourceVpc": "vpc-91237329"}}, False),
        ("*", {"StringLike": {"aws:SourceVpc": "vpc-9*"}}, True),
        ("*", {"StringEqualsIfExists": {"aws:SourceVpc": "vpc-91237329"}}, True),
        ("*", {"StringEquals": {"aws:Referer": "x"}}, True),
        ("*", {"StringEquals": {"aws:PrincipalAccount": THEIRS}}, False),
        ("*", {"ArnLike": {"aws:PrincipalArn": f"arn:aws:iam::{THEIRS}:role/*"}}, False),
        ("*", {"ArnLike": {"aws:PrincipalArn": "arn:aws:iam::*:role/x"}}, True),
    ],
)
def test_whether_a_policy_is_public(world: World, principal: Any, condition: Any, public: bool) -> None:
    more = {} if condition is None else {"Condition": condition}
    world.policy(allow("s3:GetObject", OBJECTS, Principal=principal, **more))
    assert world("GET", "/bucket?policyStatus").xml.findtext("IsPublic") == str(public).lower()
    world("PUT", "/bucket?publicAccessBlock", body=block(BlockPublicPolicy=True))
    answer = world("PUT", "/bucket?policy", body=document(allow("s3:GetObject", OBJECTS, Principal=principal, **more)).encode())
    assert answer.status == (403 if public else 204)


# access control lists --------------------------------------------------------------------------------------------------


def block(**switches: bool) -> bytes:
    items = "".join(f"<{name}>{str(value).lower()}</{name}>" for name, value in switches.items())
    return f"<PublicAccessBlockConfiguration>{items}</PublicAccessBlockConfiguration>".encode()


def grants_of(answer: Answer) -> list[tuple[str, str]]:
    assert answer.status == 200, answer.body
    found = []
    for grant in answer.xml.findall("AccessControlList/Grant"):
        grantee = grant.find("Grantee")
        found.append((grantee.findtext("ID") or grantee.findtext("URI"), grant.findtext("Permission")))
    return found


FULL = (canonical_of(MINE), "FULL_CONTROL")


@pytest.mark.parametrize(
    ("canned", "on_bucket", "on_object"),
    [
        ("private", [FULL], [FULL]),
        ("public-read", [FULL, (ALL, "READ")], [FULL, (ALL, "READ")]),
        ("public-read-write", [FULL, (ALL, "READ"), (ALL, "WRITE")], [FULL, (ALL, "READ"), (ALL, "WRITE")]),
        ("authenticated-read", [FULL, (SIGNED, "READ")], [FULL, (SIGNED, "READ")]),
        ("bucket-owner-read", [FULL], [FULL]),
        ("bucket-owner-full-control", [FULL], [FULL]),
    ],
)
def test_canned_lists(world: World, canned: str, on_bucket: list[tuple[str, str]], on_object: list[tuple[str, str]]) -> None:
    world.acl("/bucket", canned)
    world.acl("/bucket/key", canned)
    assert grants_of(world("GET", "/bucket?acl")) == on_bucket
    assert grants_of(world("GET", "/bucket/key?acl")) == on_object
    assert world("PUT", "/bucket/new", {"x-amz-acl": canned}, b"x").status == 200
    assert grants_of(world("GET", "/bucket/new?acl")) == on_object
    assert world("PUT", "/made", {"x-amz-acl": canned}).status == 200
    assert grants_of(world("GET", "/made?acl")) == on_bucket
    owner = world("GET", "/bucket?acl").xml.find("Owner")
    assert (owner.findtext("ID"), owner.findtext("DisplayName")) == (canonical_of(MINE), f"name-{MINE}")


@pytest.mark.parametrize("of_bucket", ["private", "public-read", "public-read-write"])
@pytest.mark.parametrize("of_object", ["private", "public-read", "public-read-write"])
@pytest.mark.parametrize("identity", [None, OTHER])
def test_strangers_by_lists(of_bucket: str, of_object: str, identity: SigningIdentity | None) -> None:
    """Lists of bucket and object do not know of each other."""
    world = World()
    world.acl("/bucket", of_bucket)
    world.acl("/bucket/key", of_object)
    assert (world("GET", "/bucket/key", identity=identity).status == 200) is (of_object != "private")
    assert (world("GET", "/bucket", identity=identity).status == 200) is (of_bucket != "private")
    absent = world("GET", "/bucket/absent", identity=identity)
    assert absent.status == (404 if of_bucket != "private" else 403)
    assert (world("PUT", "/bucket/theirs", body=b"x", identity=identity).status == 200) is (of_bucket == "public-read-write")
    assert world("GET", "/bucket?acl", identity=identity).status == 403
    assert world("PUT", "/bucket?acl", {"x-amz-acl": "private"}, identity=identity).status == 403


def test_grants_by_header_and_document(world: World) -> None:
    theirs = canonical_of(THEIRS)
    headers = {"x-amz-grant-read": f'id="{theirs}", uri="{ALL}"', "x-amz-grant-write-acp": f'emailAddress="{THEIRS}@example.com"'}
    assert world("PUT", "/bucket/key?acl", headers).status == 200
    assert grants_of(world("GET", "/bucket/key?acl")) == [(theirs, "READ"), (ALL, "READ"), (theirs, "WRITE_ACP")]
    assert world("GET", "/bucket/key", identity=OTHER).status == 200
    assert world("GET", "/bucket/key?acl", identity=OTHER).status == 403
    assert world("PUT", "/bucket/key?acl", {"x-amz-acl": "private"}, identity=OTHER).status == 200
    assert world("GET", "/bucket/key", identity=OTHER).status == 403
    assert world("PUT", "/bucket/key?acl", body=acl_document([("ID", theirs, "READ_ACP")])).status == 200
    assert world("GET", "/bucket/key?acl", identity=OTHER).status == 200
    assert world("GET", "/bucket/key", identity=OTHER).status == 403
    assert world("GET", "/bucket/key").status == 200  # its owner always may
    assert world("PUT", "/bucket/key?acl", body=acl_document([])).status == 200
    assert grants_of(world("GET", "/bucket/key?acl")) == []


def acl_document(grants: list[tuple[str, str, str]], owner: str = canonical_of(MINE)) -> bytes:
    kinds = {"ID": "CanonicalUser", "URI": "Group", "EmailAddress": "AmazonCustomerByEmail"}
    items = "".join(
        f'<Grant><Grantee xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="{kinds[name]}"><{name}>{value}</{name}></Grantee>'
        f"<Permission>{permission}</Permission></Grant>"
        for name, value, permission in grants
    )
    body = f"<Owner><ID>{owner}</ID></Owner><AccessControlList>{items}</AccessControlList>"
    return f"<AccessControlPolicy>{body}</AccessControlPolicy>".encode()


@pytest.mark.parametrize(
    ("headers", "body", "code"),
    [
        ({"x-amz-acl": "no-such"}, b"", "InvalidArgument"),
        ({"x-amz-acl": "private", "x-amz-grant-read": f'uri="{ALL}"'}, b"", "InvalidRequest"),
        ({"x-amz-grant-read": 'uri="http://example.com/group"'}, b"", "InvalidArgument"),
        ({"x-amz-grant-read": 'id="1234"'}, b"", "InvalidArgument"),
        ({"x-amz-grant-read": 'emailAddress="nobody@example.com"'}, b"", "UnresolvableGrantByEmailAddress"),
        ({"x-amz-grant-read": "whatever"}, b"", "InvalidArgument"),
        ({}, b"", "MissingSecurityHeader"),
        ({}, b"<AccessControlPolicy/>", "MalformedACLError"),
        ({}, b"<Other/>", "MalformedXML"),
        ({}, acl_document([("ID", canonical_of(MINE), "EVERYTHING")]), "MalformedACLError"),
        ({}, acl_document([("ID", "0" * 64, "READ")]), "InvalidArgument"),
        ({}, acl_document([("EmailAddress", "nobody@example.com", "READ")]), "UnresolvableGrantByEmailAddress"),
        ({}, acl_document([], owner=canonical_of(THEIRS)), "AccessDenied"),
        ({}, acl_document([("URI", ALL, "READ")] * 101), "MalformedACLError"),
    ],
)
def test_lists_that_are_refused(world: World, headers: dict[str, str], body: bytes, code: str) -> None:
    for target in ("/bucket?acl", "/bucket/key?acl"):
        answer = world("PUT", target, headers, body)
        assert answer.code == code, answer.body
        assert grants_of(world("GET", target)) == [FULL]


def test_an_acl_changes_no_time_and_each_version_has_its_own(world: World) -> None:
    world("PUT", "/bucket?versioning", body=b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>")
    first = world("PUT", "/bucket/key", {"x-amz-acl": "public-read"}, b"one").headers["x-amz-version-id"]
    before = world("HEAD", "/bucket/key").headers["last-modified"]
    second = world("PUT", "/bucket/key", body=b"two").headers["x-amz-version-id"]
    world.clock.now_ms += 5000
    answer = world("PUT", f"/bucket/key?acl&versionId={second}", {"x-amz-acl": "authenticated-read"})
    assert answer.headers["x-amz-version-id"] == second
    assert grants_of(world("GET", f"/bucket/key?acl&versionId={first}")) == [FULL, (ALL, "READ")]
    assert grants_of(world("GET", "/bucket/key?acl")) == [FULL, (SIGNED, "READ")]
    assert world("HEAD", "/bucket/key").headers["last-modified"] == before
    assert world("GET", "/bucket/key", identity=OTHER).body == b"two"
    assert world("GET", "/bucket/key", identity=None).status == 403
    assert world("GET", f"/bucket/key?versionId={first}", identity=None).body == b"one"


# ownership -------------------------------------------------------------------------------------------------------------


def controls(word: str) -> bytes:
    return f"<OwnershipControls><Rule><ObjectOwnership>{word}</ObjectOwnership></Rule></OwnershipControls>".encode()


def owner_of(world: World, key: str) -> str:
    found = {item.findtext("Key"): item.findtext("Owner/DisplayName") for item in world("GET", "/bucket").xml.findall("Contents")}
    return str(found[key])


def test_what_others_write_is_theirs(world: World) -> None:
    world.acl("/bucket", "public-read-write")
    assert world("PUT", "/bucket/theirs", body=b"x", identity=OTHER).status == 200
    assert owner_of(world, "theirs") == f"name-{THEIRS}"
    assert world("GET", "/bucket/theirs", identity=OTHER).status == 200
    assert world("GET", "/bucket/theirs").status == 403
    assert world("HEAD", "/bucket/theirs").status == 403
    assert world("GET", "/bucket/theirs?acl").status == 403
    assert world("PUT", "/bucket/copy", {"x-amz-copy-source": "/bucket/theirs"}).status == 403
    assert world("PUT", "/bucket/theirs?acl", {"x-amz-acl": "bucket-owner-full-control"}, identity=OTHER).status == 200
    assert world("GET", "/bucket/theirs").status == 200
    world.policy(allow("s3:GetObject", OBJECTS, **EVERYBODY))
    assert world("PUT", "/bucket/theirs", body=b"y", identity=OTHER).status == 200
    assert world("GET", "/bucket/theirs", identity=None).status == 403  # the bucket's policy does not give away what is theirs
    assert world("DELETE", "/bucket/theirs").status == 204


def test_the_bucket_owner_is_preferred(world: World) -> None:
    world.acl("/bucket", "public-read-write")
    assert world("PUT", "/bucket?ownershipControls", body=controls("BucketOwnerPreferred")).status == 200
    world("PUT", "/bucket/plain", body=b"x", identity=OTHER)
    world("PUT", "/bucket/given", {"x-amz-acl": "bucket-owner-full-control"}, b"x", identity=OTHER)
    assert (owner_of(world, "plain"), owner_of(world, "given")) == (f"name-{THEIRS}", f"name-{MINE}")
    assert world("GET", "/bucket/given").status == 200


def test_the_bucket_owner_is_enforced(world: World) -> None:
    world.acl("/bucket", "public-read-write")
    assert world("PUT", "/bucket/theirs", {"x-amz-acl": "public-read"}, b"x", identity=OTHER).status == 200
    answer = world("PUT", "/bucket?ownershipControls", body=controls("BucketOwnerEnforced"))
    assert (answer.status, answer.code) == (400, "InvalidBucketAclWithObjectOwnership")
    world.acl("/bucket", "private")
    assert world("PUT", "/bucket?ownershipControls", body=controls("BucketOwnerEnforced")).status == 200
    assert world("GET", "/bucket/theirs").status == 200
    assert world("GET", "/bucket/theirs", identity=OTHER).status == 403
    assert world("GET", "/bucket/theirs", identity=None).status == 403
    assert owner_of(world, "theirs") == f"name-{MINE}"
    assert grants_of(world("GET", "/bucket/theirs?acl")) == [FULL]
    for target in ("/bucket?acl", "/bucket/key?acl", "/bucket/key"):
        answer = world("PUT", target, {"x-amz-acl": "public-read"}, b"")
        assert (answer.status, answer.code) == (400, "AccessControlListNotSupported"), target
        assert world("PUT", target, {"x-amz-acl": "bucket-owner-full-control"}, b"").status == 200, target
    assert world("PUT", "/bucket/key", body=b"x").status == 200


def test_a_bucket_cannot_be_made_with_lists_and_without(world: World) -> None:
    answer = world("PUT", "/made", {"x-amz-acl": "public-read", "x-amz-object-ownership": "BucketOwnerEnforced"})
    assert (answer.status, answer.code) == (400, "InvalidBucketAclWithObjectOwnership")
    assert world("HEAD", "/made").status == 404


# public access block ---------------------------------------------------------------------------------------------------


def test_the_switches(world: World) -> None:
    assert world("GET", "/bucket?publicAccessBlock").code == "NoSuchPublicAccessBlockConfiguration"
    assert world("PUT", "/bucket?publicAccessBlock", body=block(BlockPublicAcls=True, RestrictPublicBuckets=False)).status == 200
    xml = world("GET", "/bucket?publicAccessBlock").xml
    assert {element.tag: element.text for element in xml} == {
        "BlockPublicAcls": "true", "IgnorePublicAcls": "false", "BlockPublicPolicy": "false", "RestrictPublicBuckets": "false",
    }  # fmt: skip
    root = b"PublicAccessBlockConfiguration"
    for body in (b"", b"<Other/>", b"<%b><X>true</X></%b>" % (root, root), block(IgnorePublicAcls=True)[:-3]):
        assert world("PUT", "/bucket?publicAccessBlock", body=body).code == "MalformedXML"
    assert world("DELETE", "/bucket?publicAccessBlock").status == 204
    assert world("GET", "/bucket?publicAccessBlock").status == 404


def test_public_lists_are_blocked(world: World) -> None:
    world("PUT", "/bucket?publicAccessBlock", body=block(BlockPublicAcls=True))
    for target in ("/bucket?acl", "/bucket/key?acl", "/bucket/new"):
        for headers in ({"x-amz-acl": "public-read"}, {"x-amz-acl": "authenticated-read"}, {"x-amz-grant-read": f'uri="{ALL}"'}):
            assert world("PUT", target, headers).status == 403
    assert world("PUT", "/bucket/new", {"x-amz-acl": "bucket-owner-read"}).status == 200


def test_public_lists_are_ignored(world: World) -> None:
    world.acl("/bucket", "public-read")
    world.acl("/bucket/key", "public-read")
    assert world("GET", "/bucket?policyStatus").xml.findtext("IsPublic") == "true"
    assert world("GET", "/bucket/key", identity=None).status == 200
    world("PUT", "/bucket?publicAccessBlock", body=block(IgnorePublicAcls=True))
    for identity in (None, OTHER):
        assert world("GET", "/bucket/key", identity=identity).status == 403
        assert world("GET", "/bucket", identity=identity).status == 403
    assert world("GET", "/bucket?policyStatus").xml.findtext("IsPublic") == "false"
    assert grants_of(world("GET", "/bucket/key?acl")) == [FULL, (ALL, "READ")]


def test_public_buckets_are_restricted(world: World) -> None:
    world.policy(allow("s3:GetObject", OBJECTS, **EVERYBODY))
    world("PUT", "/bucket?publicAccessBlock", body=block(RestrictPublicBuckets=True))
    assert world("GET", "/bucket/key", identity=None).status == 403
    assert world("GET", "/bucket/key", identity=OTHER).status == 403
    assert world("GET", "/bucket/key", identity=USER).status == 200
    world.policy(allow("s3:GetObject", OBJECTS, Principal={"AWS": THEIRS}))
    assert world("GET", "/bucket/key", identity=OTHER).status == 200


# ways around ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["secret%2Fkey", "%73ecret/key", "secret/./key", "secret//key", "secret/key/", "SECRET/key"])
def test_spellings_of_a_key_are_the_key_that_they_mean(key: str) -> None:
    world = World()
    world("PUT", "/bucket/secret/key", body=b"hidden")
    world.allows(allow("s3:*", OBJECTS), deny("s3:*", "arn:aws:s3:::bucket/secret/key"))
    answer = world("GET", f"/bucket/{key}", identity=USER)
    assert answer.status in (403, 404)
    assert b"hidden" not in answer.body


def test_a_copy_does_not_read_what_its_maker_may_not(world: World) -> None:
    world("PUT", "/bucket/secret", body=b"hidden")
    world.allows(allow("s3:*", OBJECTS), deny("s3:GetObject*", "arn:aws:s3:::bucket/secret"))
    for source in ("/bucket/secret", "bucket/secret", "bucket%2Fsecret", "/bucket/%73ecret", "bucket/secret?versionId=null"):
        assert world("PUT", "/bucket/mine", {"x-amz-copy-source": source}, identity=USER).status == 403, source
    upload = world("POST", "/bucket/mine?uploads", identity=USER).xml.findtext("UploadId")
    target = f"/bucket/mine?uploadId={upload}&partNumber=1"
    assert world("PUT", target, {"x-amz-copy-source": "/bucket/secret"}, identity=USER).status == 403


def test_a_form_does_not_write_where_its_signer_may_not(world: World) -> None:
    world.allows(allow("s3:PutObject", "arn:aws:s3:::bucket/mine/*"))
    assert send(world, body_of(signed({"key": "mine/x"}, identity=USER), b"x")).status == 204
    assert send(world, body_of(signed({"key": "other/x"}, identity=USER), b"x")).status == 403
    assert send(world, body_of(signed({"key": "mine/x", "acl": "public-read"}, identity=USER), b"x")).status == 403
    tagging = "<Tagging><TagSet><Tag><Key>a</Key><Value>1</Value></Tag></TagSet></Tagging>"
    assert send(world, body_of(signed({"key": "mine/x", "tagging": tagging}, identity=USER), b"x")).status == 403
    assert send(world, body_of({"key": "mine/x"}, b"x")).status == 403


def test_a_presigned_url_is_worth_what_its_signer_may_now(world: World) -> None:
    from titans3.http.signing import presign

    world.allows(allow("s3:GetObject", OBJECTS))
    query = presign(USER, "GET", b"/bucket/key", b"", {"host": "127.0.0.1:9000"}, date=world.date, expires=60)
    target = b"/bucket/key?" + query
    from tests.unit.s3.wire import WireBody

    def fetch() -> Answer:
        return world.send("GET", target, {"host": "127.0.0.1:9000"}, WireBody(b""))

    assert fetch().body == b"body"
    world.user("uma", USER)
    assert fetch().status == 403
    world.allows(allow("s3:GetObject", OBJECTS, Condition={"StringEquals": {"s3:authType": "REST-HEADER"}}))
    assert fetch().status == 403
    world.allows(allow("s3:GetObject", OBJECTS, Condition={"StringEquals": {"s3:authType": "REST-QUERY-STRING"}}))
    assert fetch().status == 200


def test_parts_of_others_uploads(world: World) -> None:
    upload = world("POST", "/bucket/parts?uploads").xml.findtext("UploadId")
    target = f"/bucket/parts?uploadId={upload}"
    for method, more in (("PUT", "&partNumber=1"), ("GET", ""), ("DELETE", ""), ("POST", "")):
        assert world(method, target + more, identity=USER).status == 403, method
        assert world(method, target + more, identity=None).status == 403, method


def test_the_expected_owner_is_told_nothing(world: World) -> None:
    assert world("GET", "/bucket/key", {"x-amz-expected-bucket-owner": THEIRS}).status == 403
    assert world("GET", "/bucket/key", {"x-amz-expected-bucket-owner": MINE}).status == 200


def test_block_is_in_force_at_once(world: World) -> None:
    bucket = world.store.bucket_nowait("bucket")
    assert bucket is not None
    world.acl("/bucket/key", "public-read")
    assert world("GET", "/bucket/key", identity=None).status == 200
    asyncio.run(world.store.configurations.set(bucket, PublicAccessBlock(1, ignore_acls=True)))
    assert world("GET", "/bucket/key", identity=None).status == 403
    assert world("GET", "/bucket/key", identity=ROOT).status == 200
