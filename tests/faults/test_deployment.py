"""What conf/systemd and conf/docker say is true of the program: paths, keys, ports, steps, health, hardening."""

from __future__ import annotations

import asyncio
import ctypes
import hashlib
import json
import os
import re
import shlex
import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.served import certificate
from tests.faults.server import Server, until
from titans3.config.keys import keys
from titans3.config.sources import load

CONF = Path(__file__).resolve().parent.parent.parent / "conf"
TITANS3 = Path(sys.executable).with_name("titans3")
PR_SET_MDWE, REFUSE_EXEC_GAIN = 65, 1


def health(data: Path, *more: str) -> tuple[int, str]:
    done = subprocess.run([TITANS3, "health", "--data", str(data), *more], capture_output=True, text=True, timeout=30, check=False)
    return done.returncode, (done.stdout + done.stderr).strip()


@pytest.fixture(params=["http", "https"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    env, trust = {}, None
    if request.param == "https":
        cert, key, authority = certificate(tmp_path)
        env = {"TITANS3_S3__TLS_CERT": cert, "TITANS3_S3__TLS_KEY": key}
        trust = ssl.create_default_context(cafile=authority)
        Path(cert).write_bytes(Path(cert).read_bytes() + Path(authority).read_bytes())  # an authority of one's own goes at the end
    server = Server(tmp_path / "data", env=env, tls=trust)
    server.start()
    asyncio.run(server.wait_ready())
    try:
        yield server
    finally:
        server.stop()


def test_health_says_how_the_server_is(server: Server) -> None:
    assert health(server.data) == (0, "ready")
    assert health(server.data, "--cluster")[0] == 0
    server.stop()
    code, text = health(server.data)
    assert code == 1 and "no server runs" in text


# systemd ---------------------------------------------------------------------------------------------------------------


def unit() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in (CONF / "systemd/titans3.service").read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    """With a program where the unit expects it, systemd finds nothing to say."""
    root = tmp_path / "root"
    (root / "etc/systemd/system").mkdir(parents=True)
    text = (CONF / "systemd/titans3.service").read_text().replace("/opt/titans3/bin/titans3", str(TITANS3))
    (root / "titans3.service").write_text(text.replace("User=titans3", "User=www-data").replace("Group=titans3", "Group=www-data"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(root / "titans3.service")], capture_output=True, text=True, timeout=60, check=False
    )
    said = [line for line in (done.stdout + done.stderr).splitlines() if "titans3.service" in line]
    assert (done.returncode, said) == (0, []), done.stderr


def test_the_unit_agrees_with_the_program(tmp_path: Path) -> None:
    said = unit()
    (start,) = said["ExecStart"]
    command = shlex.split(start)[1:]
    config = tmp_path / "titans3.toml"
    config.write_text((CONF / "titans3.toml").read_text())
    assert command == ["run", "--config", "/etc/titans3/titans3.toml", "--data", "/srv/titans3"]
    assert said["ReadWritePaths"] == said["RequiresMountsFor"] == said["ConditionPathIsDirectory"] == [command[-1]]
    drain = load(str(config))[0].node.drain_seconds
    assert int(said["TimeoutStopSec"][0]) > drain + 30
    assert said["Type"] == ["notify"] and said["KillSignal"] == ["SIGTERM"]
    assert f"u {said['User'][0]} " in (CONF / "systemd/titans3.sysusers").read_text()


def _deny_write_execute() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_MDWE, REFUSE_EXEC_GAIN, 0, 0, 0) != 0:
        os._exit(77)


def test_the_server_runs_without_memory_that_can_be_written_and_executed(tmp_path: Path) -> None:
    """``MemoryDenyWriteExecute``, as the kernel enforces it from 6.3 on, and ``UMask``."""
    probe = subprocess.run([sys.executable, "-c", "pass"], preexec_fn=_deny_write_execute, check=False, timeout=30)
    if probe.returncode == 77:
        pytest.skip("this kernel has no PR_SET_MDWE")
    server = Server(tmp_path / "data")
    with open(server.log, "ab") as log:
        server.process = subprocess.Popen(
            [TITANS3, "run", "--data", str(server.data), "--s3", f"127.0.0.1:{server.port}", "--workers", "2"], stdout=log, stderr=log,
            stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_deny_write_execute, umask=0o077,
        )  # fmt: skip

    async def work() -> None:
        await server.wait_ready()
        wire = server.wire()
        assert (await wire.call("PUT", "/things"))[0] == 200
        assert (await wire.call("PUT", "/things/k", body=b"x" * 300_000))[0] == 200
        assert (await wire.call("GET", "/things/k"))[2] == b"x" * 300_000
        for number in range(4):  # the first has the kernels of the lanes loaded, the others are hashed by them
            body = bytes([number]) * 1_500_000
            status, fields, _ = await wire.call("PUT", "/things/large", body=body)
            assert (status, fields["etag"]) == (200, f'"{hashlib.md5(body).hexdigest()}"')
        wire.close()

    try:
        asyncio.run(work())
    finally:
        assert server.stop() == 0
    assert "one after the other, not side by side" not in server.log.read_text()
    others = [path for path in server.data.rglob("*") if path.stat().st_mode & 0o077]
    assert others == []


# containers ------------------------------------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    """Of the Dockerfile; continued lines are not used in it."""
    lines = (CONF / "docker/Dockerfile").read_text().splitlines()
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in lines if line and not line.startswith("#")]


