"""Installs the S3 clients that tests/clients drives, each by its own package manager: ``python tools/clients.py [kind …]``.

python  tests/clients/requirements.txt into .clients/venv
node    tests/clients/node/package.json into .clients/node
go      the programs of tests/clients/go and mc into .clients/go/bin
debian  the packages below, by apt-get; only root may
otlp    the receiver of OpenTelemetry's collector, tests/clients/otlp into .clients/otlp; some minutes

Without a kind: all of them but otlp, side by side. A kind whose requirement files are as at the last success is left alone.
Only package registries are asked, through their ordinary clients.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
import venv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE, TARGET = ROOT / "tests/clients", ROOT / ".clients"
MC = "github.com/minio/mc@v0.0.0-20250313080218-cf909e1063a9"
PACKAGES = {"awscli": "aws", "rclone": "rclone", "restic": "restic", "s3fs": "s3fs", "curl": "curl",
            "prometheus": "promtool"}  # package: its program


def run(*command: str | Path, cwd: Path = ROOT, **environment: str) -> None:
    """RuntimeError with what a command printed, if it fails."""
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env={**os.environ, **environment}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout[-4000:]}")


def python() -> None:
    venv.create(TARGET / "venv", with_pip=True, clear=True)
    run(TARGET / "venv/bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r",
        SOURCE / "requirements.txt")


def node() -> None:
    folder = TARGET / "node"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        if (SOURCE / "node" / name).exists():
            shutil.copyfile(SOURCE / "node" / name, folder / name)
    run("npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error", cwd=folder)


def go() -> None:
    binaries = TARGET / "go/bin"
    environment = _go_environment(binaries)
    run("go", "build", "-o", f"{binaries}/", "./awsv2", "./miniogo", cwd=SOURCE / "go", **environment)
    run("go", "install", MC, cwd=TARGET, **environment)


def otlp() -> None:
    run("go", "build", "-o", f"{TARGET}/otlp/", ".", cwd=SOURCE / "otlp", **_go_environment(TARGET / "otlp"))


def _go_environment(binaries: Path) -> dict[str, str]:
    binaries.mkdir(parents=True, exist_ok=True)
    shown = subprocess.run(["go", "env", "GOPROXY"], capture_output=True, text=True, check=True).stdout.strip()
    proxies = ",".join(name for name in shown.split(",") if name != "direct")  # never the sources' own hosts
    return {"GOBIN": str(binaries), "GOPROXY": proxies, "GOTOOLCHAIN": "local", "CGO_ENABLED": "0"}


def debian() -> None:
    missing = [package for package, program in PACKAGES.items() if not Path("/usr/bin", program).exists()]
    if not missing:
        return
    if os.geteuid() != 0:
        raise RuntimeError(f"only root may: apt-get install {' '.join(missing)}")
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    run("apt-get", "update", "-qq", **quiet)
    run("apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing, **quiet)
    if "prometheus" in missing and Path("/run/systemd/system").exists():
        run("systemctl", "disable", "--now", "prometheus")  # wanted as a program, not as a service of this machine


KINDS = {
    "python": (python, ("requirements.txt",)),
    "node": (node, ("node/package.json", "node/package-lock.json")),
    "go": (go, ("go/go.mod", "go/go.sum", "go/awsv2/main.go", "go/miniogo/main.go")),
    "debian": (debian, ()),
    "otlp": (otlp, ("otlp/go.mod", "otlp/go.sum", "otlp/main.go")),
}
ASKED = {"otlp"}  # installed only when it is named


def stamp_of(kind: str) -> str:
    """What an install of this kind depends on, as a digest."""
    files = [SOURCE / name for name in KINDS[kind][1]]
    parts = [repr((kind, sys.version_info[:2], MC)), *(file.read_text(encoding="utf-8") for file in files if file.exists())]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def install(kind: str) -> str | None:
    """Install one kind unless it is there; what went wrong."""
    mark, stamp, begin = TARGET / f"{kind}.stamp", stamp_of(kind), time.monotonic()
    if kind != "debian" and mark.exists() and mark.read_text() == stamp:
        return None
    mark.unlink(missing_ok=True)
    try:
        KINDS[kind][0]()
    except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
        return f"{kind}: {error}"
    mark.write_text(stamp)
    print(f"clients: {kind} installed in {time.monotonic() - begin:.0f} s", flush=True)
    return None


def main() -> None:
    kinds = sys.argv[1:] or [kind for kind in KINDS if kind not in ASKED]
    if not set(kinds) <= set(KINDS):
        sys.exit((__doc__ or "").strip())
    TARGET.mkdir(exist_ok=True)
    with ThreadPoolExecutor(len(KINDS)) as pool:
        failures = [failure for failure in pool.map(install, kinds) if failure]
    if failures:
        sys.exit("\n".join(failures))


if __name__ == "__main__":
    main()
