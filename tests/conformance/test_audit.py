"""Access log and audit trail of a running server: what is in them, that nothing secret is, and that damage is seen."""

from __future__ import annotations

import json
import re
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.conftest import _serve
from tests.conformance.served import Endpoint, refused
from tests.conformance.test_iam import document
from tests.faults.server import Server
from titans3.cli.titanctl import main


@pytest.fixture(scope="module", params=["json", "s3"])
def logged(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Endpoint, Path, str]]:
    folder = tmp_path_factory.mktemp(f"logged-{request.param}")
    env = {"TITANS3_ACCESS_LOG__PATH": str(folder / "access"), "TITANS3_ACCESS_LOG__FORMAT": request.param}
    for endpoint in _serve(Server(folder / "data", env=env)):
        yield endpoint, folder / "access", request.param


def lines(folder: Path) -> list[str]:
    time.sleep(1.2)
    return [line for path in sorted(folder.glob("access.*.log")) for line in path.read_text().splitlines()]


def audited(endpoint: Endpoint) -> list[Any]:
    status, found = endpoint.admin("GET", "/audit?limit=10000")
    assert status == 200, found
    return list(found["items"])


def test_every_request_is_a_line(logged: tuple[Endpoint, Path, str]) -> None:
    endpoint, folder, form = logged
    s3 = endpoint.client(user_agent='odd "agent\\', signature_version="s3v4")
    s3.create_bucket(Bucket="lines")
    s3.put_object(Bucket="lines", Key="a b/é", Body=b"x" * 1000)
    s3.get_object(Bucket="lines", Key="a b/é")["Body"].read()
    with refused("NoSuchKey", 404):
        s3.get_object(Bucket="lines", Key="missing")
    url = s3.generate_presigned_url("get_object", Params={"Bucket": "lines", "Key": "a b/é"})
    assert endpoint.raw("GET", url.removeprefix(endpoint.url), sign=False).status == 200
    assert endpoint.raw("GET", "/lines", sign=False).status == 403
    found = lines(folder)
    if form == "json":
        rows = [json.loads(line) for line in found]
        put = next(row for row in rows if row["operation"] == "PutObject")
        assert (put["status"], put["bucket"], put["method"]) == (200, "lines", "PUT")
        assert put["received"] >= 1000
        assert put["requester"].endswith(":root")
        assert 0 < put["seconds"] < 10
        gets = {row["status"]: row for row in rows if row["operation"] == "GetObject" and "?" not in row["target"]}
        assert (gets[200]["error"], gets[200]["sent"], gets[404]["error"]) == ("", 1000, "NoSuchKey")
        assert 'odd "agent\\' in put["user_agent"]
        presigned = next(row for row in rows if "X-Amz" in row["target"])
        assert "X-Amz-Signature=..." in presigned["target"]
        assert [row["error"] for row in rows if row["status"] == 403] == ["AccessDenied"]
        assert len({row["request_id"] for row in rows}) == len(rows)
        return
    pattern = re.compile(
        r'([^ ]+) ([^ ]+) \[([^\]]+)\] ([^ ]+) ([^ ]+) ([^ ]+) ([^ ]+) ([^ ]+) "([^"]*)" '
        r'(\d+|-) ([^ ]+) ([^ ]+) ([^ ]+) ([^ ]+) ([^ ]+) "([^"]*)" "([^"]*)"( [^ ]+){9}'
    )
    rows_ = [pattern.fullmatch(line) for line in found]
    assert all(rows_), [line for line, row in zip(found, rows_, strict=True) if row is None]
    put_ = next(row for row in rows_ if row is not None and row[7] == "REST.PUT.OBJECT")
    assert (put_[2], put_[8], put_[10]) == ("lines", "a%20b/%C3%A9", "200")
    assert re.fullmatch(r"[0-9a-f]{64}", put_[1])


