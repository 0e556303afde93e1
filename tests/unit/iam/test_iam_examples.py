"""What AWS's user guides say their example policies do, as cases: the policies are written anew, the outcomes are the guides'.

Sources, by the letter in front of each case; all below https://docs.aws.amazon.com/
A  AmazonS3/latest/userguide/example-bucket-policies.html
B  AmazonS3/latest/userguide/amazon-s3-policy-keys.html and .../object-tagging and .../security_iam_service-with-iam
C  IAM/latest/UserGuide/reference_policies_evaluation-logic.html and the pages below it
D  IAM/latest/UserGuide/reference_policies_variables.html and .../reference_policies_condition-single-vs-multi-valued-context-keys.html
E  AmazonS3/latest/userguide/example-walkthroughs-managing-access.html
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pytest

from titans3.iam.decision import Identity, Verdict, decide
from titans3.iam.document import Kind, read_policy
from titans3.iam.explain import Imagined
from titans3.iam.policy import Policy
from titans3.iam.principal import Principal

A, B = "111122223333", "444455556666"
BUCKET = "amzn-s3-demo-bucket"
ARN, ALL = f"arn:aws:s3:::{BUCKET}", f"arn:aws:s3:::{BUCKET}/*"
YES, NO, DENIED = Verdict.ALLOWED, Verdict.IMPLICIT, Verdict.EXPLICIT


def who(account: str, name: str = "", *, role: str = "", session: str = "") -> Principal:
    canonical = account[:1] * 64
    if role:
        return Principal(account, canonical, f"arn:aws:sts::{account}:assumed-role/{role}/{session}", f"arn:aws:iam::{account}:role/{role}")
    if not name:
        return Principal(account, canonical, f"arn:aws:iam::{account}:root", is_root=True)
    return Principal(account, canonical, f"arn:aws:iam::{account}:user/{name}")


ROOT, DAVE, ANN, THEIRS, THEIR_ROOT = who(A), who(A, "Dave"), who(A, "Ann"), who(B, "Dave"), who(B)
SESSION = who(A, role="App", session="s1")
NOBODY = Principal(canonical="9" * 64)


def st(effect: str, action: Any, resource: Any = ALL, principal: Any = None, condition: Any = None, **more: Any) -> dict[str, Any]:
    made = {"Effect": effect, "Action": action, "Resource": resource, **more}
    if principal is not None:
        made["Principal"] = principal
    if condition is not None:
        made["Condition"] = condition
    return {name: value for name, value in made.items() if value is not ...}


def allow(action: Any, resource: Any = ALL, principal: Any = None, condition: Any = None, **more: Any) -> dict[str, Any]:
    return st("Allow", action, resource, principal, condition, **more)


def deny(action: Any, resource: Any = ALL, principal: Any = None, condition: Any = None, **more: Any) -> dict[str, Any]:
    return st("Deny", action, resource, principal, condition, **more)


class Case(NamedTuple):
    """One request and what comes of it. ``user``, ``session``: statements of the identity and its session; ``bucket``: of the bucket."""

    name: str
    expected: Verdict
    by: Principal
    action: str
    resource: str = f"{ARN}/key"
    user: Any = ()
    bucket: Any = ()
    keys: Any = ()
    session: Any = None
    owner: str = A


READ, PUT, LIST = "s3:GetObject", "s3:PutObject", "s3:ListBucket"
IP = {"NotIpAddress": {"aws:SourceIp": "192.0.2.0/24"}}
ONLY_IP = [deny("s3:*", [ARN, ALL], "*", IP)]
MIXED_IP = {"IpAddress": {"aws:SourceIp": ["192.0.2.0/24", "2001:DB8:1234:5678::/64"]},
            "NotIpAddress": {"aws:SourceIp": ["203.0.113.0/28", "2001:DB8:1234:5678:ABCD::/80"]}}  # fmt: skip
REFERER = [allow(READ, ALL, "*", {"StringLike": {"aws:Referer": ["http://www.example.com/*", "http://example.com/*"]}})]
TLS = [deny("s3:*", [ARN, ALL], "*", {"Bool": {"aws:SecureTransport": "false"}})]
OLD_TLS = [deny("s3:*", [ARN, ALL], "*", {"NumericLessThan": {"s3:TlsVersion": "1.2"}})]
MFA = [deny("s3:*", f"{ARN}/taxdocuments/*", "*", {"Null": {"aws:MultiFactorAuthAge": True}}),
       deny("s3:*", f"{ARN}/taxdocuments/*", "*", {"NumericGreaterThan": {"aws:MultiFactorAuthAge": 3600}}),
       allow(READ, ALL, "*")]  # fmt: skip
FULL_CONTROL = [allow(PUT, ALL, {"AWS": B}, {"StringEquals": {"s3:x-amz-acl": "bucket-owner-full-control"}})]
VPCE = [deny("s3:*", [ARN, ALL], "*", {"StringNotEquals": {"aws:SourceVpce": "vpce-1a2b3c4d"}})]
KMS = [deny(PUT, ALL, "*", {"StringNotEqualsIfExists": {"s3:x-amz-server-side-encryption": "aws:kms"}}),
       deny(PUT, ALL, "*", {"Null": {"s3:x-amz-server-side-encryption": "true"}})]  # fmt: skip
HOME = [allow(LIST, ARN, None, {"StringLike": {"s3:prefix": ["homes/${aws:username}/*", "homes/${aws:username}"]}}),
        allow("s3:*Object", f"{ARN}/homes/${{aws:username}}/*")]  # fmt: skip
TAGGED = [allow(READ, ALL, {"AWS": THEIRS.arn}, {"StringEquals": {"s3:ExistingObjectTag/environment": "production"}})]
TAG_KEYS = [allow("s3:PutObjectTagging", ALL, {"AWS": THEIRS.arn},
         {"ForAllValues:StringLike": {"s3:RequestObjectTagKeys": ["Owner", "CreationDate"]}})]
MAX_KEYS = [allow(LIST, ARN), deny(LIST, ARN, None, {"NumericGreaterThan": {"s3:max-keys": "10"}})]
SOURCE = [allow(PUT, ALL), deny(PUT, ALL, None, {"StringNotLike": {"s3:x-amz-copy-source": f"{BUCKET}/public/*"}})]
USED = {"aws:username": "Dave"}

CASES = [
    # A: bucket policies
    Case("A who is outside the range is denied, whatever else allows", DENIED, DAVE, READ, user=[allow("s3:*", "*")], bucket=ONLY_IP,
         keys={"aws:sourceip": "198.51.100.7"}),
    Case("A inside the range the deny is silent", YES, DAVE, READ, user=[allow("s3:*", "*")], bucket=ONLY_IP,
         keys={"aws:sourceip": "192.0.2.9"}),
    Case("A the bucket itself is meant, too", DENIED, DAVE, LIST, ARN, user=[allow("s3:*", "*")], bucket=ONLY_IP,
         keys={"aws:sourceip": "198.51.100.7"}),
    Case("A the account's root is bound by denies", DENIED, ROOT, READ, bucket=ONLY_IP, keys={"aws:sourceip": "198.51.100.7"}),
    Case("A but may mend the policy", YES, ROOT, "s3:PutBucketPolicy", ARN, bucket=ONLY_IP, keys={"aws:sourceip": "198.51.100.7"}),
    *(Case(f"A IPv4 and IPv6 with holes: {address}", YES if good else NO, NOBODY, READ, bucket=[allow(READ, ALL, "*", MIXED_IP)],
           keys={"aws:sourceip": address})
      for address, good in (("192.0.2.1", True), ("203.0.113.1", False), ("2001:DB8:1234:5678::1", True),
                            ("2001:DB8:1234:5678:ABCD::1", False), ("2001:db8:9::1", False))),
    *(Case(f"A referer {referer}", YES if good else NO, NOBODY, READ, bucket=REFERER,
         keys={} if referer is None else {"aws:referer": referer})
      for referer, good in (("http://www.example.com/a.html", True), ("http://example.com/", True), ("http://evil.example.org/", False),
                            ("http://example.com.evil.org/", False), (None, False))),
    Case("A plain HTTP is denied", DENIED, DAVE, READ, user=[allow("s3:*", "*")], bucket=TLS, keys={"aws:securetransport": "false"}),
    Case("A TLS is not", YES, DAVE, READ, user=[allow("s3:*", "*")], bucket=TLS, keys={"aws:securetransport": "true"}),
    Case("A TLS 1.1 is too old", DENIED, DAVE, READ, user=[allow("s3:*", "*")], bucket=OLD_TLS, keys={"s3:tlsversion": "1.1"}),
    Case("A TLS 1.2 is not", YES, DAVE, READ, user=[allow("s3:*", "*")], bucket=OLD_TLS, keys={"s3:tlsversion": "1.2"}),
    Case("A without MFA the tax documents are closed", DENIED, DAVE, READ, f"{ARN}/taxdocuments/1", bucket=MFA),
    Case("A with an MFA of an hour ago, too", DENIED, DAVE, READ, f"{ARN}/taxdocuments/1", bucket=MFA,
         keys={"aws:multifactorauthage": "3601"}),
    Case("A with a fresh one they are open", YES, DAVE, READ, f"{ARN}/taxdocuments/1", bucket=MFA, keys={"aws:multifactorauthage": "10"}),
    Case("A what lies beside them is open anyway", YES, NOBODY, READ, f"{ARN}/other", bucket=MFA),
    Case("A another account must give the owner full control", NO, THEIRS, PUT, user=[allow("s3:*", "*")], bucket=FULL_CONTROL),
    Case("A and may write when it does", YES, THEIRS, PUT, user=[allow("s3:*", "*")], bucket=FULL_CONTROL,
         keys={"s3:x-amz-acl": "bucket-owner-full-control"}),
    Case("A which its own account has to allow as well", NO, THEIRS, PUT, bucket=FULL_CONTROL,
         keys={"s3:x-amz-acl": "bucket-owner-full-control"}),
    Case("A its root needs no policy of its own", YES, THEIR_ROOT, PUT, bucket=FULL_CONTROL,
         keys={"s3:x-amz-acl": "bucket-owner-full-control"}),
    Case("A from another endpoint", DENIED, DAVE, READ, user=[allow("s3:*", "*")], bucket=VPCE, keys={"aws:sourcevpce": "vpce-9"}),
    Case("A from none at all: a negated operator holds for what is not there", DENIED, DAVE, READ, user=[allow("s3:*", "*")], bucket=VPCE),
    Case("A from the right one", YES, DAVE, READ, user=[allow("s3:*", "*")], bucket=VPCE, keys={"aws:sourcevpce": "vpce-1a2b3c4d"}),
    Case("A an upload without encryption", DENIED, DAVE, PUT, user=[allow("s3:*", "*")], bucket=KMS),
    Case("A with another one", DENIED, DAVE, PUT, user=[allow("s3:*", "*")], bucket=KMS,
         keys={"s3:x-amz-server-side-encryption": "AES256"}),
    Case("A with the one that is wanted", YES, DAVE, PUT, user=[allow("s3:*", "*")], bucket=KMS,
         keys={"s3:x-amz-server-side-encryption": "aws:kms"}),
    Case("A everybody may read a website", YES, NOBODY, READ, bucket=[allow(READ, ALL, "*")]),
    Case("A and do nothing else", NO, NOBODY, PUT, bucket=[allow(READ, ALL, "*")]),
    Case("A everybody is a star in AWS, too", YES, NOBODY, READ, bucket=[allow(READ, ALL, {"AWS": "*"})]),
    Case("A no delete of the bucket for a role", DENIED, SESSION, "s3:DeleteBucket", ARN, user=[allow("s3:*", "*")],
         bucket=[deny("s3:DeleteBucket", ARN, {"AWS": f"arn:aws:iam::{A}:role/App"})]),
    # B: condition keys of S3
    Case("B a tag on the object opens it", YES, THEIRS, READ, user=[allow("s3:*", "*")], bucket=TAGGED,
         keys={"s3:existingobjecttag/environment": "production"}),
    Case("B another value does not", NO, THEIRS, READ, user=[allow("s3:*", "*")], bucket=TAGGED,
         keys={"s3:existingobjecttag/environment": "test"}),
    Case("B no tag does not", NO, THEIRS, READ, user=[allow("s3:*", "*")], bucket=TAGGED),
    *(Case(f"B tag keys {', '.join(given)}", YES if good else NO, THEIRS, "s3:PutObjectTagging", user=[allow("s3:*", "*")], bucket=TAG_KEYS,
           keys={"s3:requestobjecttagkeys": given})
      for given, good in ((("Owner",), True), (("Owner", "CreationDate"), True), (("Owner", "Secret"), False), (("Secret",), False))),
    Case("B ForAllValues holds for no values at all", YES, THEIRS, "s3:PutObjectTagging", user=[allow("s3:*", "*")], bucket=TAG_KEYS),
    *(Case(f"B max-keys {count}", DENIED if count == "11" else YES, DAVE, LIST, ARN, user=MAX_KEYS, keys={"s3:max-keys": count})
      for count in ("1", "10", "11")),
    Case("B listing below a prefix", YES, DAVE, LIST, ARN, user=[allow(LIST, ARN, None, {"StringEquals": {"s3:prefix": "projects"}})],
         keys={"s3:prefix": "projects"}),
    Case("B not beside it", NO, DAVE, LIST, ARN, user=[allow(LIST, ARN, None, {"StringEquals": {"s3:prefix": "projects"}})],
         keys={"s3:prefix": "finance"}),
    Case("B not without one", NO, DAVE, LIST, ARN, user=[allow(LIST, ARN, None, {"StringEquals": {"s3:prefix": "projects"}})]),
    Case("B a copy from elsewhere", DENIED, DAVE, PUT, user=SOURCE, keys={"s3:x-amz-copy-source": f"{BUCKET}/private/k"}),
    Case("B a copy from public/", YES, DAVE, PUT, user=SOURCE, keys={"s3:x-amz-copy-source": f"{BUCKET}/public/k"}),
    Case("B an upload that is no copy is denied by a negated operator, as the guide warns", DENIED, DAVE, PUT, user=SOURCE),
    Case("B one version alone", YES, DAVE, "s3:GetObjectVersion",
         user=[allow("s3:GetObjectVersion", ALL, None, {"StringEquals": {"s3:VersionId": "v7"}})], keys={"s3:versionid": "v7"}),
    Case("B not another", NO, DAVE, "s3:GetObjectVersion",
         user=[allow("s3:GetObjectVersion", ALL, None, {"StringEquals": {"s3:VersionId": "v7"}})], keys={"s3:versionid": "v8"}),
    Case("B a cheap storage class alone", NO, DAVE, PUT,
         user=[allow(PUT, ALL, None, {"StringEquals": {"s3:x-amz-storage-class": ["STANDARD_IA"]}})],
         keys={"s3:x-amz-storage-class": "STANDARD"}),
    Case("B buckets in one Region", YES, DAVE, "s3:CreateBucket", "arn:aws:s3:::new",
         user=[allow("s3:CreateBucket", "arn:aws:s3:::*", None, {"StringLike": {"s3:LocationConstraint": "us-west-2"}})],
         keys={"s3:locationconstraint": "us-west-2"}),
    Case("B in no other", NO, DAVE, "s3:CreateBucket", "arn:aws:s3:::new",
         user=[allow("s3:CreateBucket", "arn:aws:s3:::*", None, {"StringLike": {"s3:LocationConstraint": "us-west-2"}})],
         keys={"s3:locationconstraint": "eu-west-1"}),
    Case("B only signatures of version 4", DENIED, DAVE, READ,
         user=[allow("s3:*", "*"), deny("s3:*", "*", None, {"StringNotEquals": {"s3:signatureversion": "AWS4-HMAC-SHA256"}})],
         keys={"s3:signatureversion": "AWS"}),
    Case("B no signature older than ten minutes", DENIED, DAVE, READ,
         user=[allow("s3:*", "*"), deny("s3:*", "*", None, {"NumericGreaterThan": {"s3:signatureAge": 600000}})],
         keys={"s3:signatureage": "600001"}),
    # C: evaluation
    Case("C nothing said is no", NO, DAVE, READ),
    Case("C the account's root may without a word", YES, ROOT, READ),
    Case("C an allow of the user is enough within an account", YES, DAVE, READ, user=[allow(READ)]),
    Case("C one of the bucket, too", YES, DAVE, READ, bucket=[allow(READ, ALL, {"AWS": DAVE.arn})]),
    Case("C for another user it is not", NO, ANN, READ, bucket=[allow(READ, ALL, {"AWS": DAVE.arn})]),
    Case("C naming the account leaves it to the account's policies", NO, DAVE, READ, bucket=[allow(READ, ALL, {"AWS": A})]),
    Case("C which then allow", YES, DAVE, READ, user=[allow(READ)], bucket=[allow(READ, ALL, {"AWS": A})]),
    Case("C a deny of the bucket beats an allow of the user", DENIED, DAVE, READ, user=[allow("s3:*", "*")],
         bucket=[deny(READ, ALL, {"AWS": DAVE.arn})]),
    Case("C a deny of the user beats an allow of the bucket", DENIED, DAVE, READ, user=[deny(READ)], bucket=[allow(READ, ALL, "*")]),
    Case("C a deny beats an allow in one document", DENIED, DAVE, "s3:DeleteBucket", ARN,
         user=[allow("s3:*", "*"), deny("s3:DeleteBucket", "*")]),
    Case("C across accounts the bucket alone is not enough", NO, THEIRS, READ, bucket=[allow(READ, ALL, {"AWS": THEIRS.arn})]),
    Case("C nor the user's account alone", NO, THEIRS, READ, user=[allow("s3:*", "*")]),
    Case("C both are", YES, THEIRS, READ, user=[allow(READ)], bucket=[allow(READ, ALL, {"AWS": B})]),
    Case("C a session policy cuts", NO, SESSION, PUT, user=[allow("s3:*", "*")], session=[allow(READ, "*")]),
    Case("C and never adds", NO, SESSION, PUT, user=[allow(READ, "*")], session=[allow("s3:*", "*")]),
    Case("C what both allow is allowed", YES, SESSION, READ, user=[allow("s3:*", "*")], session=[allow(READ, "*")]),
    Case("C a bucket that names the role is cut by the session policy", NO, SESSION, PUT,
         bucket=[allow(PUT, ALL, {"AWS": f"arn:aws:iam::{A}:role/App"})], session=[allow(READ, "*")]),
    Case("C one that names the session is not", YES, SESSION, PUT,
         bucket=[allow(PUT, ALL, {"AWS": SESSION.arn})], session=[allow(READ, "*")]),
    Case("C NotAction allows all but that", YES, DAVE, READ, user=[allow(..., "*", NotAction="s3:DeleteBucket")]),
    Case("C and not that", NO, DAVE, "s3:DeleteBucket", ARN, user=[allow(..., "*", NotAction="s3:DeleteBucket")]),
    Case("C a deny with NotResource is for all the rest", DENIED, DAVE, READ, "arn:aws:s3:::other/k",
         user=[allow("s3:*", "*"), deny("s3:*", ..., NotResource=[ARN, ALL])]),
    Case("C and leaves what it names", YES, DAVE, READ, user=[allow("s3:*", "*"), deny("s3:*", ..., NotResource=[ARN, ALL])]),
    Case("C a deny with NotPrincipal spares the one it names", YES, DAVE, READ, user=[allow("s3:*", "*")],
         bucket=[deny("s3:*", [ARN, ALL], NotPrincipal={"AWS": [DAVE.arn, f"arn:aws:iam::{A}:root"]})]),
    Case("C and nobody else", DENIED, ANN, READ, user=[allow("s3:*", "*")],
         bucket=[deny("s3:*", [ARN, ALL], NotPrincipal={"AWS": [DAVE.arn, f"arn:aws:iam::{A}:root"]})]),
    # D: variables and many values
    Case("D a home folder", YES, DAVE, PUT, f"{ARN}/homes/Dave/notes", user=HOME, keys=USED),
    Case("D not another's", NO, DAVE, PUT, f"{ARN}/homes/Ann/notes", user=HOME, keys=USED),
    Case("D its listing", YES, DAVE, LIST, ARN, user=HOME, keys={**USED, "s3:prefix": "homes/Dave/"}),
    Case("D not the listing of all homes", NO, DAVE, LIST, ARN, user=HOME, keys={**USED, "s3:prefix": "homes/"}),
    Case("D without a name the variable matches nothing", NO, SESSION, PUT, f"{ARN}/homes//notes", user=HOME),
    Case("D a default stands in", YES, SESSION, READ, f"{ARN}/team/company-wide/x",
         user=[allow(READ, f"{ARN}/team/${{aws:PrincipalTag/team, 'company-wide'}}/*")]),
    Case("D the tag stands before it", NO, SESSION, READ, f"{ARN}/team/company-wide/x",
         user=[allow(READ, f"{ARN}/team/${{aws:PrincipalTag/team, 'company-wide'}}/*")], keys={"aws:principaltag/team": "yellow"}),
    Case("D a literal star", YES, DAVE, READ, f"{ARN}/a*b", user=[allow(READ, f"{ARN}/a${{*}}b")]),
    Case("D is no wildcard", NO, DAVE, READ, f"{ARN}/axb", user=[allow(READ, f"{ARN}/a${{*}}b")]),
    Case("D ForAnyValue needs one that fits", YES, DAVE, READ,
         user=[allow(READ, ALL, None, {"ForAnyValue:StringEquals": {"aws:TagKeys": ["a"]}})],
         keys={"aws:tagkeys": ("b", "a")}),
    Case("D and fails for none", NO, DAVE, READ, user=[allow(READ, ALL, None, {"ForAnyValue:StringEquals": {"aws:TagKeys": ["a"]}})]),
    Case("D values of a key are alternatives", YES, DAVE, READ,
         user=[allow(READ, ALL, None, {"StringEquals": {"aws:username": ["Ann", "Dave"]}})],
         keys=USED),
    Case("D keys and operators must all hold", NO, DAVE, READ,
         user=[allow(READ, ALL, None, {"StringEquals": {"aws:username": "Dave"}, "Bool": {"aws:SecureTransport": "true"}})], keys=USED),
    Case("D dates", YES, DAVE, READ, user=[allow(READ, ALL, None, {"DateLessThan": {"aws:CurrentTime": "2027-01-01T00:00:00Z"}})],
         keys={"aws:currenttime": "2026-11-24T00:00:00Z"}),
    Case("D a date that is over", NO, DAVE, READ,
         user=[allow(READ, ALL, None, {"DateLessThan": {"aws:CurrentTime": "2026-01-01T00:00:00Z"}})],
         keys={"aws:currenttime": "2026-11-24T00:00:00Z"}),
    Case("D names of keys have no case, values have", NO, DAVE, READ,
         user=[allow(READ, ALL, None, {"StringEquals": {"AWS:UserName": "dave"}})],
         keys=USED),
    Case("D StringEqualsIgnoreCase", YES, DAVE, READ, user=[allow(READ, ALL, None, {"StringEqualsIgnoreCase": {"AWS:UserName": "dave"}})],
         keys=USED),
    Case("D IfExists lets what is not there pass", YES, DAVE, READ,
         user=[allow(READ, ALL, None, {"StringEqualsIfExists": {"aws:PrincipalTag/team": "blue"}})]),
    # E: walkthroughs
    Case("E Dave gets what the owner's account delegates", YES, THEIRS, LIST, ARN, user=[allow(LIST, ARN)],
         bucket=[allow(LIST, ARN, {"AWS": B})]),
    Case("E not more than his account gives him", NO, THEIRS, "s3:GetBucketLocation", ARN, user=[allow(LIST, ARN)],
         bucket=[allow([LIST, "s3:GetBucketLocation"], ARN, {"AWS": B})]),
    Case("E a user whom the owner denies", DENIED, THEIRS, LIST, ARN, user=[allow(LIST, ARN)],
         bucket=[allow(LIST, ARN, {"AWS": B}), deny(LIST, ARN, {"AWS": THEIRS.arn})]),
    Case("E a policy of a bucket says nothing of another bucket", NO, THEIRS, READ, "arn:aws:s3:::other/k", user=[allow("s3:*", "*")],
         bucket=[allow(READ, ALL, {"AWS": B})]),
]  # fmt: skip


def compiled(statements: Any, kind: Kind) -> Policy:
    return Policy(read_policy(json.dumps({"Version": "2012-10-17", "Statement": list(statements)}), kind, bucket=BUCKET))


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_example(case: Case) -> None:
    keys = {name: (value,) if isinstance(value, str) else tuple(value) for name, value in dict(case.keys).items()}
    identity = Identity(
        case.by,
        (compiled(case.user, Kind.IDENTITY),) if case.user else (),
        None if case.session is None else (compiled(case.session, Kind.IDENTITY),),
    )
    resource = compiled(case.bucket, Kind.BUCKET) if case.bucket else None
    assert decide(identity, Imagined(case.action, case.resource, keys), case.owner, resource) is case.expected
