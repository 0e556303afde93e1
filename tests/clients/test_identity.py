"""Users, rules and accounts as people set them up: with the aws command line, with s3cmd, and in Terraform's order with an SDK."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.clients.installed import endpoint, environment, program, run
from tests.faults.server import Server

BIN = Path(sys.executable).parent
Keys = tuple[str, ...]


class Aws:
    """The aws command line as somebody: the root, a user with keys, or nobody."""

    def __init__(self, server: Server, keys: Keys = ()) -> None:
        self._server = server
        self._more = dict(zip(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"), keys, strict=False))

    def __call__(self, line: str, *more: str, refused: str = "") -> Any:
        """The answer's JSON (text if it is none); ``refused``: the error's code instead."""
        arguments = [*line.split(), *more]
        done = subprocess.run(
            [sys.executable, BIN / "aws", *arguments], env=environment(self._server, AWS_MAX_ATTEMPTS="1", **self._more),
            capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip
        if refused:
            assert done.returncode != 0, (arguments, done.stdout)
            assert f"({refused})" in done.stderr, (arguments, done.stderr)
            return None
        assert done.returncode == 0, (arguments, done.stderr)
        try:
            return json.loads(done.stdout)
        except ValueError:
            return done.stdout


@pytest.fixture(scope="module")
def root(server: Server) -> Aws:
    return Aws(server)


def document(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def allow(actions: str | list[str], resources: str | list[str], **more: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": actions, "Resource": resources, **more}


def new_keys(root: Aws, user: str) -> Keys:
    made = root(f"iam create-access-key --user-name {user}")["AccessKey"]
    return made["AccessKeyId"], made["SecretAccessKey"]


@pytest.fixture
def body(tmp_path: Path) -> Path:
    path = tmp_path / "body"
    path.write_bytes(b"body")
    return path


def test_users_groups_and_keys_by_aws_iam(server: Server, root: Aws, body: Path) -> None:
    root("s3api create-bucket --bucket iam-session")
    for name in ("ann", "bob"):
        made = root(f"iam create-user --user-name {name} --tags Key=team,Value=blue")["User"]
        assert made["Arn"] == f"arn:aws:iam::000000000000:user/{name}"
    keys = new_keys(root, "ann")
    ann, bob = Aws(server, keys), Aws(server, new_keys(root, "bob"))
    assert ann("sts get-caller-identity")["Arn"].endswith(":user/ann")
    ann("s3api put-object --bucket iam-session --key k --body", str(body), refused="AccessDenied")
    own = document(allow("s3:*Object", "arn:aws:s3:::iam-session/${aws:username}/*"))
    made = root("iam create-policy --policy-name own-folder --policy-document", own)["Policy"]
    root("iam create-group --group-name writers")
    root(f"iam attach-group-policy --group-name writers --policy-arn {made['Arn']}")
    for name in ("ann", "bob"):
        root(f"iam add-user-to-group --group-name writers --user-name {name}")
    ann("s3api put-object --bucket iam-session --key ann/k --body", str(body))
    bob("s3api put-object --bucket iam-session --key bob/k --body", str(body))
    bob("s3api put-object --bucket iam-session --key ann/k --body", str(body), refused="AccessDenied")
    bob("s3api get-object --bucket iam-session --key ann/k", str(body.with_name("back")), refused="AccessDenied")
    listing = document(allow("s3:ListBucket", "arn:aws:s3:::iam-session"))
    root("iam put-user-policy --user-name bob --policy-name list --policy-document", listing)
    assert [item["Key"] for item in bob("s3api list-objects-v2 --bucket iam-session")["Contents"]] == ["ann/k", "bob/k"]
    ann("s3api list-objects-v2 --bucket iam-session", refused="AccessDenied")
    simulated = root(
        "iam simulate-principal-policy --policy-source-arn arn:aws:iam::000000000000:user/bob --action-names s3:GetObject s3:ListBucket "
        "--resource-arns arn:aws:s3:::iam-session/ann/k arn:aws:s3:::iam-session"
    )["EvaluationResults"]
    decided = {(item["EvalActionName"], item["EvalResourceName"]): item["EvalDecision"] for item in simulated}
    assert decided["s3:GetObject", "arn:aws:s3:::iam-session/ann/k"] == "implicitDeny"
    assert decided["s3:ListBucket", "arn:aws:s3:::iam-session"] == "allowed"
    renewed = Aws(server, new_keys(root, "ann"))  # both hold while the change goes round
    for who in (ann, renewed):
        who("s3api head-object --bucket iam-session --key ann/k")
    root(f"iam update-access-key --user-name ann --access-key-id {keys[0]} --status Inactive")
    ann("s3api put-object --bucket iam-session --key ann/k --body", str(body), refused="InvalidAccessKeyId")
    renewed("s3api head-object --bucket iam-session --key ann/k")
    assert root(f"iam get-access-key-last-used --access-key-id {keys[0]}")["UserName"] == "ann"


def test_sessions_by_aws_sts(server: Server, root: Aws, body: Path) -> None:
    root("s3api create-bucket --bucket sts-session")
    root("iam create-user --user-name carl")
    carl = Aws(server, new_keys(root, "carl"))
    trust = document({"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": "arn:aws:iam::000000000000:user/carl"}})
    role = root("iam create-role --role-name writer --assume-role-policy-document", trust)["Role"]["Arn"]
    root("iam attach-role-policy --role-name writer --policy-arn arn:aws:iam::aws:policy/readwrite")
    carl("s3api put-object --bucket sts-session --key k --body", str(body), refused="AccessDenied")
    given = carl(f"sts assume-role --role-arn {role} --role-session-name s1")["Credentials"]
    session = Aws(server, (given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"]))
    assert session("sts get-caller-identity")["Arn"] == "arn:aws:sts::000000000000:assumed-role/writer/s1"
    session("s3api put-object --bucket sts-session --key k --body", str(body))
    narrow = document(allow("s3:GetObject", "arn:aws:s3:::sts-session/*"))
    given = carl(f"sts assume-role --role-arn {role} --role-session-name s2 --policy", narrow)["Credentials"]
    limited = Aws(server, (given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"]))
    limited("s3api get-object --bucket sts-session --key k", str(body.with_name("back")))
    limited("s3api put-object --bucket sts-session --key k --body", str(body), refused="AccessDenied")
    given = root("sts get-session-token --duration-seconds 900")["Credentials"]
    of_root = Aws(server, (given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"]))
    of_root("s3api head-object --bucket sts-session --key k")
    Aws(server, (given["AccessKeyId"], given["SecretAccessKey"]))("s3api list-buckets", refused="InvalidAccessKeyId")


def test_policies_lists_and_the_public_by_aws_s3api(server: Server, root: Aws, body: Path) -> None:
    shown = run(server, str(BIN / "titanctl"), "account", "create", "partner", "--email", "partner@example.org", "--json")
    account = json.loads(shown)
    partner = Aws(server, (account["access_key"], account["secret_key"]))
    bucket, back = "acl-session", str(body.with_name("back"))
    root(f"s3api create-bucket --bucket {bucket}")
    root(f"s3api put-object --bucket {bucket} --key public/k --body", str(body))
    root(f"s3api put-object --bucket {bucket} --key k --body", str(body))
    nobody = f"s3api get-object --no-sign-request --bucket {bucket} --key"
    root(f"{nobody} public/k", back, refused="AccessDenied")
    anyone = document(allow("s3:GetObject", f"arn:aws:s3:::{bucket}/public/*", Principal="*"))
    root(f"s3api put-bucket-policy --bucket {bucket} --policy", anyone)
    assert root(f"s3api get-bucket-policy-status --bucket {bucket}")["PolicyStatus"]["IsPublic"] is True
    root(f"{nobody} public/k", back)
    root(f"{nobody} k", back, refused="AccessDenied")
    block = "BlockPublicAcls=true,IgnorePublicAcls=true,BlockPublicPolicy=true,RestrictPublicBuckets=true"
    root(f"s3api put-public-access-block --bucket {bucket} --public-access-block-configuration {block}")
    root(f"{nobody} public/k", back, refused="AccessDenied")
    root(f"s3api put-bucket-policy --bucket {bucket} --policy", anyone, refused="AccessDenied")
    root(f"s3api delete-public-access-block --bucket {bucket}")
    across = document(allow(["s3:GetObject", "s3:PutObject"], f"arn:aws:s3:::{bucket}/*", Principal={"AWS": account["account_id"]}))
    partner(f"s3api get-object --bucket {bucket} --key k", back, refused="AccessDenied")
    root(f"s3api put-bucket-policy --bucket {bucket} --policy", across)
    partner(f"s3api get-object --bucket {bucket} --key k", back)
    root(f"s3api delete-bucket-policy --bucket {bucket}")
    partner(f"s3api get-object --bucket {bucket} --key k", back, refused="AccessDenied")
    root(f"s3api put-bucket-ownership-controls --bucket {bucket} --ownership-controls Rules=[{{ObjectOwnership=ObjectWriter}}]")
    root(f"s3api put-object-acl --bucket {bucket} --key k --grant-read", f"id={account['canonical_id']}")
    partner(f"s3api get-object --bucket {bucket} --key k", back)
    owner = root("s3api list-buckets")["Owner"]["ID"]
    root(f"s3api put-bucket-acl --bucket {bucket} --grant-full-control id={owner} --grant-write", "emailaddress=partner@example.org")
    assert len(root(f"s3api get-bucket-acl --bucket {bucket}")["Grants"]) == 2
    partner(f"s3api put-object --bucket {bucket} --key theirs --body", str(body))
    root(f"s3api get-object --bucket {bucket} --key theirs", back, refused="AccessDenied")
    enforced = f"s3api put-bucket-ownership-controls --bucket {bucket} --ownership-controls Rules=[{{ObjectOwnership=BucketOwnerEnforced}}]"
    root(enforced, refused="InvalidBucketAclWithObjectOwnership")
    root(f"s3api put-bucket-acl --bucket {bucket} --acl private")
    root(enforced)
    root(f"s3api get-object --bucket {bucket} --key theirs", back)
    root(f"s3api put-object-acl --bucket {bucket} --key k --acl public-read", refused="AccessControlListNotSupported")


def test_policies_and_lists_by_s3cmd(server: Server, tmp_path: Path) -> None:
    access_key, secret = server.credentials()
    settings = tmp_path / "s3cfg"
    settings.write_text(
        f"[default]\naccess_key = {access_key}\nsecret_key = {secret}\nhost_base = 127.0.0.1:{server.port}\n"
        f"host_bucket = 127.0.0.1:{server.port}/%(bucket)\nuse_https = False\n"
    )
    s3cmd = [program("python", "s3cmd"), "-c", str(settings), "--no-progress"]
    body, bucket = tmp_path / "body", "s3://s3cmd-rules"
    body.write_bytes(b"body")
    run(server, *s3cmd, "mb", bucket)
    run(server, *s3cmd, "put", str(body), f"{bucket}/k")

    def fetched() -> int:
        done = subprocess.run(
            ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", f"{endpoint(server)}/s3cmd-rules/k"], capture_output=True, check=True
        )
        return int(done.stdout)

    assert fetched() == 403
    policy = tmp_path / "policy.json"
    policy.write_text(document(allow("s3:GetObject", "arn:aws:s3:::s3cmd-rules/*", Principal="*")))
    run(server, *s3cmd, "setpolicy", str(policy), bucket)
    assert fetched() == 200
    assert b"s3:GetObject" in run(server, *s3cmd, "info", bucket)
    run(server, *s3cmd, "delpolicy", bucket)
    assert fetched() == 403
    run(server, *s3cmd, "setacl", "--acl-public", f"{bucket}/k")
    assert fetched() == 200
    assert b"*anon*: READ" in run(server, *s3cmd, "info", f"{bucket}/k")
    run(server, *s3cmd, "setacl", "--acl-private", f"{bucket}/k")
    assert fetched() == 403
    run(server, *s3cmd, "put", "--acl-public", str(body), f"{bucket}/k")
    assert fetched() == 200


# Terraform -------------------------------------------------------------------------------------------------------------


def not_configured(code: str, call: Callable[..., Any], **named: Any) -> None:
    """What a provider reads as: is not there."""
    with pytest.raises(ClientError) as caught:
        call(**named)
    assert caught.value.response["Error"]["Code"] == code, caught.value


def test_what_terraform_does(server: Server) -> None:
    """A bucket, a user with a key and a policy, a role: made, read back one sub-resource after the other, and taken away in turn."""
    access_key, secret = server.credentials()

    def client(service: str) -> Any:
        return boto3.client(
            service, endpoint_url=endpoint(server), region_name="us-east-1", aws_access_key_id=access_key, aws_secret_access_key=secret,
            config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}),
        )  # fmt: skip

    s3, iam, sts = client("s3"), client("iam"), client("sts")
    assert sts.get_caller_identity()["Account"] == "000000000000"
    name = "tf-bucket"
    s3.create_bucket(Bucket=name)
    s3.put_bucket_tagging(Bucket=name, Tagging={"TagSet": [{"Key": "managed-by", "Value": "terraform"}]})
    s3.head_bucket(Bucket=name)
    s3.get_bucket_location(Bucket=name)
    assert s3.get_bucket_acl(Bucket=name)["Grants"]
    assert s3.get_bucket_versioning(Bucket=name).get("Status") is None
    assert s3.get_bucket_request_payment(Bucket=name)["Payer"] == "BucketOwner"
    assert s3.get_bucket_logging(Bucket=name).get("LoggingEnabled") is None
    assert s3.get_bucket_accelerate_configuration(Bucket=name).get("Status") is None
    assert s3.get_bucket_tagging(Bucket=name)["TagSet"] == [{"Key": "managed-by", "Value": "terraform"}]
    s3.get_bucket_notification_configuration(Bucket=name)
    for code, call in (
        ("NoSuchBucketPolicy", s3.get_bucket_policy), ("NoSuchCORSConfiguration", s3.get_bucket_cors),
        ("NoSuchWebsiteConfiguration", s3.get_bucket_website), ("NoSuchLifecycleConfiguration", s3.get_bucket_lifecycle_configuration),
        ("ReplicationConfigurationNotFoundError", s3.get_bucket_replication),
        ("ServerSideEncryptionConfigurationNotFoundError", s3.get_bucket_encryption),
        ("ObjectLockConfigurationNotFoundError", s3.get_object_lock_configuration),
        ("OwnershipControlsNotFoundError", s3.get_bucket_ownership_controls),
        ("NoSuchPublicAccessBlockConfiguration", s3.get_public_access_block),
    ):  # fmt: skip
        not_configured(code, call, Bucket=name)
    s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    s3.put_public_access_block(Bucket=name, PublicAccessBlockConfiguration={"BlockPublicAcls": True, "BlockPublicPolicy": True})
    user = iam.create_user(UserName="tf-user", Path="/tf/", Tags=[{"Key": "a", "Value": "b"}])["User"]
    assert iam.get_user(UserName="tf-user")["User"]["Arn"] == user["Arn"] == "arn:aws:iam::000000000000:user/tf/tf-user"
    assert iam.list_user_tags(UserName="tf-user")["Tags"] == [{"Key": "a", "Value": "b"}]
    text = document(allow(["s3:GetObject", "s3:PutObject"], f"arn:aws:s3:::{name}/*"))
    policy = iam.create_policy(PolicyName="tf-policy", PolicyDocument=text, Description="d")["Policy"]
    assert iam.get_policy(PolicyArn=policy["Arn"])["Policy"]["DefaultVersionId"] == "v1"
    assert iam.get_policy_version(PolicyArn=policy["Arn"], VersionId="v1")["PolicyVersion"]["Document"] == json.loads(text)
    iam.list_policy_tags(PolicyArn=policy["Arn"])
    iam.attach_user_policy(UserName="tf-user", PolicyArn=policy["Arn"])
    assert iam.list_attached_user_policies(UserName="tf-user")["AttachedPolicies"][0]["PolicyArn"] == policy["Arn"]
    assert iam.list_entities_for_policy(PolicyArn=policy["Arn"])["PolicyUsers"][0]["UserName"] == "tf-user"
    iam.put_user_policy(UserName="tf-user", PolicyName="inline", PolicyDocument=text)
    assert iam.get_user_policy(UserName="tf-user", PolicyName="inline")["PolicyDocument"] == json.loads(text)
    key = iam.create_access_key(UserName="tf-user")["AccessKey"]
    assert iam.list_access_keys(UserName="tf-user")["AccessKeyMetadata"][0]["AccessKeyId"] == key["AccessKeyId"]
    trust = document({"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": user["Arn"]}})
    iam.create_role(RoleName="tf-role", AssumeRolePolicyDocument=trust, MaxSessionDuration=7200)
    role = iam.get_role(RoleName="tf-role")["Role"]
    assert role["AssumeRolePolicyDocument"] == json.loads(trust)
    iam.attach_role_policy(RoleName="tf-role", PolicyArn=policy["Arn"])
    assert iam.list_role_policies(RoleName="tf-role")["PolicyNames"] == []
    assert iam.list_attached_role_policies(RoleName="tf-role")["AttachedPolicies"][0]["PolicyArn"] == policy["Arn"]
    grant = document(allow("s3:GetObject", f"arn:aws:s3:::{name}/*", Principal={"AWS": role["Arn"]}))
    s3.put_bucket_policy(Bucket=name, Policy=grant)
    assert json.loads(s3.get_bucket_policy(Bucket=name)["Policy"]) == json.loads(grant)
    second = document(allow("s3:GetObject", f"arn:aws:s3:::{name}/*"))
    iam.create_policy_version(PolicyArn=policy["Arn"], PolicyDocument=second, SetAsDefault=True)  # a plan that changes the policy
    assert [item["VersionId"] for item in iam.list_policy_versions(PolicyArn=policy["Arn"])["Versions"]] == ["v2", "v1"]
    s3.delete_bucket_policy(Bucket=name)  # and destroy
    assert iam.list_instance_profiles_for_role(RoleName="tf-role")["InstanceProfiles"] == []
    iam.detach_role_policy(RoleName="tf-role", PolicyArn=policy["Arn"])
    iam.delete_role(RoleName="tf-role")
    not_configured("NoSuchEntity", iam.get_role, RoleName="tf-role")
    iam.delete_access_key(UserName="tf-user", AccessKeyId=key["AccessKeyId"])
    iam.detach_user_policy(UserName="tf-user", PolicyArn=policy["Arn"])
    iam.delete_user_policy(UserName="tf-user", PolicyName="inline")
    assert iam.list_groups_for_user(UserName="tf-user")["Groups"] == []
    for call in (iam.list_mfa_devices, iam.list_ssh_public_keys, iam.list_service_specific_credentials, iam.list_signing_certificates):
        call(UserName="tf-user")  # force_destroy reads them all
    not_configured("NoSuchEntity", iam.get_login_profile, UserName="tf-user")
    iam.delete_user(UserName="tf-user")
    iam.delete_policy_version(PolicyArn=policy["Arn"], VersionId="v1")
    iam.delete_policy(PolicyArn=policy["Arn"])
    not_configured("NoSuchEntity", iam.get_policy, PolicyArn=policy["Arn"])
    s3.delete_public_access_block(Bucket=name)
    s3.delete_bucket(Bucket=name)
