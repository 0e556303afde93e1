"""The command titanctl as it is installed: what it prints works in a shell, and it says what is wrong when nothing runs."""

from __future__ import annotations

import json
import os
import shlex
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

BIN = Path(sys.executable).parent
Listen = Callable[[ssl.SSLContext | None], str]


@pytest.fixture
def listen() -> Iterator[Listen]:
    """Something that takes connections on a free port; gives its URL."""
    sockets: list[socket.socket] = []

    def start(tls: ssl.SSLContext | None = None) -> str:
        sock = socket.create_server(("127.0.0.1", 0))
        sockets.append(sock)
        if tls is not None:
            threading.Thread(target=shake_hands, args=(sock, tls), daemon=True).start()
        return f"{'https' if tls else 'http'}://127.0.0.1:{sock.getsockname()[1]}"

    yield start
    for sock in sockets:
        sock.close()


def shake_hands(listener: socket.socket, tls: ssl.SSLContext) -> None:
    while True:
        try:
            sock, _ = listener.accept()
        except OSError:
            return
        try:
            tls.wrap_socket(sock, server_side=True).close()
        except OSError:
            sock.close()


def write_folder(folder: Path, url: str, *, access_key: str = "TSKEY", secret_key: str = "secret/+'$(x)", **more: object) -> Path:
    (folder / "run").mkdir(parents=True)
    (folder / "credentials.json").write_text(json.dumps({"access_key": access_key, "secret_key": secret_key, "format": 1}))
    endpoint = {"format": 1, "url": url, "region": "us-east-1", "pid": 123, "tls_cert": "", "board": "/x", "version": "9"}
    (folder / "run/endpoint.json").write_text(json.dumps(endpoint | more))
    return folder


def titanctl(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("TITANS3_", "AWS_"))}
    return subprocess.run(
        [BIN / "titanctl", *arguments], cwd=cwd, env=clean | environment, capture_output=True, text=True, timeout=30, check=False
    )


def shell(folder: Path, script: str, **environment: str) -> str:
    """Output of a script in sh after ``eval "$(titanctl env)"``."""
    line = f'eval "$({shlex.quote(str(BIN / "titanctl"))} env --data {shlex.quote(str(folder))})" && {script}'
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("TITANS3_", "AWS_"))}
    return subprocess.run(["sh", "-euc", line], env=clean | environment, capture_output=True, text=True, timeout=30, check=True).stdout


def aws_variables(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if line.startswith("AWS_"))


def test_env_sets_what_clients_read_and_takes_away_what_would_win_over_it(tmp_path: Path, listen: Listen) -> None:
    url = listen(None)
    folder = write_folder(tmp_path / "a data'folder", url, region="eu-x 1")
    before = {"AWS_SESSION_TOKEN": "old", "AWS_PROFILE": "other", "AWS_ENDPOINT_URL_S3": "https://else", "AWS_CA_BUNDLE": "/kept"}
    assert aws_variables(shell(folder, "env", **before)) == {
        "AWS_ACCESS_KEY_ID": "TSKEY", "AWS_SECRET_ACCESS_KEY": "secret/+'$(x)", "AWS_ENDPOINT_URL": url,
        "AWS_REGION": "eu-x 1", "AWS_DEFAULT_REGION": "eu-x 1", "AWS_CA_BUNDLE": "/kept",
    }  # fmt: skip


def test_boto3_uses_what_env_printed(tmp_path: Path, listen: Listen) -> None:
    folder = write_folder(tmp_path / "data", listen(None))
    script = (
        "import boto3; session = boto3.Session(); meta = session.client('s3').meta; keys = session.get_credentials(); "
        "print(meta.endpoint_url, meta.region_name, keys.access_key, keys.token)"
    )
    url = json.loads((folder / "run/endpoint.json").read_text())["url"]
    assert shell(folder, f"{shlex.quote(sys.executable)} -c {shlex.quote(script)}") == f"{url} us-east-1 TSKEY None\n"


def test_keys_that_the_server_was_given_win_over_the_kept_ones(tmp_path: Path, listen: Listen) -> None:
    folder = write_folder(tmp_path / "data", listen(None), access_key="kept", secret_key="kept secret")
    endpoint = json.loads((folder / "run/endpoint.json").read_text()) | {"access_key": "given", "secret_key": "given secret"}
    (folder / "run/endpoint.json").write_text(json.dumps(endpoint))
    (folder / "credentials.json").unlink()
    assert json.loads(titanctl("env", "--data", str(folder), "--json").stdout)["AWS_SECRET_ACCESS_KEY"] == "given secret"


def test_folder_comes_from_option_environment_or_default(tmp_path: Path, listen: Listen) -> None:
    for name in ("titans3-data", "short", "long"):
        write_folder(tmp_path / name, listen(None), access_key=name)
    cases: list[tuple[list[str], dict[str, str], str]] = [
        ([], {}, "titans3-data"),
        ([], {"TITANS3_NODE__DATA": "long"}, "long"),
        ([], {"TITANS3_DATA": "short"}, "short"),
        (["--data", "long"], {"TITANS3_DATA": "short"}, "long"),
    ]
    for arguments, environment, expected in cases:
        done = titanctl("env", "--json", *arguments, cwd=tmp_path, **environment)
        assert json.loads(done.stdout)["AWS_ACCESS_KEY_ID"] == expected


