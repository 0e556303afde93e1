"""STS's query API, as boto3 sees it: who am I, sessions of users, of roles, of web identities.

Source: https://docs.aws.amazon.com/STS/latest/APIReference/welcome.html
"""

from __future__ import annotations

import base64
import hmac
import http.server
import itertools
import json
import re
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import jwt
import pytest
from botocore import UNSIGNED
from botocore.config import Config
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.conformance.served import Endpoint, fields_of, refused
from tests.conformance.test_iam import document

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def iam(endpoint: Endpoint) -> Any:
    return endpoint.client(service="iam")


@pytest.fixture
def user(iam: Any) -> tuple[str, str, str, str]:
    """ARN, name, access key, secret of a user who may do everything but what concerns roles."""
    name = f"sts-user-{next(_numbers)}"
    arn = iam.create_user(UserName=name)["User"]["Arn"]
    iam.put_user_policy(UserName=name, PolicyName="s3", PolicyDocument=document("s3:*"))
    key = iam.create_access_key(UserName=name)["AccessKey"]
    return arn, name, key["AccessKeyId"], key["SecretAccessKey"]


def trust(principal: Any, *actions: str, **condition: Any) -> str:
    statement = {"Effect": "Allow", "Principal": principal, "Action": list(actions or ("sts:AssumeRole",))}
    if condition:
        statement["Condition"] = condition
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def role(iam: Any, document: str, policy: str = "arn:aws:iam::aws:policy/readonly", **more: Any) -> str:
    name = f"sts-role-{next(_numbers)}"
    arn = iam.create_role(RoleName=name, AssumeRolePolicyDocument=document, **more)["Role"]["Arn"]
    iam.attach_role_policy(RoleName=name, PolicyArn=policy)
    return str(arn)


def keys_of(answer: dict[str, Any]) -> tuple[str, str, str]:
    found = answer["Credentials"]
    return found["AccessKeyId"], found["SecretAccessKey"], found["SessionToken"]


def test_everybody_may_ask_who_he_is(endpoint: Endpoint, iam: Any, user: tuple[str, str, str, str]) -> None:
    iam.put_user_policy(UserName=user[1], PolicyName="deny", PolicyDocument=document("*", effect="Deny"))
    found = endpoint.client(service="sts", keys=user[2:]).get_caller_identity()
    assert found["Arn"] == user[0]
    assert found["UserId"] == iam.get_user(UserName=user[1])["User"]["UserId"]
    root = endpoint.client(service="sts").get_caller_identity()
    assert (root["UserId"], root["Arn"]) == (root["Account"], f"arn:aws:iam::{root['Account']}:root")


def test_a_session_of_a_user_does_what_the_user_may(
    endpoint: Endpoint, iam: Any, bucket: str, user: tuple[str, str, str, str]
) -> None:
    answer = endpoint.client(service="sts", keys=user[2:]).get_session_token(DurationSeconds=900)
    keys = keys_of(answer)
    assert re.fullmatch(r"ASIA[A-Z2-7]{16}", keys[0])
    left = answer["Credentials"]["Expiration"] - datetime.now(UTC)
    assert timedelta(seconds=890) < left <= timedelta(seconds=900)
    client = endpoint.client(keys=keys)
    client.put_object(Bucket=bucket, Key="k", Body=b"body")
    assert endpoint.client(service="sts", keys=keys).get_caller_identity()["Arn"] == user[0]
    with refused("InvalidClientTokenId", 403):
        endpoint.client(service="iam", keys=keys).get_user()
    with refused("AccessDenied", 403):
        endpoint.client(service="sts", keys=keys).get_session_token()
    iam.put_user_policy(UserName=user[1], PolicyName="s3", PolicyDocument=document("s3:Get*"))
    with refused("AccessDenied", 403):
        client.put_object(Bucket=bucket, Key="k", Body=b"")
    client.get_object(Bucket=bucket, Key="k")


