"""No secret is in any log, trail, trace, metric, dump, error, file, process title or environment: planted ones are looked for after a run.

What is handed out (the answer of CreateAccessKey, `titanctl user add`) is no output here, and `credentials.json`, readable by its owner
alone, is the documented exception among the files.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from hashlib import md5
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import pytest
from botocore.exceptions import ClientError

from tests.conformance.collector import Collector, collecting
from tests.conformance.planted import Planted, spellings
from tests.conformance.receiver import Receiver
from tests.conformance.scraped import ask
from tests.conformance.served import Endpoint
from tests.conformance.test_forms import form, send, signed_2, signed_4
from tests.conformance.test_iam import document
from tests.faults.server import Server
from titans3.cli.main import main as titans3
from titans3.cli.titanctl import main as titanctl
from titans3.supervisor.folder import read_cluster
from titans3.supervisor.root_key import read_any, unkeep

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
BIN = Path(sys.executable).parent
BUCKET, CLEAR = "planted", b"a small body, which is no secret"


class Run:
    """A server with everything on that writes anything, and what was planted in it."""

    def __init__(self, folder: Path, receiver: Receiver, collector: Collector) -> None:
        self.folder, self.receiver, self.collector, self.planted = folder, receiver, collector, Planted()
        plant = self.planted.plant
        for name, what in (("passphrase", "passphrase of the root key"), ("hook", "token of the webhook")):
            (folder / name).write_text(plant(what, secrets.token_urlsafe(24)))
        self.metrics_token = plant("token of the metrics", secrets.token_urlsafe(24))
        env = {
            "TITANS3_LOG__LEVEL": "debug", "TITANS3_ACCESS_LOG__PATH": str(folder / "access"), "TITANS3_METRICS__TOKEN": self.metrics_token,
            "TITANS3_KMS__PASSPHRASE_FILE": str(folder / "passphrase"), "TITANS3_AUDIT__WEBHOOK_URL": receiver.url,
            "TITANS3_AUDIT__WEBHOOK_TOKEN_FILE": str(folder / "hook"), "TITANS3_AUDIT__WEBHOOK_SECONDS": "1s", "PYTHONFAULTHANDLER": "1",
            "TITANS3_S3__DOMAINS": "s3.localhost", "TITANS3_TRACING__ENDPOINT": collector.url, "TITANS3_TRACING__RATIO": "1",
            "OTEL_EXPORTER_OTLP_HEADERS": f"authorization={plant('token of the collector', secrets.token_urlsafe(24))}",
        }  # fmt: skip
        self.server = Server(folder / "data", env=env)
        self.endpoint = Endpoint(self.server)

    # asking --------------------------------------------------------------------------------------------------------

    def raw(self, method: str, target: str, headers: dict[str, str] | None = None, body: bytes = b"", **more: Any) -> int:
        """A request whose answer hands out nothing; its status."""
        answer = self.endpoint.raw(method, target, headers, body, **more)
        told = f"{answer.status} {answer.headers} ".encode() + answer.body
        self.planted.put("answers", told)
        return answer.status

    def try_(self, client: Any, operation: str, **arguments: Any) -> None:
        """A call that hands out nothing; what the SDK raises is an output, too."""
        try:
            self.planted.put("answers", repr(getattr(client, operation)(**arguments)))
        except ClientError as error:
            self.planted.put("errors", repr(error.response))

    def ctl(self, *arguments: str, stdin: str = "", shown: bool = True) -> str:
        """titanctl, or with ``titans3`` in front that; standard output."""
        command, words = (titans3, arguments[1:]) if arguments[0] == "titans3" else (titanctl, arguments)
        kept = {name: value for name, value in self.server.env.items() if not name.startswith(("AWS_", "TITANCTL_"))}
        kept |= {"TITANS3_DATA": str(self.server.data), "XDG_CONFIG_HOME": str(self.folder / "config")}
        out, errors = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            patch.setattr(os, "environ", kept)
            patch.setattr(sys, "stdin", io.StringIO(stdin))
            command(list(words))
        self.planted.put("stderr of commands", errors.buffer.getvalue())  # type: ignore[attr-defined]
        told: bytes = out.buffer.getvalue()  # type: ignore[attr-defined]
        if shown:
            self.planted.put(" ".join(arguments[:3]), told)
        return told.decode()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """After everything was done; the server is down."""
    receiver = Receiver()
    receiver.start()
    with contextlib.ExitStack() as stack:
        stack.callback(receiver.stop)
        made = Run(tmp_path_factory.mktemp("secrets"), receiver, stack.enter_context(collecting()))
        stack.callback(lambda: made.server.process is None or made.server.process.poll() is not None or made.server.kill_tree())
        made.server.start()
        asyncio.run(made.server.wait_ready())
        made.endpoint.keys = made.server.credentials()
        made.planted.plant("secret key of the root", made.endpoint.keys[1])
        with watched(made):
            use(made)
            receiver.mood = "ill"  # a failure of the webhook is logged, too
            use_badly(made)
        running(made)
        crash(made)
        receiver.mood = "well"
        until_delivered(made)
        assert made.server.stop() == 0
        stopped(made)
        yield made


@contextlib.contextmanager
def watched(run: Run) -> Iterator[None]:
    """Live trace and live logs from before the first secret to behind the last."""
    views = {}
    env = run.server.env | {"TITANS3_DATA": str(run.server.data), "PYTHONUNBUFFERED": "1"}
    for view in (["trace"], ["logs", "--level", "debug"]):
        command = [str(BIN / "titanctl"), *view, "--json"]
        views[view[0]] = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    time.sleep(1.5)
    heads: dict[str, bytes] = {}
    readers = [threading.Thread(target=_drain, args=(name, view, heads)) for name, view in views.items()]
    for reader in readers:
        reader.start()
    try:
        yield
        time.sleep(1.5)
    finally:
        for view_ in views.values():
            view_.send_signal(signal.SIGINT)
            view_.wait(20)
        for reader in readers:
            reader.join(20)
        for name, data in heads.items():
            run.planted.put(f"live {name}", data)


def _drain(name: str, view: subprocess.Popen[bytes], heads: dict[str, bytes]) -> None:
    assert view.stdout is not None
    with view.stdout:
        heads[name] = view.stdout.read()


# what is done ----------------------------------------------------------------------------------------------------------


def use(run: Run) -> None:
    """Every secret as it is meant to be used."""
    plant, endpoint = run.planted.plant, run.endpoint
    s3, iam = endpoint.client(), endpoint.client(service="iam")
    s3.create_bucket(Bucket=BUCKET)
    run.try_(s3, "put_object", Bucket=BUCKET, Key="k", Body=CLEAR)
    iam.create_user(UserName="planted")
    key = iam.create_access_key(UserName="planted")["AccessKey"]
    plant("secret key of a user", key["SecretAccessKey"])
    iam.put_user_policy(UserName="planted", PolicyName="all", PolicyDocument=document("*"))
    iam.create_login_profile(UserName="planted", Password=plant("console password", secrets.token_urlsafe(15)))
    iam.update_login_profile(UserName="planted", Password=plant("second console password", secrets.token_urlsafe(15) + "/+ é&=x"[:4]))
    own = endpoint.client(service="iam", keys=(key["AccessKeyId"], key["SecretAccessKey"]))
    third = plant("third console password", secrets.token_urlsafe(15))
    own.change_password(OldPassword=run.planted.secrets["second console password"].decode(), NewPassword=third)
    sts = endpoint.client(service="sts", keys=(key["AccessKeyId"], key["SecretAccessKey"]))
    role = iam.create_role(RoleName="planted", AssumeRolePolicyDocument=json.dumps({
        "Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}],
    }))["Role"]  # fmt: skip
    for what, found in (
        ("of a session", sts.get_session_token()), ("of a role", sts.assume_role(RoleArn=role["Arn"], RoleSessionName="planted")),
    ):  # fmt: skip
        given = found["Credentials"]
        plant(f"secret key {what}", given["SecretAccessKey"])
        plant(f"session token {what}", given["SessionToken"])
        keys = (given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"])
        session = endpoint.client(keys=keys, signature_version="s3v4")
        run.try_(session, "list_buckets")
        presigned(run, session, what)
    for version in ("s3", "s3v4"):
        presigned(run, endpoint.client(signature_version=version), f"of the root, {version}")
    forms(run)
    customer_key(run, s3)
    made = json.loads(run.ctl("user", "add", "second", "--policy", "readwrite", "--json", shown=False))
    plant("secret key that titanctl made", made["secret_key"])
    service = json.loads(run.ctl("key", "create", "--user", "second", "--service-account", "--json", shown=False))
    plant("secret key of a service account", service["secret_key"])
    rotated = json.loads(run.ctl("key", "rotate", service["access_key"], "--json", shown=False))
    plant("secret key of a rotation", rotated["secret_key"])
    account = json.loads(run.ctl("account", "create", "planted", "--json", shown=False))
    plant("secret key of an account", account["secret_key"])
    run.ctl("user", "passwd", "second", stdin=plant("password that titanctl sets", secrets.token_urlsafe(15)) + "\n")
    run.ctl("alias", "set", "planted", endpoint.url, made["access_key"], made["secret_key"])
    run.planted.put("metrics", ask(endpoint.url, run.metrics_token)[2])


def presigned(run: Run, client: Any, what: str) -> None:
    """A URL of each method, and one as a browser passes it on: in Referer."""
    for operation in ("get_object", "put_object"):
        url = urlsplit(client.generate_presigned_url(operation, Params={"Bucket": BUCKET, "Key": "by url"}))
        signature = re.search(r"(?:X-Amz-Signature|Signature)=([^&]+)", url.query)
        assert signature is not None
        text = signature[1].replace("%2B", "+").replace("%2F", "/").replace("%3D", "=")
        run.planted.plant(f"signature of a presigned {operation} {what}", text)
        method = operation[:3].upper()
        run.raw(method, f"{url.path}?{url.query}", {}, b"", sign=False)
        run.raw("GET", "/", {"Referer": f"{run.endpoint.url}{url.path}?{url.query}", "User-Agent": "planted"}, sign=False)
        spelled = re.sub("(?i)signature=", "%53ignature=", url.query)  # a name may be encoded as well as a value
        run.raw(method, f"{url.path}?{spelled}", {}, b"", sign=False)


def forms(run: Run) -> None:
    """Uploads of both versions, right and wrong."""
    for version, sign in (("2", signed_2), ("4", signed_4)):
        fields = sign(run.endpoint, {"key": f"form {version}"}, [{"bucket": BUCKET}, ["starts-with", "$key", ""]])
        name = "signature" if version == "2" else "x-amz-signature"
        run.planted.plant(f"signature of a form {version}", fields[name])
        for sent in (fields, fields | {"key": "x" * 2000}, {**fields, "policy": "bm9uZQ=="}):
            answer = send(run.endpoint, BUCKET, form(sent))
            run.planted.put("answers", re.sub(b"<SignatureProvided>.*?</SignatureProvided>", b"", answer.body))


def customer_key(run: Run, s3: Any) -> None:
    """SSE-C, whether it is built or not: the key is in headers of any request."""
    key = secrets.token_bytes(32)
    text = run.planted.plant("customer key", b64encode(key).decode())
    run.planted.plant("customer key, decoded", key)
    headers = {
        f"x-amz-{copy}server-side-encryption-customer-{name}": value
        for copy in ("", "copy-source-")
        for name, value in (("algorithm", "AES256"), ("key", text), ("key-MD5", b64encode(md5(key).digest()).decode()))
    }  # fmt: skip
    for method, target in (("PUT", "sse"), ("GET", "k"), ("HEAD", "k"), ("POST", "sse?uploads"), ("PUT", "k?partNumber=1&uploadId=none")):
        run.raw(method, f"/{BUCKET}/{target}", dict(headers), b"body" if method == "PUT" else b"")
        run.raw(method, f"/{BUCKET}/{target}", dict(headers), sign=False)
    run.raw("PUT", f"/{BUCKET}/sse", headers | {"x-amz-server-side-encryption-customer-algorithm": "none"}, b"body")
    run.raw("PUT", f"/{BUCKET}/sse", headers | {"x-amz-copy-source": f"/{BUCKET}/k"})


def use_badly(run: Run) -> None:
    """Secrets that are wrong, in the wrong place, or of requests that fail."""
    plant, endpoint = run.planted.plant, run.endpoint
    wrong = plant("wrong secret key", secrets.token_urlsafe(30))
    run.raw("GET", f"/{BUCKET}", keys=(endpoint.keys[0], wrong))
    run.raw("GET", f"/{BUCKET}", keys=("AKIANOBODYKNOWSTHIS1", wrong))
    token = plant("wrong session token", secrets.token_urlsafe(60))
    for service in ("s3", "sts", "iam"):
        client = endpoint.client(service=service, keys=(*endpoint.keys, token))
        run.try_(client, {"s3": "list_buckets", "sts": "get_caller_identity", "iam": "list_users"}[service])
    run.raw("GET", f"/{BUCKET}/k?X-Amz-Security-Token={token}&%58-Amz-Security-Token={token}", sign=False)
    for name, value in (("none", None), ("wrong", plant("wrong token of the metrics", secrets.token_urlsafe(24)))):
        run.planted.put("metrics", repr((name, ask(endpoint.url, value))))
    identity = plant("web identity token", ".".join(secrets.token_urlsafe(40) for _ in range(3)))
    password = plant("password in a query", secrets.token_urlsafe(18))
    for parameters in (
        {"Action": "AssumeRoleWithWebIdentity", "Version": "2011-06-15", "RoleArn": "arn:aws:iam::000000000000:role/planted",
         "RoleSessionName": "s", "WebIdentityToken": identity},
        {"Action": "ChangePassword", "Version": "2010-05-08", "OldPassword": password, "NewPassword": password},
        {"Action": "CreateLoginProfile", "Version": "2010-05-08", "UserName": "planted", "Password": password},
        {"Action": "NoSuchAction", "Version": "2010-05-08", "Password": password, "WebIdentityToken": identity},
    ):  # fmt: skip
        text = urlencode(parameters)
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        for sign in (True, False):
            run.raw("POST", "/", kind, text.encode(), sign=sign)
            run.raw("GET", f"/?{text}", sign=sign)
    iam = endpoint.client(service="iam")
    run.try_(iam, "create_login_profile", UserName="nobody", Password=password)
    run.try_(iam, "change_password", OldPassword=password, NewPassword=password)
    for path, body in (
        ("/iam/CreateLoginProfile", {"UserName": "nobody", "Password": password}), ("/iam/CreateLoginProfile", {"Password": [password]}),
        ("/keys", {"user": "planted", "secret_key": password}), ("/accounts", {"display_name": {"secret": password}}),
        ("/config/iam.users_max", {"token": password}), ("/simulate", {"password": password}),
    ):  # fmt: skip
        for method in ("POST", "PUT"):
            status, answer = endpoint.admin(method, path, body)
            run.planted.put("answers", json.dumps([status, answer]))
    bearer = plant("bearer token of somebody else", secrets.token_urlsafe(30))
    run.raw("GET", f"/{BUCKET}/k", {"Authorization": f"Bearer {bearer}"}, sign=False)
    basic = plant("basic password of somebody else", secrets.token_urlsafe(18))
    run.raw("GET", f"/{BUCKET}/k", {"Authorization": f"Basic {b64encode(f'u:{basic}'.encode()).decode()}"}, sign=False)
    cookie = plant("cookie of somebody else", secrets.token_urlsafe(18))
    run.raw("GET", f"/{BUCKET}/k", {"Cookie": f"session={cookie}"}, sign=False)
    host = quote(run.planted.secrets["third console password"].decode())
    run.raw("GET", "http://user:" + host + f"@s3.localhost/{BUCKET}/k", sign=False)
    run.ctl("alias", "set", "wrong", endpoint.url, endpoint.keys[0], wrong)
    run.ctl("user", "passwd", "nobody", stdin=password + "\n")
    run.ctl("kms", "backup", str(run.folder / "backup.json"))


# what comes out --------------------------------------------------------------------------------------------------------


def running(run: Run) -> None:
    """What a running server shows to whoever asks, and of its processes."""
    put = run.planted.put
    for command in (
        ["info"], ["config", "get"], ["config", "history"], ["audit", "ls", "-n", "10000"], ["alias", "ls"], ["key", "ls", "--all"],
        ["user", "info", "planted"], ["audit", "export", "-"], ["logs", "--for", "0", "-n", "1000"], ["ring", "locate", f"{BUCKET}/k"],
    ):  # fmt: skip
        run.ctl(*command, "--json")
        run.ctl(*command)
    run.ctl("titans3", "config", "show")
    put("metrics", ask(run.endpoint.url, run.metrics_token)[2])
    for process in run.server.family():
        base = Path("/proc") / str(process.pid)
        put("process titles", b"\n".join(base.joinpath(name).read_bytes() for name in ("cmdline", "comm", "status")))
        put("names of open files", "\n".join(_link(path) for path in base.joinpath("fd").iterdir()))
        if run.server.process is not None and process.pid != run.server.process.pid:  # whose environment is what the operator gave it
            put("environments of workers", base.joinpath("environ").read_bytes())


def _link(path: Path) -> str:
    try:
        return os.readlink(path)
    except OSError:  # it was closed meanwhile
        return ""


def crash(run: Run) -> None:
    """A worker dies with requests in it, once with a word of Python's, once without."""
    for number in (signal.SIGABRT, signal.SIGKILL):
        before = run.server.worker_pids()
        os.kill(before[-1], number)
        deadline = time.monotonic() + 30
        while before[-1] in run.server.worker_pids() or len(run.server.worker_pids()) < 2:
            assert time.monotonic() < deadline, "it is started again"
            time.sleep(0.1)
        asyncio.run(run.server.wait_ready())
    run.raw("GET", f"/{BUCKET}/k")


