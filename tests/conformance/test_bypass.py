"""Ways round a policy, each of them closed: by form, by presigned URL, by copy, in parts, by session, by how a key is written.

Mallory may read and write ``own/`` of a bucket and list what begins so. Nobody may do more by asking in another way.
"""

from __future__ import annotations

import itertools
import json
import unicodedata
from typing import Any
from urllib.parse import quote, urlsplit

import boto3
import msgspec
import pytest
import urllib3
from botocore.config import Config

from tests.conformance.served import Endpoint, refused
from tests.conformance.test_admin import done, keys_of
from titans3.cluster.identities import Identities, Session
from titans3.crypto.kept_key import read_kept, unkeep

_numbers = itertools.count(1)


def policy(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def allow(actions: str | list[str], resources: str | list[str], **condition: Any) -> dict[str, Any]:
    more = {"Condition": condition} if condition else {}
    return {"Effect": "Allow", "Action": actions, "Resource": resources, **more}


class Mallory:
    """A user with rights on ``own/`` of a bucket."""

    def __init__(self, endpoint: Endpoint, bucket: str) -> None:
        self.endpoint, self.bucket, self.name = endpoint, bucket, f"mallory-{next(_numbers)}"
        self.arn = f"arn:aws:s3:::{bucket}"
        self.iam = endpoint.client(service="iam")
        self.iam.create_user(UserName=self.name)
        self.may(
            allow(["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"],
                  f"{self.arn}/own/*"),
            allow("s3:ListBucket", self.arn, StringLike={"s3:prefix": "own/*"}),
        )  # fmt: skip
        key = self.iam.create_access_key(UserName=self.name)["AccessKey"]
        self.keys = key["AccessKeyId"], key["SecretAccessKey"]
        self.s3 = endpoint.client(keys=self.keys, signature_version="s3v4")

    def may(self, *statements: dict[str, Any]) -> None:
        self.iam.put_user_policy(UserName=self.name, PolicyName="own", PolicyDocument=policy(*statements))

    def asks(self, method: str, target: str, headers: dict[str, str] | None = None, body: bytes = b"") -> int:
        """The status for a target that is spelled by hand."""
        return self.endpoint.raw(method, target, headers, body, keys=self.keys).status


@pytest.fixture
def mallory(endpoint: Endpoint, s3: Any, bucket: str) -> Mallory:
    found = Mallory(endpoint, bucket)
    s3.put_object(Bucket=bucket, Key="secret", Body=b"secret")
    s3.put_object(Bucket=bucket, Key="own/k", Body=b"own")
    assert found.s3.get_object(Bucket=bucket, Key="own/k")["Body"].read() == b"own"
    return found


def visit(endpoint: Endpoint, method: str, url: str, **more: Any) -> tuple[int, str]:
    """Status and error code of a request that nobody signs any more."""
    with urllib3.PoolManager(ca_certs=endpoint.authority or None, timeout=30, retries=False) as pool:
        answer = pool.request(method, url, **more)
    text = answer.data.decode("latin-1")
    return answer.status, text.split("<Code>")[1].split("<")[0] if "<Code>" in text else ""


# forms -----------------------------------------------------------------------------------------------------------------


def post(mallory: Mallory, key: str, *, into: str = "", conditions: list[Any] | None = None, **fields: str) -> tuple[int, str]:
    """A form that Mallory signed for ``key`` (``${filename}`` at its end), sent with ``into`` as its key."""
    form = mallory.s3.generate_presigned_post(mallory.bucket, key, Conditions=conditions, Fields=fields or None)
    sent = form["fields"] | ({"key": into} if into else {})
    return visit(mallory.endpoint, "POST", form["url"], fields={**sent, "file": ("name", b"body")})


def test_a_form_is_judged_by_whoever_signed_it(mallory: Mallory) -> None:
    assert post(mallory, "own/form") == (204, "")
    assert post(mallory, "secret") == (403, "AccessDenied")
    assert post(mallory, "own/${filename}", into="secret") == (403, "AccessDenied")


def test_a_form_cannot_leave_what_its_policy_says(mallory: Mallory, s3: Any) -> None:
    starts = [["starts-with", "$key", "own/a/"]]
    assert post(mallory, "own/a/${filename}", conditions=starts) == (204, "")
    assert post(mallory, "own/a/${filename}", into="own/b", conditions=starts) == (403, "AccessDenied")
    s3.put_bucket_policy(
        Bucket=mallory.bucket,
        Policy=policy({"Effect": "Deny", "Principal": "*", "Action": "s3:PutObject", "Resource": f"{mallory.arn}/own/b*"}),
    )
    assert post(mallory, "own/b/form") == (403, "AccessDenied")
    assert post(mallory, "own/c/form") == (204, "")


# presigned URLs --------------------------------------------------------------------------------------------------------


def test_a_presigned_url_is_for_its_method_key_and_headers(mallory: Mallory) -> None:
    url = mallory.s3.generate_presigned_url("get_object", {"Bucket": mallory.bucket, "Key": "own/k"})
    assert visit(mallory.endpoint, "GET", url) == (200, "")
    for method in ("PUT", "DELETE", "POST"):
        assert visit(mallory.endpoint, method, url)[0] == 403, method
    assert visit(mallory.endpoint, "GET", url.replace("own/k", "secret")) == (403, "SignatureDoesNotMatch")
    assert visit(mallory.endpoint, "GET", url + "&versionId=null") == (403, "SignatureDoesNotMatch")
    assert visit(mallory.endpoint, "GET", url.replace("X-Amz-Expires=3600", "X-Amz-Expires=604800")) == (403, "SignatureDoesNotMatch")
    upload = mallory.s3.generate_presigned_url("put_object", {"Bucket": mallory.bucket, "Key": "own/k"})
    assert visit(mallory.endpoint, "PUT", upload, body=b"new", headers={"x-amz-acl": "public-read"})[0] == 403
    assert visit(mallory.endpoint, "PUT", upload, headers={"x-amz-copy-source": f"{mallory.bucket}/secret"})[0] == 403
    assert mallory.s3.get_object(Bucket=mallory.bucket, Key="own/k")["Body"].read() == b"own"


def test_a_presigned_url_gives_no_more_than_its_signer_has(mallory: Mallory) -> None:
    url = mallory.s3.generate_presigned_url("get_object", {"Bucket": mallory.bucket, "Key": "secret"})
    assert visit(mallory.endpoint, "GET", url) == (403, "AccessDenied")
    good = mallory.s3.generate_presigned_url("get_object", {"Bucket": mallory.bucket, "Key": "own/k"})
    mallory.may(allow("s3:GetObject", f"{mallory.arn}/other/*"))  # what counts is what he may now
    assert visit(mallory.endpoint, "GET", good) == (403, "AccessDenied")
    mallory.may(allow("s3:*", "*"))
    assert visit(mallory.endpoint, "GET", good) == (200, "")
    mallory.iam.update_access_key(UserName=mallory.name, AccessKeyId=mallory.keys[0], Status="Inactive")
    assert visit(mallory.endpoint, "GET", good)[0] == 403


def test_the_age_and_the_kind_of_a_signature_are_conditions(mallory: Mallory) -> None:
    deny = {"Effect": "Deny", "Action": "s3:*", "Resource": "*", "Condition": {"StringEquals": {"s3:authType": "REST-QUERY-STRING"}}}
    url = mallory.s3.generate_presigned_url("get_object", {"Bucket": mallory.bucket, "Key": "own/k"})
    mallory.may(allow("s3:*", "*"), deny)
    assert visit(mallory.endpoint, "GET", url) == (403, "AccessDenied")
    mallory.s3.get_object(Bucket=mallory.bucket, Key="own/k")
    mallory.may(allow("s3:*", "*"), {**deny, "Condition": {"NumericGreaterThan": {"s3:signatureAge": "0"}}})
    assert visit(mallory.endpoint, "GET", url) == (403, "AccessDenied")


def test_a_body_is_the_one_that_was_signed(mallory: Mallory) -> None:
    headers = {"x-amz-content-sha256": "0" * 64}
    assert mallory.asks("PUT", f"/{mallory.bucket}/own/k", headers, b"other") == 400
    assert mallory.s3.get_object(Bucket=mallory.bucket, Key="own/k")["Body"].read() == b"own"


# copies ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source", ["{}/secret", "/{}/secret", "{}/secret?versionId=null", "{}%2Fsecret", "%2F{}%2Fsecret", "{}/%73ecret", "{}/own/../secret"]
)
def test_a_copy_needs_the_right_to_read_its_source(mallory: Mallory, source: str) -> None:
    headers = {"x-amz-copy-source": source.format(mallory.bucket)}
    status = mallory.asks("PUT", f"/{mallory.bucket}/own/copy", headers)
    assert status in (403, 200), status  # own/../secret is a key of its own, and is not there
    with refused("404", 404):
        mallory.endpoint.client().head_object(Bucket=mallory.bucket, Key="own/copy")