def test_flags_are_those_of_warp(tmp_path: Path, listen: Listen) -> None:
    url = listen(None)
    folder = write_folder(tmp_path / "data", url, secret_key="plain")
    host = url.removeprefix("http://")
    assert titanctl("env", "--flags", "--data", str(folder)).stdout == f"--host={host} --access-key=TSKEY --secret-key=plain\n"
    (folder / "run/endpoint.json").write_text(json.dumps({"format": 1, "url": url.replace("http", "https"), "region": "r"}))
    assert titanctl("env", "--flags", "--data", str(folder)).stdout.endswith(" --tls\n")
    assert titanctl("env", "--flags", "--json", "--data", str(folder)).returncode == 2


def test_when_nothing_runs_it_says_so_and_prints_nothing(tmp_path: Path, listen: Listen) -> None:
    stopped = write_folder(tmp_path / "stopped", listen(None))
    (stopped / "run/endpoint.json").unlink()
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    killed = write_folder(tmp_path / "killed one", f"http://127.0.0.1:{port}")
    newer = write_folder(tmp_path / "newer", listen(None), format=2)
    broken = write_folder(tmp_path / "broken", listen(None))
    (broken / "run/endpoint.json").write_text("{")
    keyless = write_folder(tmp_path / "keyless", listen(None))
    (keyless / "credentials.json").unlink()
    for folder, expected in {
        tmp_path / "nowhere": f"there is no folder {tmp_path}/nowhere; name the server's data folder: titanctl env --data PATH",
        stopped: f"no server runs on {stopped}; start one: titans3 run --data {stopped}",
        killed: f"the server of {killed} (process 123) does not answer at http://127.0.0.1:{port}: Connection refused",
        newer: "has format 2, this titanctl reads 1",
        broken: "endpoint.json is not readable",
        keyless: f"titans3 credentials reset --data {keyless}",
    }.items():
        done = titanctl("env", "--data", str(folder))
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("titanctl: ") and done.stderr.count("\n") == 1
        assert expected in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can try to be somebody else")
def test_the_folder_of_another_user_is_named_as_such(listen: Listen) -> None:
    with tempfile.TemporaryDirectory() as parent:
        Path(parent).chmod(0o755)
        folder = write_folder(Path(parent) / "data", listen(None))
        (folder / "run").chmod(0o700)
        code = f"import os; from titans3.cli.endpoint import running; os.setuid(65534); running({str(folder)!r})"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert f"{folder} belongs to root, and its keys are for that user alone" in done.stderr


# TLS -------------------------------------------------------------------------------------------------------------------


class Certificates:
    """An authority of one's own, a server's chain without and with the authority, and a server context."""

    def __init__(self, folder: Path, *names: str) -> None:
        authority = trustme.CA()
        issued = authority.issue_cert(*names)
        self.chain, self.full, self.authority = folder / "chain.pem", folder / "full.pem", folder / "ca.pem"
        chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
        self.chain.write_bytes(chain)
        self.full.write_bytes(chain + authority.cert_pem.bytes())
        self.authority.write_bytes(authority.cert_pem.bytes())
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        issued.configure_cert(self.context)


def test_a_private_authority_in_the_chain_becomes_the_bundle(tmp_path: Path, listen: Listen) -> None:
    made = Certificates(tmp_path, "127.0.0.1")
    folder = write_folder(tmp_path / "data", listen(made.context), tls_cert=str(made.full))
    assert aws_variables(shell(folder, "env"))["AWS_CA_BUNDLE"] == str(made.full)
    assert aws_variables(shell(folder, "env", AWS_CA_BUNDLE="/of/another/server.pem"))["AWS_CA_BUNDLE"] == str(made.full)


def test_a_bundle_that_fits_is_kept_and_one_that_does_not_goes(tmp_path: Path, listen: Listen) -> None:
    made = Certificates(tmp_path, "127.0.0.1")
    folder = write_folder(tmp_path / "data", listen(made.context), tls_cert=str(made.chain))
    assert aws_variables(shell(folder, "env", AWS_CA_BUNDLE=str(made.authority)))["AWS_CA_BUNDLE"] == str(made.authority)
    done = titanctl("env", "--data", str(folder), AWS_CA_BUNDLE="/of/another/server.pem")
    assert done.returncode == 0 and "unset" in done.stdout and " AWS_CA_BUNDLE" in done.stdout
    assert "clients will refuse the certificate" in done.stderr and "set AWS_CA_BUNDLE to your authority's file" in done.stderr


def test_an_endpoint_that_names_its_authority_is_taken_at_its_word(tmp_path: Path, listen: Listen) -> None:
    folder = write_folder(tmp_path / "data", listen(None).replace("http", "https"), ca="/srv/ca.pem")
    assert json.loads(titanctl("env", "--json", "--data", str(folder)).stdout)["AWS_CA_BUNDLE"] == "/srv/ca.pem"


def test_a_certificate_for_another_name_is_told(tmp_path: Path, listen: Listen) -> None:
    made = Certificates(tmp_path, "s3.example.org")
    folder = write_folder(tmp_path / "data", listen(made.context), tls_cert=str(made.full))
    done = titanctl("env", "--data", str(folder))
    assert done.returncode == 0 and "export AWS_ENDPOINT_URL=" in done.stdout
    assert "clients will refuse the certificate" in done.stderr
