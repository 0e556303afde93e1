"""titanctl against a running server, as an operator types it: every command, its JSON, its exit code."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.served import Endpoint, refused
from titans3.cli.titanctl import main
from titans3.ctl import transfer

_names = iter(f"ctl-{number}" for number in range(1, 10_000))


class Shell:
    """Runs commands in this process; what they print is kept."""

    def __init__(self, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capfd, self._monkeypatch = capfd, monkeypatch
        self.err = ""

    def __call__(self, line: str | list[str], *, code: int = 0, stdin: bytes | None = None) -> str:
        arguments = line.split() if isinstance(line, str) else line
        with self._monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin or b"")))
            self._capfd.readouterr()
            found = main(arguments)
        out, self.err = self._capfd.readouterr()
        assert found == code, (arguments, out, self.err)
        return out

    def json(self, line: str | list[str], **more: Any) -> Any:
        arguments = line.split() if isinstance(line, str) else line
        return json.loads(self([*arguments, "--json"], **more))

    def lines(self, line: str | list[str]) -> list[Any]:
        arguments = line.split() if isinstance(line, str) else line
        return [json.loads(text) for text in self([*arguments, "--json"]).splitlines()]


@pytest.fixture
def ctl(endpoint: Endpoint, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    for name in [name for name in os.environ if name.startswith(("AWS_", "TITANCTL_", "TITANS3_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", endpoint.keys[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", endpoint.keys[1])
    if endpoint.authority:
        monkeypatch.setenv("AWS_CA_BUNDLE", endpoint.authority)
    monkeypatch.chdir(tmp_path)
    return Shell(capfd, monkeypatch)


@pytest.fixture
def name() -> str:
    return next(_names)


# which server ----------------------------------------------------------------------------------------------------------


def test_aliases(ctl: Shell, endpoint: Endpoint, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ca = ["--ca", endpoint.authority] if endpoint.authority else []
    ctl(["alias", "set", "prod", endpoint.url, *endpoint.keys, *ca])
    file = Path(os.environ["XDG_CONFIG_HOME"]) / "titanctl" / "aliases.json"
    assert file.stat().st_mode & 0o777 == 0o600
    assert [row["alias"] for row in ctl.lines("alias ls")] == ["prod"]
    assert endpoint.keys[1] not in ctl("alias ls")
    exported = ctl("alias export prod")
    ctl("alias import copy", stdin=exported.encode())
    for variable in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(variable)
    assert bucket in [row["name"] for row in ctl.lines("bucket ls --alias copy")]
    monkeypatch.setenv("TITANCTL_ALIAS", "prod")
    assert bucket in [row["name"] for row in ctl.lines("bucket ls")]
    monkeypatch.delenv("TITANCTL_ALIAS")
    host = endpoint.url.partition("://")
    monkeypatch.setenv(
        "TITANCTL_HOST_other",
        f"{host[0]}://{endpoint.keys[0]}:{endpoint.keys[1].replace('/', '%2F').replace('+', '%2B')}@{host[2]}",
    )
    if not endpoint.authority:
        ctl(f"object ls other/{bucket}")
    ctl(f"object ls prod/{bucket}")
    ctl("alias rm prod")
    ctl("bucket ls --alias prod", code=1)
    assert "there is no alias prod" in ctl.err
    ctl("bucket ls", code=1)
    assert "./titans3-data" in ctl.err
    file.chmod(0o644)
    ctl("bucket ls --alias copy", code=1)
    assert "chmod 600" in ctl.err


def test_a_server_of_a_data_folder(ctl: Shell, endpoint: Endpoint, bucket: str) -> None:
    assert bucket in [row["name"] for row in ctl.lines(["bucket", "ls", "--data", str(endpoint.server.data)])]


def test_keys_that_are_wrong_are_said_before_an_alias_is_kept(ctl: Shell, endpoint: Endpoint) -> None:
    ca = ["--ca", endpoint.authority] if endpoint.authority else []
    ctl(["alias", "set", "bad", endpoint.url, "AKIAAAAAAAAAAAAAAAAA", "x", *ca], code=1)
    assert ctl.err.startswith("titanctl: InvalidAccessKeyId: ") and "(request " in ctl.err
    ctl(["alias", "set", "bad", "http://127.0.0.1:1", "a", "b"], code=1)
    assert "does not answer" in ctl.err
    ctl(["alias", "set", "1", endpoint.url, *endpoint.keys, *ca], code=1)
    ctl(["alias", "set", "bad", endpoint.url + "/path", "a", "b"], code=1)


# data ------------------------------------------------------------------------------------------------------------------


def test_buckets(ctl: Shell, s3: Any, name: str, tmp_path: Path) -> None:
    assert ctl(f"bucket create {name} --versioning") == f"bucket {name}\n"
    ctl(f"bucket create {name} --ignore-existing")
    assert ctl.json(f"bucket versioning {name}") == {"bucket": name, "versioning": "Enabled"}
    assert ctl.json(f"bucket info {name}")["versioning"] == "Enabled"
    policy = tmp_path / "policy.json"
    policy.write_text(json.dumps({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{name}/*"}]}))  # fmt: skip
    ctl(f"bucket policy set {name} {policy}")
    assert ctl(f"bucket policy get {name}").strip() == policy.read_text()
    assert ctl.json(f"bucket info {name}")["is_public"] is True
    ctl(f"bucket policy rm {name}")
    for at in range(3):
        s3.put_object(Bucket=name, Key="k", Body=str(at).encode())
    s3.delete_object(Bucket=name, Key="k")
    s3.create_multipart_upload(Bucket=name, Key="half")
    ctl(f"bucket rm {name}", code=1)
    ctl(f"bucket rm {name} --force", code=2)
    assert "--yes" in ctl.err
    ctl(f"bucket rm {name} --force --yes")
    with refused("NoSuchBucket", 404):
        s3.list_objects_v2(Bucket=name)


@pytest.mark.parametrize(
    "size", [0, 1, 100_000, transfer.WHOLE_BYTES_MAX, transfer.WHOLE_BYTES_MAX + 1, 3 * transfer.PART_BYTES + 7]
)
def test_bodies_go_up_and_down(ctl: Shell, s3: Any, bucket: str, tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    (tmp_path / "file é.bin").write_bytes(data)
    assert ctl.json(["object", "put", "file é.bin", f"{bucket}/a/", "--meta", "who=me"])["key"] == "a/file é.bin"
    found = s3.get_object(Bucket=bucket, Key="a/file é.bin")
    assert found["Body"].read() == data
    assert found["Metadata"] == {"who": "me"}
    ctl(["object", "get", f"{bucket}/a/file é.bin", "back"])
    assert (tmp_path / "back").read_bytes() == data
    assert ctl.json(["object", "stat", f"{bucket}/a/file é.bin"])["size"] == size
    assert not list(tmp_path.glob(".titanctl*"))
    assert s3.list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []


def test_streams(ctl: Shell, bucket: str, tmp_path: Path) -> None:
    ctl(f"object put - {bucket}/k --type text/plain", stdin=b"from a pipe")
    assert ctl(f"object cat {bucket}/k") == ctl(f"object get {bucket}/k -") == "from a pipe"
    assert ctl.json(f"object stat {bucket}/k")["type"] == "text/plain"
    ctl(f"object put - {bucket}", code=2)
    ctl(f"object get {bucket}/missing", code=1)
    assert "NoSuchKey" in ctl.err
    assert not list(tmp_path.glob("missing"))


def test_lists_versions_and_removal(ctl: Shell, s3: Any, versioned: str) -> None:
    for key in ("a/1", "a/2", "b", "a é/%2F", "-+ "):
        s3.put_object(Bucket=versioned, Key=key, Body=key.encode())
    s3.put_object(Bucket=versioned, Key="b", Body=b"new")
    assert [row.get("prefix") or row["key"] for row in ctl.lines(f"object ls {versioned}")] == ["-+ ", "a é/", "a/", "b"]
    assert [row["key"] for row in ctl.lines(f"object ls -r {versioned}")] == ["-+ ", "a é/%2F", "a/1", "a/2", "b"]
    assert "  a/1\n" in ctl(f"object ls -r {versioned}/a/")
    found = ctl.lines(f"object ls --versions {versioned}/b")
    assert [row["is_latest"] for row in found] == [True, False]
    assert ctl(["object", "cat", f"{versioned}/b", "--version-id", found[1]["version_id"]]) == "b"
    ctl(["object", "rm", f"{versioned}/b", "--version-id", found[0]["version_id"]])
    assert ctl(f"object cat {versioned}/b") == "b"
    ctl(f"object rm {versioned}/b")
    assert [row["is_delete_marker"] for row in ctl.lines(f"object ls --versions {versioned}/b")] == [True, False]
    assert ctl.json(f"object rm -r --yes {versioned}/a")["removed"] == 3
    ctl(f"object rm -r {versioned}/", code=2)
    assert ctl.json(f"object rm -r --versions --yes {versioned}/")["removed"] == 9
    assert ctl.lines(f"object ls --versions -r {versioned}") == []


def test_trees_are_copied_once(ctl: Shell, s3: Any, bucket: str, name: str, tmp_path: Path) -> None:
    tree = {"a/b/c": b"1", "a/d e": b"22", "f": b"", "ü/%20": b"333"}
    for key, data in tree.items():
        path = tmp_path / "tree" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, (time.time() - 100, time.time() - 100))
    ctl(f"object cp tree s3://{bucket}/t", code=1)
    assert "-r" in ctl.err
    assert ctl.json(f"object cp -r tree s3://{bucket}/t") == {"copied": 4, "skipped": 0, "bytes": 6}
    assert ctl.json(f"object cp -r tree s3://{bucket}/t") == {"copied": 0, "skipped": 4, "bytes": 0}
    (tmp_path / "tree" / "f").write_bytes(b"more")
    assert ctl.json(f"object cp -r tree s3://{bucket}/t")["copied"] == 1
    assert ctl.json(f"object cp -r s3://{bucket}/t/ back") == {"copied": 4, "skipped": 0, "bytes": 10}
    assert ctl.json(f"object cp -r s3://{bucket}/t/ back")["skipped"] == 4
    assert {
        str(path.relative_to(tmp_path / "back")): path.read_bytes() for path in (tmp_path / "back").rglob("*") if path.is_file()
    } == (tree | {"f": b"more"})
    s3.create_bucket(Bucket=name)
    assert ctl.json(f"object cp -r s3://{bucket}/t/ s3://{name}/copy/")["copied"] == 4
    assert ctl.json(f"object cp -r s3://{bucket}/t/ s3://{name}/copy/")["skipped"] == 4
    assert s3.get_object(Bucket=name, Key="copy/ü/%20")["Body"].read() == b"333"
    ctl(f"object cp s3://{bucket}/t/f {tmp_path}/single")
    assert (tmp_path / "single").read_bytes() == b"more"
    ctl("object cp a b", code=1)
    assert "neither side is remote" in ctl.err


def test_a_bar_on_a_terminal_goes_to_its_end(ctl: Shell, endpoint: Endpoint, bucket: str, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    for number in range(5):
        (tmp_path / "tree" / f"f{number}").write_bytes(os.urandom(1_000_000))
    trust = {"AWS_CA_BUNDLE": endpoint.authority} if endpoint.authority else {}
    for arguments, whole in (
        (["cp", "-r", "tree", f"s3://{bucket}/tree"], "5.0/5.0 MB"), (["cp", "-r", f"s3://{bucket}/tree", "back"], "5.0/5.0 MB"),
        (["get", f"{bucket}/tree/f1"], "1.0/1.0 MB"),
    ):  # fmt: skip
        master, slave = os.openpty()
        command = [sys.executable, "-m", "titans3.cli.titanctl", "object", *arguments]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=slave, env=os.environ | trust | {"TERM": "xterm"}, check=False)
        os.close(slave)
        shown = b""
        with contextlib.suppress(OSError):  # EIO is the end of a terminal that nobody holds
            while piece := os.read(master, 65536):
                shown += piece
        os.close(master)
        assert done.returncode == 0 and whole in shown.decode(), (arguments, shown)


def test_a_key_does_not_leave_the_folder_it_is_copied_into(ctl: Shell, s3: Any, bucket: str, tmp_path: Path) -> None:
    s3.put_object(Bucket=bucket, Key="x/../../escaped", Body=b"")
    ctl(f"object cp -r s3://{bucket}/ {tmp_path}/in/side", code=1)
    assert "would leave" in ctl.err
    assert not list(tmp_path.rglob("escaped"))


def test_a_shared_url_works_without_keys(ctl: Shell, s3: Any, bucket: str, endpoint: Endpoint) -> None:
    import ssl

    s3.put_object(Bucket=bucket, Key="a b/é", Body=b"shared")
    url = ctl(["object", "share", f"{bucket}/a b/é", "--expires", "15m"]).strip()
    trust = ssl.create_default_context(cafile=endpoint.authority) if endpoint.authority else None
    with urllib.request.urlopen(url, context=trust, timeout=10) as answer:
        assert answer.read() == b"shared"
    ctl(["object", "share", f"{bucket}/k", "--expires", "8d"], code=2)


# administration --------------------------------------------------------------------------------------------------------


def test_info_service_and_config(ctl: Shell) -> None:
    assert ctl("info").startswith("tolerance  Whatever process dies")
    assert ctl.json("info")["healthy"] is True
    ctl("service stop", code=2)
    before = ctl.lines("config history")
    number = before[0]["number"] if before else 0
    assert ctl("config set iam.users_max 77") == "iam.users_max = 77\n"
    assert ctl("config get iam.users_max") == "77\n"
    assert ctl.lines("config history")[0]["new"] == 77
    ctl("config set iam.users_max many", code=1)
    ctl(f"config restore {number} --yes")
    assert ctl("config get iam.users_max") == "5000\n"
    ctl("config set access.public false")
    ctl("config reset access.public")
    assert "s3.region" in ctl("config get")


def test_an_account_is_made_as_scripts_expect(ctl: Shell, endpoint: Endpoint, name: str) -> None:
    made = ctl.json(f"account create {name} --email {name}@example.org")
    assert {"account_id", "canonical_id", "display_name", "access_key", "secret_key"} <= made.keys()
    theirs = endpoint.client(keys=(made["access_key"], made["secret_key"]))
    theirs.list_buckets()
    assert name in [row["display_name"] for row in ctl.lines("account ls")]
    ctl(f"account disable {name}")
    with refused("InvalidAccessKeyId", 403):
        theirs.list_buckets()
    ctl(f"account enable {name}")
    assert ctl.json(f"account info {name}")["enabled"] is True
    ctl(f"account rm {name}", code=2)
    ctl(f"account rm {name} --yes")
    ctl(f"account info {name}", code=1)
    assert "NoSuchEntity" in ctl.err


def test_users_groups_policies_and_keys(ctl: Shell, endpoint: Endpoint, s3: Any, bucket: str, name: str, tmp_path: Path) -> None:
    made = ctl.json(f"user add {name}")
    user = endpoint.client(keys=(made["access_key"], made["secret_key"]))
    with refused("AccessDenied", 403):
        user.put_object(Bucket=bucket, Key="k", Body=b"")
    document = tmp_path / "write.json"
    document.write_text(
        json.dumps({"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "s3:PutObject", "Resource": "*"}})
    )
    ctl(f"policy create write-{name} {document}")
    ctl(f"group add g-{name} --policy write-{name}")
    ctl(f"group join g-{name} {name}")
    user.put_object(Bucket=bucket, Key="k", Body=b"")
    assert ctl.json(f"group info g-{name}")["users"] == [name]
    assert ctl.json(f"policy simulate {name} s3:PutObject {bucket}/k")["decision"] == "allowed"
    told = ctl(f"policy simulate {name} s3:GetObject {bucket}/k -c aws:SourceIp=10.0.0.1", code=1)
    assert told.startswith("implicitDeny") and "the action is another" in told
    assert ctl.lines(f"policy entities write-{name}") == [{"kind": "group", "name": f"g-{name}"}]
    ctl(f"policy attach readonly --user {name}")
    user.get_object(Bucket=bucket, Key="k")
    ctl(f"policy detach readonly --user {name}")
    ctl(f"policy attach readonly --user {name} --group g-{name}", code=2)
    ctl(f"policy attach no-such --user {name}", code=1)
    for _ in range(6):
        ctl(f"policy update write-{name} {document}")
    assert json.loads(ctl(f"policy info write-{name}")) == json.loads(document.read_text())
    assert f"write-{name}" in ctl("policy ls --own")
    assert "readwrite" not in ctl("policy ls --own")
    rotated = ctl.json(f"key rotate {made['access_key']} --overlap 0s")
    with refused("InvalidAccessKeyId", 403):
        user.list_buckets()
    service = ctl.json(f"key create --user {name} --service-account --name job --policy {document} --expires 1d")
    assert service["is_service_account"] is True
    listed = {row["access_key"] for row in ctl.lines(f"key ls --user {name}")}
    assert listed == {rotated["access_key"], service["access_key"]}  # the one that ended went when another was made
    assert ctl.json(f"key info {service['access_key']}")["policy"]["Statement"]["Action"] == "s3:PutObject"
    ctl(f"key disable {rotated['access_key']}")
    ctl(f"key enable {rotated['access_key']}")
    ctl(f"key update {service['access_key']} --no-policy --expires 0")
    ctl(f"key update {service['access_key']}", code=2)
    ctl(f"key rm {service['access_key']} --yes")
    ctl(f"user passwd {name}", stdin=b"a good password\n")
    ctl(f"user passwd {name}", stdin=b"another password\n")
    shown = ctl.json(f"user info {name}")
    assert (shown["has_password"], shown["groups"]) == (True, [f"g-{name}"])
    assert "password" not in ctl(f"user info {name}").replace("has password", "")
    ctl(f"user disable {name}")
    ctl(f"user enable {name}")
    ctl(f"user rm {name} --yes", code=1)
    assert "DeleteConflict" in ctl.err
    ctl(f"user rm {name} --force --yes")
    assert name not in [row["name"] for row in ctl.lines("user ls")]
    ctl(f"policy rm write-{name} --yes", code=1)
    ctl(f"group rm g-{name} --force --yes")
    ctl(f"policy rm write-{name} --yes")


def test_the_root_key_is_backed_up_once(ctl: Shell, endpoint: Endpoint, tmp_path: Path) -> None:
    file, data = tmp_path / "key.json", str(endpoint.server.data)
    found = ctl.json(["kms", "backup", str(file), "--data", data])
    assert found["guarded"] is False
    assert file.stat().st_mode & 0o777 == 0o600
    ctl(["kms", "backup", str(file), "--data", data], code=1)
    ctl(["kms", "restore", str(file), "--data", data], code=1)  # the server runs
    assert "lock" in ctl.err or "runs" in ctl.err or "in use" in ctl.err


def test_the_ring_says_where_keys_and_bytes_lie(ctl: Shell, endpoint: Endpoint, s3: Any, versioned: str) -> None:
    ring = ctl.json("ring show")
    assert ring["groups"] == 1024 == sum(row["groups"] for row in ring["volumes"]) == sum(row["groups"] for row in ring["workers"])
    assert [row["worker"] for row in ring["workers"]] == [0, 1]
    table = ctl("ring show")
    assert all(row["uuid"] in table and row["path"] in table for row in ring["volumes"])
    body = os.urandom(300_000)
    key = "a b/é+#?.."
    small = s3.put_object(Bucket=versioned, Key=key, Body=b"small")["VersionId"]
    large = s3.put_object(Bucket=versioned, Key=key, Body=body)["VersionId"]
    found = ctl.json(["ring", "locate", f"{versioned}/{key}"])
    places = ctl.json(f"ring show {versioned}")
    assert found["place"] == places["places"][found["place"]["shard"]] and len(places["places"]) == found["shards"]
    assert (found["key"], found["version"]["version_id"], found["version"]["size"]) == (key, large, len(body))
    (extent,) = found["version"]["extents"]
    volume = next(row["path"] for row in ring["volumes"] if row["volume"] == extent["volume"])
    (segment,) = Path(volume).rglob(extent["segment"])
    assert body in segment.read_bytes()[extent["offset"] :][: extent["length"] + 8192]  # as the running server says, and as it is
    assert extent["kind"] == "extent" and extent["segment"] in ctl(["ring", "locate", f"{versioned}/{key}"])
    older = ctl.json(["ring", "locate", f"{versioned}/{key}", "--version-id", small])["version"]
    assert (older["size"], [row["kind"] for row in older["extents"]]) == (5, ["record"])
    offline = subprocess.run(
        [Path(sys.executable).with_name("titans3"), "tools", "ring", "locate", f"{versioned}/{key}", "--workers", "2", "--json", "--data",
         endpoint.server.data],
        capture_output=True, check=False,
    )  # fmt: skip
    if offline.returncode == 0:  # the bucket may be newer than the last checkpoint, which is all that the offline tool sees
        told = json.loads(offline.stdout)
        assert {name: told[name] for name in ("shard", "group", "volume", "worker", "path")} == found["place"]
    s3.delete_object(Bucket=versioned, Key=key)
    assert ctl.json(["ring", "locate", f"{versioned}/{key}"])["version"]["is_marker"] is True
    assert ctl.json(f"ring locate {versioned}/never", code=1)["version"] is None
    assert "no such key" in ctl(f"ring locate {versioned}/never", code=1)
    ctl("ring show there-is-none", code=1)
    assert "NoSuchEntity" in ctl.err
    ctl(f"ring locate {versioned}", code=1)
    for path in ("/locate", "/locate?key=", f"/locate?key={'x' * 1025}"):
        assert endpoint.admin("GET", f"/ring/{versioned}{path}")[0] == 400


def test_the_ring_is_for_those_who_run_the_server(ctl: Shell, endpoint: Endpoint, bucket: str, name: str) -> None:
    made = ctl.json(f"user add {name} --policy diagnostics")
    keys = made["access_key"], made["secret_key"]
    assert endpoint.admin("GET", "/ring", keys=keys)[0] == 200
    status, refusal = endpoint.admin("GET", f"/ring/{bucket}/locate?key=k", keys=keys)
    assert (status, refusal["error"]["code"]) == (403, "AccessDenied") and "titans3:LocateKey" in refusal["error"]["message"]
    account = ctl.json(f"account create {name}")
    assert endpoint.admin("GET", "/ring", keys=(account["access_key"], account["secret_key"]))[0] == 403


# the command itself ----------------------------------------------------------------------------------------------------


def test_completion_and_wrong_usage(ctl: Shell) -> None:
    assert "_TITANCTL_COMPLETE" in ctl("completion bash")
    ctl("no-such-command", code=2)
    ctl("bucket create", code=2)
    assert ctl.err.count("\n") == 1


def _seconds(work: Callable[[], object]) -> float:
    best = 9.0
    for _ in range(3):
        begin = time.monotonic()
        work()
        best = min(best, time.monotonic() - begin)
    return best


def test_a_command_that_was_meant_is_named(ctl: Shell) -> None:
    ctl("bukcet ls", code=2)
    assert ctl.err == "titanctl: no such command 'bukcet'; did you mean 'bucket'? (see titanctl --help)\n"
    ctl("bucket lss", code=2)
    assert "did you mean 'ls'?" in ctl.err
    ctl("lifecycle", code=2)
    assert "no such command 'lifecycle' (see" in ctl.err


def test_it_answers_in_well_under_half_a_second(endpoint: Endpoint, tmp_path: Path) -> None:
    """Against a bare interpreter on the same machine, so that a slow one does not fail."""
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(tmp_path), "AWS_ENDPOINT_URL": endpoint.url, "AWS_ACCESS_KEY_ID": endpoint.keys[0],
        "AWS_SECRET_ACCESS_KEY": endpoint.keys[1], "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        **({"AWS_CA_BUNDLE": endpoint.authority} if endpoint.authority else {}),
    }  # fmt: skip

    def run(*arguments: str) -> None:
        subprocess.run([sys.executable, *arguments], env=environment, check=True, capture_output=True, timeout=30)

    bare = _seconds(lambda: run("-c", "pass"))
    ctl = ("-m", "titans3.cli.titanctl")
    assert _seconds(lambda: run(*ctl, "--help")) < 10 * bare + 0.1
    assert _seconds(lambda: run(*ctl, "bucket", "ls")) < 20 * bare + 0.1


def test_quota_and_usage(ctl: Shell, s3: Any, bucket: str) -> None:
    assert ctl(f"bucket quota get {bucket}") == f"{bucket}: no quota, 0 B used\n"
    assert ctl(f"bucket quota set {bucket} 1KiB") == f"{bucket}: 0 B of 1.0 KiB used (0.0%)\n"
    s3.put_object(Bucket=bucket, Key="k", Body=bytes(512))
    with refused("QuotaExceeded", 403):
        s3.put_object(Bucket=bucket, Key="l", Body=bytes(513))
    assert ctl.json(f"bucket quota get {bucket}") == {"bucket": bucket, "quota": 1024, "used": 512}
    row = next(row for row in ctl.lines("bucket usage") if row["name"] == bucket)
    assert (row["quota"], row["stored_bytes"], row["objects"]) == (1024, 512, 1)
    assert f"{bucket} " in ctl("bucket usage")
    assert "root" in ctl("bucket usage --by-account")
    assert ctl(f"bucket quota rm {bucket}") == f"{bucket} has no quota\n"
    ctl(f"bucket quota set {bucket} nonsense", code=2)
    ctl(f"bucket quota set {bucket} 0", code=1)
    ctl("bucket quota get is-not-there", code=1)


def test_a_session_is_used_like_a_key(ctl: Shell, endpoint: Endpoint, s3: Any, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"body")
    given = endpoint.client(service="sts").get_session_token(DurationSeconds=900)["Credentials"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", given["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", given["SecretAccessKey"])
    ctl(f"object cat {bucket}/k", code=1)
    assert "InvalidAccessKeyId" in ctl.err
    monkeypatch.setenv("AWS_SESSION_TOKEN", given["SessionToken"])
    assert ctl(f"object cat {bucket}/k") == "body"
    ca = ["--ca", endpoint.authority] if endpoint.authority else []
    ctl(["alias", "set", "short", endpoint.url, given["AccessKeyId"], given["SecretAccessKey"], "--token", given["SessionToken"], *ca])
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    assert ctl(f"object cat {bucket}/k --alias short") == "body"
    assert given["SessionToken"] not in ctl("alias ls --json")