def test_a_version_as_source_needs_the_right_to_versions(mallory: Mallory, s3: Any) -> None:
    source = f"/{mallory.bucket}/own/k"
    assert mallory.asks("PUT", f"/{mallory.bucket}/own/copy", {"x-amz-copy-source": source}) == 200
    assert mallory.asks("PUT", f"/{mallory.bucket}/own/copy", {"x-amz-copy-source": f"{source}?versionId=null"}) == 403


def test_a_source_of_another_account_is_that_accounts(mallory: Mallory) -> None:
    account = done(mallory.endpoint.admin("POST", "/accounts", {"name": f"victim-{next(_numbers)}"}), 201)
    victim, own = mallory.endpoint.client(keys=keys_of(account)), f"victim-{account['account_id']}"
    victim.create_bucket(Bucket=own)
    victim.put_object(Bucket=own, Key="k", Body=b"theirs")
    mallory.may(allow("s3:*", "*"))  # his own account's word is not enough
    with refused("AccessDenied", 403):
        mallory.s3.copy_object(Bucket=mallory.bucket, Key="own/copy", CopySource=f"{own}/k")
    with refused("AccessDenied", 403):
        mallory.s3.get_object(Bucket=own, Key="k")


# parts -----------------------------------------------------------------------------------------------------------------