def last(word: str) -> str:
    return [value for name, value in instructions() if name == word][-1]


def test_the_image_runs_as_nobody_special_and_says_how_it_is() -> None:
    known = {"FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "VOLUME", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD"}
    assert {name for name, _ in instructions()} <= known
    assert re.fullmatch(r"[1-9][0-9]*:[1-9][0-9]*", last("USER"))
    names = {f"TITANS3_{key.path.upper().replace('.', '__')}" for key in keys()}
    env = dict(pair.split("=", 1) for pair in shlex.split(last("ENV")))
    assert {name for name in env if name.startswith("TITANS3_")} <= names
    assert env["TITANS3_NODE__DATA"] == last("VOLUME") and env["TITANS3_S3__LISTEN"].endswith(f":{last('EXPOSE')}")
    assert json.loads(last("ENTRYPOINT")) + json.loads(last("CMD")) == ["titans3", "run"]
    assert json.loads(last("HEALTHCHECK").partition("CMD ")[2]) == ["titans3", "health"]
    for name, value in instructions():
        if name == "COPY" and not value.startswith("--from"):
            assert all((CONF.parent / source).exists() for source in value.split()[:-1])
        if name == "FROM":
            assert ":" in value.split()[0], "a base has a tag"


def test_compose_is_as_strict_as_the_unit() -> None:
    text = (CONF / "docker/compose.yaml").read_text()
    for wanted in ("read_only: true", "- ALL", "no-new-privileges:true", "stop_grace_period: 2m", '"127.0.0.1:9000:9000"', "- data:/data"):
        assert wanted in text
    assert f"dockerfile: {Path('conf/docker/Dockerfile')}" in text


def _reachable(*paths: Path) -> str:
    """Shell commands that let everybody reach folders behind closed ones (an interpreter in somebody's home), in this namespace alone."""
    closed: dict[Path, list[Path]] = {}
    for path in paths:
        for parent in reversed(path.parents):
            if not parent.stat().st_mode & 0o001:
                closed.setdefault(parent, []).append(path)
                break
    lines = []
    for number, (folder, inside) in enumerate(closed.items()):
        keep = f"/tmp/keep-{os.getpid()}-{number}"
        lines += [f"mkdir -p {keep}", f"mount --bind {folder} {keep}", f"mount -t tmpfs -o mode=755 tmpfs {folder}"]
        for path in inside:
            lines += [f"mkdir -p {path}", f"mount --bind {keep}/{path.relative_to(folder)} {path}"]
        lines += [f"umount -l {keep}", f"rmdir {keep}"]
    return "\n".join(lines)


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="only root makes mount namespaces")
def test_the_image_s_command_needs_no_more_than_its_volume(tmp_path: Path) -> None:
    """What ENTRYPOINT, CMD, ENV, USER and HEALTHCHECK say, without capabilities and on a root that is read-only but for the volume."""
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(folder.stat().st_mode | 0o055)
    uid, gid = last("USER").split(":")
    os.chown(data, int(uid), int(gid))
    server = Server(data)
    server.log = tmp_path / "log"
    as_user = f"setpriv --reuid={uid} --regid={gid} --clear-groups --no-new-privs --inh-caps=-all --bounding-set=-all"
    command = shlex.join([str(TITANS3), *json.loads(last("CMD"))])
    check = shlex.join([str(TITANS3), *json.loads(last("HEALTHCHECK").partition("CMD ")[2])[1:]])
    script = f"""set -e
mount --make-rprivate /
{_reachable(Path(sys.base_prefix), Path(sys.prefix), CONF.parent)}
mount --bind {data} {data}
mount -o remount,ro,bind /
if touch {tmp_path}/written 2>/dev/null; then echo the root can be written; exit 9; fi
(for _ in $(seq 100); do sleep 0.2; if {as_user} {check}; then exit 0; fi; done; exit 1) > /dev/null 2>&1 && echo healthy > {data}/healthy &
exec {as_user} {command}
"""
    env = {
        "PATH": os.environ["PATH"], "HOME": str(data), "PYTHONPATH": os.environ.get("PYTHONPATH", ""), "TITANS3_NODE__WORKERS": "2",
        "TITANS3_NODE__DATA": str(data), "TITANS3_S3__LISTEN": f"127.0.0.1:{server.port}",
    }  # fmt: skip
    with open(server.log, "ab") as log:
        server.process = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", script], stdout=log, stderr=log, env=env, start_new_session=True
        )

    async def work() -> None:
        await server.wait_ready()
        await until(lambda: (data / "healthy").exists(), 20, "the health check of the image is content")

    try:
        asyncio.run(work())
        assert {path.stat().st_uid for path in data.rglob("*") if path.name != "healthy"} == {int(uid)}
    finally:
        assert server.stop() == 0, server.tail()