def test_a_session_needs_its_own_token(endpoint: Endpoint, user: tuple[str, str, str, str]) -> None:
    sts = endpoint.client(service="sts", keys=user[2:])
    one, two = keys_of(sts.get_session_token()), keys_of(sts.get_session_token())
    endpoint.client(keys=one).list_buckets()
    for keys, code in (
        (one[:2], "InvalidAccessKeyId"), ((*one[:2], two[2]), "InvalidToken"), ((*one[:2], one[2][:-4] + "AAAA"), "InvalidToken"),
        ((*user[2:], one[2]), "InvalidToken"),
    ):  # fmt: skip
        with refused(code, 400 if code == "InvalidToken" else 403):
            endpoint.client(keys=keys).list_buckets()


def test_sessions_end_with_their_user(endpoint: Endpoint, iam: Any, user: tuple[str, str, str, str]) -> None:
    keys = keys_of(endpoint.client(service="sts", keys=user[2:]).get_session_token())
    client = endpoint.client(keys=keys)
    client.list_buckets()
    iam.delete_access_key(UserName=user[1], AccessKeyId=user[2])
    client.list_buckets()  # as at AWS: a session outlives the key that it came from
    iam.delete_user_policy(UserName=user[1], PolicyName="s3")
    iam.delete_user(UserName=user[1])
    iam.create_user(UserName=user[1])
    with refused("InvalidToken", 400):
        client.list_buckets()


def test_a_role_is_assumed_by_whom_its_trust_policy_names(
    endpoint: Endpoint, iam: Any, s3: Any, bucket: str, user: tuple[str, str, str, str]
) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"body")
    arn = role(iam, trust({"AWS": user[0]}))
    sts = endpoint.client(service="sts", keys=user[2:])
    answer = sts.assume_role(RoleArn=arn, RoleSessionName="session")
    account, name = arn.split(":")[4], arn.rpartition("/")[2]
    assert answer["AssumedRoleUser"]["Arn"] == f"arn:aws:sts::{account}:assumed-role/{name}/session"
    assert answer["AssumedRoleUser"]["AssumedRoleId"] == iam.get_role(RoleName=name)["Role"]["RoleId"] + ":session"
    client = endpoint.client(keys=keys_of(answer))
    assert client.get_object(Bucket=bucket, Key="k")["Body"].read() == b"body"
    with refused("AccessDenied", 403):  # the role reads only, whatever its user may
        client.put_object(Bucket=bucket, Key="k", Body=b"")
    who = endpoint.client(service="sts", keys=keys_of(answer)).get_caller_identity()
    assert who["Arn"] == answer["AssumedRoleUser"]["Arn"]
    with refused("AccessDenied", 403) as caught:
        endpoint.client(service="sts").assume_role(RoleArn=arn, RoleSessionName="session")
    assert fields_of(caught)["Message"] == "Roles may not be assumed by root accounts."
    with refused("AccessDenied", 403):
        sts.assume_role(RoleArn=role(iam, trust({"AWS": "000000000000"})), RoleSessionName="session")
    with refused("AccessDenied", 403):
        sts.assume_role(RoleArn=arn + "-missing", RoleSessionName="session")


def test_a_trust_in_the_account_leaves_it_to_the_users_policies(
    endpoint: Endpoint, iam: Any, user: tuple[str, str, str, str]
) -> None:
    arn = role(iam, trust({"AWS": user[0].split(":")[4]}))
    sts = endpoint.client(service="sts", keys=user[2:])
    with refused("AccessDenied", 403):
        sts.assume_role(RoleArn=arn, RoleSessionName="session")
    iam.put_user_policy(UserName=user[1], PolicyName="roles", PolicyDocument=document("sts:AssumeRole", resource=arn))
    sts.assume_role(RoleArn=arn, RoleSessionName="session")
    iam.put_user_policy(UserName=user[1], PolicyName="deny", PolicyDocument=document("sts:*", effect="Deny"))
    with refused("AccessDenied", 403):
        sts.assume_role(RoleArn=arn, RoleSessionName="session")