def test_administration_and_refusals_are_in_the_chain(logged: tuple[Endpoint, Path, str], capfd: pytest.CaptureFixture[str],
                                                      monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:  # fmt: skip
    endpoint, _, _ = logged
    iam, s3 = endpoint.client(service="iam"), endpoint.client()
    iam.create_user(UserName="audited")
    key = iam.create_access_key(UserName="audited")["AccessKey"]
    iam.put_user_policy(UserName="audited", PolicyName="p", PolicyDocument=document("s3:ListAllMyBuckets"))
    iam.create_login_profile(UserName="audited", Password="planted-password")
    iam.list_users()
    endpoint.admin("PUT", "/config/iam.users_max", {"value": 4999})
    endpoint.admin("GET", "/config")
    s3.create_bucket(Bucket="audited")
    s3.put_bucket_versioning(Bucket="audited", VersioningConfiguration={"Status": "Enabled"})
    s3.put_object(Bucket="audited", Key="k", Body=b"")
    own = endpoint.client(keys=(key["AccessKeyId"], key["SecretAccessKey"]))
    with refused("AccessDenied", 403):
        own.get_object(Bucket="audited", Key="k")
    time.sleep(1)
    found = audited(endpoint)
    done = [(event["action"], event["status"]) for event in found if event["event"] == "done"]
    for action in (
        "iam:CreateUser", "iam:CreateAccessKey", "iam:PutUserPolicy", "iam:CreateLoginProfile", "titans3:SetConfig", "CreateBucket",
        "PutBucketVersioning",
    ):  # fmt: skip
        assert action in [name for name, _ in done], action
    assert not {"iam:ListUsers", "titans3:GetConfig", "PutObject"} & {name for name, _ in done}
    refusal = next(event for event in found if event["event"] == "refused" and event["action"] == "GetObject")
    assert (refusal["who"].rpartition("/")[2], refusal["error"], refusal["access_key"]) == ("audited", "AccessDenied", key["AccessKeyId"])
    created = next(event for event in found if event["action"] == "iam:CreateUser")
    assert created["details"]["parameters"]["UserName"] == "audited"
    text = json.dumps(found)
    assert "planted-password" not in text
    assert key["SecretAccessKey"] not in text
    assert endpoint.keys[1] not in text
    status, verdict = endpoint.admin("POST", "/audit/verify")
    assert (status, verdict["whole"]) == (200, True)
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "TITANCTL_ALIAS"):
        monkeypatch.delenv(name, raising=False)
    assert main(["audit", "verify", "--data", str(endpoint.server.data)]) == 0
    assert main(["audit", "ls", "--data", str(endpoint.server.data)]) == 0
    assert "iam:CreateUser" in capfd.readouterr().out
    assert main(["audit", "export", "-", "--data", str(endpoint.server.data)]) == 0
    assert len(capfd.readouterr().out.splitlines()) >= len(found)
    check_export(endpoint, tmp_path / "trail.jsonl", capfd)
    path = sorted((endpoint.server.data / "audit").glob("audit.*.jsonl"))[0]
    whole = path.read_bytes()
    try:
        path.write_bytes(whole.replace(b'"who":"arn', b'"who":"ARN', 1))
        assert main(["audit", "verify", "--data", str(endpoint.server.data)]) == 1
        assert "was changed" in capfd.readouterr().out
    finally:
        path.write_bytes(whole)