def until_delivered(run: Run) -> None:
    """Until the receiver of the webhook has the last line."""
    run.endpoint.admin("PUT", "/config/iam.users_max", {"value": 4321})
    deadline = time.monotonic() + 60
    while "4321" not in json.dumps(run.receiver.lines()):
        assert time.monotonic() < deadline, run.server.tail()
        time.sleep(0.2)


def stopped(run: Run) -> None:
    """Files, and what offline tools print of them."""
    planted = run.planted
    kept = read_any(str(run.server.data), read_cluster(str(run.server.data)))
    planted.plant("root key", unkeep(kept, planted.secrets["passphrase of the root key"].decode()).raw)
    run.ctl("titans3", "tools", "meta", "dump")
    run.ctl("titans3", "tools", "disk", "info", "--json")
    planted.put("server's log", run.server.log.read_bytes())
    assert planted.put_tree(run.server.data, but=("credentials.json",)) > 10
    assert planted.put_tree(run.folder / "access") >= 2
    planted.put("backup of the root key", (run.folder / "backup.json").read_bytes())
    planted.put("webhook", json.dumps(run.receiver.lines()))  # its header is for the receiver alone
    planted.put("traces", b"\n".join(run.collector.bodies) + repr(run.collector.spans).encode())  # as above


# what is shown ---------------------------------------------------------------------------------------------------------