def test_conditions_of_a_trust_policy(endpoint: Endpoint, iam: Any, user: tuple[str, str, str, str]) -> None:
    arn = role(iam, trust({"AWS": user[0]}, StringEquals={"sts:ExternalId": "secret word", "sts:RoleSessionName": "only-this"}))
    sts = endpoint.client(service="sts", keys=user[2:])
    with refused("ValidationError", 400):
        sts.assume_role(RoleArn=arn, RoleSessionName="only-this", ExternalId="secret word")
    arn = role(iam, trust({"AWS": user[0]}, StringEquals={"sts:ExternalId": "secret-word", "sts:RoleSessionName": "only-this"}))
    sts.assume_role(RoleArn=arn, RoleSessionName="only-this", ExternalId="secret-word")
    for more in ({}, {"ExternalId": "another"}, {"ExternalId": "secret-word", "RoleSessionName": "that"}):
        with refused("AccessDenied", 403):
            sts.assume_role(**{"RoleArn": arn, "RoleSessionName": "only-this", **more})


def test_a_session_policy_limits_and_never_adds(
    endpoint: Endpoint, iam: Any, s3: Any, bucket: str, user: tuple[str, str, str, str]
) -> None:
    s3.put_object(Bucket=bucket, Key="a/k", Body=b"")
    s3.put_object(Bucket=bucket, Key="b/k", Body=b"")
    arn = role(iam, trust({"AWS": user[0]}))
    sts = endpoint.client(service="sts", keys=user[2:])
    policy = document("s3:GetObject", "s3:PutObject", resource=f"arn:aws:s3:::{bucket}/a/*")
    answer = sts.assume_role(RoleArn=arn, RoleSessionName="session", Policy=policy)
    assert answer["PackedPolicySize"] > 0
    client = endpoint.client(keys=keys_of(answer))
    client.get_object(Bucket=bucket, Key="a/k")
    with refused("AccessDenied", 403):
        client.get_object(Bucket=bucket, Key="b/k")
    with refused("AccessDenied", 403):
        client.put_object(Bucket=bucket, Key="a/k", Body=b"")
    answer = sts.assume_role(RoleArn=arn, RoleSessionName="session", PolicyArns=[{"arn": "arn:aws:iam::aws:policy/writeonly"}])
    with refused("AccessDenied", 403):
        endpoint.client(keys=keys_of(answer)).get_object(Bucket=bucket, Key="a/k")
    with refused("MalformedPolicyDocument", 400):
        sts.assume_role(RoleArn=arn, RoleSessionName="session", Policy="{}")


def test_durations(endpoint: Endpoint, iam: Any, user: tuple[str, str, str, str]) -> None:
    arn = role(iam, trust({"AWS": user[0]}), MaxSessionDuration=7200)
    sts = endpoint.client(service="sts", keys=user[2:])
    left = sts.assume_role(RoleArn=arn, RoleSessionName="session", DurationSeconds=7200)["Credentials"][
        "Expiration"
    ] - datetime.now(UTC)
    assert timedelta(seconds=7190) < left <= timedelta(seconds=7200)
    for seconds in (7201, 43_201):
        with refused("ValidationError", 400):
            sts.assume_role(RoleArn=arn, RoleSessionName="session", DurationSeconds=seconds)