def test_parts_need_the_rights_of_their_key(mallory: Mallory, s3: Any) -> None:
    with refused("AccessDenied", 403):
        mallory.s3.create_multipart_upload(Bucket=mallory.bucket, Key="secret")
    upload = s3.create_multipart_upload(Bucket=mallory.bucket, Key="secret")["UploadId"]
    named = {"Bucket": mallory.bucket, "Key": "secret", "UploadId": upload}
    with refused("AccessDenied", 403):
        mallory.s3.upload_part(**named, PartNumber=1, Body=b"x")
    part = s3.upload_part(**named, PartNumber=1, Body=b"x")["ETag"]
    with refused("AccessDenied", 403):
        mallory.s3.list_parts(**named)
    parts = {"Parts": [{"PartNumber": 1, "ETag": part}]}
    with refused("AccessDenied", 403):
        mallory.s3.complete_multipart_upload(**named, MultipartUpload=parts)
    with refused("AccessDenied", 403):
        mallory.s3.abort_multipart_upload(**named)
    with refused("NoSuchUpload", 404):  # the id of another key's upload, for a key of his own
        mallory.s3.upload_part(Bucket=mallory.bucket, Key="own/k", UploadId=upload, PartNumber=1, Body=b"x")
    with refused("NoSuchUpload", 404):
        mallory.s3.complete_multipart_upload(Bucket=mallory.bucket, Key="own/k", UploadId=upload, MultipartUpload=parts)
    assert s3.get_object(Bucket=mallory.bucket, Key="secret")["Body"].read() == b"secret"


def test_a_part_copied_needs_the_right_to_read_its_source(mallory: Mallory) -> None:
    upload = mallory.s3.create_multipart_upload(Bucket=mallory.bucket, Key="own/parts")["UploadId"]
    named = {"Bucket": mallory.bucket, "Key": "own/parts", "UploadId": upload, "PartNumber": 1}
    for more in ({}, {"CopySourceRange": "bytes=0-1"}):
        with refused("AccessDenied", 403):
            mallory.s3.upload_part_copy(**named, CopySource=f"{mallory.bucket}/secret", **more)
    mallory.s3.upload_part_copy(**named, CopySource=f"{mallory.bucket}/own/k")


def test_uploads_of_others_are_not_listed(mallory: Mallory) -> None:
    with refused("AccessDenied", 403):
        mallory.s3.list_multipart_uploads(Bucket=mallory.bucket)


# sessions --------------------------------------------------------------------------------------------------------------


def test_an_expired_session_is_told_so(mallory: Mallory, endpoint: Endpoint) -> None:
    """A token as the server seals it, whose time is over."""
    sts = endpoint.client(service="sts", keys=mallory.keys)
    given = sts.get_session_token(DurationSeconds=900)["Credentials"]
    session = given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"]
    endpoint.client(keys=session).get_object(Bucket=mallory.bucket, Key="own/k")
    kept = read_kept((endpoint.server.data / "volumes/0000/root-key.json").read_bytes())
    sealer = Identities.__new__(Identities)  # only what seals and opens tokens
    sealer._root_key = unkeep(kept)
    sealed: Session = sealer.open_session(session[2])
    old = sealer.seal_session(msgspec.structs.replace(sealed, expires_ms=sealed.issued_ms + 1))
    with refused("ExpiredToken", 400):
        endpoint.client(keys=(*session[:2], old)).get_object(Bucket=mallory.bucket, Key="own/k")
    with refused("InvalidToken", 400):
        endpoint.client(keys=(*session[:2], session[2][:-8] + "AAAAAAAA")).get_object(Bucket=mallory.bucket, Key="own/k")
    url = endpoint.client(keys=(*session[:2], old), signature_version="s3v4").generate_presigned_url(
        "get_object", {"Bucket": mallory.bucket, "Key": "own/k"}
    )
    assert visit(endpoint, "GET", url) == (400, "ExpiredToken")