def test_no_planted_secret_is_in_anything_that_came_out(run: Run) -> None:
    assert len(run.planted.secrets) >= 30
    assert run.planted.found() == []


def test_the_run_made_every_output_that_is_looked_through(run: Run) -> None:
    """Or looking through it says nothing."""
    outputs = run.planted.outputs
    joined = dict.fromkeys(("access", "audit"), b"")
    for name, data in outputs.items():
        for folder in joined:
            if f"/{folder}/{folder}." in name:
                joined[folder] += data
    for name, words in (
        ("server's log", (b" debug ", b"Fatal Python error: Aborted", b"audit lines are not delivered", b"worker 0")),
        ("live trace", (b"PutObject", b"X-Amz-Signature=...")), ("live logs", (b'"level": "debug"',)),
        ("metrics", (b"titans3_requests_total",)), ("webhook", (b"iam:CreateLoginProfile", b"refused")),
        ("audit export -", (b"iam:ChangePassword",)),
        ("titans3 tools meta", (b"/accounts/", b"sha256")), ("titans3 config show", (b'token = "***"',)),
        ("errors", (b"InvalidClientTokenId",)), ("answers", (b"SignatureDoesNotMatch", b"NotImplemented", b"InvalidAccessKeyId")),
        ("traces", (b"PutObject", b"url.path", b"/planted/by%20url")), ("process titles", (b"titans3: worker 0",)),
    ):  # fmt: skip
        for word in words:
            assert word in outputs[name], (name, word)
    for word in (b"X-Amz-Signature=...", b"POST", b"AssumeRoleWithWebIdentity"):
        assert word in joined["access"], word
    assert b"iam:CreateLoginProfile" in joined["audit"]
    assert any(CLEAR in data for name, data in outputs.items() if "/data/volumes/" in name)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_secret_is_found_in_every_spelling(place: int) -> None:
    planted = Planted()
    secret = planted.plant("it", "a/b+c é " + secrets.token_urlsafe(12))
    raw = planted.secrets["it"]
    texts = (
        raw, raw.hex().encode(), raw.hex().upper().encode(), b64encode(b"x" * place + raw + b"yz"), quote(raw, safe="").encode(),
        quote(raw, safe="").lower().encode(), json.dumps(raw.decode()).encode(), repr(raw).encode(),
    )  # fmt: skip
    for text in texts:
        one = Planted(planted.secrets, {"out": b"before " + text + b" behind"})
        assert len(one.found()) == 1, text
    assert Planted(planted.secrets, {"out": b"nothing"}).found() == []
    assert all(len(form) >= 8 for form in spellings(raw)) and secret