def test_session_tags_are_condition_keys_and_variables(
    endpoint: Endpoint, iam: Any, s3: Any, bucket: str, user: tuple[str, str, str, str]
) -> None:
    s3.put_object(Bucket=bucket, Key="blue/k", Body=b"")
    arn = role(iam, trust({"AWS": user[0]}, "sts:AssumeRole", "sts:TagSession"), "arn:aws:iam::aws:policy/writeonly")
    iam.put_role_policy(
        RoleName=arn.rpartition("/")[2], PolicyName="own",
        PolicyDocument=document("s3:GetObject", resource=f"arn:aws:s3:::{bucket}/${{aws:PrincipalTag/team}}/*"),
    )  # fmt: skip
    sts = endpoint.client(service="sts", keys=user[2:])
    blue, red = (
        endpoint.client(keys=keys_of(sts.assume_role(RoleArn=arn, RoleSessionName="ss", Tags=[{"Key": "team", "Value": team}])))
        for team in ("blue", "red")
    )
    blue.get_object(Bucket=bucket, Key="blue/k")
    with refused("AccessDenied", 403):
        red.get_object(Bucket=bucket, Key="blue/k")
    with refused("AccessDenied", 403):
        sts.assume_role(
            RoleArn=role(iam, trust({"AWS": user[0]})), RoleSessionName="ss", Tags=[{"Key": "team", "Value": "blue"}]
        )  # without sts:TagSession


def test_roles_in_a_chain(endpoint: Endpoint, iam: Any, user: tuple[str, str, str, str]) -> None:
    first = role(iam, trust({"AWS": user[0]}, "sts:*"), MaxSessionDuration=7200)
    second = role(iam, trust({"AWS": first}, "sts:*"), MaxSessionDuration=7200)
    sts = endpoint.client(service="sts", keys=user[2:])
    answer = sts.assume_role(
        RoleArn=first, RoleSessionName="one", SourceIdentity="alice", Tags=[{"Key": "t", "Value": "v"}], TransitiveTagKeys=["t"]
    )
    assert answer["SourceIdentity"] == "alice"
    again = endpoint.client(service="sts", keys=keys_of(answer))
    found = again.assume_role(RoleArn=second, RoleSessionName="two")
    assert found["SourceIdentity"] == "alice"
    with refused("ValidationError", 400):
        again.assume_role(RoleArn=second, RoleSessionName="two", DurationSeconds=3601)
    with refused("AccessDenied", 403):
        again.assume_role(RoleArn=second, RoleSessionName="two", SourceIdentity="bob")
    with refused("InvalidInput", 400):
        again.assume_role(RoleArn=second, RoleSessionName="two", Tags=[{"Key": "T", "Value": "w"}])
    with refused("AccessDenied", 403):
        sts.assume_role(RoleArn=second, RoleSessionName="two")


def test_a_deleted_roles_sessions_end(endpoint: Endpoint, iam: Any, user: tuple[str, str, str, str]) -> None:
    document = trust({"AWS": user[0]})
    arn = role(iam, document)
    client = endpoint.client(
        keys=keys_of(endpoint.client(service="sts", keys=user[2:]).assume_role(RoleArn=arn, RoleSessionName="ss"))
    )
    name = arn.rpartition("/")[2]
    iam.detach_role_policy(RoleName=name, PolicyArn="arn:aws:iam::aws:policy/readonly")
    iam.delete_role(RoleName=name)
    iam.create_role(RoleName=name, AssumeRolePolicyDocument=document)
    with refused("InvalidToken", 400):
        client.list_buckets()


def test_who_gets_a_name_later_is_not_trusted(endpoint: Endpoint, iam: Any, user: tuple[str, str, str, str]) -> None:
    arn = role(iam, trust({"AWS": user[0]}))
    iam.delete_user_policy(UserName=user[1], PolicyName="s3")
    iam.delete_access_key(UserName=user[1], AccessKeyId=user[2])
    iam.delete_user(UserName=user[1])
    iam.create_user(UserName=user[1])
    key = iam.create_access_key(UserName=user[1])["AccessKey"]
    with refused("AccessDenied", 403):
        endpoint.client(service="sts", keys=(key["AccessKeyId"], key["SecretAccessKey"])).assume_role(
            RoleArn=arn, RoleSessionName="s1"
        )


# web identities --------------------------------------------------------------------------------------------------------