def test_a_session_is_no_way_to_more(mallory: Mallory, endpoint: Endpoint) -> None:
    sts = endpoint.client(service="sts", keys=mallory.keys)
    given = sts.get_session_token(DurationSeconds=900)["Credentials"]
    session = given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"]
    with refused("AccessDenied", 403):
        endpoint.client(keys=session).get_object(Bucket=mallory.bucket, Key="secret")
    with refused("InvalidAccessKeyId", 403):  # the session's key without its token
        endpoint.client(keys=session[:2]).get_object(Bucket=mallory.bucket, Key="own/k")
    with refused("InvalidToken", 400):  # its token with a lasting key
        endpoint.client(keys=(*mallory.keys, session[2])).get_object(Bucket=mallory.bucket, Key="own/k")
    with refused("InvalidClientTokenId", 403):  # IAM is not for such sessions
        endpoint.client(service="iam", keys=session).list_users()


# many keys, and what refusals tell -------------------------------------------------------------------------------------


def test_each_key_of_a_delete_is_judged(mallory: Mallory, s3: Any) -> None:
    s3.put_object(Bucket=mallory.bucket, Key="own/gone", Body=b"")
    keys = ["own/gone", "secret", "own/../secret", "OWN/k", "own"]
    answer = mallory.s3.delete_objects(Bucket=mallory.bucket, Delete={"Objects": [{"Key": key} for key in keys]})
    assert {item["Key"] for item in answer["Deleted"]} == {"own/gone", "own/../secret"}
    assert {(item["Key"], item["Code"]) for item in answer["Errors"]} == {(key, "AccessDenied") for key in ("secret", "OWN/k", "own")}
    s3.head_object(Bucket=mallory.bucket, Key="secret")


def test_a_refusal_does_not_tell_whether_a_key_is_there(mallory: Mallory, s3: Any) -> None:
    mallory.may(allow("s3:GetObject", f"{mallory.arn}/own/*"))
    for key in ("secret", "absent", "own/absent"):
        for method in ("HEAD", "GET"):
            assert mallory.asks(method, f"/{mallory.bucket}/{key}") == 403, (method, key)
        assert mallory.asks("GET", f"/{mallory.bucket}/{key}", {"If-None-Match": "*"}) == 403
    mallory.may(allow("s3:GetObject", f"{mallory.arn}/own/*"), allow("s3:ListBucket", mallory.arn))
    assert mallory.asks("HEAD", f"/{mallory.bucket}/own/absent") == 404
    assert mallory.asks("HEAD", f"/{mallory.bucket}/absent") == 404, "he may list it"
    assert mallory.asks("HEAD", f"/{mallory.bucket}/secret") == 403


@pytest.mark.parametrize("query", ["", "prefix=", "prefix=*", "prefix=ow", "prefix=own", "prefix=secret", "prefix=OWN/", "delimiter=/"])
def test_listings_are_bound_to_their_prefix(mallory: Mallory, query: str) -> None:
    for kind in ("list-type=2", "", "versions"):
        target = f"/{mallory.bucket}?" + "&".join(part for part in (kind, query) if part)
        assert mallory.asks("GET", target.rstrip("?")) == 403, target
    assert mallory.asks("GET", f"/{mallory.bucket}?list-type=2&prefix=own/") == 200
    assert mallory.asks("GET", f"/{mallory.bucket}?list-type=2&prefix=own%2Fx") == 200


def test_the_bucket_in_the_host_name_is_the_same_bucket(mallory: Mallory) -> None:
    endpoint = mallory.endpoint
    client = boto3.client(
        "s3", endpoint_url=f"http://s3.localhost:{endpoint.server.port}", region_name="us-east-1", aws_access_key_id=mallory.keys[0],
        aws_secret_access_key=mallory.keys[1], config=Config(signature_version="s3v4", s3={"addressing_style": "virtual"}),
    )  # fmt: skip
    for key, status in (("secret", 403), ("own/k", 200), (f"{mallory.bucket}/own/k", 403), ("/own/k", 403)):
        url = urlsplit(client.generate_presigned_url("get_object", {"Bucket": mallory.bucket, "Key": key}))
        assert url.netloc.startswith(f"{mallory.bucket}.s3.localhost:")
        assert visit(endpoint, "GET", f"{endpoint.url}{url.path}?{url.query}", headers={"Host": url.netloc})[0] == status, key


