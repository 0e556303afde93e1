"""Curves tell what was measured: a bucket is what its record says, interrupted or not; figures are medians of sound rounds; and the command
goes from start to table and does nothing twice.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from bench.peers import lag, recipe, usage
from bench.peers.outcome import Outcome
from bench.peers.recipe import ROOT
from bench.peers.served import Served
from bench.profile import by_function
from bench.replay import BUCKET, Signer, play
from bench.scale import chart, idle, table
from bench.scale.bucket import Bucket, key
from bench.scale.curve import Curve
from tests.faults.wire import Wire

DISK = Path(os.environ.get("TMPDIR", "/var/tmp"))  # pytest's own folders may be in memory, which is refused


def test_names_are_many_and_in_random_order(tmp_path: Path) -> None:
    names = [key(number) for number in range(20_000)]
    assert len({*names}) == 20_000
    ranks = {name: rank for rank, name in enumerate(sorted(names))}
    near = sum(abs(ranks[names[at]] - ranks[names[at + 1]]) < 200 for at in range(19_999))
    assert near < 1_000, "next in time is not next in order"
    bucket = Bucket(tmp_path, 10_000)
    assert {bucket.spread(at) for at in range(10_000)} == {*range(10_000)}
    first = [bucket.spread(at) for at in range(100)]
    assert all(any(low <= number < low + 1_000 for number in first) for low in range(0, 10_000, 1_000)), "the first lie all over"


def test_a_bucket_is_what_its_record_says(tmp_path: Path) -> None:
    """Interrupted in the middle of filling, and with objects that may be missing: filled once more it is whole."""
    with tempfile.TemporaryDirectory(dir=DISK) as disk:
        folder = Path(disk)
        server = Served(recipe.titans3(sys.executable), folder, workers=1)
        server.start()
        try:
            asyncio.run(_fill_in_parts(server, folder))
        finally:
            server.stop()
    with pytest.raises(SystemExit, match="of 300 objects, not of 400"):
        Bucket(_recorded(tmp_path, 300), 400)


async def _fill_in_parts(server: Served, folder: Path) -> None:
    wire = Wire("127.0.0.1", server.port, *server.credentials())
    sign = Signer(f"127.0.0.1:{server.port}", *server.credentials())
    bucket = Bucket(folder, 300)
    refused = Bucket(folder / "unsaid", 300)
    refused.put = lambda sign, number: [sign.head("GET", f"/{BUCKET}/{key(number)}")]  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="300 were put, answers were"):
        await refused.fill(server)
    assert (refused.record.filled, refused.is_whole) == (0, False)

    bucket.objects = 120  # as if it had come so far
    await bucket.fill(server)
    await _listed(wire, 120)
    again = Bucket(folder, 300)
    assert (again.record.filled, again.is_whole) == (120, False)
    await again.fill(server, rate=5_000)
    await _listed(wire, 300)
    assert again.is_whole and Bucket(folder, 300).is_whole

    again.doubt(40)
    deletes = [[sign.head("DELETE", f"/{BUCKET}/{key(again.spread(at))}")] for at in range(25)]
    await play(server, deletes, lanes=4, seconds=30, once=True)
    await _listed(wire, 275)
    interrupted = Bucket(folder, 300)
    assert not interrupted.is_whole
    await interrupted.fill(server)
    await _listed(wire, 300)
    assert Bucket(folder, 300).is_whole
    await wire.end()


async def _listed(wire: Wire, count: int) -> None:
    status, _, body = await wire.call("GET", f"/{BUCKET}", {"list-type": "2"})
    assert status == 200 and f"<KeyCount>{count}</KeyCount>" in body.decode()


def _recorded(folder: Path, objects: int) -> Path:
    Bucket(folder, objects).sure()
    return folder


def watched(*counts: tuple[str, int]) -> dict[str, float]:
    return {f'titans3_loop_lag_seconds_bucket{{worker="0",le="{bound}"}}': float(count) for bound, count in counts}


def test_a_percentile_of_lag_is_never_too_small() -> None:
    one = watched(("0.01", 990), ("0.02", 999), ("0.05", 1000), ("+Inf", 1000))
    assert lag.milliseconds(lag.counts(one)) == 20
    assert lag.milliseconds(lag.counts(one), 0.99) == 10
    worse = watched(("0.01", 0), ("0.02", 0), ("0.05", 2), ("+Inf", 2))
    assert lag.milliseconds(lag.together([one, worse])) == 50
    assert lag.milliseconds(lag.counts(watched(("1.0", 0), ("+Inf", 3)))) == float("inf")
    assert lag.milliseconds({}) == 0


def test_memory_is_told_by_whose_it_is() -> None:
    """A process that takes 50 MiB for itself and gives them back."""
    code = "import sys\nheld = bytearray(50 << 20)\ndel held\nprint('x', flush=True)\nsys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    found = usage.memory_of(process.pid)
    process.communicate()
    assert found.peak > 50 << 20 > found.anonymous > 1 << 20
    assert found.files > 1 << 20 and found.share < found.anonymous + found.files


class Kept:
    def __init__(self, operations: tuple[str, ...], outcomes: dict[tuple[int, str], list[Outcome]]) -> None:
        self.operations, self._outcomes = operations, outcomes

    def results(self, at: int, operation: str) -> list[Outcome]:
        return self._outcomes.get((at, operation), [])


def result(rate: float, **more: float) -> Outcome:
    return Outcome(
        requests=100, per_second=rate, p50_ms=1.5, p99_ms=12.25, server_us=80.0, figures=more, watched=watched(("0.02", 9), ("+Inf", 9))
    )  # fmt: skip


def test_tables_have_medians_and_say_what_is_missing(tmp_path: Path) -> None:
    own = {"worker_own_bytes": float(60 << 20), "worker_file_bytes": float(1 << 30), "metadata_bytes": 3.5e6, "live_bytes": 6e6}
    restart = result(1.0, recovery_replayed=5000)
    restart.ready_seconds = 0.8
    kept: dict[tuple[int, str], list[Outcome]] = {
        (10_000, "get"): [result(9_000, **own), result(11_000), result(10_000)], (10_000, "restart"): [restart],
        (1_000_000, "get"): [result(8_000), Outcome(trouble="the disk\nis full")],
    }  # fmt: skip
    curve = Curve("objects", [10_000, 1_000_000], Kept(("get", "get-any", "list", "delete", "put", "restart"), kept))
    text = table.page([curve], {"objects": 16}, "2 workers", dict.fromkeys(("cpu", "server_cpus", "client_cpus", "kernel", "disk"), "x"),
                      "1.0", "bench scale", 3)  # fmt: skip
    for line in (
        "| GET | 10k | 10,000 | 100% | 1.50 | 12.2 | 80.0 | ≤ 20 |",
        "| GET | 1M | 8,000 (1 of 2 rounds: failed) | 80% | 1.50 | 12.2 | 80.0 | ≤ 20 |",
        "| PUT | 1M | – | – | – | – | – | – |", "| 10k | 0.80 | 5,000 | 60 | 1,024 | 350 | 600 | – |", "| 1M | – | – | – | – | – | – | – |",
        "* Objects in one bucket 1,000,000, GET, round 2: is full",
    ):  # fmt: skip
        assert line in text.splitlines(), text
    assert [path.name for path in chart.draw(tmp_path, [curve])] == ["objects.png", "objects.svg"]


@pytest.mark.parametrize(
    ("number", "count", "size"), [(500, "500", "500 B"), (10_000, "10k", "10,000 B"), (5 << 30, "5,368,709,120", "5 GiB")]
)
def test_numbers_are_short(number: int, count: str, size: str) -> None:
    assert (table.short(number), table.size_of(number)) == (count, size)


def test_a_profile_is_of_the_loops_thread() -> None:
    bottom = "<module> (runpy);main (titans3/worker/__main__.py:20);Runner.run (asyncio/runners.py:118)"
    raw = (
        f"{bottom} 50\n{bottom};Gateway.handle (titans3/s3/gateway.py:9);check (titans3/http/sigv4.py:7) 30\n"
        f"{bottom};check (titans3/http/sigv4.py:8) 20\n_run (threading.py:1);flush (titans3/engine/log.py:5) 900\n"
    )
    assert by_function(raw) == [(0.5, "Runner.run · asyncio/runners.py"), (0.5, "check · titans3/http/sigv4.py")]


def test_more_files_than_are_allowed_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1_000, 2_000))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: asked.append(limits))
    idle.allow_files(100)
    idle.allow_files(1_000)
    idle.allow_files(10_000)
    assert asked == [(1_500, 2_000), (10_500, 10_500)]


def test_curves_from_start_to_table(tmp_path: Path) -> None:
    """Then once more with nothing left to do, and a bucket that is kept."""
    objects = str(random.Random().randrange(1_000, 1_200))
    command = [
        sys.executable, "-m", "bench.scale", "--processes", "1", "--workers", "1", "--lanes", "4", "--concurrency", "4", "--sizes", "4k",
        "--size-concurrency", "4", "--idle", "40", "--objects", objects, "--rounds", "1", "--duration", "0.3s", "--folder", str(DISK),
        "--out", str(tmp_path / "out"),
    ]  # fmt: skip
    with tempfile.TemporaryDirectory(dir=DISK) as kept:
        command += ["--keep", kept]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        record = json.loads((Path(kept) / objects / "bucket.json").read_text())
        assert record == {"objects": int(objects), "filled": int(objects), "doubtful": 0}
        again = subprocess.run([*command, "--no-charts"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert again.returncode == 0 and "round 1 " not in again.stdout, again.stdout + again.stderr
    page = (tmp_path / "out/scale.md").read_text()
    assert page.count(table.DASH) <= 1 and "Not as it should be" not in page and "ms, of" in page
    for heading in table.TITLES.values():
        assert f"### {heading}\n" in page
    outcomes = {(each["curve"], each["operation"]): each["outcome"] for each in json.loads((tmp_path / "out/scale.json").read_text())}
    assert len(outcomes) == 3 * 2 + 1 + 6
    for (curve, operation), outcome in outcomes.items():
        assert outcome["requests"] > 0 and outcome["server_errors"] == 0 and outcome["lag_ms"] > 0, (curve, operation, outcome)
    restart, listed = outcomes["objects", "restart"], outcomes["objects", "list"]
    assert restart["ready_seconds"] > 0.2 and restart["figures"]["recovery_replayed"] > 0
    assert 200 * int(objects) < listed["figures"]["live_bytes"] and listed["figures"]["rows_loc"] >= int(objects)
    held = outcomes["idle", "get"]["figures"]
    assert held["with_bytes"] >= held["before_bytes"] - (4 << 20) and held["server_bytes"] > 20 << 20
    for name in table.TITLES:
        assert (tmp_path / f"out/{name}.png").read_bytes().startswith(b"\x89PNG") and b"<svg" in (tmp_path / f"out/{name}.svg").read_bytes()
