"""Every mode of warp against a server of its own, over HTTP and TLS: how fast is not asked here, whether every request succeeded is.

``python bench/warp.py path/to/warp`` (https://github.com/minio/warp) takes some five minutes, eight with a warp that has ``--checksum``;
``--modes`` picks some by name. It plays all of them, and its exit code is 1 if one had an error, an answer of 5xx that the server
counted (but for 501), or did nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import ssl
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.peers.client import command
from tests.conformance.served import certificate
from tests.faults.server import Server
from titans3.observe.board import REQUESTS, SERVER_ERRORS
from titans3.worker.shell import BEAT_SECONDS

SMALL = ("--obj.size", "16KiB", "--concurrent", "8")
PARTS = ("--part.size", "5MiB", "--concurrent", "2")
MODES: dict[str, tuple[str, ...]] = {
    "put": ("put", *SMALL),
    "put md5": ("put", *SMALL, "--md5"),
    "put unsigned": ("put", *SMALL, "--disable-sha256-payload"),
    "put post": ("put", *SMALL, "--post"),
    "put large": ("put", "--obj.size", "20MiB", "--concurrent", "3"),
    "put large whole": ("put", "--obj.size", "20MiB", "--concurrent", "3", "--disable-multipart"),
    "put reduced": ("put", *SMALL, "--storage-class", "REDUCED_REDUNDANCY"),
    "get": ("get", *SMALL, "--objects", "200"),
    "get range": ("get", "--obj.size", "2MiB", "--concurrent", "4", "--objects", "20", "--range"),
    "get versions": ("get", *SMALL, "--objects", "50", "--versions", "3"),
    "stat": ("stat", *SMALL, "--objects", "200"),
    "stat versions": ("stat", *SMALL, "--objects", "50", "--versions", "3"),
    "list": ("list", *SMALL, "--objects", "400"),
    "list versions": ("list", *SMALL, "--objects", "100", "--versions", "3"),
    "list metadata": ("list", *SMALL, "--objects", "400", "--metadata"),
    "delete": ("delete", *SMALL, "--objects", "2000", "--batch", "50"),
    "mixed": ("mixed", *SMALL, "--objects", "200"),
    "versioned": ("versioned", *SMALL, "--objects", "100"),
    "multipart": ("multipart", *PARTS, "--parts", "8"),
    "multipart-put": ("multipart-put", *PARTS, "--parts", "4", "--part.concurrent", "2"),
}
REQUESTS_LEAST = 30
CHECKSUMS = ("CRC32", "CRC32C", "CRC32-FO", "CRC32C-FO", "CRC64NVME", "SHA1", "SHA256")
_TROUBLE = re.compile(r"(?im)^.*(\berrors?\b[^0-9a-z\n]*[1-9]|<ERROR>|unexpected|failed|panic:).*(\n.*){0,3}")


def modes(warp: Path) -> dict[str, tuple[str, ...]]:
    """MODES, and one per checksum if this warp has the option."""
    found = dict(MODES)
    shown = subprocess.run([str(warp), "put", "--help"], capture_output=True, text=True, check=True).stdout
    if "--checksum" in shown:
        found |= {f"put {name}": ("put", *SMALL, "--checksum", name) for name in CHECKSUMS}
        found |= {f"multipart-put {name}": (*MODES["multipart-put"], "--checksum", name) for name in CHECKSUMS}
    return found


def run(warp: Path, server: Server, arguments: tuple[str, ...], seconds: int, folder: Path) -> tuple[float, str]:
    """(seconds, what is wrong or empty) of one mode."""
    secure = ("--tls", "--insecure") if server.tls is not None else ()
    options = ("--duration", f"{seconds}s", "--benchdata", str(folder / "data"), *secure)
    line, env = command(str(warp), server.port, server.credentials(), [*arguments, *options])
    before, begin = counters(server), time.monotonic()
    done = subprocess.run(line, capture_output=True, text=True, timeout=300, check=False, cwd=folder, env=env)
    text = done.stdout + done.stderr
    wrong = ""
    found = _TROUBLE.search(text)
    if done.returncode:
        wrong = f"exit {done.returncode}: {text[-1500:]}"
    elif found is not None:
        wrong = found.group(0).strip()
    else:
        time.sleep(BEAT_SECONDS * 2)  # the counters are shown once a beat
        requests, errors = (now - then for now, then in zip(counters(server), before, strict=True))
        if errors:
            wrong = f"{errors} answers of 5xx"
        elif requests < REQUESTS_LEAST:
            wrong = f"only {requests} requests: {text[-1500:]}"
    return time.monotonic() - begin, wrong


def counters(server: Server) -> tuple[int, int]:
    """(requests, answers of 5xx) so far, of all workers."""
    board = server.board()
    try:
        requests, errors = (sum(board.get(worker, word) for worker in range(server.workers)) for word in (REQUESTS, SERVER_ERRORS))
        return requests, errors
    finally:
        board.close()


def main() -> int:
    """Exit code 1 if any mode had trouble."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("warp", type=Path)
    parser.add_argument("--seconds", type=int, default=3, help="of each mode's main part")
    parser.add_argument("--modes", default="", help="comma-separated names; all by default")
    options = parser.parse_args()
    warp = options.warp.resolve()
    chosen = modes(warp)
    if options.modes:
        chosen = {name: chosen[name] for name in options.modes.split(",")}
    trouble = 0
    with tempfile.TemporaryDirectory(prefix="titans3-warp-") as name:
        folder = Path(name)
        cert, key, authority = certificate(folder)
        plain = Server(folder / "http")
        secure = Server(
            folder / "tls", tls=ssl.create_default_context(cafile=authority),
            env={"TITANS3_S3__TLS_CERT": cert, "TITANS3_S3__TLS_KEY": key},
        )  # fmt: skip
        for server, scheme in ((plain, "http"), (secure, "https")):
            server.start()
            try:
                asyncio.run(server.wait_ready())
                for title, arguments in chosen.items():
                    seconds, wrong = run(warp, server, arguments, options.seconds, folder)
                    trouble += bool(wrong)
                    print(f"{scheme:5} {title:24} {seconds:5.1f} s  {wrong or 'no errors'}", flush=True)
            finally:
                server.stop()
    return 1 if trouble else 0


if __name__ == "__main__":
    sys.exit(main())
