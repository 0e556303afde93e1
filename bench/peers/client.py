"""warp as the client: how it is called, and what its record of every request says.

It is found, never built and never bundled. The keys go to it by its environment, so that no list of processes shows them.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
from datetime import datetime
from pathlib import Path

import zstandard

from bench.peers.matrix import NOT_IN_XML, TIMED, Cell
from bench.peers.outcome import Outcome, Request, span, summed
from bench.peers.phase import Phase
from bench.peers.served import Served
from bench.peers.usage import Sampler, Tree

BUCKET = "warp-bucket"
PREPARE_SECONDS = 1200  # the most that filling the bucket may take
TERMINAL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def find(named: str) -> str | None:
    """Path of warp: as named, or on PATH; SystemExit if what is named is not there."""
    path = shutil.which(named or "warp")
    if named and path is None:
        raise SystemExit(f"there is no warp at {named}")
    return path


def version(warp: str) -> str:
    """As it tells it."""
    done = subprocess.run([warp, "--version"], capture_output=True, text=True, check=False)
    return done.stdout.strip().splitlines()[0] if done.stdout.strip() else "unknown version"


def command(warp: str, port: int, keys: tuple[str, str], arguments: list[str]) -> tuple[list[str], dict[str, str]]:
    """(command, environment) of a mode of warp against a server on this machine."""
    line = [warp, arguments[0], "--no-color", "--host", f"127.0.0.1:{port}", "--bucket", BUCKET, *arguments[1:]]
    return line, {**os.environ, "WARP_ACCESS_KEY": keys[0], "WARP_SECRET_KEY": keys[1]}


def run(warp: str, cell: Cell, server: Served, folder: Path) -> tuple[Outcome, Path | None]:
    """One cell, and the file of all its requests."""
    record = folder / "requests"
    arguments = [*cell.warp(), "--quiet", "--region", "us-east-1", "--full", "--keep-data", "--benchdata", str(record)]
    line, env = command(warp, server.port, server.credentials(), arguments)
    assert server.tree is not None
    log = folder / "warp.log"
    with open(log, "wb") as file:
        process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd=folder, env=env, start_new_session=True)
    with Sampler(server.tree, Tree(process.pid)) as sampler, Phase(server, sampler, cell.seconds) as phase:
        try:
            code = process.wait(cell.seconds + PREPARE_SECONDS)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    said = TERMINAL.sub("", log.read_text(encoding="utf-8", errors="replace"))
    raw = record.with_name(record.name + ".csv.zst")
    if code != 0 or not raw.exists():
        how = f"stopped with {code}" if code is not None else f"did not end within {PREPARE_SECONDS} s"
        return Outcome(trouble=f"warp {how}: {said.strip()[-1500:]}"), None
    with open(raw, "rb") as packed:
        requests = parse(io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(packed), encoding="utf-8"), TIMED[cell.operation])
    if not requests:
        return Outcome(trouble=f"warp recorded no {' or '.join(TIMED[cell.operation])}: {said.strip()[-1500:]}"), raw
    try:
        outcome = summed(requests, *sampler.between(*span(requests)))
        outcome.timed = phase.gained(*span(requests))
    except ValueError as error:  # a clock that was set meanwhile
        return Outcome(trouble=f"warp's times are none of its run: {error}"), raw
    outcome.client_command = "warp " + " ".join(json.dumps(NOT_IN_XML) if part == NOT_IN_XML else part for part in cell.warp())
    return outcome, raw


def parse(text: io.TextIOBase, kinds: tuple[str, ...]) -> list[Request]:
    """The timed requests of warp's record, a tab-separated table with its names in the first line and comments at its end."""
    rows = csv.reader((line for line in text if not line.startswith("#")), delimiter="\t", quoting=csv.QUOTE_MINIMAL)
    names = next(rows, [])
    try:
        op, error, start, duration = (names.index(name) for name in ("op", "error", "start", "duration_ns"))
    except ValueError:
        raise SystemExit(f"this warp's record has other columns than are known: {' '.join(names)}") from None
    requests = []
    for row in rows:
        if row and row[op] in kinds:
            begin = _nanoseconds(row[start])
            requests.append((row[op], begin, begin + int(row[duration]), row[error]))
    return requests


def _nanoseconds(text: str) -> int:
    """Of RFC 3339 with up to nine digits of a second."""
    whole, dot, rest = text.partition(".")
    digits = re.match(r"\d*", rest) if dot else None
    fraction = digits.group(0) if digits else ""
    zone = rest[len(fraction) :] if dot else ""
    moment = datetime.fromisoformat(whole + zone)
    return int(moment.timestamp()) * 1_000_000_000 + int(fraction.ljust(9, "0")[:9] or 0)
