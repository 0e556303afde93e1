"""A comparison tells what was measured: warp's record is read as it is written, processor time is that of the timed phase, what failed
is no figure, and what was interrupted goes on where it stopped.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bench.peers import client, physical, recipe, table
from bench.peers.__main__ import physical_limits
from bench.peers.matrix import CONCURRENCY, OPERATIONS, SIZES, TARGETS, Cell, cells
from bench.peers.outcome import Kind, Outcome, percentile, span, summed
from bench.peers.rounds import Contest, Rounds, Setting
from bench.peers.store import Store
from bench.peers.usage import Sampler, Tree

HERE = Path(__file__).parent
GET = Cell("get", "4k", 16, 8.0)
PUT = Cell("put", "4k", 16, 8.0)
MINE = recipe.Recipe(name="titans3", title="TitanS3", command=[], durability="", syncs=True)
OTHER = recipe.Recipe(name="minio", title="MinIO", command=[], durability="", syncs=True)


def test_warps_record_gives_the_timed_requests_alone() -> None:
    with open(HERE / "warp-delete.tsv", encoding="utf-8", newline="") as record:
        requests = client.parse(record, ("DELETE",))
    assert len(requests) == 6 and {request[0] for request in requests} == {"DELETE"}
    _, begin, end, error = requests[0]
    assert (end - begin, begin % 1_000_000_000, error) == (24_649_272, 700_279_241, "")
    assert span(requests) == (begin, requests[5][2])
    assert requests[5][1] % 1_000_000_000 == 0 and requests[5][2] - requests[5][1] == 1  # a second without a fraction
    outcome = summed(requests, 0.5, 0.25)
    assert (outcome.requests, outcome.errors, outcome.is_sound) == (5, 1, False)
    assert outcome.first_errors == ["Internal Error (https://example.com), retry limit"]
    assert outcome.server_us == pytest.approx(100_000) and outcome.client_us == pytest.approx(50_000)
    assert outcome.kinds == {"DELETE": Kind(5, pytest.approx(30.362741), pytest.approx(30.857798))}
    assert outcome.seconds == pytest.approx(1.299720760)


def test_a_record_of_another_form_is_refused(tmp_path: Path) -> None:
    (tmp_path / "record").write_text("idx\tthread\top\n1\t2\tGET\n")
    with open(tmp_path / "record", encoding="utf-8") as record, pytest.raises(SystemExit, match="other columns"):
        client.parse(record, ("GET",))


def test_the_rate_and_the_median_second() -> None:
    second = 1_000_000_000
    begins = [at * second + number for at, count in enumerate((10, 30, 20)) for number in range(count)]
    requests = [("GET", begin, begin + 1000, "") for begin in begins]
    outcome = summed([*requests, ("GET", 3 * second - 5, 3 * second, "")], 1.0, 1.0)
    assert outcome.per_second == pytest.approx(61 / 3) and outcome.median_per_second == 20
    assert percentile([*range(1_000_000, 101_000_000, 1_000_000)], 99) == 100.0 and percentile([5_000_000], 99) == 5.0


def test_processor_time_is_cut_out_of_the_whole_tree() -> None:
    """A process that sleeps, spends half a second of CPU in a child of its own, and sleeps: before and after count nothing."""
    work = "import time\nstop = time.process_time() + 0.5\nwhile time.process_time() < stop: pass\n"
    now = "print(time.time_ns(), flush=True)\n"
    run = f"subprocess.run([sys.executable, '-c', {work!r}])\n"
    code = f"import subprocess, sys, time\ntime.sleep(0.5)\n{now}{run}{now}time.sleep(0.5)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    started = time.time_ns()
    with Sampler(Tree(process.pid)) as sampler:
        begin, end = int(process.stdout.readline()), int(process.stdout.readline())
        time.sleep(0.2)
    process.communicate(timeout=30)
    assert 0.48 < sampler.between(begin, end)[0] < 0.75  # the child's start-up is some hundredths
    assert sampler.between(end, sampler.times[-1])[0] < 0.1
    assert sampler.times[-1] > end + 200_000_000
    with pytest.raises(ValueError, match="not sampled"):
        sampler.between(started - 10**9, end)


def test_the_last_moment_is_sampled() -> None:
    """A client that ends with its last request."""
    with Sampler(Tree(os.getpid())) as sampler:
        begin = time.time_ns()
        while time.time_ns() < begin + 60_000_000:
            pass
        end = time.time_ns()
    assert 0.0 <= sampler.between(max(begin, sampler.times[0]), end)[0] < 0.5


@pytest.fixture(name="rounds")
def make_rounds(tmp_path: Path) -> Rounds:
    folder = Path(os.environ.get("TMPDIR", "/var/tmp"))
    return Rounds(Setting(folder=folder, rounds=2, workers=1), Store(tmp_path / "results"))


def test_what_is_measured_is_not_measured_again(rounds: Rounds, capsys: pytest.CaptureFixture[str]) -> None:
    contest = Contest([Cell("put", "4k", 1, 0.05), Cell("put", "64k", 1, 0.05)], [physical.DISK])
    rounds.play([contest])
    assert capsys.readouterr().out.count("pwrite + fdatasync") == 4
    files = sorted(rounds.store.folder.iterdir())
    assert len(files) == 4
    rounds.play([contest])
    assert capsys.readouterr().out == ""
    files[0].unlink()  # as if interrupted before it
    broken = rounds.definition(contest.cells[1], physical.DISK, 1, "")
    rounds.store.put(broken, Outcome(trouble="no room"))  # and one that failed
    rounds.play([contest])
    assert capsys.readouterr().out.count("pwrite + fdatasync") == 2
    assert all(outcome.is_sound for cell in contest.cells for outcome in rounds.results(cell, physical.DISK, ""))
    longer = Contest([Cell("put", "4k", 1, 0.06)], [physical.DISK])
    rounds.play([longer])
    assert len(list(rounds.store.folder.iterdir())) == 6, "another definition is another result"


def test_the_order_alternates(rounds: Rounds, capsys: pytest.CaptureFixture[str]) -> None:
    absent = [recipe.Recipe(name=name, title=name, command=["/nonexistent/server"], durability="", syncs=True) for name in ("a", "b")]
    rounds.play([Contest([GET], absent)])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("round")[1].split()[:2] for line in lines] == [["1", "a"], ["1", "b"], ["2", "b"], ["2", "a"]]
    assert all("FAILED" in line and "/nonexistent/server" in line for line in lines)
    assert table.median(rounds.results(GET, absent[0], "")).note == "failed"


def test_a_damaged_result_is_named(rounds: Rounds) -> None:
    definition: dict[str, Any] = {"cell": {"operation": "get", "size": "4k", "concurrency": 1}, "server": {"name": "x"}, "round": 0}
    path = rounds.store.put(definition, Outcome(requests=3))
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(SystemExit, match=r"get-4k-c1-x-r0-.*is damaged"):
        rounds.store.get(definition)


def result(rate: float, cost: float, **more: Any) -> Outcome:
    return Outcome(requests=100, per_second=rate, server_us=cost, client_us=50.0, p50_ms=1.5, p99_ms=12.25, **more)


def test_the_table_has_medians_ratios_and_aims() -> None:
    results = {
        (GET, "minio"): [result(1000, 440), result(3000, 450), result(2000, 400)],
        (GET, "titans3"): [result(5000, 110), result(4000, 90), result(9000, 100)],
        (PUT, "minio"): [result(900, 1160), result(100, 10, server_errors=1)],
        (PUT, "titans3"): [result(2000, 200, errors=7, first_errors=["x"])],
    }  # fmt: skip
    text = table.comparison([GET, PUT], [OTHER, MINE], "titans3", results)
    assert text.splitlines()[0] == "| | GET 4k | PUT 4k |"
    for line in (
        "| MinIO rate | 2,000 | 900 (1 of 2 rounds: 1 × 5xx) |", "| TitanS3 rate | 5,000 | 7 errors |", "| server µs | 100 | 7 errors |",
        "| **TitanS3 rate, MinIO = 1** | 2.50× | – |", "| aim: at least | 2.2× | 3.3× |",
        "| **TitanS3 server CPU, MinIO = 1** | 1/4.40 | – |", "| aim: at most | 1/4.4 | 1/5.5 |",
    ):  # fmt: skip
        assert line in text.splitlines(), text
    assert "| MinIO | 1.50 / 12.2 | 1.50 / 12.2 |" in table.latency([GET, PUT], [OTHER, MINE], results)
    assert table.median([result(1, 1, server_errors=2)]).note == "2 × 5xx"
    assert table.median([result(1, 1, trouble="no disk"), result(1, 1, server_errors=2)]).note == "failed"
    one_left_out = table.median([result(1, 1), result(2, 1, server_errors=2), result(5, 1)])
    assert (one_left_out.per_second, one_left_out.but) == (3, "2 of 3 rounds: 2 × 5xx")
    assert table.median([]).note == table.DASH and "– |" in table.comparison([GET], [OTHER], "titans3", {})


@pytest.mark.parametrize(("value", "shown"), [(0.123, "0.12"), (12.34, "12.3"), (123.4, "123"), (1234.0, "1,230"), (56_649.0, "56,600")])
def test_figures_have_three_digits(value: float, shown: str) -> None:
    assert table.figure(value) == shown


def test_the_matrix_asks_what_it_says() -> None:
    whole = cells(OPERATIONS, SIZES, CONCURRENCY, 20)
    assert len(whole) == 3 * (7 * 4 + 1) and len({cell.title for cell in whole}) == 29
    assert [(cell.operation, cell.size) for cell in whole if cell.concurrency == 16][: len(TARGETS)] == [*TARGETS]
    listing = Cell("list", "4k", 16, 8).warp()
    assert listing[listing.index("--objects") + 1] == "16000" and listing[listing.index("--max-keys") + 1] == "1000"
    assert Cell("delete", "10m", 64, 8).objects == 256 and "--batch" in Cell("delete", "4k", 1, 8).warp()
    assert [contest.recipes[0].name for contest in physical_limits(whole, MINE, physical.NGINX)] == ["nginx", "disk"]


def test_a_recipe_says_what_is_wrong_with_it(tmp_path: Path) -> None:
    path = tmp_path / "other.toml"
    bare = 'name = "x"\ncommand = ["{program}"]\ndurability = "d"\nsyncs = true'
    for text, said in (("nonsense = 1", "nonsense"), (bare, "program is missing")):
        path.write_text(text)
        with pytest.raises(SystemExit, match=said):
            recipe.read(path)
    with pytest.raises(SystemExit, match="there is no program /nonexistent"):
        recipe.found(recipe.MINIO, {"minio": "/nonexistent"}, None)
    with pytest.raises(SystemExit, match="in this tree"):
        recipe.install(recipe.MINIO, recipe.ROOT / "bin")