# how a key is written --------------------------------------------------------------------------------------------------

COMPOSED, DECOMPOSED = unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é")


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("own/k", 200), ("%6Fwn/k", 200), ("own%2Fk", 200), ("%6f%77%6e%2f%6b", 200), ("OWN/k", 403), ("Own/k", 403), ("own%252Fk", 403),
        ("/own/k", 403), ("%2Fown/k", 403), ("./own/k", 403), ("x/../own/k", 403), ("own/../secret", 200), ("own//k", 200),
        ("own%00/k", 403), ("own\\k", 403), ("own%5Ck", 403), ("*", 403), ("own/*", 200), ("o%3Fn/k", 403), ("o*/k", 403), ("own", 403),
        ("own/k/", 200), ("own/k%20", 200), ("%20own/k", 403), ("own/k?", 200), ("own/" + "k" * 1020, 200),
        ("own/" + "k" * 1021, 400), ("oẃn/k", 403), ("own%E2%80%8B/k", 403), ("%EF%BD%8Fwn/k", 403), ("own%c0%afk", 400),
    ],
)  # fmt: skip
def test_a_key_is_judged_as_the_bytes_it_is(mallory: Mallory, s3: Any, target: str, status: int) -> None:
    """What the server takes for the key is what the policy is asked about: nothing is folded, resolved or decoded twice."""
    path = quote(target, safe="/%?=*.\\")
    assert mallory.asks("PUT", f"/{mallory.bucket}/{path}") == status, target
    names = [item["Key"] for item in s3.list_objects_v2(Bucket=mallory.bucket)["Contents"]]
    assert all(name == "secret" or name.startswith("own/") for name in names), names
    assert s3.get_object(Bucket=mallory.bucket, Key="secret")["Body"].read() == b"secret"


def test_letters_that_look_the_same_are_not(mallory: Mallory, s3: Any) -> None:
    mallory.may(allow("s3:PutObject", f"{mallory.arn}/{COMPOSED}/*"))
    mallory.s3.put_object(Bucket=mallory.bucket, Key=f"{COMPOSED}/k", Body=b"")
    with refused("AccessDenied", 403):
        mallory.s3.put_object(Bucket=mallory.bucket, Key=f"{DECOMPOSED}/k", Body=b"")


def test_a_wildcard_that_a_variable_stands_for_is_none(mallory: Mallory, s3: Any) -> None:
    """Who chooses what a variable stands for does not choose what a pattern matches."""
    mallory.may(allow("s3:GetObject", f"{mallory.arn}/${{aws:UserAgent}}/*"))
    s3.put_object(Bucket=mallory.bucket, Key="blue/k", Body=b"")
    for agent, status in (("blue", 200), ("*", 403), ("b?ue", 403), ("b*", 403), ("${aws:UserAgent}", 403), ("${*}", 403), ("Blue", 403)):
        assert mallory.asks("GET", f"/{mallory.bucket}/blue/k", {"User-Agent": agent}) == status, agent
    mallory.may(allow("s3:GetObject", f"{mallory.arn}/${{aws:PrincipalTag/team}}/*"))
    assert mallory.asks("GET", f"/{mallory.bucket}/blue/k") == 403, "no tag, no match"
    mallory.iam.tag_user(UserName=mallory.name, Tags=[{"Key": "team", "Value": "blue"}])
    assert mallory.asks("GET", f"/{mallory.bucket}/blue/k") == 200


def test_not_action_and_not_resource_are_what_they_say(mallory: Mallory, s3: Any) -> None:
    mallory.may({"Effect": "Allow", "NotAction": "s3:DeleteObject", "NotResource": f"{mallory.arn}/secret"})
    assert mallory.asks("GET", f"/{mallory.bucket}/own/k") == 200
    assert mallory.asks("GET", f"/{mallory.bucket}/secret") == 403
    assert mallory.asks("DELETE", f"/{mallory.bucket}/own/k") == 403
    assert mallory.asks("GET", f"/{mallory.bucket}/%73ecret") == 403
    mallory.may(allow("s3:*", "*"), {"Effect": "Deny", "Action": "s3:*", "NotResource": [mallory.arn, f"{mallory.arn}/own/*"]})
    assert mallory.asks("GET", f"/{mallory.bucket}/own/k") == 200
    assert mallory.asks("GET", f"/{mallory.bucket}/secret") == 403
    assert mallory.asks("GET", "/") == 403