def check_export(endpoint: Endpoint, file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Every line of every chain, and, with --follow, those that come later behind them, each once."""

    def written() -> set[tuple[int, int]]:
        time.sleep(1)
        found = [line for path in (endpoint.server.data / "audit").glob("audit.*.jsonl") for line in path.read_bytes().splitlines()]
        return {(event["worker"], event["number"]) for event in map(json.loads, found)}

    def exported(*options: str) -> list[tuple[int, int]]:
        assert main(["audit", "export", str(file), "--data", str(endpoint.server.data), *options]) == 0
        return [(event["worker"], event["number"]) for event in map(json.loads, file.read_bytes().splitlines())]

    before = written()
    found = exported("--json")
    assert (set(found), len(found)) == (before, len(before))
    assert json.loads(capfd.readouterr().out.splitlines()[-1]) == {"events": len(before), "file": str(file)}
    assert file.stat().st_mode & 0o777 == 0o600
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:-2]) + b'{"torn')
    endpoint.raw("GET", "/", sign=False)
    after = written()
    again = exported("--follow", "--for", "1s")
    assert after > before and (set(again), len(again)) == (after, len(after))
    assert exported("--follow", "--for", "0s", "--since", "0s") == again
    file.write_text('{"worker": 0, "number": 99999}\n')
    assert main(["audit", "export", str(file), "--follow", "--data", str(endpoint.server.data)]) == 1
    assert "it is of another trail" in capfd.readouterr().err
    file.write_text("no trail\n")
    assert main(["audit", "export", str(file), "--follow", "--data", str(endpoint.server.data)]) == 1
    assert "is no exported audit trail" in capfd.readouterr().err
    status, chains = endpoint.admin("GET", f"/audit/chains?since_ms={int(time.time() * 1000) + 5000}")
    assert status == 200 and {chain["worker"] for chain in chains["items"]} == {worker for worker, _ in after}
    status, page = endpoint.admin("GET", f"/audit/chains/{again[0][0]}?after=0&limit=2")
    assert [event["number"] for event in page["items"]] == [1, 2]
    assert endpoint.admin("GET", "/audit/chains/x")[0] == endpoint.admin("GET", "/audit/chains/0?limit=10001")[0] == 400


def test_no_planted_secret_is_in_any_log(logged: tuple[Endpoint, Path, str]) -> None:
    endpoint, folder, _ = logged
    iam = endpoint.client(service="iam")
    key = iam.create_access_key(UserName="audited")["AccessKey"]
    session = endpoint.client(service="sts", keys=(key["AccessKeyId"], key["SecretAccessKey"])).get_session_token()["Credentials"]
    own = endpoint.client(keys=(session["AccessKeyId"], session["SecretAccessKey"], session["SessionToken"]), signature_version="s3v4")
    own.list_buckets()
    url = own.generate_presigned_url("list_buckets")
    assert endpoint.raw("GET", url.removeprefix(endpoint.url), sign=False).status == 200
    signature = re.search(r"X-Amz-Signature=([0-9a-f]+)", url)
    assert signature is not None
    planted = [
        endpoint.keys[1], key["SecretAccessKey"], session["SecretAccessKey"], session["SessionToken"], signature[1], "planted-password",
    ]  # fmt: skip
    lines(folder)
    texts = {path: path.read_bytes() for path in (*folder.iterdir(), *(endpoint.server.data / "audit").iterdir(), endpoint.server.log)}
    for path, data in texts.items():
        for secret in planted:
            assert secret.encode() not in data, path


def test_who_goes_away_in_the_middle_of_a_change_does_not_escape_the_trail(logged: tuple[Endpoint, Path, str]) -> None:
    """A GET can change something, by the query APIs; a client that is gone ends the work of a GET otherwise."""
    endpoint = logged[0]
    iam = endpoint.client(service="iam")
    names = [f"gone{number}" for number in range(40)]
    for number, name in enumerate(names):
        url = iam.generate_presigned_url("create_user", Params={"UserName": name}, HttpMethod="GET")
        with socket.create_connection(("127.0.0.1", endpoint.server.port)) as client:
            target, host = url.removeprefix(endpoint.url), f"127.0.0.1:{endpoint.server.port}"
            client.sendall(f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, not an end
            time.sleep(number * 0.0002)
    deadline = time.monotonic() + 10
    made, told = set(names), set[str]()
    while len(made) <= 10 or not made <= told:
        assert time.monotonic() < deadline, f"{len(made)} were made, of which nobody was told {sorted(made - told)}"
        time.sleep(0.2)
        made = {user["UserName"] for page in iam.get_paginator("list_users").paginate() for user in page["Users"]} & set(names)
        found = [line for line in audited(endpoint) if line.get("action") == "iam:CreateUser"]
        told = {line["details"]["parameters"].get("UserName") for line in found}