class Issuer:
    """An OpenID Connect issuer: its configuration and keys over http, tokens signed with them."""

    def __init__(self) -> None:
        self.keys = {"one": rsa.generate_private_key(public_exponent=65537, key_size=2048)}
        self.asked = 0
        issuer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked += 1
                if self.path.endswith("/.well-known/openid-configuration"):
                    found: Any = {"issuer": issuer.url, "jwks_uri": f"{issuer.url}/keys"}
                else:
                    found = {"keys": [issuer.public(kid) for kid in issuer.keys]}
                data = json.dumps(found).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:
                """Silent."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/realm"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def public(self, kid: str) -> dict[str, Any]:
        key = self.keys[kid].public_key()
        algorithm = jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPublicKey) else jwt.algorithms.ECAlgorithm
        return {**algorithm.to_jwk(key, as_dict=True), "kid": kid, "use": "sig"}

    def token(self, kid: str = "one", *, algorithm: str = "RS256", key: Any = None, **claims: Any) -> str:
        now = int(time.time())
        content = {"iss": self.url, "sub": "subject", "aud": "client", "iat": now, "exp": now + 600, **claims}
        return jwt.encode(content, key or self.keys[kid], algorithm=algorithm, headers={"kid": kid})


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    made = Issuer()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture(scope="module")
def provider(iam: Any, issuer: Issuer) -> str:
    return str(
        iam.create_open_id_connect_provider(Url=issuer.url, ClientIDList=["client", "other"], ThumbprintList=["0" * 40])[
            "OpenIDConnectProviderArn"
        ]
    )


@pytest.fixture(scope="module")
def unsigned(endpoint: Endpoint) -> Any:
    """STS without keys."""
    config = Config(signature_version=UNSIGNED, retries={"total_max_attempts": 1})
    return boto3.client(
        "sts", endpoint_url=endpoint.url, region_name="us-east-1", verify=endpoint.authority or None, config=config
    )


def test_a_web_identity_assumes_a_role(
    endpoint: Endpoint, iam: Any, s3: Any, bucket: str, issuer: Issuer, provider: str, unsigned: Any
) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"body")
    name = provider.partition("/")[2]
    web = "sts:AssumeRoleWithWebIdentity"
    arn = role(iam, trust({"Federated": provider}, web, StringEquals={f"{name}:sub": "subject", f"{name}:aud": "client"}))
    answer = unsigned.assume_role_with_web_identity(RoleArn=arn, RoleSessionName="session", WebIdentityToken=issuer.token())
    assert (answer["SubjectFromWebIdentityToken"], answer["Audience"], answer["Provider"]) == ("subject", "client", provider)
    client = endpoint.client(keys=keys_of(answer))
    assert client.get_object(Bucket=bucket, Key="k")["Body"].read() == b"body"
    for claims in ({"sub": "another"}, {"aud": "other"}):
        with refused("AccessDenied", 403):
            unsigned.assume_role_with_web_identity(
                RoleArn=arn, RoleSessionName="session", WebIdentityToken=issuer.token(**claims)
            )
    with refused("AccessDenied", 403):
        unsigned.assume_role_with_web_identity(
            RoleArn=role(iam, trust({"AWS": "000000000000"}, web)), RoleSessionName="session", WebIdentityToken=issuer.token()
        )


def forged(issuer: Issuer, public: str, now: int) -> str:
    """A token whose HMAC key is the issuer's public key, which libraries that trust the header's algorithm take."""
    parts = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=")
        for part in (
            {"alg": "HS256", "kid": "one"},
            {"iss": issuer.url, "sub": "s", "aud": "client", "iat": now, "exp": now + 60},
        )
    ]
    signed = b".".join(parts)
    return (signed + b"." + base64.urlsafe_b64encode(hmac.digest(public.encode(), signed, "sha256")).rstrip(b"=")).decode()


def test_tokens_that_prove_nothing(iam: Any, issuer: Issuer, provider: str, unsigned: Any) -> None:
    arn = role(iam, trust({"Federated": provider}, "sts:AssumeRoleWithWebIdentity"))
    stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = jwt.algorithms.RSAAlgorithm.to_jwk(issuer.keys["one"].public_key())
    now = int(time.time())
    bad = {
        "no token": "a.b.c",
        "of another key": issuer.token(key=stranger),
        "for nobody here": issuer.token(aud="stranger"),
        "of another issuer": issuer.token(iss="http://127.0.0.1:1/realm"),
        "without a signature": jwt.encode(
            {"iss": issuer.url, "sub": "s", "aud": "client", "iat": now, "exp": now + 60}, "", algorithm="none"),
        "signed with what is public": forged(issuer, public, now),
    }  # fmt: skip
    for token in bad.values():
        with refused("InvalidIdentityToken", 400):
            unsigned.assume_role_with_web_identity(RoleArn=arn, RoleSessionName="session", WebIdentityToken=token)
    with refused("ExpiredTokenException", 400):
        unsigned.assume_role_with_web_identity(
            RoleArn=arn, RoleSessionName="session", WebIdentityToken=issuer.token(exp=now - 120)
        )


def test_made_up_keys_do_not_make_the_server_ask(iam: Any, issuer: Issuer, provider: str, unsigned: Any) -> None:
    arn = role(iam, trust({"Federated": provider}, "sts:AssumeRoleWithWebIdentity"))
    unsigned.assume_role_with_web_identity(RoleArn=arn, RoleSessionName="session", WebIdentityToken=issuer.token())
    before = issuer.asked
    stranger = ec.generate_private_key(ec.SECP256R1())
    for at in range(20):
        with refused("InvalidIdentityToken", 400):
            token = issuer.token(f"kid-{at}", algorithm="ES256", key=stranger)
            unsigned.assume_role_with_web_identity(RoleArn=arn, RoleSessionName="session", WebIdentityToken=token)
    assert issuer.asked - before <= 4  # a configuration and its keys, at most once in each of two workers


def test_providers(iam: Any, provider: str) -> None:
    found = iam.get_open_id_connect_provider(OpenIDConnectProviderArn=provider)
    assert found["ClientIDList"] == ["client", "other"]
    iam.add_client_id_to_open_id_connect_provider(OpenIDConnectProviderArn=provider, ClientID="third")
    iam.remove_client_id_from_open_id_connect_provider(OpenIDConnectProviderArn=provider, ClientID="third")
    assert iam.get_open_id_connect_provider(OpenIDConnectProviderArn=provider)["ClientIDList"] == ["client", "other"]
    assert provider in [item["Arn"] for item in iam.list_open_id_connect_providers()["OpenIDConnectProviderList"]]
    for url in ("http://example.org", "ftp://127.0.0.1", "https://user:pass@example.org", "https://example.org?x=y"):
        with refused("ValidationError", 400):
            iam.create_open_id_connect_provider(Url=url, ClientIDList=["c"])


def test_an_issuer_that_does_not_answer(iam: Any, unsigned: Any) -> None:
    made = iam.create_open_id_connect_provider(Url="http://127.0.0.1:1/nobody", ClientIDList=["client"])[
        "OpenIDConnectProviderArn"
    ]
    arn = role(iam, trust({"Federated": made}, "sts:AssumeRoleWithWebIdentity"))
    key = ec.generate_private_key(ec.SECP256R1())
    token = jwt.encode(
        {"iss": "http://127.0.0.1:1/nobody", "aud": "client", "sub": "s", "iat": 1, "exp": 2}, key, algorithm="ES256"
    )
    with refused("IDPCommunicationError", 400):
        unsigned.assume_role_with_web_identity(RoleArn=arn, RoleSessionName="session", WebIdentityToken=token)
    iam.delete_open_id_connect_provider(OpenIDConnectProviderArn=made)
    with refused("InvalidIdentityToken", 400):
        unsigned.assume_role_with_web_identity(RoleArn=arn, RoleSessionName="session", WebIdentityToken=token)
