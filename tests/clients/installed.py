"""Where the installed clients are, what they are told about the server, and the names they are tried on.

Invariants
* A client that is missing fails its test under CI and skips elsewhere; both say which command installs it.
* No client is told of any other address than the server's.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.faults.server import Server

ROOT = Path(__file__).resolve().parent.parent.parent
CLIENTS = ROOT / ".clients"
HERE = Path(__file__).resolve().parent
PLACES = {
    "python": CLIENTS / "venv/bin", "node": CLIENTS / "node", "go": CLIENTS / "go/bin", "debian": Path("/usr/bin"),
    "otlp": CLIENTS / "otlp",
}  # fmt: skip
NAMES = [
    "plain.txt", "sp ace/a b", "pl+us/+", "per%cent/%41%2F", "ümläut/日本語 ☃", "a//b", "deep/er/still", "eq=ual&am;p", "quo'te",
]  # fmt: skip
FILE_NAMES = [name for name in NAMES if "//" not in name]  # what a folder can hold


def missing(what: str, how: str) -> None:
    """Fail under CI, skip elsewhere."""
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(f"{what} is missing; install it with: {how}", pytrace=False)
    pytest.skip(f"{what} is missing; install it with: {how}")


def program(kind: str, name: str) -> str:
    """The path of a client."""
    path = PLACES[kind] / name
    if not path.exists():
        missing(str(path), f"python tools/clients.py {kind}")
    return str(path)


def environment(server: Server, **more: str) -> dict[str, str]:
    """What clients read; nothing of the user's own settings, nothing that asks a cloud for credentials."""
    access_key, secret_key = server.credentials()
    kept = {name: os.environ[name] for name in ("PATH", "TMPDIR", "LANG") if name in os.environ}
    return {
        **kept, "LC_ALL": "C.UTF-8", "PYTHONUTF8": "1", "HOME": str(server.data.parent), "AWS_ACCESS_KEY_ID": access_key,
        "AWS_SECRET_ACCESS_KEY": secret_key, "AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint(server), "AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull, "AWS_PAGER": "", "NO_PROXY": "127.0.0.1,localhost", **more,
    }  # fmt: skip


def endpoint(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}"


def run(server: Server, *command: str | Path, feed: bytes = b"", seconds: float = 100, **more: str) -> bytes:
    """Standard output of a client that must succeed."""
    done = subprocess.run(
        [str(part) for part in command], env=environment(server, **more), input=feed, capture_output=True, timeout=seconds, check=False
    )
    assert done.returncode == 0, (command, done.stdout[-3000:].decode(errors="replace"), done.stderr[-3000:].decode(errors="replace"))
    return done.stdout


def script(server: Server, name: str, *arguments: str, names: list[str] = NAMES) -> bytes:
    """Run a program of tests/clients/python under the clients' own Python, with the names on its standard input."""
    interpreter = program("python", "python")
    return run(server, interpreter, "-W", "ignore", HERE / "python" / name, endpoint(server), *arguments, feed=json.dumps(names).encode())


def tree(root: Path) -> dict[str, bytes]:
    """Write a small tree of all names a folder can hold; its files by name."""
    files = {name: f"body of {name}\n".encode() * 50 for name in FILE_NAMES} | {"large + %41.bin": os.urandom(17 << 20), "empty": b""}
    for name, body in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(body)
    return files


def contents(root: Path) -> dict[str, bytes]:
    """Every file below a folder, by its name there."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def differing(left: dict[str, bytes], right: dict[str, bytes]) -> list[str]:
    """Names that are not the same in both, without the bytes."""
    return sorted(name for name in left.keys() | right.keys() if left.get(name) != right.get(name))
