"""Offline tools on what a real server left: verify is quiet on a good folder and names what is not; salvage needs segments alone."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.server import Server

TITANS3 = Path(sys.executable).with_name("titans3")
SIZES = (0, 1, 3000, 65_536, 65_537, 300_000, 2_000_000)
KEYS = ("plain", "a/b", "a/b/c", "//x", "ü·☃", "..", "dot/../dot", "x" * 1024, "sp ace+%25", "ctrl\x01")


def titans3(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([TITANS3, *arguments], capture_output=True, text=True, timeout=60, check=False)


def parts_xml(etags: list[str]) -> bytes:
    rows = "".join(f"<Part><PartNumber>{n}</PartNumber><ETag>{etag}</ETag></Part>" for n, etag in enumerate(etags, 1))
    return f"<CompleteMultipartUpload>{rows}</CompleteMultipartUpload>".encode()


async def fill(server: Server) -> dict[str, bytes]:
    """Objects of every size and odd key, overwritten ones, deleted ones, a multipart object. What must be there."""
    rng, wire = random.Random(4), server.wire()
    kept: dict[str, bytes] = {}
    assert (await wire.call("PUT", "/things"))[0] == 200
    for number, key in enumerate((*KEYS, *(f"size-{size}" for size in SIZES))):
        size = SIZES[number % len(SIZES)]
        for _ in range(1 + number % 2):
            body = rng.randbytes(size)
            status, _, answer = await wire.call("PUT", f"/things/{key}", body=body)
            assert status == 200, (key, answer)
        kept[key] = body
    for size in (100, 200_000):
        assert (await wire.call("PUT", f"/things/gone-{size}", body=rng.randbytes(size)))[0] == 200
        assert (await wire.call("DELETE", f"/things/gone-{size}"))[0] == 204
    status, _, answer = await wire.call("POST", "/things/many", {"uploads": ""})
    assert status == 200
    upload_id = answer.decode().split("<UploadId>")[1].split("<")[0]
    bodies, etags = [rng.randbytes(5 << 20), rng.randbytes(5 << 20), rng.randbytes(500)], []
    for number, body in enumerate(bodies, 1):
        status, headers, _ = await wire.call("PUT", "/things/many", {"partNumber": str(number), "uploadId": upload_id}, body=body)
        assert status == 200
        etags.append(headers["etag"])
    status, _, answer = await wire.call("POST", "/things/many", {"uploadId": upload_id}, body=parts_xml(etags))
    assert status == 200, answer
    kept["many"] = b"".join(bodies)
    wire.close()
    return kept


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """A data folder after a clean stop, and what is in it. Tests copy it."""
    folder = tmp_path_factory.mktemp("offline")
    server = Server(folder / "data")

    async def work() -> dict[str, bytes]:
        server.start()
        await server.wait_ready()
        kept = await fill(server)
        busy = await asyncio.to_thread(titans3, "tools", "disk", "verify", "--data", str(server.data))
        assert (busy.returncode, "in use" in busy.stderr) == (1, True), busy
        return kept

    try:
        kept = asyncio.run(work())
    finally:
        assert server.stop() == 0
    return server.data, kept


def test_a_good_folder_is_clean(stopped: tuple[Path, dict[str, bytes]]) -> None:
    data, kept = stopped
    for command in (("disk", "verify"), ("meta", "verify")):
        shown = titans3("tools", *command, "--data", str(data))
        assert (shown.returncode, shown.stderr, shown.stdout.splitlines()[-1]) == (0, "", "clean"), shown
    small = 1 + sum(1 for body in kept.values() if 0 < len(body) <= 65_536)  # one is a part
    assert f"{small} small bodies" in shown.stdout


def flip(data: Path, needle: bytes) -> Path:
    """Change one bit in the middle of where ``needle`` lies; the file."""
    for path in sorted(data.rglob("*")):
        if path.suffix == ".seg":
            at = path.read_bytes().find(needle)
            if at >= 0:
                with path.open("r+b") as file:
                    file.seek(at + len(needle) // 2)
                    byte = file.read(1)[0]
                    file.seek(at + len(needle) // 2)
                    file.write(bytes((byte ^ 16,)))
                return path
    raise AssertionError("not found")


def test_flipped_bits_are_named(stopped: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    source, kept = stopped
    data = tmp_path / "data"
    shutil.copytree(source, data)
    keys = [key for key, body in kept.items() if len(body) in (3000, 65_537)][:4]
    for key in keys:
        flip(data, kept[key][1000:2000])
    shown = titans3("tools", "disk", "verify", "--data", str(data))
    assert shown.returncode == 1
    assert shown.stdout.splitlines()[-1] == f"{len(keys)} findings", shown
    for key in keys:
        assert repr(key.encode())[2:-1] in shown.stderr, shown.stderr
    out = tmp_path / "out"
    saved = titans3("tools", "disk", "salvage", "--data", str(data), "--out", str(out))
    assert saved.returncode == 1
    assert saved.stderr.count("not written") == len(keys)


def test_a_flipped_bit_in_the_tree_is_found(stopped: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    source, _ = stopped
    data = tmp_path / "data"
    shutil.copytree(source, data)
    tree = next(path for path in sorted(data.rglob("data.mdb")) if b"size-3000" in path.read_bytes())
    raw = bytearray(tree.read_bytes())
    at = raw.rfind(b"size-3000")
    while at >= 0:  # every page version that holds the row
        raw[at + 20] ^= 1
        at = raw.rfind(b"size-3000", 0, at)
    tree.write_bytes(raw)
    shown = titans3("tools", "meta", "verify", "--data", str(data))
    assert shown.returncode == 1
    assert "size-3000" in shown.stderr
    assert "is damaged" in shown.stderr


def test_salvage_needs_segments_alone(stopped: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    source, kept = stopped
    data, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(source, data)
    for folder in data.glob("volumes/*/meta"):
        shutil.rmtree(folder)
    refused = titans3("tools", "meta", "verify", "--data", str(data))
    assert refused.returncode == 1
    assert "salvage" in refused.stderr
    shown = titans3("tools", "disk", "salvage", "--data", str(data), "--out", str(out))
    assert (shown.returncode, shown.stderr) == (0, ""), shown
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    found = {line["key"]: (out / line["file"]).read_bytes() for line in lines if line["bucket"] == "things"}
    assert found == kept
    for line in lines:
        assert os.path.realpath(out / line["file"]).startswith(os.path.realpath(out) + os.sep)
    again = titans3("tools", "disk", "salvage", "--data", str(data), "--out", str(out))
    assert again.returncode == 1
